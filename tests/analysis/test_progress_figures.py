"""How each study went, checked against journals written by hand."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Text

import spaces
from analysis.figures import Figure, Item, Missing, progress, style
from analysis.load import Studies, Study, load_study
from tests.analysis.made import START, make_study

ENDS = {"stop": "pruned", "complete": "complete", "fail": "failed"}
FAMILY = "mlp"
RECIPE = spaces.load(FAMILY).baselines[0].name


@dataclass(frozen=True)
class Report:
    """What a trial reports next, ten seconds after the report before it: its score, none if it fails."""

    trial: int
    value: float | None
    decision: str = "continue"


def write_study(
    directory: Path,
    origins: tuple[str, ...],
    reports: tuple[Report, ...],
    *,
    max_epochs: int = 3,
    asked: int | None = None,
    **spec: object,
) -> Study:
    """A study whose trials all began at once, of these origins, and reported this; nothing is scored.

    Its rungs are the epochs 1, 3, 9, … up to `max_epochs`.
    """
    make_study(directory, FAMILY, trials=1, max_epochs=max_epochs, finished=False)
    path = directory / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trials": asked or len(origins), **spec}))
    params = dict(spaces.load(FAMILY).default)
    seq, epochs, best = 0, dict.fromkeys(range(len(origins)), 0), dict.fromkeys(range(len(origins)), (0.0, 0))
    trials_file, epochs_file = [{"seq": 0, "time": START, "event": "session"}], []
    for number, origin in enumerate(origins):
        seq += 1
        recipe = RECIPE if origin == "published" else None
        begun = {"event": "started", "trial": number, "params": params, "baseline": recipe, "origin": origin, "seed": 1}
        trials_file.append({"seq": seq, "time": START, **begun})
    for count, report in enumerate(reports, start=1):
        seq += 2
        time, number, failed = START + 10 * count, report.trial, report.value is None
        epochs[number] += 1
        if report.value is not None and report.value > best[number][0]:
            best[number] = (report.value, epochs[number])
        row = {
            "seq": seq - 1,
            "time": time,
            "event": "epoch",
            "trial": number,
            "epoch": epochs[number],
            "score": best[number][0],
            "best_epoch": best[number][1],
            "learning_rate": 0.1,
            **{f"{s}_{m}": report.value for s in ("train", "tune") for m in ("loss", "cross_entropy", "accuracy")},
            **{f"{s}_{m}": report.value for s in ("train", "tune") for m in ("balanced_accuracy", "macro_f1")},
            "failure": "nan" if failed else None,
            "ended": False,
            "epoch_seconds": 9.0,
            "trainable_parameters": 10,
            "memory_bytes": 1,
            "node": "n",
            "decision": report.decision,
        }
        rung = epochs[number] if epochs[number] in {1, 3, 9, max_epochs} and not failed else None
        epochs_file.append({**row, "rung": rung})
        if report.decision in ENDS:
            ended = {"event": "ended", "trial": number, "state": ENDS[report.decision], "reason": row["failure"]}
            trials_file.append({"seq": seq, "time": time, **ended})
    for name, rows in (("trials.jsonl", trials_file), ("epochs.jsonl", epochs_file)):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_study(directory)


ORIGINS = ("published", "default", "sampled", "sampled", "sampled", "sampled")
REPORTS = (  # after 10, 20, … seconds
    Report(1, 0.30),
    Report(0, 0.20),
    Report(2, 0.90, "stop"),  # the highest score of all, which must not count
    Report(1, 0.50),
    Report(3, 0.40),
    Report(1, 0.45, "complete"),  # its best was 0.50
    Report(0, 0.25),
    Report(3, 0.60, "complete"),  # it ended by itself
    Report(0, 0.35, "complete"),
    Report(4, 0.10),
    Report(4, None, "fail"),
    Report(5, 0.15),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("hand") / "by-hand", ORIGINS, REPORTS, asked=8)


def item(items: Iterator[Item], start: str) -> Item:
    return next(found for found in items if found.name.startswith(start))


def figure(study: Study, start: str) -> Figure:
    found = item(progress.items(Studies((study,))), start)
    assert isinstance(found, Figure)
    return found


def drawn(found: Figure) -> Drawing:
    with style.context():
        return found.draw(found.data)


def line(axes: Axes, label: str) -> list[list[float]]:
    return [list(map(float, found.get_ydata())) for found in axes.lines if found.get_label() == label]


def test_the_incumbent_is_the_best_of_the_trials_that_are_complete(study: Study) -> None:
    data = progress.incumbent_data(study).set_index("trial")
    assert data["seconds"].to_dict() == {0: 90.0, 1: 60.0, 2: 30.0, 3: 80.0, 4: 110.0, 5: 120.0}
    assert data["score"].tolist() == [0.35, 0.5, 0.9, 0.6, 0.1, 0.15]
    assert data["incumbent"].tolist() == [0.35, 0.5, 0.5, 0.6, 0.6, 0.6]
    assert data["incumbent_then"].fillna(-1).tolist() == [0.6, 0.5, -1, 0.6, 0.6, 0.6]  # by time: 2 1 3 0 4 5


def test_the_incumbent_is_drawn_over_trials_and_over_time(study: Study) -> None:
    found = figure(study, "incumbent")
    assert "n = 6 trials: 3 trained in full, 1 stopped early, 1 failed, 1 unfinished" in found.caption
    left, right = drawn(found).axes
    assert {found.get_drawstyle() for found in (left.lines[0], right.lines[0])} == {"steps-post"}
    assert line(left, "incumbent") == [[0.35, 0.5, 0.5, 0.6, 0.6, 0.6]]
    (over_time,) = line(right, "incumbent")
    assert np.isnan(over_time[0])
    assert over_time[1:] == [0.5, 0.6, 0.6, 0.6, 0.6]
    assert line(left, "default's score") == [[0.5, 0.5]]
    assert line(left, "chance") == [[1 / 3, 1 / 3]]
    shapes = {str(points.get_label()): len(points.get_offsets()) for points in left.collections}
    assert shapes == {
        "published recipe": 1,
        "default": 1,
        "sampled": 1,
        "sampled, stopped early": 1,
        "sampled, failed": 1,
        "sampled, unfinished": 1,
    }


def test_a_default_that_was_stopped_gets_no_line(tmp_path: Path) -> None:
    reports = (Report(0, 0.9, "stop"), Report(1, 0.4), Report(1, 0.5, "complete"))
    found = figure(write_study(tmp_path / "s", ("default", "sampled"), reports), "incumbent")
    assert line(drawn(found).axes[0], "default's score") == []
    assert "The default has not been trained in full, so no line shows its score." in found.caption
    assert found.data["incumbent"].fillna(-1).tolist() == [-1, 0.5]


def test_survival_divides_the_trials_at_every_rung(study: Study) -> None:
    data = progress.survival_data(study)
    assert data.to_dict("records") == [
        row(0, reached=6, passed=6),
        row(1, reached=6, passed=5, stopped=1),
        row(3, reached=2, passed=2, ended_before=1, stopped_before=1, failed_before=1, on_the_way=1),
    ]
    others = data[["reached", "ended_before", "stopped_before", "failed_before", "on_the_way"]]
    assert others.sum(axis=1).tolist() == [6, 6, 6]
    axes = drawn(figure(study, "survival")).axes[0]
    assert [text.get_text() for text in axes.texts] == ["6", "5 of 6", "2 of 2 + 1"]
    assert [bar.get_height() for bar in axes.patches] == [6, 5, 2, 1, 1]  # passed at each; stopped; had ended


def row(rung: int, **counts: int) -> dict[str, int]:
    names = ("reached", "passed", "stopped", "ended_before", "stopped_before", "failed_before", "on_the_way")
    return {"rung": rung, **dict.fromkeys(names, 0), **counts}


def test_survival_of_a_made_study_is_what_asha_left(tmp_path: Path) -> None:
    made = load_study(make_study(tmp_path / "s", trials=41, fails=lambda trial: trial % 7 == 5, finished=False))
    data = progress.survival_data(made).set_index("rung")
    states = made.trials["state"].value_counts()
    assert made.epochs["decision"].iloc[-1] == "stop"
    assert made.trials["state"].iloc[-1] == "running"  # it was stopped, but that is not noted yet
    assert data.loc[[1, 3], "stopped"].sum() == states["pruned"] + 1 > 10
    assert data["on_the_way"].sum() == 0
    assert data.loc[9, "reached"] == data.loc[9, "passed"] == states["complete"]
    assert data.loc[9, "failed_before"] == states["failed"] > 0
    for before, rung in ((1, 3), (3, 9)):
        lost = data.loc[before, "passed"] - data.loc[rung, "reached"]
        assert lost == data.loc[rung, "failed_before"] - data.loc[before, "failed_before"]


def test_learning_curves_of_all_trials(study: Study) -> None:
    found = figure(study, "curves")
    assert found.data.groupby("trial")["role"].first().tolist() == [
        *("published", "default", "pruned", "chosen", "failed", "running"),
    ]
    assert found.data.groupby("trial")["epoch"].max().tolist() == [3, 3, 1, 2, 1, 1]  # without the one that failed
    axes = drawn(found).axes[0]
    assert line(axes, f"published: {RECIPE}") == [[0.2, 0.25, 0.35]]
    assert line(axes, "default") == [[0.3, 0.5, 0.45]]
    assert line(axes, "chosen: trial 3") == [[0.4, 0.6]]
    (recipe,) = [found for found in axes.lines if str(found.get_label()).startswith("published")]
    assert recipe.get_linestyle() == "--"
    labels = {str(points.get_label()) for points in axes.collections}
    assert {"stopped early", "failed", "unfinished"} <= labels


def test_many_curves_are_one_artist_drawn_as_pixels(tmp_path: Path) -> None:
    reports = (*(Report(n, 0.1 + n / 1000, "stop") for n in range(1, 130)), Report(0, 0.4), Report(0, 0.4, "complete"))
    found = figure(write_study(tmp_path / "s", ("default", *["sampled"] * 129), reports), "curves")
    (thin,) = [artist for artist in drawn(found).axes[0].collections if isinstance(artist, LineCollection)]
    assert thin.get_rasterized()
    assert len(thin.get_segments()) == 129


def words(study: Study, start: str) -> str:
    found = item(progress.items(Studies((study,))), start)
    assert isinstance(found, Missing)
    return found.reason


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    empty = write_study(tmp_path / "empty", (), (), asked=4)
    assert "no incumbent" in words(empty, "incumbent")
    assert "reached a rung" in words(empty, "survival")
    assert "finished an epoch" in words(empty, "curves")
    begun = write_study(tmp_path / "begun", ("default",), ())
    assert "finished an epoch" in words(begun, "curves")
    failed = write_study(tmp_path / "failed", ("default",), (Report(0, None, "fail"),))
    assert "reached a rung" in words(failed, "survival")
    assert "finished an epoch" in words(failed, "curves")
    short = write_study(tmp_path / "short", ("default",), (Report(0, 0.5, "complete"),), max_epochs=1)
    assert "one rung" in words(short, "survival")
    assert figure(short, "incumbent").data["incumbent"].tolist() == [0.5]
    assert figure(short, "curves").data["tune_balanced_accuracy"].tolist() == [0.5]


def outside(drawing: Drawing) -> list[str]:
    """The texts that do not lie within the drawing."""
    FigureCanvasAgg(drawing).draw()
    page = drawing.bbox.padded(1)
    texts = [text for text in drawing.findobj(Text) if text.get_visible() and text.get_text()]
    ticks = {label for axes in drawing.axes for axis in (axes.xaxis, axes.yaxis) for label in _hidden(axis)}
    boxes = {text: text.get_window_extent() for text in texts if text not in ticks}
    return [text.get_text() for text, box in boxes.items() if not (page.contains(*box.min) and page.contains(*box.max))]


def _hidden(axis: object) -> Iterator[Text]:
    """Labels of ticks beyond the axis' ends, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if not low <= tick.get_loc() <= high:
            yield tick.label1


