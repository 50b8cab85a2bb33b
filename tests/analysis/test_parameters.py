"""What the parameters did: hand-worked axes, thirds, means and edges; every figure's data against the trials."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.tri import TriContourSet

import spaces
from analysis.figures import Figure, Missing, Table, interactions, parameters, scales, style
from analysis.figures.scales import Scale, scale
from analysis.load import Studies, Study, load_study
from search.adapt import SMALL_PICTURES, fixed
from spaces.domains import Choice, Float, Int, Param
from tests.analysis.made import make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Forty trials, some of them stopped by ASHA, one failed."""
    directory = tmp_path_factory.mktemp("studies") / "some"
    return load_study(make_study(directory, trials=40, max_epochs=3, fails=lambda trial: trial == 6))


def with_trials(study: Study, trials: pd.DataFrame) -> Study:
    return dataclasses.replace(study, trials=trials.reset_index(drop=True))


def drawn(figure: object) -> Any:
    """The figure's drawing, made and saved without any warning, and the same each time."""
    assert isinstance(figure, Figure)
    with warnings.catch_warnings(), style.context():
        warnings.simplefilter("error")
        assert style.svg(figure.draw(figure.data)) == style.svg(figure.draw(figure.data))
        return figure.draw(figure.data)


def whole(values: list[Any], kind: str = "Int64") -> "pd.Series[Any]":
    return pd.Series(values, dtype=kind)


# Axes


def test_a_logarithmic_axis_is_logarithmic() -> None:
    axis = scale(Param("rate", Float(1e-4, 1e-2, log=True)), whole([1e-3], "Float64"))
    assert axis.units(whole([1e-4, 1e-3, 1e-2, None], "Float64"))[:3] == pytest.approx([0, 0.5, 1])
    assert np.isnan(axis.units(whole([None], "Float64"))[0])
    assert axis.ticks(4) == [(pytest.approx(-4), "1e-4"), (pytest.approx(-3), "0.001"), (pytest.approx(-2), "0.01")]
    assert axis.title == "rate (log)"
    assert not axis.steps


def test_a_linear_axis_is_as_long_as_its_range_or_reaches_a_recipe_outside() -> None:
    param = Param("dropout", Float(0.0, 0.6))
    assert (scale(param, whole([0.3], "Float64")).low, scale(param, whole([0.3], "Float64")).high) == (0, 0.6)
    assert scale(param, whole([0.9], "Float64")).high == 0.9


def test_steps_stand_side_by_side_whatever_their_values() -> None:
    axis = scale(Param("size", Choice((32, 64, 512))), whole([64, 96], "Int64"))
    assert axis.options == ("32", "64", "512", "96")
    assert list(axis.positions(whole([512, 32, 96, None]))[:3]) == [2, 0, 3]
    gaps = scale(Param("rate", Choice((8000, 16000))), whole([8000.0, None], "Float64"))
    assert list(gaps.positions(whole([16000.0], "Float64"))) == [1]
    words = scale(Param("loss", Choice(("ce", "kl"))), whole(["kl", None], "str"))
    assert words.positions(whole(["kl", "ce", None], "str"))[:2].tolist() == [1, 0]


def test_integers_of_few_values_are_steps_and_others_a_range() -> None:
    assert scale(Param("layers", Int(1, 3)), whole([1])).options == ("1", "2", "3")
    assert scale(Param("width", Int(32, 256, step=32)), whole([32])).options == ()
    assert scale(Param("kernel", Int(2, 16, log=True)), whole([2])).log


def test_ticks_lie_on_the_axis_and_are_few() -> None:
    for low, high, log in [(1e-6, 1e-2, True), (16, 512, True), (8, 128, True), (0.0, 0.99, False), (3, 12, False)]:
        kind = Int if isinstance(low, int) else Float
        axis = scale(Param("x", kind(low, high, log=log)), whole([low], "Float64"))  # type: ignore[arg-type]
        ticks = axis.ticks(4)
        assert 2 <= len(ticks) <= 5
        assert all(axis.low - 1e-6 <= place <= axis.high + 1e-6 for place, _ in ticks)


def test_numbers_are_short() -> None:
    said = [scales.number(value) for value in (0.0, 1e-4, 0.00025, 0.001, 0.3, 64.0, 16000, 123456)]
    assert said == ["0", "1e-4", "2.5e-4", "0.001", "0.3", "64", "16000", "123456"]


