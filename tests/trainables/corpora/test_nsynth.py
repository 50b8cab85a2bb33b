import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trainables.corpora import examples
from trainables.corpora.archive import Gunzip, content_bytes, members
from trainables.corpora.assemble import metadata
from trainables.corpora.examples import Broken, Example, parse_examples
from trainables.corpora.layout import SPLITS, Bad, Row
from trainables.corpora.nsynth import KIND, check_row, locate
from trainables.errors import UserError

GOOD: dict[str, Any] = {
    "note_str": "synth_lead_synthetic_000-060-100",
    "instrument_str": "synth_lead_synthetic_000",
    "instrument_family_str": "synth_lead",
    "instrument_source_str": "synthetic",
    "pitch": 60,
    "velocity": 100,
}


def parsed(text: str) -> list[Example | Broken]:
    return list(parse_examples(io.BytesIO(text.encode()), "examples.json"))


def fault(fields: object, name: str = "synth_lead_synthetic_000-060-100") -> str:
    bad = check_row("train", Example(name, fields))
    assert isinstance(bad, Bad)
    assert (bad.split, bad.path) == ("train", "nsynth-train/examples.json")
    return bad.reason


def test_a_row_becomes_typed_and_knows_its_path() -> None:
    row = check_row("valid", Example(GOOD["note_str"], GOOD))
    assert row == Row(
        split="valid",
        name="synth_lead_synthetic_000-060-100",
        group="synth_lead_synthetic_000",
        labels=("synth_lead", "synthetic"),
        path="nsynth-valid/audio/synth_lead_synthetic_000-060-100.wav",
        details=(60, 100),
    )


@pytest.mark.parametrize("pitch", [0, 9, 119, 127])
def test_pitches_beyond_a_piano_are_fine(pitch: int) -> None:
    name = f"synth_lead_synthetic_000-{pitch:03d}-100"
    assert isinstance(check_row("train", Example(name, {**GOOD, "note_str": name, "pitch": pitch})), Row)


@pytest.mark.parametrize("name", ["Flöte à bec", "日本-語", "two\nlines", "a b-c", "..."])
def test_names_of_another_form_are_believed(name: str) -> None:
    row = check_row("train", Example(name, {**GOOD, "note_str": name}))
    assert isinstance(row, Row) and row.name == name


@pytest.mark.parametrize("key", GOOD)
def test_every_field_must_be_there(key: str) -> None:
    assert fault({name: value for name, value in GOOD.items() if name != key}) == f"missing field: {key}"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"pitch": "60"}, "wrong field: pitch must be a whole number in 0–127, but is '60'"),
        ({"pitch": True}, "wrong field: pitch"),
        ({"pitch": 60.0}, "wrong field: pitch"),
        ({"pitch": 128}, "wrong field: pitch"),
        ({"velocity": -1}, "wrong field: velocity"),
        ({"velocity": 10**30}, "wrong field: velocity"),
        ({"velocity": None}, "wrong field: velocity"),
        ({"instrument_str": 7}, "wrong field: instrument_str must be a text, but is 7"),
        ({"instrument_family_str": ""}, "wrong field: instrument_family_str"),
        ({"instrument_source_str": "\ud800"}, "wrong field: instrument_source_str"),
        ({"note_str": "another"}, "wrong name: note_str is 'another'"),
        ({"pitch": 61}, "wrong name: it contradicts"),
        ({"velocity": 99}, "wrong name: it contradicts"),
        ({"instrument_str": "bass_synthetic_000"}, "wrong name: it contradicts"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], reason: str) -> None:
    assert fault({**GOOD, **change}).startswith(reason)


@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/passwd", "/etc/passwd", "a\\b", "a\0b", "\ud800"])
def test_names_that_are_no_plain_file_name_are_refused(name: str) -> None:
    assert fault({**GOOD, "note_str": name}, name) == "unsafe name: a note's name must be a plain file name"


@pytest.mark.parametrize("fields", [None, 5, "text", [GOOD]])
def test_a_row_must_be_an_object(fields: object) -> None:
    assert fault(fields) == "wrong field: the row is not an object"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [1, 7, 1_000])
