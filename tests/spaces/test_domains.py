"""Domains, conditions and spaces as data, on a space small enough to work out by hand."""

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spaces.domains import Baseline, Choice, Domain, Float, Int, Param, Space, Value

SPACE = Space(
    name="toy",
    title="toy",
    network="none",
    settings={"fixed": 1},
    params=(
        Param("depth", Int(1, 3)),
        Param("width_2", Int(8, 32, step=8), when={"depth": (2, 3)}),
        Param("kind", Choice(("plain", "fancy"))),
        Param("extra", Float(0.0, 0.5), when={"depth": (3,), "kind": ("fancy",)}),
    ),
    default={"depth": 2, "width_2": 16, "kind": "plain"},
    baselines=(
        Baseline("toy-a", "report 1", "nsynth", "family", 10, 5, 0.5, {"depth": 1, "kind": "plain"}),
        Baseline("toy-b", "report 2", "nsynth", "source", 20, 5, 0.6, {"depth": 1, "kind": "fancy"}, {"fixed": 2}),
    ),
)


class Recorder:
    """A trial that answers with the upper end and writes down how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append(("float", name, low, high, log))
        return high

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked.append(("int", name, low, high, step, log))
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(("choice", name, choices))
        return choices[-1]


# --- domains -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(1e-4, 1e-1, log=True), (1e-4, 0.05, 1e-1), (9e-5, 0.11, math.nan, math.inf, "0.05", True, None)),
        (Float(0.0, 1.0), (0.0, 0, 1, 1.0, np.float64(0.5)), (-1e-9, 1 + 1e-9, -math.inf, False)),
        (Int(1, 4), (1, 2, 4), (0, 5, 2.0, "2", True, None)),
        (Int(10, 80, step=10), (10, 50, 80), (15, 0, 90)),
        (Int(3, 9, step=3), (3, 6, 9), (4, 0, 12)),
        (Int(4, 64, log=True), (4, 5, 64), (3, 65)),
        (Choice((1, 2, 4)), (1, 2, 4), (3, 1.0, True, "1")),
        (Choice(("adam", "sgd")), ("adam", "sgd"), ("Adam", "", None, 0)),
    ],
)
def test_membership(domain: Domain, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    assert [value for value in inside if value not in domain] == []
    assert [value for value in outside if value in domain] == []


@pytest.mark.parametrize(
    ("domain", "text", "corners"),
    [
        (Float(1e-4, 1e-1, log=True), "0.0001 … 0.1 (log)", (1e-4, 1e-1)),
        (Float(0.0, 0.6), "0 … 0.6", (0.0, 0.6)),
        (Int(1, 4), "1 … 4", (1, 4)),
        (Int(10, 80, step=10), "10 … 80 (step 10)", (10, 80)),
        (Int(4, 64, log=True), "4 … 64 (log)", (4, 64)),
        (Choice(("ce", "kl", 3)), "ce | kl | 3", ("ce", "kl", 3)),
    ],
)
def test_text_and_corners(domain: Domain, text: str, corners: tuple[Value, ...]) -> None:
    assert str(domain) == text
    assert domain.corners() == corners


@pytest.mark.parametrize(
    ("domain", "asked", "answer"),
    [
        (Float(1e-4, 1e-1, log=True), ("float", "x", 1e-4, 1e-1, True), 1e-1),
        (Float(0.0, 0.6), ("float", "x", 0.0, 0.6, False), 0.6),
        (Int(10, 80, step=10), ("int", "x", 10, 80, 10, False), 80),
        (Int(4, 64, log=True), ("int", "x", 4, 64, 1, True), 64),
        (Choice((1, 2, 4)), ("choice", "x", (1, 2, 4)), 4),
    ],
)
def test_a_domain_asks_with_its_own_range_scale_and_step(domain: Domain, asked: tuple[Any, ...], answer: Value) -> None:
    trial = Recorder()
    assert domain.ask(trial, "x") == answer
    assert trial.asked == [asked]


# --- conditions --------------------------------------------------------------------------------


def test_every_entry_of_a_condition_must_hold() -> None:
    extra = SPACE.params[3]
    assert extra.applies({"depth": 3, "kind": "fancy"})
    assert not extra.applies({"depth": 2, "kind": "fancy"})
    assert not extra.applies({"depth": 3, "kind": "plain"})
    assert not extra.applies({"kind": "fancy"})
    assert Param("free", Int(0, 1)).applies({})


def test_a_space_asks_in_order_and_only_for_what_applies() -> None:
    trial = Recorder()
    assert SPACE(trial) == {"depth": 3, "width_2": 32, "kind": "fancy", "extra": 0.5}
    assert [asked[1] for asked in trial.asked] == ["depth", "width_2", "kind", "extra"]

    shallow = replace(SPACE, params=(Param("depth", Int(1, 1)), *SPACE.params[1:]))
    trial = Recorder()
    assert shallow(trial) == {"depth": 1, "kind": "fancy"}
    assert [asked[1] for asked in trial.asked] == ["depth", "kind"]


def test_corners() -> None:
    assert SPACE.corner(high=False) == {"depth": 1, "kind": "plain"}
    assert SPACE.corner(high=True) == {"depth": 3, "width_2": 32, "kind": "fancy", "extra": 0.5}


# --- points ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"depth": 1, "kind": "plain"}, None),
        ({"kind": "plain", "depth": 2, "width_2": 8}, None),
        ({"depth": 3, "width_2": 24, "kind": "fancy", "extra": 0.0}, None),
        ({}, "depth is missing"),
        ({"depth": 2, "kind": "plain"}, "width_2 is missing"),
        ({"depth": 1, "width_2": 8, "kind": "plain"}, "width_2 does not apply here"),
        ({"depth": 1, "kind": "plain", "colour": "red"}, "colour does not apply here"),
        ({"depth": 4, "kind": "plain"}, "depth must lie in 1 … 3, but is 4"),
        ({"depth": 1.0, "kind": "plain"}, "depth must lie in 1 … 3, but is 1.0"),
        ({"depth": 2, "width_2": 12, "kind": "plain"}, "width_2 must lie in 8 … 32 (step 8), but is 12"),
        ({"depth": 1, "kind": "gaudy"}, "kind must lie in plain | fancy, but is 'gaudy'"),
        (
            {"depth": 3, "width_2": 8, "kind": "fancy", "extra": math.nan},
            "extra must lie in 0 … 0.5, but is nan",
        ),
    ],
)
def test_why_a_point_lies_outside(params: dict[str, Value], reason: str | None) -> None:
    assert SPACE.why_outside(params) == reason


# --- the space as data -------------------------------------------------------------------------


def test_a_space_survives_json_text_and_pickle() -> None:
    text = json.dumps(SPACE.to_json(), allow_nan=False)
    assert Space.from_json(json.loads(text)) == SPACE
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE
    changed = replace(SPACE, params=(*SPACE.params[:-1], replace(SPACE.params[-1], domain=Float(0.0, 0.6))))
    assert Space.from_json(json.loads(json.dumps(changed.to_json()))) != SPACE


def test_description_has_a_row_per_parameter() -> None:
    assert SPACE.describe() == [
        ("depth", "1 … 3", ""),
        ("width_2", "8 … 32 (step 8)", "depth 2 or 3"),
        ("kind", "plain | fancy", ""),
        ("extra", "0 … 0.5", "depth 3 and kind fancy"),
    ]


def test_narrowing_replaces_one_domain_and_nothing_else() -> None:
    narrow = SPACE.narrowed("width_2", Int(8, 16, step=8))
    assert [param.domain for param in narrow.params if param.name == "width_2"] == [Int(8, 16, step=8)]
    assert narrow.params[1].when == SPACE.params[1].when
    assert narrow.narrowed("width_2", Int(8, 32, step=8)) == SPACE
    with pytest.raises(AssertionError):
        SPACE.narrowed("unknown", Int(1, 2))


def test_baselines_for_a_task_keep_their_order_and_are_all_where_none_was_published() -> None:
    assert [baseline.name for baseline in SPACE.baselines_for("family")] == ["toy-a"]
    assert [baseline.name for baseline in SPACE.baselines_for("source")] == ["toy-b"]
    assert [baseline.name for baseline in SPACE.baselines_for("genre")] == ["toy-a", "toy-b"]
    assert replace(SPACE, baselines=()).baselines_for("genre") == ()


@pytest.mark.parametrize(
    ("params", "settings", "message"),
    [
        ((Param("a", Int(0, 1)), Param("a", Int(0, 1))), {}, "a is declared twice"),
        ((Param("a/b", Int(0, 1)),), {}, "slash"),
        ((Param("a", Int(0, 1), {"b": (1,)}), Param("b", Int(0, 1))), {}, "declared later"),
        ((Param("a", Int(0, 1)),), {"a": 1}, "never share a name"),
    ],
)
def test_a_space_refuses_what_would_break_a_study(
    params: tuple[Param, ...], settings: dict[str, Value], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        Space("bad", "bad", "none", settings, params, default={})
