"""What is shown while a study runs, as text."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from search.engine import Engine
from search.progress import Tally, Terminal, View, duration, printable, quiet, unbroken
from search.records import Journal
from search.study import StudySpec
from search.summary import _table, describe, report_command, resume_command, summary
from tests.conftest import ROOT
from tests.search.test_engine import curve, drive
from trainables.corpora.splits import SPLITS, Split


def terminal(*, live: bool) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(out, Console(file=out, force_terminal=live, width=80, soft_wrap=True, color_system=None)), out


def studied(directory: Path, spec: StudySpec, *, live: bool) -> tuple[Engine, View, str]:
    screen, out = terminal(live=live)
    journal = Journal(directory)
    view = View(screen, spec, [])
    journal.listen = view.row
    engine = Engine(spec, journal)
    drive(engine)
    return engine, view, out.getvalue()


def test_without_a_terminal_every_event_is_one_plain_line(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> None:
    engine, _, text = studied(tmp_path, make_spec(trials=15, with_baselines=True), live=False)
    lines = text.splitlines()
    assert len(lines) == len([row for row in engine.journal.rows if not (row["event"] == "epoch" and row["failure"])])
    assert any("toy-published started" in line for line in lines)
    assert any("trial 1 (default) started" in line for line in lines)
    assert any(line.endswith("failed: nan in epoch 2") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_a_reader_that_has_gone_stops_nothing(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    spec = make_spec(trials=15)
    screen = Terminal(Gone(), Console(file=Gone()))
    screen.say("the corpus")
    journal, view = Journal(tmp_path), View(screen, spec, [])
    journal.listen = view.row
    view.note("a sentence")
    engine = Engine(spec, journal)
    drive(engine)
    assert not engine.to_start


def test_the_live_view_counts_what_happened(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(trials=15, with_baselines=True)
    journal = Journal(tmp_path)
    screen, out = terminal(live=True)
    view = View(screen, spec, [])
    journal.listen = view.row
    engine = Engine(spec, journal)
    running = engine.next_trial()
    assert running
    engine.report(running.number, curve(running, 1))
    screen.console.print(view._render())
    shown = out.getvalue()
    assert "0 done · 1 running · 14 to come" in shown
    assert "toy-published · epoch 1/9" in shown
    drive(engine)
    out.truncate(0)
    while running.state.value == "running":
        engine.report(running.number, curve(running, running.epoch + 1))
    screen.console.print(view._render())
    shown = out.getvalue()
    complete = sum(trial.state.value == "complete" for trial in engine.trials)
    assert "15 done · 0 running · 0 to come" in shown
    assert f"{complete} at full length (9 epochs)" in shown
    assert f"{engine.best()[0].score:.4f}" in shown


def test_hundreds_of_running_trials_are_counted_and_a_few_shown(
    tmp_path: Path, make_spec: Callable[..., StudySpec]
) -> None:
    journal = Journal(tmp_path)
    screen, out = terminal(live=True)
    view = View(screen, make_spec(trials=500), [])
    journal.listen = view.row
    for number in range(300):
        journal.started(number, baseline=None, origin="sampled")
    screen.console.print(view._render())
    assert "0 done · 300 running · 200 to come" in out.getvalue()
    assert "and 288 more" in out.getvalue()
    assert len(out.getvalue().splitlines()) < 24


def test_only_the_last_two_minutes_of_epochs_are_remembered(make_spec: Callable[..., StudySpec]) -> None:
    tally = Tally(make_spec())
    tally.add({"event": "started", "trial": 0, "baseline": None, "origin": "sampled"})
    for second in range(1000):
        row = {"trial": 0, "epoch": second, "score": 0.5, "failure": None, "decision": "continue"}
        tally.add({"event": "epoch", "time": float(second), **row})
    assert len(tally.recent) == 121
    assert tally.epochs_per_second(999.0) == pytest.approx(121 / 120)


def test_a_resumed_view_begins_where_the_study_was(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> None:
    engine, view, _ = studied(tmp_path, make_spec(), live=False)
    again = View(terminal(live=False)[0], make_spec(), engine.journal.rows)
    assert again.tally.ended == view.tally.ended
    assert again.tally.best == view.tally.best
    assert again.tally.epochs == sum(trial.epoch for trial in engine.trials)


def test_chatter_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging
    import os
    import warnings

    log = tmp_path / "logs" / "search.log"
    with quiet(log):
        os.write(1, b"from native code\n")
        logging.getLogger("etude").warning("from a logger")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("from a warning", UserWarning, stacklevel=1)
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
    for text in ("from native code", "from a logger", "from a warning"):
        assert text in log.read_text()


def split_of(classes: int, *, each: int) -> Split:
    """A split with so many clips of each class in every part, each a group by itself."""
    clips = classes * each
    rows = {
        name: np.arange(first, first + clips) for first, name in zip(range(0, 4 * clips, clips), SPLITS, strict=True)
    }
    labels = np.tile(np.repeat(np.arange(classes), each), 4)
    groups = np.array([f"clip {number}" for number in range(4 * clips)], dtype=object)
    return Split(tuple(f"class {number}" for number in range(classes)), rows, labels, groups, ())


def test_the_end_names_the_winner_the_baselines_and_the_place(tmp_path: Path) -> None:
    scores = {"balanced_accuracy": 0.5, "accuracy": 0.6, "balanced_accuracy_interval": [0.4, 0.7], "groups": 19}
    model: dict[str, Any] = {
        "trial": 3,
        "baseline": None,
        "origin": "sampled",
        "best_epoch": 5,
        "epochs": 9,
        "trainable_parameters": 1_090_058,
        "params": {"x": 0.123456, "kind": "a"},
        "changes": [],
        "splits": dict.fromkeys(("tune", "valid", "test"), scores),
    }
    published = {**model, "trial": 0, "baseline": "blstm-2022-source", "origin": "published", "changes": ["x 1 → 2"]}
    found: dict[str, Any] = {
        "state": "finished",
        "directory": str(tmp_path / "study"),
        "resume": "python search/run.py --resume --name study",
        "trials": {"complete": 2, "pruned": 3, "failed": 1, "running": 0, "to_start": 0},
        "stopped_at": {"3": 2, "9": 1},
        "max_epochs": 27,
        "epochs": 100,
        "wall_seconds": 3700.0,
        "failures": {"4": "loss became nan in epoch 2"},
        "submission": True,
        "best": model,
        "baselines": {"blstm-2022-source": published},
        "against_baselines": {"blstm-2022-source": {"difference": 0.1, "interval": [0.02, 0.2], "groups": 19}},
    }

    large, small = split_of(10, each=3), split_of(10, each=2)
    screen, out = terminal(live=False)
    screen.console.print(describe(found, large))
    text = out.getvalue()
    assert "6 trials, 100 epochs: 2 trained in full (to epoch 27 or their own end), 3" in text
    assert "(2 at 3, 1 at 9); 62 min" in text
    assert "best/submission.csv" in text
    assert "1 failed; trial 4: loss became nan in epoch 2" in text
    assert "Chosen by its tune score: trial 3, as of epoch 5 of 9" in text
    assert "blstm-2022-source" in text
    assert "1,090,058" in text
    assert "…" not in text.replace("0.40 … 0.70", ""), "no column is cut off at 80 columns"
    assert "Warning" not in text
    assert "On test it is above blstm-2022-source: +0.100 (95 % interval +0.020 to +0.200)" in text
    assert "19 groups" in text
    assert "blstm-2022-source was changed for this study: x 1 → 2." in text
    assert str(tmp_path / "study") in text

    screen, out = terminal(live=False)
    screen.console.print(describe({**found, "state": "failed", "best": None}, large))
    assert "No trial reached full length, so none can be chosen.\nA trial that failed is not tried" in out.getvalue()
    assert "--resume" not in out.getvalue(), "trials that failed are not tried again"
    screen, out = terminal(live=False)
    left = {**found, "state": "failed", "best": None, "trials": {**found["trials"], "to_start": 4}}
    screen.console.print(describe(left, large))
    assert "python search/run.py --resume --name study --budget 5h" in out.getvalue()
    screen, out = terminal(live=False)
    screen.console.print(describe({**found, "state": "interrupted"}, large))
    assert "python search/run.py --resume --name study" in out.getvalue()
    screen, out = terminal(live=False)
    chance = {**model, "splits": {name: {**scores, "balanced_accuracy": 0.11} for name in ("tune", "valid", "test")}}
    screen.console.print(describe({**found, "best": chance}, large))
    assert "Warning: 0.110 on test is hardly better than chance, 0.100" in out.getvalue()
    assert "trained again" not in out.getvalue()
    screen, out = terminal(live=False)
    worse = {**scores, "balanced_accuracy": 0.09, "accuracy": 0.1}
    screen.console.print(
        describe({**found, "best": {**published, "splits": {**model["splits"], "test": worse}}}, small)
    )
    text = " ".join(out.getvalue().split())
    assert "Warning: the search found nothing better than the published recipe blstm-2022-source" in text
    assert "Warning: 0.090 on test is no better than chance, 0.100." in text
    assert "an accuracy of 0.100 on test is no more than always naming its largest class has, 0.100" in text
    assert "Warning: test holds 20 groups for 10 classes, but of some class 2: its intervals are too narrow." in text
    screen, out = terminal(live=False)
    screen.console.print(describe({**found, "best": {**model, "score": 0.5, "score_again": 0.4}}, large))
    assert "what is scored has 0.4000 on tune where 0.5000 was chosen" in out.getvalue()


@pytest.mark.parametrize("name", ["trial 12 (default)", "blstm-2022-source"])
def test_the_table_is_whole_at_80_columns_whatever_wins(name: str) -> None:
    splits = {
        split: {"balanced_accuracy": 0.5, "accuracy": 0.6, "balanced_accuracy_interval": [0.4, 0.7]}
        for split in ("tune", "valid", "test")
    }
    origin = "default" if name.startswith("trial") else "published"
    best = {"trial": 12, "origin": origin, "baseline": None if origin == "default" else name}
    best |= {"splits": splits, "trainable_parameters": 12_345_678}
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(_table(best, {"blstm-2022-source": {**best, "trial": 1}}))
    lines = out.getvalue().splitlines()
    assert any(name in line and "0.40 … 0.70" in line and "12,345,678" in line for line in lines)
    assert all(line.count("…") <= 1 for line in lines)


def test_control_characters_are_shown_and_not_sent() -> None:
    assert printable("a\x1b[31mb\nc ü") == "a\\x1b[31mb\\nc ü"


def test_what_is_to_be_copied_is_not_cut_at_the_edge_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    command = "  python search/run.py --resume --name study --storage /mnt/data/studies"
    Terminal(out, Console(file=out, force_terminal=True, color_system=None)).show(unbroken(command))
    assert out.getvalue().rstrip() == command


def test_commands_find_this_python_and_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert report_command("studies/x") == "bin/python -m analysis studies/x"
    assert resume_command(tmp_path / "studies" / "x") == f"bin/python {ROOT}/search/run.py --resume --name x"
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin")
    monkeypatch.chdir(ROOT)
    assert resume_command(ROOT / "studies" / "x") == "python search/run.py --resume --name x"


def test_the_resume_command_can_be_pasted(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> None:
    command = resume_command(tmp_path / "with space" / "study")
    assert command.endswith(f"search/run.py --resume --name study --storage '{tmp_path}/with space'")
    engine, _, _ = studied(tmp_path, make_spec(), live=False)
    assert summary(engine, "finished", finished=None, wall_seconds=1.0)["trials"]["to_start"] == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