def test_pieces_of_any_size_give_the_same_rows(chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {f'n "{i}" \\ ö{{': {"text": "} , {" * i, "list": [i, {"deep": None}]} for i in range(20)}
    monkeypatch.setattr(examples, "CHUNK", chunk)
    monkeypatch.setattr(examples, "ROW_LIMIT", 300)
    assert parsed(json.dumps(rows, indent=indent)) == [Example(name, fields) for name, fields in rows.items()]


@pytest.mark.parametrize("text", ["{}", " {\n} \n", "\ufeff{}"])
def test_an_empty_object_has_no_rows(text: str) -> None:
    assert parsed(text) == []


@pytest.mark.parametrize("text", ["", "[1, 2]", "<html>", "null"])
def test_anything_but_an_object_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=r"examples\.json must hold one JSON object"):
        parsed(text)


@pytest.mark.parametrize(
    "broken",
    [
        '"bad": {"x": }',
        '"bad": {"x": 1',
        '"bad": {"x": "unclosed}',
        '"bad": {"x": [1, 2}',
        '"bad": nonsense',
        '"bad" {"x": 1}',
        "bad: {}",
        '"bad\n": {}',
        '"bad": {"x": 1}}',
        '"bad": ' + "[" * 10_000,
        '"bad": {"x": ' + "9" * 10_000 + "}",
    ],
)
def test_a_broken_row_costs_only_itself(broken: str) -> None:
    rows = [{"note_str": "first"}, {"note_str": "next"}, {"note_str": "last"}]
    first, following, last = (f'"{row["note_str"]}": {json.dumps(row)}' for row in rows)
    found = parsed("{" + f"{first},\n{broken},\n{following},\n{last}" + "}")
    good = [example for example in found if isinstance(example, Example)]
    assert [example.name for example in good if example.name != "bad"] == ["first", "next", "last"]
    assert [example.fields for example in good if example.name != "bad"] == rows
    assert [example.reason.partition(":")[0] for example in found if isinstance(example, Broken)] == ["broken row"]


def test_an_overlong_row_is_broken_and_the_next_is_found() -> None:
    found = parsed('{"first": {}, "bad": {"x": "' + "y" * 3_000_000 + '"}, "last": {}}')
    assert [type(example) for example in found] == [Example, Broken, Example]
    assert found[-1] == Example("last", {})


def test_a_list_cut_short_keeps_what_is_there_and_says_so() -> None:
    found = parsed('{"first": {"x": 1}, "second": {"x": ')
    assert found[0] == Example("first", {"x": 1})
    assert found[1:] == [
        Broken("second", "broken row: Expecting value"),
        Broken("", "broken row: the file ends before its closing brace, so rows may be missing"),
    ]