def test_outliers_below_do_not_take_the_colours() -> None:
    assert scales.shades(np.array([0.1, 0.70, 0.72, 0.74, 0.76, 0.78])) == (pytest.approx(0.63), 0.78)
    assert scales.shades(np.array([0.5, 0.5])) == (0.49, 0.51)


# Parallel coordinates


def test_parallel_coordinates_show_every_trial_that_has_a_score(study: Study) -> None:
    figure = parameters.parallel(study, ["learning_rate", "dropout"])
    assert isinstance(figure, Figure)
    assert figure.data["trial"].tolist() == study.trials["trial"].tolist()
    shown = [column for column in figure.data if column.startswith("param.")]
    assert len(shown) == 10
    assert {"param.learning_rate", "param.dropout"} <= set(shown)
    assert "through 10 of 31 parameters that varied, the most important" in figure.caption
    full = int(study.trials["full"].sum())
    assert f"the {full} trials at full length" in figure.caption
    grey, coloured = (c for c in drawn(figure).axes[0].collections if isinstance(c, LineCollection))
    assert len(grey.get_segments()) == 40 - full
    assert list(coloured.get_array()) == sorted(study.trials.loc[study.trials["full"], "score"])


def test_a_parameter_that_does_not_apply_has_a_lane_of_its_own(study: Study) -> None:
    figure = parameters.parallel(study, ["momentum"])
    assert isinstance(figure, Figure)
    axis = next(axis for axis in scales.varied(study, figure.data) if axis.name == "momentum")
    heights = parameters._heights(axis, figure.data)
    missing = figure.data["param.momentum"].isna().to_numpy()
    assert missing.any()
    assert (heights[missing] < -0.1).all()
    assert heights[~missing] == pytest.approx(figure.data["param.momentum"].dropna().to_numpy("float64") / 0.99)


# Slices


def test_every_parameter_that_varied_has_one_panel(study: Study) -> None:
    order = [param.name for param in study.space.params][::-1]
    figures = [figure for figure in parameters.slices(study, order) if isinstance(figure, Figure)]
    columns = [[column for column in figure.data if column.startswith("param.")] for figure in figures]
    assert [len(part) for part in columns][:-1] == [20] * (len(columns) - 1)
    together = [column for part in columns for column in part]
    varied = study.trials.filter(like="param.").nunique()
    assert together == [f"param.{name}" for name in order if varied[f"param.{name}"] > 1]
    assert len({figure.name for figure in figures}) == len(figures) > 1
    for figure in figures:
        assert len(figure.data) == 40


def test_dots_stand_where_the_values_are(study: Study) -> None:
    figure = next(parameters.slices(study, ["learning_rate"]))
    plot = drawn(figure).axes[0]
    kinds = [line.get_label() for line in plot.lines]
    assert kinds == ["stopped, failed or running", "at full length", "published", "winner"]
    chosen = study.trials[study.trials["chosen"]].iloc[0]
    x, y = (values[0] for values in plot.lines[-1].get_data())  # the first panel is the learning rate's
    width = 1.69 - 0.24
    part = (np.log10(chosen["param.learning_rate"]) + 4) / (np.log10(3e-2) + 4)
    assert x == pytest.approx(0.52 + width * (part + 0.04) / 1.08)
    others = plot.lines[1].get_data()[1]
    assert y > np.nanmax(others)


def test_a_trial_is_starred_or_squared_once(study: Study) -> None:
    groups = parameters._groups(scales.scored(study))
    assert sum(rows.astype(int) for rows in groups.values()).eq(1).all()
    assert groups["winner"].sum() == 1
    published = study.trials["origin"].eq("published") & ~study.trials["chosen"]
    assert groups["published"].sum() == published.sum() > 0


# Pairs


RANGES = (Scale("x", 0.0, 2.0), Scale("y", 0.0, 1.0))


