"""Sizes told without allocating, against real networks and by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from trainables import footprint, loop
from trainables.config import TrialConfig
from trainables.footprint import Footprint
from trainables.models import count_trainable


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_weights_are_those_of_the_real_network(tiny_config: Callable[..., TrialConfig], convention: str) -> None:
    """Keras' convention freezes one of the two bias vectors: 4 · 6 values."""
    config = tiny_config(convention=convention)
    found = footprint.footprint(config, (10, 20), 3)
    model = loop.build(config, (10, 20), 3)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.trainable_parameters == count_trainable(model)
    assert found.parameters - found.trainable_parameters == (24 if convention == "keras" else 0)


def test_values_kept_by_hand(tiny_config: Callable[..., TrialConfig]) -> None:
    """An LSTM of 6 over 10 steps, eightfold; a dense layer of 5, its relu and dropout; 3 logits."""
    found = footprint.footprint(tiny_config(), (10, 20), 3)
    assert found.kept == 8 * 10 * 6 + 3 * 5 + 3
    assert found.largest == 8 * 10 * 6


def test_bytes_by_hand() -> None:
    size = Footprint(parameters=1_000, trainable_parameters=100, kept=50, largest=20)
    weights = 4 * 1_000 + 12 * 100
    assert size.training_bytes(batch_size=8, scoring_batch=8, input_values=10) == weights + 4 * 8 * (100 + 40 + 20)
    assert size.training_bytes(batch_size=1, scoring_batch=64, input_values=10) == weights + 4 * 64 * (40 + 20)


def test_memory_grows_with_the_batch(tiny_config: Callable[..., TrialConfig]) -> None:
    config = tiny_config()
    small, large = (
        footprint.training_bytes(replace(config, training=replace(config.training, batch_size=size)), (100, 160), 3)
        for size in (512, 1024)
    )
    assert small < large < 2 * small


@pytest.mark.parametrize("steps", [9, 40, 101])
def test_long_sequences_follow_from_short_ones(tiny_config: Callable[..., TrialConfig], steps: int) -> None:
    """By hand again: the LSTM's values grow with the steps, the head's do not."""
    found = footprint.footprint(tiny_config(), (steps, 20), 3)
    assert found.kept == 8 * steps * 6 + 3 * 5 + 3
    assert found.largest == 8 * steps * 6
