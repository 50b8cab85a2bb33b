"""Pictures against librosa, matplotlib and Pillow."""

import re
import warnings
from dataclasses import replace
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from trainables.errors import UserError
from trainables.features import from_json
from trainables.features import picture as module
from trainables.features.picture import Picture, mel_bands

RATE_HZ = 8_000
PLAIN = Picture(
    excerpt="first",
    seconds=0.5,
    frame_samples=256,
    hop_samples=64,
    frequency="linear",
    log=True,
    colour="none",
    size=64,
)


def sounds(clips: int = 3, samples: int = 4_000, seed: int = 0) -> Tensor:
    """Decaying tones over noise, each at another pitch and level."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(samples) / RATE_HZ
    pitches_hz = rng.uniform(100, 3_000, (clips, 1))
    tones = np.sin(2 * np.pi * pitches_hz * seconds) * np.exp(-5 * seconds)
    levels = 10 ** rng.uniform(-3, -0.3, (clips, 1))
    return torch.from_numpy((levels * (tones + 0.01 * rng.normal(size=(clips, samples)))).astype(np.float32))


def tone(hertz: float, samples: int = 4_000) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(samples) / RATE_HZ)[None]


def by_librosa(waveform: npt.NDArray[np.float32], how: Picture, rate_hz: int) -> npt.NDArray[np.float64]:
    """Shades from 0 to 255, not rounded."""
    spectrum = librosa.stft(
        waveform / np.abs(waveform).max(), n_fft=how.frame_samples, hop_length=how.hop_samples, window="hann"
    )
    magnitudes = np.abs(spectrum)
    if how.frequency == "mel":
        bands = mel_bands(rate_hz, how.frame_samples, how.size)
        magnitudes = librosa.feature.melspectrogram(S=magnitudes, sr=rate_hz, n_fft=how.frame_samples, n_mels=bands)
    if how.log:
        shades = librosa.amplitude_to_db(magnitudes, ref=np.max, top_db=80) / 80 + 1
    else:
        shades = magnitudes / magnitudes.max()
    picture = Image.fromarray(shades[::-1].astype(np.float32)).resize((how.size, how.size), Image.Resampling.BILINEAR)
    return 255 * np.asarray(picture, dtype=np.float64)


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({}, 4_000),
        ({"log": False}, 4_000),
        ({"frequency": "mel"}, 4_000),
        ({"frequency": "mel", "log": False, "size": 96}, 4_000),
        ({"size": 200}, 4_000),  # larger than bins and frames
        ({"size": 7, "frame_samples": 512, "hop_samples": 16}, 4_000),  # much smaller
        ({"frame_samples": 2048, "hop_samples": 512, "frequency": "mel", "size": 128}, 16_001),
        ({"frame_samples": 300, "hop_samples": 110, "size": 33}, 4_001),
        ({"frame_samples": 255, "frequency": "mel", "size": 40}, 3_999),
        ({"frame_samples": 2048, "hop_samples": 512}, 700),  # shorter than a frame
        ({"hop_samples": 400}, 4_000),  # frames apart from each other
    ],
)
@pytest.mark.parametrize("rate_hz", [RATE_HZ, 11_025])
@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large for input signal")  # librosa's, and one case's point
def test_shades_against_librosa_and_pillow(changes: dict[str, Any], samples: int, rate_hz: int) -> None:
    how = replace(PLAIN, **changes)
    waveforms = sounds(samples=samples)
    found = how.prepare(waveforms, rate_hz)
    assert found.dtype == torch.uint8
    assert found.shape == (3, how.size, how.size)
    for shades, waveform in zip(found.numpy(), waveforms.numpy(), strict=True):
        wanted = by_librosa(waveform, how, rate_hz)
        assert np.ptp(wanted) > 40
        # Half a shade is rounding.
        np.testing.assert_allclose(shades, wanted, rtol=0, atol=0.51)


@pytest.mark.parametrize("rate_hz", [1_500, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("frame_samples", [64, 255, 512, 2048])
def test_mel_filters_against_librosa_none_of_them_empty(rate_hz: int, frame_samples: int) -> None:
    bands = mel_bands(rate_hz, frame_samples, 512)
    found = module._mel_filters(rate_hz, frame_samples, bands, torch.device("cpu")).numpy()
    wanted = librosa.filters.mel(sr=rate_hz, n_fft=frame_samples, n_mels=bands)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5 * wanted.max())
    assert (found.max(axis=1) > 0).all()


@pytest.mark.parametrize(
    ("rate_hz", "frame_samples", "size", "bands"),
    [
        (22_050, 2048, 512, 128),
        (22_050, 2048, 64, 64),
        (16_000, 2048, 512, 128),
        # 8 kHz are 15 + 27 ln 8 / ln 6.4 = 45.247 mel or 3016.4 Hz of Slaney's linear part: 96.5 bins of 31.25 Hz
        (16_000, 512, 512, 95),
        (1_600, 256, 512, 127),  # all linear: 800 Hz are 128 bins of 6.25 Hz
        (1_600, 128, 512, 63),
        (16_000, 8, 512, 1),
    ],
)
def test_number_of_mel_bands(rate_hz: int, frame_samples: int, size: int, bands: int) -> None:
    assert mel_bands(rate_hz, frame_samples, size) == bands


@pytest.mark.parametrize(("hertz", "row"), [(62.5, 128 - 2), (1_000, 128 - 32), (3_000, 128 - 96), (4_000, 0)])
@pytest.mark.parametrize("log", [True, False])
def test_a_tone_lies_at_its_height_from_the_bottom(hertz: float, row: int, log: bool) -> None:
    """129 bins from 0 to 4 kHz in 129 rows: nothing is resized in height, and bins are 31.25 Hz apart."""
    # a sine at half the rate is all zeros, so take its cosine there
    waveform = tone(hertz) if hertz < 4_000 else (1.0 - 2.0 * (torch.arange(4_000) % 2))[None]
    shades = replace(PLAIN, size=129, log=log).prepare(waveform, RATE_HZ)[0]
    middle = shades[:, 32:-32]  # away from the ends, where the sound stops abruptly
    assert (middle.argmax(dim=0) == row).all()
    assert middle[row].min() >= 250
    assert middle[(row + 64) % 129].max() <= 5


def test_time_runs_from_left_to_right() -> None:
    waveform = torch.zeros(1, 4_000)
    waveform[:, 1_000:] = tone(1_000)[:, :3_000]
    brightness = replace(PLAIN, log=False).prepare(waveform, RATE_HZ)[0].float().mean(dim=0)
    assert brightness[:14].max() == 0
    assert brightness[18:].min() > 2


def test_a_bin_of_known_level() -> None:
    """Two tones on bins, the second 20 dB below the first, a quarter of the range, or 100 dB, out of it."""
    for ratio, log, wanted in [(10, True, 191.25), (1e5, True, 0), (10, False, 25.5)]:
        waveform = tone(1_000) + tone(3_000) / ratio
        shades = replace(PLAIN, size=129, log=log).prepare(waveform, RATE_HZ)[0]
        assert shades[128 - 32, 64] == 255
        assert abs(float(shades[128 - 96, 64]) - wanted) <= 1


@pytest.mark.parametrize("frequency", ["linear", "mel"])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("level", [1.0, 1e-4, 1e-30, 1e-41])
def test_level_does_not_matter(frequency: str, log: bool, level: float) -> None:
    how = replace(PLAIN, frequency=frequency, log=log)
    waveform = torch.cat([torch.zeros(1, 1_000), tone(1_000, 1_000), torch.zeros(1, 1_000)], dim=1)
    expected, shades = how.prepare(torch.cat([waveform, waveform * level]), RATE_HZ).int()
    if level > 1e-37:
        assert (shades - expected).abs().max() <= 1
    else:  # float32 holds no more than three digits of it
        assert shades.max() > 128


@pytest.mark.parametrize("frequency", ["linear", "mel"])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 100, 256, 257, 4_000])
def test_silence_is_black_and_nothing_else_is(frequency: str, log: bool, samples: int) -> None:
    how = replace(PLAIN, frequency=frequency, log=log)
    waveforms = torch.cat([torch.zeros(1, samples), torch.full((1, samples), -0.25), sounds(1, samples)])
    found = how.prepare(waveforms, RATE_HZ)
    assert (found[0] == 0).all()
    assert found[1:].amax(dim=(1, 2)).min() > 128
    coloured = replace(how, colour="magma").present(found)
    assert torch.isfinite(coloured).all()
    assert coloured.amin() >= 0
    assert coloured.amax() <= 1


def test_direct_current_lies_at_the_bottom() -> None:
    """A Hann window spreads it over two bins, the second at half the level (6.02 of 80 dB less)."""
    for log, second in [(False, 127.5), (True, 235.8)]:
        shades = replace(PLAIN, size=129, log=log).prepare(torch.full((1, 4_000), -0.25), RATE_HZ)[0, :, 64]
        assert shades[128] == 255
        assert abs(float(shades[127]) - second) <= 0.6
        assert shades[:127].max() == 0


@pytest.mark.parametrize("frequency", ["linear", "mel"])
@pytest.mark.parametrize("log", [True, False])
def test_a_batch_is_its_clips_one_by_one(frequency: str, log: bool) -> None:
    how = replace(PLAIN, frequency=frequency, log=log)
    waveforms = sounds(5)
    alone = torch.cat([how.prepare(waveform[None], RATE_HZ) for waveform in waveforms])
    difference = (how.prepare(waveforms, RATE_HZ).int() - alone.int()).abs()
    assert difference.max() <= 1  # sums in another order, then rounded
    assert difference.float().mean() < 0.01
    assert how.prepare(waveforms[:0], RATE_HZ).shape == (0, 64, 64)


def test_sub_batches_join_seamlessly_and_bound_the_spectra_held(monkeypatch: pytest.MonkeyPatch) -> None:
    waveforms = sounds(5)
    whole = PLAIN.prepare(waveforms, RATE_HZ)
    sizes = []
    shades = Picture._shades

    def watched(self: Picture, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        sizes.append(len(waveforms))
        return shades(self, waveforms, sample_rate_hz)

    monkeypatch.setattr(Picture, "_shades", watched)
    for clips, wanted in [(2, [2, 2, 1]), (0.5, [1, 1, 1, 1, 1])]:
        sizes.clear()
        monkeypatch.setattr(module, "_SPECTRUM_BYTES", int(clips * 8 * 129 * 63))
        assert (PLAIN.prepare(waveforms, RATE_HZ).int() - whole.int()).abs().max() <= 1
        assert sizes == wanted


def test_waveforms_are_left_as_they_are() -> None:
    waveforms = sounds()
    before = waveforms.clone()
    PLAIN.prepare(waveforms, RATE_HZ)
    assert torch.equal(waveforms, before)


@pytest.mark.parametrize("colour", ["magma", "viridis", "gray_r", "tab10"])
def test_colours_are_those_of_matplotlib(colour: str) -> None:
    kept = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(2, 1, 1)
    kept[1] = kept[0].T
    how = replace(PLAIN, colour=colour, size=16)
    found = how.present(kept)
    assert found.dtype == torch.float32
    assert found.shape == (2, *how.shape(RATE_HZ, 0.5))
    wanted = colormaps[colour](kept.numpy() / 255)[..., :3]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), wanted, rtol=0, atol=1e-6)


def test_no_colour_is_one_channel() -> None:
    kept = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    how = replace(PLAIN, size=2)
    found = how.present(kept)
    assert found.dtype == torch.float32
    assert found.shape == (1, *how.shape(RATE_HZ, 0.5))
    torch.testing.assert_close(found, torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]]]))


def test_an_unknown_colour_is_refused_before_the_work() -> None:
    how = replace(PLAIN, colour="magmaa")
    with pytest.raises(UserError, match=re.escape("got 'magmaa'. Use for example magma")):
        how.prepare(sounds(), RATE_HZ)
    with pytest.raises(UserError, match="Use for example magma, viridis or none"):
        replace(PLAIN, colour="#+?!").present(torch.zeros(1, 64, 64, dtype=torch.uint8))


def test_shapes_and_bytes() -> None:
    how = replace(PLAIN, size=48)
    assert how.shape(RATE_HZ, 3.0) == (1, 48, 48)
    assert replace(how, colour="magma").shape(RATE_HZ, 3.0) == (3, 48, 48)
    kept = how.prepare(sounds(2), RATE_HZ)
    assert kept[0].numel() * kept.element_size() == how.stored_bytes(RATE_HZ, 3.0) == 48 * 48
    assert from_json({"kind": "picture", **{k: v for k, v in vars(how).items() if k != "kind"}}) == how


def test_half_a_minute_at_the_published_settings() -> None:
    how = replace(PLAIN, seconds=30, frame_samples=2048, hop_samples=512, size=512, colour="magma")
    waveforms = 0.1 * torch.randn(1, 661_500, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = how.prepare(waveforms, 22_050)
    np.testing.assert_allclose(kept[0].numpy(), by_librosa(waveforms[0].numpy(), how, 22_050), rtol=0, atol=0.51)
