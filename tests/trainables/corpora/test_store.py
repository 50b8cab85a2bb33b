import math
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from trainables.corpora import store
from trainables.corpora.audio import samples_digest
from trainables.corpora.store import find_store, open_store
from trainables.errors import UserError

ROOT = Path(__file__).parents[3]


def opened(corpus: Any, **options: Any) -> store.Store:
    return open_store("nsynth", corpus if isinstance(corpus, Path) else corpus.root, **options)


def contents(found: store.Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.root.iterdir()}


def test_a_store_holds_every_note_as_it_was(corpus: Any) -> None:
    found = opened(corpus)
    clips = found.clips
    assert list(clips) == [
        *("name", "split", "group", "family", "source", "pitch", "velocity"),
        *("path", "offset", "samples", "digest"),
    ]
    names = {split: sorted(corpus.names(split)) for split in ("train", "valid", "test")}
    assert clips["name"].tolist() == names["train"] + names["valid"] + names["test"]
    assert clips["split"].tolist() == ["train"] * 40 + ["valid"] * 20 + ["test"] * 20
    assert found.samples.dtype == np.int16 and not found.samples.flags.writeable
    for clip in clips.itertuples():
        fields = corpus.rows(clip.split)[clip.name]
        assert (clip.family, clip.source) == (fields["instrument_family_str"], "synthetic")
        assert (clip.group, clip.pitch, clip.velocity) == (fields["instrument_str"], fields["pitch"], 100)
        expected, _ = soundfile.read(corpus.root / clip.path, dtype="int16")
        stored = found.samples[clip.offset : clip.offset + clip.samples]
        np.testing.assert_array_equal(stored, expected)
        assert clip.digest == samples_digest(expected)
    assert len(found.quarantine) == len(found.repairs) == len(found.notes) == 0
    assert (found.kind, found.sample_rate_hz, found.max_seconds) == ("nsynth", 16_000, 4.0)


def test_waveforms_are_scaled_cut_and_padded(corpus: Any) -> None:
    found = opened(corpus)
    rows = np.array([70, 3, 3])
    waves = found.waveforms(rows, 0.03)
    assert waves.shape == (3, 480) and waves.dtype == np.float32
    for wave, row in zip(waves, rows, strict=True):
        exact, _ = soundfile.read(corpus.root / found.clips["path"][row], dtype="float32")
        np.testing.assert_array_equal(wave, np.concatenate([exact, np.zeros(80, np.float32)]))
    np.testing.assert_array_equal(found.waveforms(rows, 0.01), waves[:, :160])
    assert found.waveforms(np.array([], dtype=int), 0.01).shape == (0, 160)
    with pytest.raises(IndexError):
        found.waveforms(np.array([80]), 0.01)


def test_excerpts_begin_where_they_are_asked_to(corpus: Any) -> None:
    found = opened(corpus)
    rows, starts = np.array([70, 3, 3, 5, 6]), np.array([0, 100, 399, 400, 5_000])
    waves = found.waveforms(rows, 0.02, starts)
    assert waves.shape == (5, 320)
    for wave, row, start in zip(waves, rows, starts, strict=True):
        exact, _ = soundfile.read(corpus.root / found.clips["path"][row], dtype="float32")
        expected = exact[start : start + 320]
        np.testing.assert_array_equal(wave, np.pad(expected, (0, 320 - len(expected))))
    np.testing.assert_array_equal(found.waveforms(rows, 0.02, np.zeros(5, int)), found.waveforms(rows, 0.02))
    assert waves[2, 0] != 0 and not waves[2, 1:].any() and not waves[3:].any()


def test_no_sample_is_lost_between_seconds_and_samples(corpus: Any) -> None:
    """15 / 22,050 s times 22,050 is less than 15 in floating point; so are other lengths at this rate."""
    assert int(15 / 22_050 * 22_050) == 14
    found = opened(corpus, sample_rate_hz=22_050)
    for length in range(1, 400):
        assert found.waveforms(np.array([0]), length / 22_050).shape == (1, length)


def test_a_limit_in_seconds_keeps_its_last_sample(corpus: Any) -> None:
    found = opened(corpus, sample_rate_hz=22_050, max_seconds=15 / 22_050)
    assert set(found.clips["samples"]) == {15}


