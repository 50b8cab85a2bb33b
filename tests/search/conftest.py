"""A tiny space and a made-up corpus record, for studies that train nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from search.study import StudySpec
from spaces.domains import Baseline, Choice, Float, Param, Space
from trainables.config import DataConfig

DATA = DataConfig(corpus="demo", digest="0" * 64, task="family", keep_synth_lead=False, split="official", split_seed=0)

SPACE = Space(
    name="toy",
    title="toy",
    network="recurrent",
    settings={},
    params=(
        Param("x", Float(0.0, 1.0)),
        Param("kind", Choice(("a", "b"))),
        Param("y", Float(0.0, 1.0), {"kind": ("b",)}),
    ),
    default={"x": 0.75, "kind": "b", "y": 0.5},
    baselines=(
        Baseline(
            name="toy-published",
            source="nowhere",
            corpus="nsynth",
            task="family",
            trainable_parameters=1,
            epochs=5,
            published_accuracy=0.5,
            params={"x": 0.25, "kind": "a"},
        ),
    ),
)


@pytest.fixture
def make_spec() -> Callable[..., StudySpec]:
    """A specification of a toy study, with changes."""

    def make(**changes: Any) -> StudySpec:
        spec = StudySpec(
            name="toy",
            space=SPACE,
            data=DATA,
            trials=12,
            max_epochs=9,
            grace_epochs=1,
            reduction_factor=3,
            seed=0,
            cpus_per_trial=1,
            with_baselines=False,
        )
        return replace(spec, **changes)

    return make