def test_the_surface_is_the_mean_of_what_is_near() -> None:
    rng = np.random.default_rng(0)
    x, y, score = 2 * rng.random(30), rng.random(30), rng.random(30)
    found = interactions.surface(x, y, score, RANGES)
    assert found is not None
    corners, triangles, heights = found
    assert triangles.max() == len(corners) - 1
    for number in range(0, len(corners), 17):
        distance = np.hypot((x - corners[number, 0]) / 2, y - corners[number, 1])
        weights = np.exp(-((distance / interactions._NEAR) ** 2) / 2)
        assert heights[number] == pytest.approx((weights * score).sum() / weights.sum())
    assert corners[:, 0].min() == pytest.approx(x.min(), abs=1e-5)
    assert corners[:, 0].max() == pytest.approx(x.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.linspace(0, 2, 9), np.linspace(0, 1, 9) ** 2),  # nine
        (np.linspace(0, 2, 30), np.linspace(0, 1, 30)),  # on a line
        (np.full(30, 1.0), np.linspace(0, 1, 30)),
        (np.repeat([0.0, 1.0, 2.0], 10), np.repeat([0.0, 1.0, 0.0], 10)),  # three places
    ],
)
def test_nothing_is_interpolated_between_few_places_or_on_a_line(x: Any, y: Any) -> None:
    assert interactions.surface(x, y, np.linspace(0, 1, len(x)), RANGES) is None


def test_contours_are_drawn_between_numbers_and_never_between_categories(study: Study) -> None:
    trials = study.trials.assign(full=True)
    figure = interactions.pairs(with_trials(study, trials), ["learning_rate", "optimiser", "dropout", "depth"])
    plot = drawn(figure).axes[0]
    assert isinstance(figure, Figure)
    shown = figure.draw.keywords["shown"]  # type: ignore[attr-defined]
    assert [(a.name, b.name) for a, b in shown[:1]] == [("learning_rate", "dropout")]
    assert [(a.name, b.name) for a, b in shown[3:5]] == [("optimiser", "learning_rate"), ("depth", "learning_rate")]
    assert len(shown) == 6
    contours = [found for found in plot.collections if isinstance(found, TriContourSet)]
    assert len(contours) == 3
    lowest = min(path.vertices[:, 1].min() for found in contours for path in found.get_paths() if len(path.vertices))
    strips = [found for found in plot.collections if isinstance(found, PathCollection)][6:]
    assert all(found.get_offsets()[:, 1].max() < lowest for found in strips)


def test_only_trials_at_full_length_are_paired(study: Study) -> None:
    figure = interactions.pairs(study, [])
    assert isinstance(figure, Figure)
    assert figure.data["trial"].tolist() == study.trials.loc[study.trials["full"], "trial"].tolist()


# Loss and width


@pytest.mark.parametrize(
    ("widths", "thirds", "labels"),
    [
        ([9, 1, 8, 2, 7, 3, 6, 4, 5], [2, 0, 2, 0, 2, 0, 1, 1, 1], {0: "1–3", 1: "4–6", 2: "7–9"}),
        ([32, 64, 32, None], [0, 1, 0, -1], {0: "32", 1: "64", -1: "does not apply"}),
        ([1, 5, 5, 5, 5, 5, 5, 6, 7], [0, 0, 0, 0, 0, 0, 0, 1, 1], {0: "1–5", 1: "6–7"}),
        ([16, 1024, 16, 512, 16], [0, 2, 0, 1, 0], {0: "16", 1: "512", 2: "1024"}),
    ],
)
def test_thirds(widths: list[int | None], thirds: list[int], labels: dict[int, str]) -> None:
    number, words = interactions.thirds(pd.Series(widths, dtype="Float64"))
    assert number.tolist() == thirds
    assert words.tolist() == [labels[third] for third in thirds]


def test_means_by_loss_and_width(study: Study) -> None:
    """Worked by hand: wide networks, 0.8, came mostly with hinge and narrow ones, 0.4, with cross-entropy."""
    trials = study.trials.head(6).assign(full=True)
    trials["param.loss"] = ["ce", "ce", "hinge", "ce", "hinge", "hinge"]
    trials["param.hidden_1"] = pd.array([16, 16, 16, 64, 64, 64], dtype="Int64")
    trials["score"] = pd.array([0.4, 0.5, 0.45, 0.8, 0.8, 0.7], dtype="Float64")
    figure = interactions.loss_and_width(with_trials(study, trials))
    plot = drawn(figure).axes[0]
    assert [text.get_text() for text in plot.texts] == ["0.450\nn = 2", "0.800\nn = 1", "0.450\nn = 1", "0.750\nn = 2"]
    assert [text.get_text() for text in plot.get_xticklabels()] == ["16", "64"]
    assert [text.get_text() for text in plot.get_yticklabels()] == ["ce", "hinge"]
    trials["param.loss"] = ["ce", "ce", "ce", "hinge", "hinge", "hinge"]
    plot = drawn(interactions.loss_and_width(with_trials(study, trials))).axes[0]
    assert [text.get_text() for text in plot.texts] == ["0.450\nn = 3", "no trial", "no trial", "0.767\nn = 3"]