def test_the_longest_clip_is_known(corpus: Any) -> None:
    assert opened(corpus).clip_seconds == 400 / 16_000
    longer = np.random.default_rng(0).integers(-9, 9, 3_200).astype(np.int16)
    soundfile.write(corpus.audio("test", corpus.names("test")[0]), longer, 16_000)
    assert opened(corpus).clip_seconds == 0.2
    found = opened(corpus, max_seconds=0.1)
    assert found.clip_seconds == 0.1
    assert found.notes == ("of 1 longer recording only the first 0.1 s are kept",)


def test_reopening_decodes_nothing(corpus: Any, count_decodes: Callable[[], list[int]]) -> None:
    assert find_store("nsynth", corpus.root) is None
    first = opened(corpus)
    decoded = count_decodes()
    again, sought = opened(corpus), find_store("nsynth", corpus.root)
    assert sought and first.root == again.root == sought.root
    assert first.digest == again.digest == sought.digest
    assert decoded == []
    assert len(opened(corpus, max_seconds=1.0).clips) == len(decoded) == 80


def test_progress_counts_files_up_to_all(make_corpus: Callable[..., Any]) -> None:
    told: list[tuple[str, int, int]] = []
    opened(make_corpus(train=100), progress=lambda *step: told.append(step))
    assert told == [
        *(("decoding", done, 140) for done in (0, 64, 128, 140)),
        ("writing the tables", 0, 0),
    ]


def test_a_store_travels_to_another_process_as_its_place(corpus: Any) -> None:
    found = opened(corpus)
    assert len(found.samples) == 80 * 400
    sent = pickle.dumps(found)
    assert len(sent) < 1_000
    assert pickle.loads(sent).clips.equals(found.clips)


def test_folder_and_archives_are_the_same_corpus(corpus: Any, tmp_path: Path) -> None:
    folder = opened(corpus)
    archives = opened(corpus.archived(tmp_path / "archives"))
    assert archives.digest == folder.digest
    assert archives.root == folder.root
    assert [path.name for path in (tmp_path / "cache" / "stores").glob("nsynth-*[0-9a-f]")] == [folder.root.name]


def test_archives_alone_give_the_same_store(corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = opened(corpus), []
    archives = corpus.archived(tmp_path / "archives")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "other"))
    found = opened(archives, progress=lambda *step: told.append(step))
    assert found.digest == folder.digest and found.root != folder.root
    columns = [name for name in found.clips if name != "offset"]  # the archive's own order
    assert found.clips[columns].equals(folder.clips[columns])
    np.testing.assert_array_equal(found.waveforms(np.arange(80), 0.025), folder.waveforms(np.arange(80), 0.025))
    size = sum(path.stat().st_size for path in archives.iterdir())
    assert told[0] == ("decoding", 0, size) and told[-2] == ("decoding", size, size)


def test_the_digest_is_of_the_content_only(corpus: Any, tmp_path: Path, count_decodes: Callable[[], list[int]]) -> None:
    first = opened(corpus)
    shutil.copytree(corpus.root, tmp_path / "elsewhere")
    corpus.write_rows("train", dict(reversed(corpus.rows("train").items())))
    for path in corpus.root.rglob("*.wav"):
        os.utime(path, ns=(7, 7))
    decoded = count_decodes()
    assert opened(tmp_path / "elsewhere").digest == first.digest
    assert opened(corpus).digest == first.digest
    assert len(decoded) == 160


@pytest.mark.parametrize("what", ["sample", "label", "name", "split", "rate", "seconds"])
def test_the_digest_changes_with_any_content(corpus: Any, what: str) -> None:
    first, options = opened(corpus).digest, {}
    rows = corpus.rows("train")
    name = next(iter(rows))
    if what == "sample":
        data = bytearray(corpus.audio("train", name).read_bytes())
        data[100] ^= 1
        corpus.audio("train", name).write_bytes(bytes(data))
    elif what == "label":
        rows[name]["instrument_source_str"] = "acoustic"
        corpus.write_rows("train", rows)
    elif what == "name":
        corpus.write_rows(
            "train", {**rows, name: {**rows[name], "note_str": name}} | {"new": {**rows[name], "note_str": "new"}}
        )
        shutil.copy(corpus.audio("train", name), corpus.audio("train", "new"))
    elif what == "split":
        corpus.write_rows("valid", {**corpus.rows("valid"), name: rows.pop(name)})
        corpus.write_rows("train", rows)
        corpus.audio("train", name).rename(corpus.audio("valid", name))
    else:
        options = {"sample_rate_hz": 8_000} if what == "rate" else {"max_seconds": 3.5}
    assert opened(corpus, **options).digest != first


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def write(samples: np.ndarray, subtype: str = "PCM_16") -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, samples, 16_000, subtype=subtype)