ODD = '<b>$x$ & "odd" name that goes on to be some sixty characters'


def test_figures_stay_on_the_page_and_are_the_same_again(tmp_path: Path) -> None:
    study = write_study(tmp_path / ODD, ORIGINS, REPORTS)
    found = [part for part in progress.items(Studies((study,))) if isinstance(part, Figure)]
    assert [part.name for part in found] == [style.file_name(kind, ODD) for kind in ("incumbent", "survival", "curves")]
    for part in found:
        assert ODD in part.title
        assert outside(drawn(part)) == []
        with style.context():
            assert style.svg(part.draw(part.data)) == style.svg(part.draw(part.data.copy()))


# What a study is warned of.


def warned(study: Study) -> str:
    return "\n".join(progress.warnings_of(study))


def test_warnings_of_an_unfinished_study(study: Study) -> None:
    assert progress.warnings_of(study) == [
        "It is unfinished: 6 of 8 trials have begun, and 1 of them have not ended.",
        "The best trial so far, trial 3 with 0.600, has not been scored on test yet.",
        "1 trial not trained in full scored above the chosen one's 0.600: the best, trial 2, had 0.900 and was stopped "
        "in epoch 1.",
        "2 of 6 trials scored no more than chance, 0.333 for 3 classes; none of them in full.",
        "Tune holds 6 groups for 3 classes, few: the choice rests on little.",
        "Test holds 6 groups for 3 classes, few: its intervals are too narrow.",
    ]


