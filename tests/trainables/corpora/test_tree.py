"""Folders of labels: GTZAN's layout and any other, whole, spoilt and hostile."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainables.corpora.conftest import noise
from trainables import corpora
from trainables.corpora import importer
from trainables.corpora.store import Store, open_store
from trainables.errors import UserError

RATE_HZ = 22_050


def write(path: Path, seed: int, samples: int = 300, rate_hz: int = RATE_HZ) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seed, samples), rate_hz)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gtzan(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    for seed in range(24):
        genre = ("blues", "jazz")[seed % 2]
        write(root / genre / f"{genre}.{seed // 2:05d}.{('wav', 'au')[seed // 2 % 2]}", seed, 300 + seed)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve files of each label, in every format."""
    root = tmp_path / "sounds"
    for seed in range(24):
        suffix = ("wav", "flac", "ogg", "mp3", "aiff", "aif", "au", "WAV")[seed // 2 % 8]
        kind = {"aif": "AIFF", "WAV": "WAV"}.get(suffix)
        path = root / ("dog", "Größe 1")[seed % 2] / f"take {seed}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(seed, 3_000), RATE_HZ, format=kind)
    return root


def opened(path: Path, kind: str = "gtzan", strict: bool = False) -> Store:
    return open_store(kind, path, strict=strict)


def contents(found: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.root.iterdir()}


def quarantined(found: Store) -> list[list[str]]:
    rows: list[list[str]] = found.quarantine.drop(columns="split").to_numpy().tolist()
    return rows


# --- GTZAN -------------------------------------------------------------------------------------


def test_genres_and_clips_are_found_and_kept_as_they_are(gtzan: Path) -> None:
    found = opened(gtzan, strict=True)
    clips = found.clips
    assert list(clips) == ["name", "split", "group", "genre", "path", "offset", "samples", "digest"]
    assert clips["name"].tolist() == [f"{genre}.{n:05d}" for genre in ("blues", "jazz") for n in range(12)]
    assert clips["group"].tolist() == clips["name"].tolist()
    assert set(clips["split"]) == {""}
    assert [name.partition(".")[0] for name in clips["name"]] == clips["genre"].tolist()
    assert found.notes == () and len(found.repairs) == 0
    assert (found.kind, found.sample_rate_hz, found.max_seconds) == ("gtzan", 22_050, 30.0)
    assert found.clip_seconds == 323 / RATE_HZ
    for row, clip in enumerate(clips.itertuples()):
        exact, _ = soundfile.read(gtzan / str(clip.path), dtype="float32")
        np.testing.assert_array_equal(found.waveforms(np.array([row]), len(exact) / RATE_HZ + 1e-9)[0], exact)


@pytest.mark.parametrize("inner", ["genres", "genres_original"])
def test_genres_may_lie_one_folder_deeper(gtzan: Path, tmp_path: Path, inner: str) -> None:
    whole = opened(gtzan)
    outer = tmp_path / "Data"
    outer.mkdir()
    gtzan.rename(outer / inner)
    (outer / "images_original" / "blues").mkdir(parents=True)
    (outer / "images_original" / "blues" / "blues00000.png").write_bytes(b"png")
    (outer / "features_30_sec.csv").write_text("filename,label\n")
    found = opened(outer)
    assert found.digest == whole.digest and found.notes == ()
    assert found.clips["path"][0] == f"{inner}/blues/blues.00000.wav"


def test_the_unreadable_recording_of_the_common_copy_is_quarantined(gtzan: Path) -> None:
    (gtzan / "jazz" / "jazz.00004.wav").write_bytes(b"\xff\xfa" + bytes(500))
    found = opened(gtzan)
    assert len(found.clips) == 23
    assert quarantined(found) == [
        [
            "jazz.00004",
            "jazz/jazz.00004.wav",
            "not audio: the file begins with b'\\xff\\xfa\\x00\\x00\\x00\\x00\\x00\\x00'",
        ]
    ]
    with pytest.raises(UserError, match=r"1 is:  jazz\.00004: not audio"):
        opened(gtzan, strict=True)


@pytest.mark.parametrize("name", ["unlabelled", "test"])
def test_clips_without_labels_stand_apart(gtzan: Path, name: str) -> None:
    for seed, file in enumerate(["blues.00000.wav", "x y.wav", "x y.flac", "日本.ogg"]):
        write(gtzan / name / file, 100 + seed, 2_000)
    found = opened(gtzan)
    apart = found.clips[found.clips["split"] == "unlabelled"]
    assert apart["name"].tolist() == sorted(
        [f"{name}/{file}" for file in ("blues.00000", "x y.wav", "x y.flac", "日本")]
    )
    assert set(apart["genre"]) == {""}
    assert set(found.clips["genre"]) == {"", "blues", "jazz"} and len(found.clips) == 28


def test_what_does_not_belong_there_is_left_out_by_name(gtzan: Path, tmp_path: Path) -> None:
    whole = opened(gtzan).digest
    write(tmp_path / "outside.wav", 99)
    for path in (".DS_Store", "README.txt", "blues/._blues.00000.wav", "blues/.hidden", "jazz/cover.jpg"):
        (gtzan / path).write_bytes(b"x")
    write(gtzan / "blues" / "old" / "blues.00099.wav", 98)
    (gtzan / "notes").mkdir()
    (gtzan / ".git").mkdir()
    write(gtzan / "jazz" / "take five.wav", 97)
    (gtzan / "blues" / "blues.00090.wav").symlink_to(tmp_path / "outside.wav")
    found = opened(gtzan)
    assert found.digest == whole
    assert quarantined(found) == [
        ["blues.00090", "blues/blues.00090.wav", "link: it leads out of the corpus, and is never followed"],
        ["take five", "jazz/take five.wav", "odd name: it must be jazz.NNNNN.wav or jazz.NNNNN.au"],
    ]
    assert found.notes == (
        "1 file outside the labels' folders was left out (such as 'README.txt')",
        "1 file that is not called like audio was left out (1 .jpg; such as 'jazz/cover.jpg')",
        "1 folder within a label's folder was left out (such as 'blues/old')",
        "4 hidden files were left out (such as '.DS_Store')",
    )


def test_a_second_file_of_one_name_is_a_duplicate(gtzan: Path) -> None:
    write(gtzan / "blues" / "blues.00000.au", 90)
    found = opened(gtzan)
    assert quarantined(found) == [
        ["blues.00000", "blues/blues.00000.wav", "duplicate name: an earlier file has the same"]
    ]
    assert found.clips["path"][0] == "blues/blues.00000.au"


def test_a_genre_that_is_a_link_out_is_never_followed(gtzan: Path, tmp_path: Path) -> None:
    (gtzan / "jazz").rename(tmp_path / "elsewhere")
    (gtzan / "jazz").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"12 of 24 \(12 × link\)"):
        opened(gtzan)
    (gtzan / "jazz").unlink()
    (tmp_path / "elsewhere").rename(gtzan / ".kept")
    (gtzan / "jazz").symlink_to(".kept")
    assert len(opened(gtzan).clips) == 24