class Endless(io.RawIOBase):
    """A list of notes that never ends, and counts what was taken of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = (b'{"a":{},' if not self.taken else b"") + b'"a":{},' * (len(buffer) // 7 - 2)
        buffer[: len(data)] = data
        self.taken += len(data)
        return len(data)


def test_rows_come_before_the_file_has_been_read() -> None:
    stream = Endless()
    rows = parse_examples(stream, "endless")  # type: ignore[arg-type]
    assert [next(rows) for _ in range(1_000)] == [Example("a", {})] * 1_000
    assert stream.taken < 4 * examples.CHUNK


def test_what_is_wrong_with_the_path_is_named(corpus: Any, tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "nowhere", "nowhere does not exist"),
        (corpus.list_path("train"), "examples.json is a file"),
        (corpus.root / "nsynth-train", "it holds audio, examples.json"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            locate(path)
        assert "nsynth-train*.tar.gz" in str(caught.value)
    shutil.rmtree(corpus.root / "nsynth-valid")
    with pytest.raises(UserError, match="has no nsynth-valid, it holds nsynth-test, nsynth-train"):
        locate(corpus.root)


def test_a_split_without_a_list_or_with_two_archives_is_an_error(corpus: Any, tmp_path: Path) -> None:
    archives = corpus.archived(tmp_path / "archives")
    shutil.copy(archives / "nsynth-test.jsonwav.tar.gz", archives / "nsynth-test (1).tar.gz")
    with pytest.raises(UserError, match=r"one archive for nsynth-test, but .* holds nsynth-test \(1\)\.tar\.gz, "):
        locate(archives)
    corpus.list_path("test").unlink()
    with pytest.raises(UserError, match=r"nsynth-test has no examples\.json"):
        locate(corpus.root)


def test_metadata_lists_every_row_of_folders_and_archives_alike(corpus: Any, tmp_path: Path) -> None:
    frame = metadata(KIND, locate(corpus.root))
    assert list(frame) == ["name", "split", "group", "family", "source", "pitch", "velocity", "path"]
    assert frame["name"].tolist() == [name for split in SPLITS for name in corpus.names(split)]
    assert frame["split"].value_counts().to_dict() == {"train": 40, "valid": 20, "test": 20}
    assert frame.iloc[1].tolist() == [
        "synth_lead_synthetic_000-020-100",
        "train",
        "synth_lead_synthetic_000",
        "synth_lead",
        "synthetic",
        20,
        100,
        "nsynth-train/audio/synth_lead_synthetic_000-020-100.wav",
    ]
    assert all((corpus.root / path).is_file() for path in frame["path"])
    pd.testing.assert_frame_equal(metadata(KIND, locate(corpus.archived(tmp_path / "archives"))), frame)


def test_a_name_counts_once_in_the_whole_corpus(corpus: Any) -> None:
    twice = corpus.names("train")[3]
    text = corpus.list_path("train").read_text().rstrip().removesuffix("}")
    corpus.list_path("train").write_text(text + f', "{twice}": {json.dumps(corpus.rows("train")[twice])}' + "}")
    corpus.write_rows("test", {**corpus.rows("test"), twice: corpus.rows("train")[twice]})
    found = list(locate(corpus.root).rows())
    duplicates = [(bad.split, bad.name) for bad in found if isinstance(bad, Bad)]
    assert duplicates == [("train", twice), ("test", twice)]
    assert sum(isinstance(row, Row) and row.name == twice for row in found) == 1


def test_surveys_see_every_change_and_nothing_else(corpus: Any) -> None:
    first = locate(corpus.root).survey(10_000)
    assert locate(corpus.root).survey(10_000) == first
    assert first.total == 80
    assert 80 * 844 < first.disk_bytes < 80 * 844 + 3 * 20_000 + 80 * 2_000
    assert locate(corpus.root).survey(100).disk_bytes < first.disk_bytes
    path = corpus.audio("test", corpus.names("test")[0])
    seen = {first.fingerprint}
    os.utime(path, ns=(1, 1))
    seen.add(locate(corpus.root).survey(10_000).fingerprint)
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    seen.add(locate(corpus.root).survey(10_000).fingerprint)
    path.rename(path.with_name("new.wav"))
    seen.add(locate(corpus.root).survey(10_000).fingerprint)
    os.utime(corpus.list_path("valid"), ns=(1, 1))
    seen.add(locate(corpus.root).survey(10_000).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_gunzip_reads_members_that_follow_each_other_and_padding(size: int) -> None:
    data = gzip.compress(b"one" * 1_000) + gzip.compress(b"") + gzip.compress(b"two" * 1_000) + b"\0" * 500
    stream = Gunzip(io.BytesIO(data))
    pieces = iter(lambda: stream.read(size), b"")
    assert b"".join(pieces) == b"one" * 1_000 + b"two" * 1_000
    assert stream.reached == len(data)


def test_damaged_archives_are_errors(corpus: Any, tmp_path: Path) -> None:
    whole = (corpus.archived(tmp_path / "archives") / "nsynth-train.jsonwav.tar.gz").read_bytes()
    assert len(list(members(tmp_path / "archives" / "nsynth-train.jsonwav.tar.gz"))) == 41
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    wrong_sum = whole[:-8] + b"\0\0\0\0" + whole[-4:]
    for data in (whole[: len(whole) // 2], whole[:-1], bytes(flipped), wrong_sum, b"no gzip file at all", b""):
        path = tmp_path / "bad.tar.gz"
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"bad\.tar\.gz is damaged"):
            list(members(path))


def test_an_archive_cut_inside_a_recording_is_an_error_too(corpus: Any, tmp_path: Path) -> None:
    """While the importer, not the archive's own reader, has the recording in hand."""
    archives = corpus.archived(tmp_path / "archives")
    path = archives / "nsynth-train.jsonwav.tar.gz"
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.7, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=r"nsynth-train\.jsonwav\.tar\.gz is damaged"):
            for item in locate(archives).items(tmp_path):
                item.load()


def test_the_size_of_an_archives_content_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("folder"))
    assert content_bytes(path) == tarfile.RECORDSIZE
    # The real train archive: 23.6e9 bytes that hold 37.4e9, told modulo 4 GiB only.
    held = 289_205 * 128_044 + 400_000_000
    path.write_bytes((held % 2**32).to_bytes(4, "little"))
    os.truncate(path, 0)
    with path.open("wb") as file:
        file.truncate(23_600_000_000)
        file.seek(-4, os.SEEK_END)
        file.write((held % 2**32).to_bytes(4, "little"))
    assert content_bytes(path) == held
