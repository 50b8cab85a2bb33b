import contextlib
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainables.corpora import audio
from trainables.corpora.audio import BadAudio, Decoded, decode, read_file

RATE_HZ = 16_000


def wav(samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype=subtype, format=kind)
    return file.getvalue()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples).astype(np.int16)


def sine(hz: float, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)


def decoded(data: bytes, max_seconds: float = 4.0) -> Decoded:
    return decode(data, sample_rate_hz=RATE_HZ, max_seconds=max_seconds)


def reason(data: bytes) -> str:
    with pytest.raises(BadAudio) as caught:
        decoded(data)
    return str(caught.value)


def with_chunk(data: bytes, chunk: bytes) -> bytes:
    """A WAV file with one more chunk before its audio."""
    data = data[:36] + chunk + data[36:]
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def test_plain_wav_is_read_as_it_is_and_as_libsndfile_reads_it() -> None:
    samples = noise(500)
    for data in (wav(samples), with_chunk(wav(samples), b"LIST\x03\0\0\0abc\0")):
        result = decoded(data)
        assert result.repairs == ()
        np.testing.assert_array_equal(result.samples, samples)
        np.testing.assert_array_equal(result.samples, soundfile.read(io.BytesIO(data), dtype="int16")[0])


@pytest.mark.parametrize(
    "kind, subtype", [("WAVEX", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16")]
)
def test_other_containers_hold_the_same_samples(kind: str, subtype: str) -> None:
    samples = noise(500)
    result = decoded(wav(samples, subtype=subtype, kind=kind))
    np.testing.assert_array_equal(result.samples, samples)
    assert result.repairs == ()


def test_clips_are_cut_at_max_seconds_without_a_repair() -> None:
    samples = noise(RATE_HZ)
    result = decoded(wav(samples), max_seconds=0.25)
    np.testing.assert_array_equal(result.samples, samples[:4_000])
    assert result.repairs == ()


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100])
def test_a_cut_is_told_from_one_sample_on(rate_hz: int) -> None:
    """A second at the file's rate and one frame more; at 44.1 kHz that is a third of a sample of the store's."""
    samples = noise(rate_hz + 1)
    assert not decoded(wav(samples[:-1], rate_hz), max_seconds=1.0).cut
    longer = decoded(wav(samples, rate_hz), max_seconds=1.0)
    assert longer.cut and len(longer.samples) == RATE_HZ


def mp3(samples: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    return wav(samples, rate_hz, subtype="MPEG_LAYER_III", kind="MP3")


def decoded_mp3(data: bytes, max_seconds: float = 4.0) -> Decoded:
    return decode(data, sample_rate_hz=RATE_HZ, max_seconds=max_seconds, mp3=True)


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * RATE_HZ / len(samples))


TAG = b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)  # 2 · 128 + 1 bytes


@pytest.mark.parametrize("tag", [b"", TAG])
def test_mp3_is_read_where_the_name_says_so(tag: bytes) -> None:
    data = tag + mp3(sine(1_000, 22_050, 2.0), 22_050)
    result = decoded_mp3(data)
    assert result.repairs == ("MPEG_LAYER_III converted to 16 bits", "resampled from 22050 Hz")
    assert len(result.samples) == 2 * RATE_HZ
    assert loudest_hz(result.samples) == pytest.approx(1_000, abs=1)
    assert np.abs(result.samples).max() == pytest.approx(16_384, rel=0.1)
    assert reason(data).startswith("not audio: the file begins with")


def test_other_files_are_read_as_what_they_are_whatever_their_name() -> None:
    samples = noise(500)
    np.testing.assert_array_equal(decoded_mp3(wav(samples)).samples, samples)
    for junk in (b"hello, I am not a sound", b"\xff\xd8\xff\xe0 JFIF" * 50, b"\xff"):
        with pytest.raises(BadAudio, match="not audio: the file begins with"):
            decoded_mp3(junk)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.9, 0.999])
def test_mp3_files_cut_short_are_noticed_even_where_the_cut_lies_behind_the_clip(share: float) -> None:
    data = mp3(sine(440, RATE_HZ, 3.0))
    for whole in (data, TAG + data):
        with pytest.raises(BadAudio, match=r"^(truncated|not audio)"):
            decoded_mp3(whole[: int(share * len(whole))], max_seconds=0.1)