def test_names_that_are_no_text_are_quarantined(gtzan: Path) -> None:
    shutil.copy(gtzan / "blues" / "blues.00000.wav", os.fsencode(gtzan) + b"/blues/\xff\xfe.wav")
    (gtzan / "\udcff").mkdir()
    found = opened(gtzan)
    assert quarantined(found) == [["blues/\\xff\\xfe", "blues/\\xff\\xfe.wav", "unsafe name: no UTF-8"]]
    (gtzan / "circle").symlink_to("circle")
    assert len(opened(gtzan).clips) == 24


def test_long_recordings_are_cut_and_counted(gtzan: Path) -> None:
    write(gtzan / "blues" / "blues.00000.wav", 1, 31 * RATE_HZ)
    write(gtzan / "blues" / "blues.00002.wav", 2, 30 * RATE_HZ + 1)
    write(gtzan / "blues" / "blues.00004.wav", 3, 30 * RATE_HZ)
    found = opened(gtzan)
    assert found.notes == ("of 2 longer recordings only the first 30 s are kept",)
    assert found.repairs["name"].tolist() == ["blues.00000", "blues.00002"]
    assert found.clip_seconds == 30.0 and sorted(found.clips["samples"])[-3:] == [30 * RATE_HZ] * 3


def test_a_folder_that_is_no_gtzan_is_refused_with_what_it_holds(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in [
        (folder, "holds Größe 1, dog. Give the folder of the genres, or use folder:PATH"),
        (tmp_path / "empty", "holds nothing"),
        (tmp_path / "nowhere", "nowhere does not exist"),
        (folder / "dog" / "take 0.wav", "is a file"),
    ]:
        with pytest.raises(UserError, match=words):
            opened(path)


# --- any labelled folders ----------------------------------------------------------------------


def test_every_format_is_read_and_the_folder_is_the_label(folder: Path) -> None:
    found = opened(folder, "folder", strict=True)
    clips = found.clips
    assert list(clips)[:4] == ["name", "split", "group", "label"]
    assert len(clips) == 24 and set(clips["samples"]) == {3_000}
    for clip in clips.itertuples():
        assert clip.name == clip.group == str(clip.path).rpartition(".")[0]
        assert clip.label == str(clip.path).partition("/")[0]
    lossy = {str(path)[-3:] for path in found.repairs["path"]}
    assert lossy == {"ogg", "mp3"}


def test_files_that_differ_in_the_extension_only_do_not_collide(folder: Path) -> None:
    for seed, name in enumerate(["a.wav", "a.flac", "a.wav.wav", "b.wav"]):
        write(folder / "dog" / name, 50 + seed)
    names = dict(zip(*(opened(folder, "folder").clips[column] for column in ("path", "name")), strict=True))
    assert {path: name for path, name in names.items() if path[4] in "ab"} == {
        "dog/a.wav": "dog/a.wav",
        "dog/a.flac": "dog/a.flac",
        "dog/a.wav.wav": "dog/a.wav.wav",
        "dog/b.wav": "dog/b",
    }
    assert len(set(names.values())) == 28


def test_a_folder_one_too_high_or_too_low_is_told_where_to_look(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "inner")
    with pytest.raises(UserError, match=r"it holds inner\. Give .*/outer/inner, or list the files"):
        opened(tmp_path / "outer", "folder")
    with pytest.raises(UserError, match=r"has none, it holds take 0\.wav, .* …\. Give the folder that holds"):
        opened(tmp_path / "outer" / "inner" / "dog", "folder")


def test_a_label_is_one_however_its_accents_are_written(folder: Path) -> None:
    for seed, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "café")
        (folder / name).mkdir()
        write(folder / name / f"{form}.wav", 70 + seed)
    labels = opened(folder, "folder").clips["label"]
    assert (labels == unicodedata.normalize("NFC", "café")).sum() == 2