BAD = {
    "no such file": Path.unlink,
    "empty file": lambda path: os.truncate(path, 0),
    "truncated: the data chunk promises 800 bytes, the file holds 399": lambda path: os.truncate(path, 443),
    "not audio: the file begins with b'<html> N'": lambda path: path.write_bytes(b"<html> Not found"),
    "not a file: it is a folder": make_folder,
    "not a file: it is a device, pipe or socket": make_pipe,
    "link: it leads out of the corpus, and is never followed": link_out,
    "silent: every sample is zero": write(np.zeros(400, np.int16)),
    "no samples: the file holds a header only": write(np.zeros(0, np.int16)),
    "not finite: the file holds NaN or infinite samples": write(np.array([0.1, math.nan]), "FLOAT"),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_audio_is_quarantined_with_its_reason(corpus: Any, reason: str) -> None:
    name = corpus.names("train")[7]
    BAD[reason](corpus.audio("train", name))
    found = opened(corpus)
    path = f"nsynth-train/audio/{name}.wav"
    assert found.quarantine.to_numpy().tolist() == [["train", name, path, reason]]
    assert list(found.quarantine) == ["split", "name", "path", "reason"]
    assert len(found.clips) == 79 and name not in set(found.clips["name"])
    with pytest.raises(UserError) as caught:
        opened(corpus, strict=True)
    assert f"1 is: train {name}: {reason}" in str(caught.value)
    assert str(found.root / "quarantine.csv") in str(caught.value)


def test_strict_is_content_with_a_good_corpus(corpus: Any) -> None:
    assert len(opened(corpus, strict=True).clips) == 80


def test_rows_that_cannot_be_used_are_quarantined_too(corpus: Any) -> None:
    rows = corpus.rows("train")
    wrong, hostile = list(rows)[:2]
    rows[wrong]["pitch"] = "high"
    rows["../../etc/passwd"] = {**rows.pop(hostile), "note_str": "../../etc/passwd"}
    corpus.write_rows("train", rows)
    found = opened(corpus)
    assert found.quarantine[["name", "reason"]].to_numpy().tolist() == [
        ["../../etc/passwd", "unsafe name: a note's name must be a plain file name"],
        [wrong, "wrong field: pitch must be a whole number in 0–127, but is 'high'"],
    ]
    # The file of the renamed row is now nobody's; that of the wrong row is still its own.
    assert found.notes == ("train: 1 file without a row in examples.json was left out",)
    assert len(found.clips) == 78


def test_odd_names_are_names_like_others(corpus: Any) -> None:
    rows = corpus.rows("train")
    odd = ["Flöte à bec", 'two\nlines, "quoted"', " ", "日本.wav", "a\rb"]
    for old, new in zip(list(rows)[:5], odd, strict=True):
        rows[new] = {**rows.pop(old), "note_str": new}
        corpus.audio("train", old).rename(corpus.audio("train", new))
    corpus.write_rows("train", rows)
    assert set(odd) < set(opened(corpus).clips["name"])
    for name in odd[1:4]:
        corpus.audio("train", name).unlink()
    assert opened(corpus).quarantine["name"].tolist() == sorted(odd[1:4])


def test_repairs_are_made_and_listed(corpus: Any) -> None:
    stereo, slow = corpus.names("valid")[:2]
    samples = np.array([[100, 300], [7, -3]] * 50, np.int16)
    soundfile.write(corpus.audio("valid", stereo), samples, 16_000)
    times = np.arange(11_025) / 22_050
    soundfile.write(corpus.audio("valid", slow), 0.5 * np.sin(2 * np.pi * 1_000 * times), 22_050)
    found = opened(corpus, strict=True)
    assert sorted(found.repairs.to_numpy().tolist()) == sorted(
        [
            ["valid", stereo, f"nsynth-valid/audio/{stereo}.wav", "2 channels mixed to mono"],
            ["valid", slow, f"nsynth-valid/audio/{slow}.wav", "resampled from 22050 Hz"],
        ]
    )
    assert list(found.repairs) == ["split", "name", "path", "repair"]
    rows = {name: index for index, name in enumerate(found.clips["name"])}
    np.testing.assert_array_equal(found.waveforms(np.array([rows[stereo]]), 100 / 16_000)[0] * 32_768, [200, 2] * 50)
    wave = found.waveforms(np.array([rows[slow]]), 0.5)[0]
    assert found.clips["samples"][rows[slow]] == 8_000
    assert np.abs(np.fft.rfft(wave)).argmax() == 500  # bins are 2 Hz wide


def test_more_than_a_tenth_bad_is_an_error_and_a_tenth_is_not(corpus: Any) -> None:
    names = corpus.names("valid")
    for name in names[:2]:
        corpus.audio("valid", name).unlink()
    assert len(opened(corpus).quarantine) == 2
    corpus.audio("valid", names[2]).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        opened(corpus)
    message = str(caught.value)
    assert "At most 10% of a split's rows may be unusable, but of valid it is 3 of 20" in message
    assert "(2 × no such file, 1 × empty file)" in message
    listed = Path(message.partition("The list is in ")[2].partition(";")[0])
    assert len(listed.read_text().splitlines()) == 4
    with pytest.raises(UserError, match="3 of 20"):
        find_store("nsynth", corpus.root)


def test_a_class_that_loses_all_its_notes_is_an_error(corpus: Any) -> None:
    rows = corpus.rows("test")
    lone = next(iter(rows))
    rows[lone] |= {"instrument_family_str": "vocal"}
    corpus.write_rows("test", rows)
    assert "vocal" in set(opened(corpus).clips["family"])
    corpus.audio("test", lone).unlink()
    with pytest.raises(UserError, match="none of the 1 of family 'vocal' in test can be used"):
        opened(corpus)


def test_a_split_without_rows_and_odd_requests_are_errors(corpus: Any) -> None:
    corpus.write_rows("valid", {})
    with pytest.raises(UserError, match=r"nsynth-valid/examples\.json has no row"):
        opened(corpus)
    with pytest.raises(UserError, match=r"must be one of demo, demo-genre, nsynth, .*, but got 'esc50'"):
        open_store("esc50", corpus.root)
    with pytest.raises(UserError, match=r"but got 16000 Hz and 0\.0 s"):
        opened(corpus, max_seconds=0)


def test_links_and_paths_that_lead_out_of_an_archive(corpus: Any, tmp_path: Path) -> None:
    linked, device = corpus.names("train")[:2]

    def spoil(split: str, archive: tarfile.TarFile) -> None:
        if split == "train":
            for name, kind in [
                (f"nsynth-train/audio/{linked}.wav", tarfile.SYMTYPE),
                (f"nsynth-train/audio/{device}.wav", tarfile.CHRTYPE),
                ("nsynth-train/audio/../../../up.wav", tarfile.REGTYPE),
                (f"{tmp_path}/absolute.wav", tarfile.REGTYPE),
                ("nsynth-train/hard", tarfile.LNKTYPE),
            ]:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/hostname"
                archive.addfile(member)

    before = {path for path in tmp_path.rglob("*") if path.suffix == ".wav"}
    found = opened(corpus.archived(tmp_path / "archives", spoil))
    assert found.quarantine.drop(columns="split").to_numpy().tolist() == [
        [
            "",
            f"{tmp_path}/absolute.wav",
            "unsafe path: the archive's entry leads out of the corpus, and is never followed",
        ],
        [
            "",
            "nsynth-train/audio/../../../up.wav",
            "unsafe path: the archive's entry leads out of the corpus, and is never followed",
        ],
        ["", "nsynth-train/hard", "link: links in an archive are never followed"],
        [linked, f"nsynth-train/audio/{linked}.wav", "link: links in an archive are never followed"],
        [device, f"nsynth-train/audio/{device}.wav", "not a file: the archive's entry is a device or pipe"],
    ]
    assert len(found.clips) == 78
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".wav"} == before


def test_a_linked_audio_folder_is_refused_but_a_linked_split_followed(corpus: Any, tmp_path: Path) -> None:
    (corpus.root / "nsynth-valid").rename(tmp_path / "disk2")
    (corpus.root / "nsynth-valid").symlink_to(tmp_path / "disk2")
    assert len(opened(corpus).clips) == 80
    (tmp_path / "disk2" / "audio").rename(tmp_path / "disk3")
    (tmp_path / "disk2" / "audio").symlink_to(tmp_path / "disk3")
    os.utime(corpus.list_path("valid"), ns=(1, 1))  # or the store would be known already
    with pytest.raises(UserError, match=r"20 of 20 \(20 × link\)"):
        opened(corpus)