# Edges


@pytest.mark.parametrize(
    ("domain", "value", "expected"),
    [
        (Float(1e-4, 1e-2, log=True), 8.1e-3, "upper"),  # 4.6 % of two decades below the end
        (Float(1e-4, 1e-2, log=True), 7.8e-3, None),  # 5.4 %
        (Float(1e-4, 1e-2, log=True), 1.2e-4, "lower"),
        (Float(0.02, 0.3), 0.287, "upper"),
        (Float(0.02, 0.3), 0.285, None),
        (Float(0.02, 0.3), 0.02, "lower"),
        (Float(0.0, 0.6), 0.0, None),  # nothing lies below zero
        (Float(0.0, 0.6), 0.9, "upper"),  # a recipe beyond the range
        (Float(0.5, 0.5), 0.5, None),
        (Int(3, 12), 12, "upper"),
        (Int(3, 12), 11, None),
        (Int(3, 12), 3, "lower"),
        (Int(1, 4), 1, None),  # nor below one layer
        (Choice((32, 64, 1024)), 1024, "upper"),
        (Choice((32, 64, 1024)), 64, None),
        (Choice((32, 64, 1024)), 32, "lower"),
        (Choice((0.0, 0.1, 0.25)), 0.0, None),
        (Choice((0.0, 0.1, 0.25)), 0.25, "upper"),
        (Choice((0.0, 0.95)), 0.95, None),  # a switch
        (Choice(("ce", "kl")), "kl", None),
        (Choice((64,)), 64, None),
    ],
)
def test_edges_of_a_range(domain: Any, value: Any, expected: str | None) -> None:
    assert parameters.edge(Param("x", domain), value) == expected


def winning(study: Study, fixed: tuple[str, ...] = (), **values: Any) -> Study:
    """The study with the winner at these values, and elsewhere in the middle of its ranges."""
    trials = study.trials.copy()
    middle: dict[str, Any] = {
        "learning_rate": 2e-3, "batch_size": 128, "hidden_1": 128, "hidden_2": 128, "hidden_3": 128, "hidden_4": 128,
        "dropout": 0.3, "depth": 2, "mixup": 0.2, "patience": 6, "momentum": 0.5, "label_smoothing": 0.1,
        "kl_smoothing": 0.1, "weight_decay": 1e-4, "seconds": 2, "resample_hz": 4000, "pool": 4,
    }  # fmt: skip
    for name, value in {**middle, **values}.items():
        trials.loc[trials["chosen"], f"param.{name}"] = value
    return dataclasses.replace(study, trials=trials, spec={**study.spec, "fixed": list(fixed)})


def test_values_at_the_edge_are_named_with_advice(study: Study) -> None:
    found = parameters.edges(winning(study, ("batch_size=16..1024",), learning_rate=3e-2, batch_size=16))
    assert isinstance(found, Table)
    assert found.data.to_dict("records") == [
        {
            "parameter": "learning_rate",
            "value": "0.03",
            "range": "0.0001 … 0.03 (log)",
            "edge": "upper",
            "advice": "Search again with larger values: widen the range in the family's space.",
        },
        {
            "parameter": "batch_size",
            "value": "16",
            "range": "16 | 32 | 64 | 128 | 256 | 512 | 1024",
            "edge": "lower",
            "advice": "Search again with smaller values: widen the range in the family's space.",
        },
    ]
    assert str(study.trials.loc[study.trials["chosen"], "name"].iloc[0]) in found.caption