def test_warning_of_a_search_that_found_nothing_better(tmp_path: Path) -> None:
    reports = (Report(0, 0.5, "complete"), Report(1, 0.6, "complete"), Report(2, 0.55, "complete"))
    text = "The search found nothing better than the default, which was chosen with 0.600"
    found = warned(write_study(tmp_path / "a", ("published", "default", "sampled"), reports))
    assert f"{text}: of 1 sampled trial trained in full the best, trial 2, had 0.550." in found
    reports = (Report(0, 0.6, "complete"), Report(1, 0.6, "complete"), Report(2, 0.1, "stop"))
    text = f"nothing better than the published recipe {RECIPE}, which was chosen with 0.600: no sampled trial was"
    assert text in warned(write_study(tmp_path / "b", ("published", "default", "sampled"), reports))
    reports = (Report(0, 0.6, "complete"), Report(1, 0.7, "complete"))
    found = warned(write_study(tmp_path / "c", ("default", "sampled"), reports))
    assert "nothing better" not in found
    assert "unfinished" not in found


def test_warnings_of_chance(tmp_path: Path) -> None:
    reports = (Report(0, 1 / 3, "complete"), Report(1, 0.2, "stop"))
    found = warned(write_study(tmp_path / "a", ("default", "sampled"), reports))
    assert "None of 2 trials scored above chance, 0.333 for 3 classes; the best: 0.333." in found
    reports = (Report(0, 0.34, "complete"), Report(1, 0.2, "complete"))
    found = warned(write_study(tmp_path / "b", ("default", "sampled"), reports))
    assert "1 of 2 trials scored no more than chance, 0.333 for 3 classes; 1 of them in full." in found
    reports = (Report(0, 0.34, "complete"), Report(1, 0.4, "complete"))
    assert "chance" not in warned(write_study(tmp_path / "c", ("default", "sampled"), reports))