def test_mutilated_mp3_files_raise_nothing_but_bad_audio() -> None:
    intact = mp3(noise(3_000) / 32_768)
    random = np.random.default_rng(1)
    for _ in range(100):
        data = bytearray(intact)
        for place in random.integers(0, min(len(data), 400), 3):
            data[place] = random.integers(256)
        with contextlib.suppress(BadAudio):
            assert 0 < len(decoded_mp3(bytes(data), max_seconds=0.1).samples) <= 1_600


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_is_read_and_its_truncation_noticed(subtype: str) -> None:
    """libsndfile reads the whole pages that are left without a word."""
    data = wav(sine(440, RATE_HZ, 3.0), subtype=subtype, kind="OGG")
    result = decoded(data)
    assert result.repairs[0] == f"{subtype} converted to 16 bits"
    assert loudest_hz(result.samples) == pytest.approx(440, abs=1)
    assert len(result.samples) == 3 * RATE_HZ
    for lost in (1, 10, len(data) // 10, len(data) // 2, len(data) - 30, len(data) - 5):
        assert reason(data[:-lost]).startswith("truncated: ")


def test_channels_become_their_mean() -> None:
    result = decoded(wav(np.array([[100, 300], [-32768, -32768], [32767, 32767], [7, -3]], np.int16)))
    assert result.samples.tolist() == [200, -32768, 32767, 2]
    assert result.repairs == ("2 channels mixed to mono",)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_length_pitch_and_level(rate_hz: int) -> None:
    result = decoded(wav(sine(440, rate_hz), rate_hz))
    assert result.repairs == (f"resampled from {rate_hz} Hz",)
    assert len(result.samples) == RATE_HZ
    spectrum = np.abs(np.fft.rfft(result.samples * np.hanning(RATE_HZ)))
    assert spectrum.argmax() == 440  # bins are 1 Hz wide
    assert np.abs(result.samples[1_000:-1_000]).max() == pytest.approx(0.5 * 32_768, rel=0.01)


def test_the_cut_of_a_resampled_clip_shows_no_edge() -> None:
    data = wav(noise(88_200), 44_100)
    np.testing.assert_allclose(decoded(data, 0.5).samples, decoded(data, 2.0).samples[:8_000], atol=1)


def test_stereo_at_another_rate_names_both_repairs() -> None:
    left = sine(440, 22_050)
    result = decoded(wav(np.stack([left, np.zeros_like(left)], axis=1), 22_050))
    assert result.repairs == ("2 channels mixed to mono", "resampled from 22050 Hz")
    assert np.abs(result.samples[1_000:-1_000]).max() == pytest.approx(0.25 * 32_768, rel=0.01)


def test_float_files_are_rounded_and_clipped_by_name() -> None:
    result = decoded(wav(np.array([0.5, -1.0, 1.0, 1.5, -3.0, 0.25]), subtype="FLOAT"))
    assert result.samples.tolist() == [16_384, -32_768, 32_767, 32_767, -32_768, 8_192]
    assert result.repairs == ("FLOAT converted to 16 bits", "2 samples beyond full scale clipped")


def test_24_bits_are_rounded_and_8_bits_exact() -> None:
    assert decoded(wav(np.array([0.5, -0.25]), subtype="PCM_24")).repairs == ("PCM_24 converted to 16 bits",)
    eight = decoded(wav(np.array([0.5, -0.25]), subtype="PCM_U8"))
    assert eight == Decoded(eight.samples, ())
    assert eight.samples.tolist() == [16_384, -8_192]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused(value: float) -> None:
    samples = np.full(100, 0.5)
    samples[70] = value
    assert reason(wav(samples, subtype="FLOAT")) == "not finite: the file holds NaN or infinite samples"


def test_every_possible_truncation_is_noticed() -> None:
    data = wav(noise(60))
    for length in range(len(data)):
        with pytest.raises(BadAudio):
            decoded(data[:length])
    assert reason(data[:-1]) == "truncated: the data chunk promises 120 bytes, the file holds 119"
    assert len(decoded(data).samples) == 60


@pytest.mark.parametrize("kind", ["AIFF", "AU", "FLAC", "WAVEX"])
def test_other_containers_are_not_read_in_part(kind: str) -> None:
    data = wav(noise(20_000), kind=kind)
    assert reason(data[: len(data) // 2]).startswith(("truncated", "not audio"))


def test_a_trailing_chunk_cut_short_is_noticed_but_a_missing_pad_byte_forgiven() -> None:
    data = wav(noise(60))
    longer = data[:4] + struct.pack("<I", len(data) + 20) + data[8:]
    assert reason(longer).startswith("truncated: the RIFF header promises")
    padless = data[:4] + struct.pack("<I", len(data) - 7) + data[8:]
    assert len(decoded(padless).samples) == 60


def test_a_streamed_wav_without_length_is_refused() -> None:
    data = wav(noise(60))
    assert reason(data[:40] + b"\xff\xff\xff\xff" + data[44:]).startswith("truncated: the header gives no length")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "empty file"),
        (b"\0" * 100, "not audio: the file begins with"),
        (b"hello, I am not a sound", "not audio: the file begins with"),
        (b"\xff\xfb\x90\x00" * 500, "not audio: the file begins with"),
        (b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\x00" * 500, "not audio: the file begins with b'ID3"),
        (b"RIFF\x04\0\0\0AVI ", "not audio: a RIFF file that is not WAVE"),
        (b"RIFF\x0c\0\0\0WAVEdata\0\0\0\0", "not audio: a WAV file without a format"),
        (wav(np.zeros(0, np.int16)), "no samples"),
        (wav(np.zeros(100, np.int16)), "silent"),
        (wav(np.full(100, 1e-6), subtype="FLOAT"), "silent"),
        (wav(np.array([[100, -100]] * 9, np.int16)), "silent"),
        (wav(noise(100), rate_hz=7), "odd header: 7 Hz"),
        (wav(np.ones((9, 17), np.int16)), "odd header: 17 channels"),
    ],
)
def test_what_is_no_usable_audio_is_named(data: bytes, expected: str) -> None:
    assert reason(data).startswith(expected)


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")])
def test_mutilated_files_raise_nothing_but_bad_audio(kind: str, subtype: str) -> None:
    intact = wav(noise(200) / 32_768, subtype=subtype, kind=kind)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        data = bytearray(intact)
        for place in random.integers(0, min(len(data), 80), 3):
            data[place] = random.integers(256)
        try:
            result = decode(bytes(data), sample_rate_hz=RATE_HZ, max_seconds=0.1)
        except BadAudio:
            refused += 1
        else:
            assert result.samples.dtype == np.int16 and 0 < len(result.samples) <= 1_600
    assert refused > 50


def test_digests_tell_waveforms_apart() -> None:
    first, again, other = decoded(wav(noise(60))), decoded(wav(noise(60))), decoded(wav(noise(60, seed=1)))
    assert first.digest == again.digest != other.digest
    assert len(first.digest) == 16


def refusal(path: Path, *inside: Path) -> str:
    with pytest.raises(BadAudio) as caught:
        read_file(path, [folder.resolve() for folder in inside])
    return str(caught.value)


def test_links_are_followed_within_the_corpus_only(tmp_path: Path) -> None:
    corpus, outside = tmp_path / "corpus", tmp_path / "secret.wav"
    corpus.mkdir()
    outside.write_bytes(b"secret")
    (corpus / "real.wav").write_bytes(b"sound")
    (corpus / "near.wav").symlink_to("real.wav")
    (corpus / "far.wav").symlink_to(outside)
    (corpus / "farther.wav").symlink_to("far.wav")
    (corpus / "circle.wav").symlink_to("circle.wav")
    (corpus / "gone.wav").symlink_to("nowhere.wav")
    assert read_file(corpus / "near.wav", [corpus.resolve()]) == b"sound"
    assert refusal(corpus / "far.wav", corpus) == "link: it leads out of the corpus, and is never followed"
    assert refusal(corpus / "farther.wav", corpus).startswith("link")
    assert refusal(corpus / "circle.wav", corpus).startswith("cannot be read: ")
    assert refusal(corpus / "gone.wav", corpus) == "no such file"


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "huge.wav").touch()
    os.truncate(tmp_path / "huge.wav", audio.MAX_FILE_BYTES + 1)
    assert refusal(tmp_path / "folder.wav") == "not a file: it is a folder"
    assert refusal(tmp_path / "pipe.wav") == "not a file: it is a device, pipe or socket"
    assert refusal(tmp_path / "huge.wav").startswith("too large: 67,108,865 bytes")
    assert refusal(tmp_path / ("x" * 300 + ".wav")) == "cannot be read: File name too long"

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.wav").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)  # chmod would not keep out root, as whom containers run tests
    assert refusal(tmp_path / "mine.wav") == "cannot be read: Permission denied"
