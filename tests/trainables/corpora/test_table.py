"""Tables of paths and labels: what they may hold, and what is said about what they may not."""

import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainables.corpora.conftest import noise
from trainables import corpora
from trainables.corpora.splits import split
from trainables.corpora.store import Store, find_store, open_store
from trainables.errors import UserError

ROOT = Path(__file__).parents[3]
RATE_HZ = 22_050

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write a table of these lines, and a recording for each path in it that is relative."""
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))

    def write(lines: Sequence[str], header: str = "path,label", folder: str = "corpus") -> Path:
        table = tmp_path / folder / "table.csv"
        table.parent.mkdir(exist_ok=True)
        table.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
        for seed, line in enumerate(lines):
            record(table.parent / line.split(",")[header.split(",").index("path")], seed)
        return table

    return write


def record(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seed, 300), RATE_HZ)


def lines(count: int = 20, tail: str = "") -> list[str]:
    return [f"takes/{n}.wav,{('dog', 'cat')[n % 2]}{tail}" for n in range(count)]


def opened(table: Path) -> Store:
    return open_store("csv", table)


def refusal(table: Path) -> str:
    with pytest.raises(UserError) as caught:
        corpora.labels(f"csv:{table}")
    return str(caught.value)


def test_a_table_of_paths_and_labels_is_a_corpus(make: Make) -> None:
    table = make(lines())
    found = opened(table)
    assert list(found.clips) == ["name", "split", "group", "label", "path", "offset", "samples", "digest"]
    rows = {clip.path: clip for clip in found.clips.itertuples()}
    for n in range(20):
        clip = rows[f"takes/{n}.wav"]
        assert (clip.name, clip.group, clip.split) == (f"takes/{n}", f"takes/{n}", "")
        assert clip.label == ("dog", "cat")[n % 2]
        np.testing.assert_array_equal(found.samples[clip.offset : clip.offset + clip.samples], noise(n, 300))
    assert corpora.splits_of(f"csv:{table}") == ("random",)
    assert corpora.tasks(f"csv:{table}") == ("label",)


def test_a_label_is_one_however_its_accents_are_written(make: Make) -> None:
    words = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    found = opened(make([f"takes/{n}.wav,{words[n % 2] if n % 4 < 2 else 'thé'}" for n in range(20)]))
    assert set(found.clips["label"]) == {unicodedata.normalize("NFC", word) for word in ("café", "thé")}


def test_groups_splits_and_clips_without_labels(make: Make) -> None:
    names = ["train", "Validation", "val", "dev", "VALID", "test", "train", "train"]
    rows = [f"{n}.wav,{('dog', 'cat')[n // 2 % 2]},anna,{name},x" for n, name in enumerate(names)]
    table = make([*rows, "8.wav,,,,", "9.wav,,,test,", "10.wav,dog,,test,"], "path,label,group,split,remark")
    clips = opened(table).clips.set_index("name")
    assert [clips["split"][str(n)] for n in range(11)] == [
        *("train", "valid", "valid", "valid", "valid", "test", "train", "train"),
        *("unlabelled", "unlabelled", "test"),
    ]
    assert [clips["group"][str(n)] for n in (0, 7, 8, 10)] == ["anna", "anna", "8", "10"]
    assert clips["label"]["8"] == ""
    assert corpora.splits_of(f"csv:{table}") == ("official",)
    assert clips.index.tolist() == ["0", "6", "7", "1", "2", "3", "4", "10", "5", "8", "9"]


def test_the_official_split_of_a_table_is_used(make: Make) -> None:
    rows = [f"{n}.wav,{('dog', 'cat')[n % 2]},{('train', 'train', 'valid', 'test')[n // 2 % 4]}" for n in range(24)]
    table = make([*rows, "x.wav,,"], "path,label,split")
    store = opened(table)
    found = split(store.clips, task="label", how="official", keep_synth_lead=False, seed=0)
    assert found.summary == {
        "train": {"clips": 10, "groups": 10},
        "tune": {"clips": 2, "groups": 2},
        "valid": {"clips": 6, "groups": 6},
        "test": {"clips": 6, "groups": 6},
    }
    assert store.clips["name"][found.unlabelled].tolist() == ["x"]
    assert found.labels[found.unlabelled].tolist() == [-1]


def test_how_a_table_is_written_does_not_matter(make: Make) -> None:
    table = make(lines())
    first = opened(table)
    text = table.read_text()
    for data in (
        b"\xef\xbb\xbf" + text.encode(),
        text.replace("\n", "\r\n").encode(),
        ("\n\n,\n".join(text.splitlines())).encode(),
        text.replace("path,label", " Path , LABEL ").replace(",dog", ', "dog"').encode().replace(b', "dog"', b", dog "),
        text.replace("takes/1.wav", '"takes/../takes//1.wav"').encode(),
        text.replace(",", ";").encode(),
        text.replace(",", "\t").encode(),
        text.replace("path,label", '"path";"label"').replace(",", ";").encode(),
        text.replace("path,label", '"path"\t"label"').replace(",", "\t").encode(),
        text.replace("path,label", '"path","label"').encode(),
        text.replace("takes/", "takes\\").encode(),
        text.replace("takes/3", f"{table.parent}\\takes\\3").encode(),
        text.replace("takes/1.wav", f"{table.parent}/takes/1.wav").encode(),
        ("\n".join([text.splitlines()[0], *reversed(text.splitlines()[1:])])).encode(),
    ):
        table.write_bytes(data)
        assert opened(table).root == first.root


def test_a_moved_corpus_is_the_same_and_its_table_may_change_without_decoding(
    make: Make, tmp_path: Path, count_decodes: Callable[[], list[int]]
) -> None:
    table = make(lines())
    first = opened(table)
    shutil.copytree(table.parent, tmp_path / "moved")
    assert opened(tmp_path / "moved" / "table.csv").root == first.root
    decoded = count_decodes()
    table.write_text(table.read_text() + "\n")
    assert opened(table).root == first.root and decoded == []
    table.write_text(table.read_text().replace("takes/0.wav,dog", "takes/0.wav,cow"))
    assert opened(table).digest != first.digest and len(decoded) == 20


def test_absolute_paths_are_taken_as_they_are(make: Make, tmp_path: Path) -> None:
    record(tmp_path / "far" / "away.wav", 77)
    (tmp_path / "far" / "link.wav").symlink_to("away.wav")
    (tmp_path / "far" / "out.wav").symlink_to("/etc/hostname")
    table = make([*lines(), f"{tmp_path}/far/away.wav,dog"])
    table.write_text(table.read_text() + f"{tmp_path}/far/link.wav,dog\n{tmp_path}/far/out.wav,dog\n")
    found = opened(table)
    assert {f"{tmp_path}/far/away", f"{tmp_path}/far/link"} < set(found.clips["name"])
    assert found.quarantine[["path", "reason"]].to_numpy().tolist() == [
        [f"{tmp_path}/far/out.wav", "link: it leads out of the corpus, and is never followed"]
    ]


def test_what_leads_out_of_the_folder_is_quarantined(make: Make, tmp_path: Path) -> None:
    record(tmp_path / "outside" / "a.wav", 77)
    table = make(lines(60))
    (table.parent / "linked").symlink_to(tmp_path / "outside")
    (table.parent / "near").symlink_to("takes")
    (table.parent / "circle").symlink_to("circle")
    (table.parent / "file.wav").symlink_to(tmp_path / "outside" / "a.wav")
    odd = ["../outside/a.wav", "linked/a.wav", "circle/a.wav", "file.wav", "gone.wav", "."]
    with table.open("a") as file:
        file.writelines(f"{path},dog\n" for path in [*odd, "near/1.wav"])
    found = opened(table)
    assert dict(zip(found.quarantine["path"], found.quarantine["reason"], strict=True)) == {
        "../outside/a.wav": "unsafe path: it leads to no file within the table's folder; write an absolute one",
        "linked/a.wav": "link: its folder leads out of the corpus, and is never followed",
        "circle/a.wav": "cannot be read: its folder is a circle of links",
        "file.wav": "link: it leads out of the corpus, and is never followed",
        "gone.wav": "no such file",
        ".": "unsafe path: it leads to no file within the table's folder; write an absolute one",
    }
    assert len(found.clips) == 61 and "near/1" in set(found.clips["name"])


def test_hostile_cells_are_quarantined_or_mere_texts(make: Make) -> None:
    odd = ['"a,b\n""c"".wav"', "x\0y.wav", "~/x.wav", "$HOME.wav", "x" * 5_000 + ".wav"]
    table = make(lines(60))
    with table.open("a") as file:
        file.writelines(f"{path},dog\n" for path in odd)
        file.write("takes/0.WAV,=cmd()\n")
    record(table.parent / "takes/0.WAV", 999)
    found = opened(table)
    assert "=cmd()" in set(found.clips["label"])
    reasons = dict(zip(found.quarantine["path"], found.quarantine["reason"], strict=True))
    assert reasons['a,b\n"c".wav'] == "no such file"
    assert [reasons[path].partition(":")[0] for path in odd[1:]] == [
        *("unsafe path", "no such file", "no such file", "cannot be read")
    ]
    assert {"takes/0.wav", "takes/0.WAV"} <= set(found.clips["name"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", r"lacks path and label, its first line has nothing\."),
        (b"file,label\na.wav,dog\n", r"lacks path, its first line has 'file', 'label'\. Name the columns"),
        (b"path|label\na.wav|dog\n", r"lacks path and label, its first line has 'path\|label'.* commas, semicolons or"),
        (b"path;name\na.wav;dog\n", r"lacks path and label, its first line has 'path;name'"),
        (b"path;label\na.wav;dog;big\n", "line 2 of .* has 3. Put a text that holds a semicolon between"),
        (b"path,label,Label\na.wav,dog,cat\n", "has label twice"),
        (b"path,label\n", "has no row below its header"),
        (b"path,label\n\n , \n", "has no row below its header"),
        (b"path,label\na.wav,dog\nb.wav,cat\n./a.wav,cat\n", r"'a\.wav' stands in lines 2 and 4 of .*table\.csv"),
        (b"path,label\na.wav\n", r"the 2 cells of the header, but line 2 of .* has 1\. Put a text"),
        (b"path,label\na.wav,dog,big\n", "line 2 of .* has 3"),
        (b"path,label\n,dog\n", "line 2 of .* does not. Fill it in"),
        (b"path,label\nh\xf6rn.wav,dog\n", r"must be UTF-8, but .* is not \(byte 0xf6 at 12\)"),
        ("path,label\n".encode("utf-16"), r"must be UTF-8, but .* is not \(byte 0xff at 0\)"),
        (b'path,label\n"a.wav,dog\n', r"line 2 of .* is none \(unexpected end of data\)"),
        (b"path,label\na.wav," + b"x" * 200_000, r"is none \(field larger than field limit"),
        (b"path,label,split\na.wav,dog,eval\n", r"one of train, valid, .*, but line 2 of .* has 'eval'\. Correct it"),
        (b"path,label,split\na.wav,dog,\n", "line 2 of .* has ''"),
    ],
)
def test_what_cannot_be_meant_is_an_error(make: Make, text: bytes, words: str) -> None:
    table = make([])
    table.write_bytes(text)
    with pytest.raises(UserError, match=words):
        opened(table)
    with pytest.raises(UserError, match=words):
        corpora.splits_of(f"csv:{table}")


def test_commas_count_before_semicolons(make: Make) -> None:
    """Where the header fits with commas, semicolons are part of the names; decimal commas need no care with them."""
    table = make(lines(tail=";x,0"), "path,label,a;b")
    assert set(opened(table).clips["label"]) == {"dog;x", "cat;x"}
    table.write_text("path;label;loudness\n" + "".join(f"takes/{n}.wav;{'ab'[n % 2]};1,5\n" for n in range(20)))
    assert set(opened(table).clips["label"]) == {"a", "b"}


def test_backslashes_separate_folders_unless_a_file_is_named_so(make: Make, tmp_path: Path) -> None:
    table = make(lines(60))
    record(tmp_path / "outside.wav", 900)
    record(table.parent / "takes\\1.wav", 901)
    with table.open("a") as file:
        file.writelines(f"{path},dog\n" for path in ("takes\\1.wav", "takes\\gone.wav", "..\\outside.wav"))
    found = opened(table)
    assert {"takes/1.wav", "takes\\1.wav"} <= set(found.clips["path"])
    assert dict(zip(found.quarantine["path"], found.quarantine["reason"].str.partition(":")[0], strict=True)) == {
        "takes\\gone.wav": "no such file",
        "../outside.wav": "unsafe path",
    }


@pytest.mark.parametrize(
    ("header", "note"),
    [
        ("path,label", ()),
        ("path,label,", ()),
        (
            "path,label,Speaker",
            ("The table's column 'speaker' is not used. Name it group to keep its clips together.",),
        ),
        ("path,label,bpm", ("The table's column 'bpm' is not used.",)),
        ("path,label,group,speaker", ("The table's column 'speaker' is not used.",)),
        ("path,label,speaker_gender", ("The table's column 'speaker_gender' is not used.",)),
        (
            "path,label,bpm,Take No,artists",
            (
                "The table's columns 'bpm', 'take no', 'artists' are not used. Name 'take no' or 'artists' group to "
                "keep its clips together.",
            ),
        ),
    ],
)
def test_columns_that_are_not_used_are_named(
    make: Make, count_decodes: Callable[[], list[int]], header: str, note: tuple[str, ...]
) -> None:
    table = make(lines(tail=",x" * (header.count(",") - 1)), header)
    assert opened(table).notes == note
    decoded = count_decodes()
    assert opened(table).notes == note and decoded == []


def test_a_note_on_columns_comes_with_every_table_and_once(make: Make) -> None:
    """Two tables of equal clips, of which one has a further column and is opened last."""
    parts = [f"{n}.wav,{('dog', 'cat')[n % 2]},{('train', 'valid', 'test')[n % 3]}" for n in range(12)]
    table = make(parts, "path,label,split")
    plain = opened(table)
    table.write_text("\n".join(["path,label,split,singer", *(f"{line},anna" for line in parts)]))
    found = opened(table)
    assert found.digest == plain.digest and plain.notes == ()
    assert found.notes == ("The table's column 'singer' is not used. Name it group to keep its clips together.",)


def test_a_table_that_is_not_there_is_an_error(make: Make, tmp_path: Path) -> None:
    table = make(lines())
    assert f"{table.parent} is a folder. Give the file itself" in refusal(table.parent)
    assert "nowhere.csv does not exist" in refusal(tmp_path / "nowhere.csv")


def test_equal_recordings_under_two_formats_have_two_stores(make: Make) -> None:
    """Their names and samples are equal, so their digests are, but not where they lie."""
    one = make(lines())
    two = make([line.replace(".wav", ".flac") for line in lines()], folder="other")
    first, second = opened(one), opened(two)
    assert first.digest == second.digest and first.root != second.root
    assert (first.clips["path"][0], second.clips["path"][0]) == ("takes/0.wav", "takes/0.flac")


KILLED = """
import os, signal, sys
from pathlib import Path
from trainables.corpora.store import open_store

def die(stage, done, total):
    if done >= total * 0.6 > 0:
        os.kill(os.getpid(), signal.SIGKILL)

open_store("csv", Path(sys.argv[1]), progress=die)
"""


@pytest.mark.slow
def test_an_import_killed_on_the_way_ends_as_if_it_had_not_been(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_decodes: Callable[[], list[int]]
) -> None:
    table = make(lines(300))
    (table.parent / "takes" / "5.wav").write_bytes(b"")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(table)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = (tmp_path / "cache" / "stores").glob("*.partial")
    done = len((partial / "journal.jsonl").read_text().splitlines())
    assert 64 <= done < 300 and find_store("csv", table) is None
    decoded = count_decodes()
    resumed = opened(table)
    assert len(decoded) == 300 - done
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "other"))
    again = opened(table)
    assert {path.name: path.read_bytes() for path in again.root.iterdir()} == {
        path.name: path.read_bytes() for path in resumed.root.iterdir()
    }