def test_chance_is_that_of_the_classes_that_a_split_has(tmp_path: Path) -> None:
    """A class with one training group has none in tune: to name one of the two others always scores a half."""
    splits = {
        "tune": {"clips": 20, "groups": 10, "groups_by_class": {"a": 5, "b": 5}},
        "test": {"clips": 20, "groups": 10, "groups_by_class": {"a": 4, "b": 3, "c": 3}},
    }
    reports = (Report(0, 0.5, "complete"), Report(1, 0.4, "stop"))
    study = write_study(tmp_path / "a", ("default", "sampled"), reports, splits=splits, classes=list("abc"))
    text = "None of 2 trials scored above chance, 0.500 for 2 of 3 classes, which tune has; the best: 0.500."
    assert text in warned(study)
    assert progress.chance(study, "test") == pytest.approx(1 / 3)
    curves = next(item for item in progress.items(Studies((study,))) if item.name.startswith("curves"))
    assert isinstance(curves, Figure)
    assert "chance, 0.500 for 2 of 3 classes" in curves.caption


def test_a_trial_of_one_epoch_is_seen(tmp_path: Path) -> None:
    """As a point: a line of one place is none."""
    study = write_study(
        tmp_path / "a", ("sampled", "sampled"), (Report(0, 0.5, "complete"), Report(1, 0.6, "complete"))
    )
    figure = progress.curves(study)
    assert isinstance(figure, Figure)
    with style.context():
        axes = figure.draw(figure.data).axes[0]
    points = [found.get_offsets() for found in axes.collections if isinstance(found, PathCollection)]
    assert [0.5] in [list(part[:, 1]) for part in points], "the one that was not chosen"


def test_warnings_of_a_study_without_a_full_trial(tmp_path: Path) -> None:
    found = warned(write_study(tmp_path / "a", ("published", "sampled"), (Report(0, None, "fail"), Report(1, 0.4))))
    assert "none could be chosen. There are 2 trials: 1 failed, 1 unfinished." in found
    assert f"The published recipe {RECIPE} failed in epoch 1, so nothing was compared with it." in found
    assert "There are 0 trials." in warned(write_study(tmp_path / "b", (), ()))