def test_an_mp3_by_its_frames_only_needs_the_name(folder: Path) -> None:
    (folder / "dog" / "take 6.mp3").rename(folder / "dog" / "take 6.wav")
    assert [row[2].partition(":")[0] for row in quarantined(opened(folder, "folder"))] == ["not audio"]


# --- the store ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gtzan", "folder"])
def test_the_digest_is_of_the_content_only(gtzan: Path, tmp_path: Path, kind: str) -> None:
    first = opened(gtzan, kind)
    shutil.copytree(gtzan, tmp_path / "elsewhere")
    for path in gtzan.rglob("*.wav"):
        os.utime(path, ns=(7, 7))
    assert opened(gtzan, kind).root == opened(tmp_path / "elsewhere", kind).root == first.root
    (gtzan / "jazz" / "jazz.00000.wav").rename(gtzan / "jazz" / "jazz.00077.wav")
    assert opened(gtzan, kind).digest != first.digest


def test_a_change_of_any_file_is_seen_and_nothing_else_decoded_again(
    gtzan: Path, count_decodes: Callable[[], list[int]]
) -> None:
    opened(gtzan)
    decoded = count_decodes()
    assert len(opened(gtzan).clips) == 24 and decoded == []
    write(gtzan / "jazz" / "jazz.00050.wav", 50)
    assert len(opened(gtzan).clips) == 25 == len(decoded)
    digest = opened(gtzan).digest
    write(gtzan / "jazz" / "jazz.00050.wav", 51)
    os.utime(gtzan / "jazz" / "jazz.00050.wav", ns=(5, 5))
    assert opened(gtzan).digest != digest and len(decoded) == 50
    (gtzan / "README").write_text("x")
    assert opened(gtzan).notes == ("1 file outside the labels' folders was left out (such as 'README')",)


