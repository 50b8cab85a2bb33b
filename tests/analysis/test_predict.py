"""Probabilities for new recordings: which files, what is skipped, and every form of output."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from analysis import predict as module
from analysis.predict import Prediction, Predictions, Recording, Skipped, as_csv, as_json, as_table, find, identities
from tests.analysis.models import write_model
from tests.conftest import ROOT
from tests.tiny import CLASSES, RATE_HZ
from trainables import data


@pytest.fixture(scope="module")
def model(tiny_corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(cache))
        yield write_model(tmp_path_factory.mktemp("study") / "best", "waveform", f"nsynth:{tiny_corpus}")
        data.load.cache_clear()
        data._kept.clear()


def write(path: Path, seed: int = 0, seconds: float = 0.25, rate: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * 200 * (1 + seed) * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, 0.3 * tone + 0.01 * rng.standard_normal(len(tone)), rate)
    return path


@pytest.fixture
def asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """The exit code or message, and both outputs, of the command with these arguments."""

    def ask(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            module.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return ask


# --- which files -------------------------------------------------------------------------------


def test_folders_are_searched_to_the_bottom_in_order(tmp_path: Path) -> None:
    for name in ("b.wav", "a/z.FLAC", "a/b/c.mp3", "a.au", "c.aiff", "d.ogg", "notes.txt", ".hidden.wav", ".git/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    found, skipped = find([tmp_path])
    assert [one.inside for one in found] == ["a/b/c.mp3", "a/z.FLAC", "a.au", "b.wav", "c.aiff", "d.ogg"]
    assert skipped == []


def test_a_file_named_twice_counts_once_and_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"x")
    (tmp_path / "take").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    places = [tmp_path / "take", tmp_path / "b.wav", tmp_path, tmp_path / "empty" / ".." / "b.wav", tmp_path / "empty"]
    found, skipped = find(places)
    assert [one.path for one in found] == [tmp_path / "take", tmp_path / "b.wav"]
    assert [(one.name, one.reason.partition(":")[0]) for one in skipped] == [(str(tmp_path / "empty"), "no audio")]


def recording(inside: str, folder: str = "/in") -> Recording:
    return Recording(Path(folder, inside), f"{folder}/{inside}", inside)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.wav", "x/b.wav"], ["a", "b"]),
        (["x/a.wav", "y/a.wav", "y/b.wav"], ["x/a", "y/a", "b"]),
        (["a.wav", "a.flac"], ["a.wav", "a.flac"]),
        (["x.wav", "x.flac", "x.flac.wav"], ["x.wav", "/in/x.flac", "x.flac"]),
        (["clip.01.wav", "clip.02.wav"], ["clip.01", "clip.02"]),
    ],
)
def test_names_for_a_submission_differ(files: list[str], names: list[str]) -> None:
    found = identities([recording(file) for file in files])
    assert list(found.values()) == names


def test_names_differ_even_between_folders_that_look_the_same() -> None:
    found = identities([recording("a.wav", "/one"), recording("a.wav", "/two")])
    assert list(found.values()) == ["/one/a.wav", "/two/a.wav"]


# --- forms -------------------------------------------------------------------------------------

ODD = 'a,"b"\n<i>'
FOUND = Predictions(
    classes=("reed", "$x$, <b>", "organ"),
    rows=(
        Prediction(Recording(Path(ODD), ODD, ODD), (0.25, 0.5, 0.25)),
        Prediction(Recording(Path("z.wav"), "z.wav", "z.wav"), (0.4, 0.2, 0.4), ("resampled from 8000 Hz",)),
    ),
    skipped=(Skipped("bad.wav", "empty file"),),
    identities={Path(ODD): ODD, Path("z.wav"): "z"},
)


def test_a_table_for_programs_says_all() -> None:
    rows = list(csv.reader(io.StringIO(as_csv(FOUND))))
    assert rows == [
        ["file", "predicted", "p_reed", "p_$x$, <b>", "p_organ"],
        [ODD, "$x$, <b>", "0.25", "0.5", "0.25"],
        ["z.wav", "reed", "0.4", "0.2", "0.4"],
    ], "of equals the first class"
    record = json.loads(as_json(FOUND))
    assert record["classes"] == list(FOUND.classes)
    assert record["predictions"][1] == {
        "file": "z.wav",
        "predicted": "reed",
        "probabilities": {"reed": 0.4, "$x$, <b>": 0.2, "organ": 0.4},
        "repairs": ["resampled from 8000 Hz"],
    }
    assert record["skipped"] == [{"file": "bad.wav", "reason": "empty file"}]
    assert list(csv.reader(io.StringIO(module.submission(FOUND)))) == [
        ["id", "label"],
        [ODD, "$x$, <b>"],
        ["z", "reed"],
    ]


def test_a_table_for_people_fits_the_terminal() -> None:
    wide = as_table(FOUND)
    assert wide.splitlines() == [
        "file        predicted   reed  $x$, <b>  organ",
        r'a,"b"\n<i>  $x$, <b>   0.250     0.500  0.250',
        "z.wav       reed       0.400     0.200  0.400",
    ]
    assert as_table(FOUND, width=45) == wide
    assert as_table(FOUND, width=44).splitlines()[2] == "z.wav       reed 0.400, organ 0.400, $x$, <b> 0.200"
    assert as_table(Predictions(("a", "b"), (), (), {})) == ""


# --- the command -------------------------------------------------------------------------------


def test_the_corpus_own_files_get_the_probabilities_of_the_study(
    model: Path, tiny_corpus: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    code, out, err = asked(model, tiny_corpus / "nsynth-test", "--format", "csv")
    assert (code, err) == (0, "")
    found = pd.read_csv(io.StringIO(out))
    assert len(found) == 12
    wanted = (
        pd.read_parquet(model / "predictions.parquet").set_index("name").loc[found["file"].map(lambda f: Path(f).stem)]
    )
    columns = [f"p_{name}" for name in CLASSES]
    np.testing.assert_allclose(found[columns], wanted[columns], atol=1e-5)
    assert found["predicted"].tolist() == wanted["predicted"].tolist()


def test_what_cannot_be_used_is_named_and_skipped(
    model: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    folder = tmp_path / "in"
    good = write(folder / "deep" / "good.flac", seconds=3.0, rate=44_100)
    whole = write(folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:-100])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("no audio")
    soundfile.write(folder / "silent.wav", np.zeros(9000), RATE_HZ)
    soundfile.write(folder / "nan.wav", np.full(9000, np.nan), RATE_HZ, subtype="FLOAT")
    write(folder / "short.wav", seconds=0.005)
    os.mkfifo(folder / "pipe.wav")
    (folder / "lost.wav").symlink_to(folder / "nothing")
    (folder / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    code, out, err = asked(model, folder, tmp_path / "gone.wav", "--format", "json")
    record = json.loads(out)
    assert code == 0
    assert [row["file"] for row in record["predictions"]] == [str(good)]
    assert record["predictions"][0]["repairs"] == ["resampled from 44100 Hz", "cut to the first 0.25 s"]
    reasons = {Path(row["file"]).name: row["reason"].partition(":")[0] for row in record["skipped"]}
    assert reasons == {
        "cut.wav": "truncated",
        "empty.wav": "empty file",
        "text.mp3": "not audio",
        "silent.wav": "silent",
        "nan.wav": "not finite",
        "short.wav": "too short",
        "pipe.wav": "not a file",
        "lost.wav": "no such file",
        "gone.wav": "no such file",
        r"\xff.wav": "empty file",
    }
    lines = err.splitlines()
    assert len(lines) == 11
    assert f"Left out: {folder / 'silent.wav'}: silent: every sample is zero" in lines
    assert lines[-1] == "1 recording is longer than any in training; its first 0.25 s count."


def test_with_nothing_left_the_code_is_one_and_the_output_still_whole(
    model: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    code, out, err = asked(model, tmp_path, "--format", "json", "--submission", tmp_path / "answers.csv")
    assert code == 1
    assert json.loads(out)["predictions"] == []
    assert err.splitlines()[-1] == "Error: Nothing could be classified."
    assert not (tmp_path / "answers.csv").exists()


def test_answers_for_a_competition_and_an_output_file(
    model: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    for number, name in enumerate(("b/x.wav", "a/x.wav", "c.wav")):
        write(tmp_path / "in" / name, number)
    answers, output = tmp_path / "answers.csv", tmp_path / "probabilities.csv"
    code, out, _ = asked(model, tmp_path / "in", "--submission", answers, "--output", output)
    assert (code, out) == (0, "")
    found, rows = pd.read_csv(output), pd.read_csv(answers)
    assert list(rows.columns) == ["id", "label"]
    assert rows["id"].tolist() == ["a/x", "b/x", "c"]
    assert rows["label"].tolist() == found["predicted"].tolist()
    code, out, _ = asked(model, tmp_path / "in")
    assert out.splitlines()[0].split() == ["file", "predicted", *CLASSES]
    assert len(out.splitlines()) == 4


def test_mistakes_are_explained(model: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]) -> None:
    file = write(tmp_path / "a.wav")
    assert "does not exist. Check the path." in str(asked(tmp_path / "gone", file)[0])
    assert "Missing argument 'FILE_OR_DIR...'" in str(asked(model)[0])
    assert "'xml' is not one of" in str(asked(model, file, "--format", "xml")[0])
    assert f"{file} is none. Make it first" in str(asked(model, file, "--output", file / "x.csv")[0])
    code, out, _ = asked("--help")
    assert code == 0 and "best/baselines/NAME" in out


def test_no_result_takes_the_place_of_what_was_used(
    model: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    file = write(tmp_path / "in" / "a.wav")
    link, answers = tmp_path / "link.csv", tmp_path / "answers.csv"
    link.symlink_to(file)
    used = {one: one.read_bytes() for one in (file, *model.iterdir())}
    for option in ("--output", "--submission"):
        for taken in (file, link, tmp_path / "in" / ".." / "in" / "a.wav"):
            for place in (file, tmp_path / "in"):
                assert "must not replace what else is used" in str(asked(model, place, option, taken)[0])
        for taken in (model / "config.json", model / "new.csv", model.parent / "new.csv"):
            assert "must not lie among what it is made of" in str(asked(model.parent, file, option, taken)[0])
        assert f"{tmp_path / 'no'} is none. Make it first" in str(asked(model, file, option, tmp_path / "no" / "x")[0])
    assert "must not replace" in str(asked(model, file, "--output", answers, "--submission", answers)[0])
    assert {one: one.read_bytes() for one in used} == used
    assert not (tmp_path / "no").exists() and not answers.exists() and link.is_symlink()
    link.unlink()
    link.symlink_to(answers)
    assert asked(model, file, "--submission", link, "--output", tmp_path / "in" / "table.csv")[0] == 0
    assert link.is_symlink() and answers.read_text().startswith("id,label")


def test_an_answer_that_is_no_number_is_none(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[..., tuple[object, str, str]]
) -> None:
    from trainables import loop

    def overflown(network: Callable[[object], object], inputs: object) -> object:
        return network(inputs) * float("inf")  # type: ignore[operator]

    monkeypatch.setattr(loop, "forward", overflown)
    code, out, err = asked(model, write(tmp_path / "a.wav"), "--format", "json")
    assert code == 1
    assert json.loads(out)["predictions"] == []
    assert err.splitlines()[0] == f"Left out: {tmp_path / 'a.wav'}: not finite: the model's answer holds NaN"
    nan = Predictions(("a", "b"), (Prediction(recording("a.wav"), (float("nan"), 1.0)),), (), {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json(nan)


def test_with_standard_output_closed_a_file_is_still_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["predict", str(model), str(write(tmp_path / "a.wav"))]
    for more, code in ([], str), (["--output", str(tmp_path / "a.csv")], int):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        monkeypatch.setattr(sys, "stdout", None)
        with pytest.raises(SystemExit) as caught:
            module.main()
        monkeypatch.undo()
        assert type(caught.value.code) is code
    assert (tmp_path / "a.csv").read_text().startswith("file,predicted")


def test_interruption_ends_with_130(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[..., tuple[object, str, str]]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "predict", interrupted)
    code, _, err = asked(model, write(tmp_path / "a.wav"))
    assert (code, err.strip()) == (130, "Interrupted.")


def test_what_takes_long_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[object, ...]] = []
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.ProgressBar, "__call__", lambda self, *state: shown.append(state))
    with module.patient_bar() as progress:
        for done, seconds in enumerate((0.0, 1.9, 2.1, 5.0)):
            now[0] = seconds
            progress("classifying", done, 4)
    assert shown == [("classifying", 2, 4), ("classifying", 3, 4)]


@pytest.mark.slow
def test_the_command_in_a_shell(model: Path, tmp_path: Path) -> None:
    """On its own, without the corpus; and into a pipe that nobody reads."""
    write(tmp_path / "a.wav")
    command = [sys.executable, "-W", "error", "-m", "analysis.predict", str(model), str(tmp_path), "--format", "json"]
    environment = {**os.environ, "ETUDE_CACHE": str(tmp_path / "nothing")}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert set(json.loads(found.stdout)["predictions"][0]["probabilities"]) == set(CLASSES)
    reader, writer = os.pipe()
    os.close(reader)
    broken = subprocess.run(command, cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (broken.returncode, broken.stderr) == (1, "")


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, analysis.predict as p, analysis.evaluate as e, analysis.export as x\n"
        "for m in (p, e, x):\n"
        "    sys.argv = ['x', '-h']\n"
        "    try: m.main()\n"
        "    except SystemExit as s: assert s.code == 0\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