def test_warnings_of_groups_and_of_the_last_epoch(tmp_path: Path) -> None:
    sizes = {"tune": {"clips": 20, "groups": 10}, "test": {"clips": 20, "groups": 9}}
    reports = (*(Report(0, 0.4 + n / 10) for n in range(2)), Report(0, 0.7, "complete"), Report(1, 0.5, "complete"))
    study = write_study(tmp_path / "a", ("default", "sampled"), reports, splits=sizes)
    found = warned(study)
    assert "Tune holds" not in found
    assert "Test holds 9 groups for 3 classes, few: its intervals are too narrow." in found
    assert "best in its last epoch, 3, as 1 of 2 trained in full were" in found
    reports = (Report(0, 0.4), Report(0, 0.7), Report(0, 0.6, "complete"), Report(1, 0.5))
    found = warned(write_study(tmp_path / "c", ("default", "sampled"), reports))
    assert "best in its last epoch" not in found
    assert "It is unfinished: 2 of 2 trials have begun, and 1 of them have not ended." in found
    many = {"tune": {"clips": 24, "groups": 18}, "test": {"clips": 24, "groups": 17}}
    found = warned(write_study(tmp_path / "b", (), (), splits=many, classes=list("abcdef")))
    assert "Tune holds" not in found
    assert "Test holds 17 groups for 6 classes, less than 3 a class: its intervals are too narrow." in found
    # Speakers who say all words, and instruments of which some class has one.
    told = {
        "tune": {"clips": 80, "groups": 10, "groups_by_class": dict.fromkeys("abcdef", 10)},
        "test": {"clips": 80, "groups": 40, "groups_by_class": {**dict.fromkeys("abcde", 8), "f": 1}},
    }
    found = warned(write_study(tmp_path / "d", (), (), splits=told, classes=list("abcdef")))
    assert "Tune holds" not in found
    assert "Test holds 40 groups for 6 classes, but of some class 1: its intervals are too narrow." in found


def test_warning_of_a_recipe_that_was_changed(study: Study, tmp_path: Path) -> None:
    assert "was changed" not in warned(study)
    spec = json.loads((Path(study.folder.path) / "study.json").read_text())
    spec["space"]["baselines"][0]["changes"] = ["picture_size 512 → 48", "weights ImageNet → random"]
    changed = write_study(tmp_path / "a", ORIGINS, REPORTS, space=spec["space"])
    text = (
        f"The published recipe {RECIPE} was changed for this study: picture_size 512 → 48; weights ImageNet → random."
    )
    assert text in warned(changed)
    assert "was changed" not in warned(write_study(tmp_path / "b", ("default",), (), space=spec["space"]))


@pytest.mark.parametrize(
    ("low", "accuracy", "expected"),
    [
        (0.34, 0.34, []),
        (1 / 3, 0.34, ["On test the chosen model is not shown to be better than chance, 0.333: it has 0.400 (95 % "
                       "interval 0.333 to 0.500)."]),
        (0.34, 1 / 3, ["On test the chosen model's accuracy, 0.333, is no more than always naming the largest class "
                       "would have, 0.333."]),
        (None, 0.5, []),
    ],
)  # fmt: skip
def test_warnings_of_a_chosen_model_at_chance(
    low: float | None, accuracy: float, expected: list[str], tmp_path: Path
) -> None:
    study = write_study(tmp_path / "s", ("sampled",), (Report(0, 0.6, "complete"),))
    best = tmp_path / "s" / "best"
    best.mkdir()
    limits = None if low is None else [low, 0.5]
    made = make_study(tmp_path / "made", trials=1, baselines=False) / "best"
    for name in ("predictions.parquet", "config.json"):
        shutil.copy(made / name, best)
    metrics = json.loads((made / "metrics.json").read_text())
    metrics["splits"]["test"] |= {
        "balanced_accuracy": 0.4, "balanced_accuracy_interval": limits, "accuracy": accuracy
    }  # fmt: skip
    (best / "metrics.json").write_text(json.dumps(metrics))
    assert [found for found in progress.warnings_of(load_study(study.folder.path)) if "On test" in found] == expected


def test_time_is_told_in_a_fitting_unit() -> None:
    assert [progress.time_unit(seconds)[1] for seconds in (0, 179, 180, 10_799, 10_800)] == [
        "s",
        "s",
        "min",
        "min",
        "h",
    ]