def test_more_than_a_tenth_bad_or_an_emptied_label_is_an_error(gtzan: Path) -> None:
    for number in (0, 2, 4):
        (gtzan / "jazz" / f"jazz.{number:05d}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"of all clips it is 3 of 24 \(3 × empty file\)"):
        opened(gtzan)
    for number in (0, 2, 4):
        write(gtzan / "jazz" / f"jazz.{number:05d}.wav", 60 + number)
    (gtzan / "pop").mkdir()
    (gtzan / "pop" / "pop.00000.wav").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 of genre 'pop' in the corpus can be used"):
        opened(gtzan)


def test_a_corpus_must_not_change_or_vanish_while_it_is_imported(gtzan: Path) -> None:
    def disturb(stage: str, done: int, total: int) -> None:
        write(gtzan / "jazz" / "jazz.00088.wav", 88)

    def remove(stage: str, done: int, total: int) -> None:
        if stage == "writing the tables":
            gtzan.rename(gtzan.with_name("gone"))

    for meddle in (disturb, remove):
        with pytest.raises(UserError, match="must not change while it is imported"):
            open_store("gtzan", gtzan, progress=meddle)


def test_long_clips_come_in_small_batches_and_resume_exactly(
    gtzan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_decodes: Callable[[], list[int]]
) -> None:
    for number in range(0, 12, 2):
        write(gtzan / "blues" / f"blues.{number:05d}.wav", number, 30 * RATE_HZ)
    (gtzan / "blues" / "blues.00001.au").write_bytes(b"")

    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "writing the tables":
            raise StopError

    with pytest.raises(StopError):
        open_store("gtzan", gtzan, progress=stop)
    (partial,) = (tmp_path / "cache" / "stores").glob("*.partial")
    lines = (partial / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (partial / "journal.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    decoded, batches = count_decodes(), []
    real = importer._decode_batch
    monkeypatch.setattr(importer, "_decode_batch", lambda items, how: batches.append(len(items)) or real(items, how))
    resumed = opened(gtzan)
    assert len(decoded) == 24 - 9 and batches == [1] * 15
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "other"))
    assert contents(opened(gtzan)) == contents(resumed)


def test_the_interface_knows_the_kinds(gtzan: Path, folder: Path) -> None:
    for spec, tasks, splits in [
        (f"gtzan:{gtzan}", ("genre",), ("random", "filtered")),
        (f"folder:{folder}", ("label",), ("random",)),
        ("nsynth:anywhere", ("family", "source"), ("official",)),
        ("demo", ("family", "source"), ("official",)),
        ("demo-genre", ("genre",), ("random",)),
    ]:
        assert (corpora.tasks(spec), corpora.splits_of(spec)) == (tasks, splits)
        small = spec.startswith(("nsynth", "demo")) and spec != "demo-genre"
        assert (corpora.sample_rate_hz(spec), corpora.clip_seconds(spec)) == (
            (16_000, 4.0) if small else (22_050, 30.0)
        )
    needed = corpora.corpus_disk_needed(f"gtzan:{gtzan}")
    assert 24 * 600 < needed < 24 * 600 * 2 + 24 * 1_000 + 2**21
    rows = corpora.labels(f"gtzan:{gtzan}")
    store = corpora.open_corpus(f"gtzan:{gtzan}")
    assert rows.equals(store.clips[["name", "split", "group", "genre", "path"]])
    assert corpora.corpus_disk_needed(f"gtzan:{gtzan}") == 0


@pytest.mark.parametrize("spec", ["gtzan", "folder:", "demo:x", "", "esc50:x", "csv"])
def test_other_names_are_refused_by_every_function(spec: str) -> None:
    for function in (corpora.tasks, corpora.splits_of, corpora.sample_rate_hz, corpora.labels, corpora.open_corpus):
        with pytest.raises(UserError, match="--data must be one of demo, demo-genre, nsynth:PATH, gtzan:PATH, folder:"):
            function(spec)


def test_a_circle_of_links_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for function in (corpora.absolute, corpora.open_corpus):
        with pytest.raises(UserError, match="must name a path that leads somewhere"):
            function(f"folder:{tmp_path / 'circle'}")