@pytest.mark.parametrize(
    ("name", "wish", "value", "advice"),
    [
        ("batch_size", "batch_size=64,128", 64, "--fix batch_size=64,128 restricted it: search again with smaller"),
        ("batch_size", "batch_size=512,1024", 1024, "widen the range in the family's space"),  # which ends there too
        ("picture_size", SMALL_PICTURES, 64, "search again with --fix picture_size=… and larger ones"),
    ],
)
def test_a_wish_is_blamed_for_the_end_that_it_made(study: Study, name: str, wish: str, value: int, advice: str) -> None:
    space = fixed(spaces.load("mlp" if name == "batch_size" else "cnn2d"), (wish,))
    spec = {**study.spec, "fixed": [wish], "space": {"name": space.name}}
    found = dataclasses.replace(study, spec=spec, trials=study.trials.assign(**{f"param.{name}": value}))
    vars(found)["space"] = dataclasses.replace(space, params=tuple(p for p in space.params if p.name == name))
    table = parameters.edges(found)
    assert isinstance(table, Table)
    assert advice in table.data["advice"].iloc[0]


def test_the_slices_of_two_studies_have_names_of_their_own(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of many parameters come in parts; another study's name may be the first one's with a number."""
    first, second = (dataclasses.replace(study, name=name) for name in ("blstm-demo", "blstm-demo-2"))
    monkeypatch.setattr(parameters, "_PANELS", 100)
    whole = [item.name for item in parameters.slices(second, [])]
    monkeypatch.setattr(parameters, "_PANELS", 5)
    parts = [item.name for item in parameters.slices(first, [])]
    assert (len(whole), len(parts) > 1) == (1, True)
    assert len({*whole, *parts}) == 1 + len(parts)


def test_no_value_at_the_edge_is_said(study: Study) -> None:
    found = parameters.edges(winning(study))
    assert isinstance(found, Missing)
    assert "lies at the edge of its range; none need be widened" in found.reason


def test_a_range_cut_to_the_corpus_is_not_to_be_widened(study: Study) -> None:
    assert isinstance(parameters.edges(winning(study, seconds=4)), Table)
    short = dataclasses.replace(winning(study, seconds=2), spec={**study.spec, "fixed": []})
    vars(short)["space"] = study.space.narrowed("seconds", Int(1, 2))
    assert isinstance(parameters.edges(short), Missing)


# What is missing, and what is odd


def kinds(study: Study) -> list[str]:
    found = []
    for item in parameters.items(Studies((study,))):
        found.append(type(item).__name__)
        if isinstance(item, Figure):
            drawn(item)
        elif isinstance(item, Missing):
            assert item.reason.endswith(".")
    return found


def test_without_trials_or_with_one_there_is_a_sentence_for_each(study: Study) -> None:
    assert kinds(with_trials(study, study.trials.head(0))) == ["Missing"] * 5
    assert kinds(with_trials(study, study.trials.assign(full=False, chosen=False))) == ["Missing"] * 5
    one = with_trials(study, study.trials[study.trials["chosen"]])
    assert kinds(one)[:4] == ["Missing"] * 4


@pytest.mark.slow
def test_three_trials_are_drawn(study: Study) -> None:
    three = with_trials(study, study.trials[study.trials["full"]].tail(3))
    assert kinds(three)[0] == "Figure"
    assert kinds(three)[-3] == "Figure"


def test_one_parameter_that_varied_is_drawn(study: Study) -> None:
    trials = study.trials.copy()
    for column in trials.filter(like="param."):
        if column != "param.dropout":
            trials[column] = trials[column].iloc[0]
    assert kinds(with_trials(study, trials))[:3] == ["Figure", "Figure", "Missing"]


def test_a_trial_without_a_score_is_left_out(study: Study) -> None:
    trials = study.trials.copy()
    trials.loc[7, "score"] = pd.NA
    figure = parameters.parallel(with_trials(study, trials), [])
    assert isinstance(figure, Figure)
    assert 7 not in set(figure.data["trial"])
    assert len(figure.data) == 39


@pytest.mark.slow
def test_odd_names_are_safe(study: Study) -> None:
    odd = dataclasses.replace(study, name="<b> a/b $x$ " + 60 * "y")
    trials = odd.trials.copy()
    trials["param.loss"] = trials["param.loss"].replace({"ce": "$\\frac{<b>"})
    odd = with_trials(odd, trials)
    names = [item.name for item in parameters.items(Studies((odd, study)))]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert "Missing" not in kinds(odd)[:-1]
