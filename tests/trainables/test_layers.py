"""The layers of a network: shapes by hand, weights that add up, shared and frozen ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import spaces
from trainables import layers as module
from trainables.config import DataConfig, TrialConfig, point, resolve
from trainables.footprint import footprint
from trainables.layers import Layer, layers, of
from trainables.models import cnn2d


def test_the_layers_of_a_recurrent_network_by_hand(tiny_config: Callable[..., TrialConfig]) -> None:
    """Gates: 4 · 6 of them, each with 10 inputs, 6 states and two biases, of which Keras has but one."""
    config = tiny_config(convention="keras", bidirectional=True)
    weights, one_bias = 2 * 4 * 6 * (10 + 6), 2 * 4 * 6
    assert layers(config, (7, 10), 3) == [
        Layer("layers.0", "LSTM", (7, 12), weights + 2 * one_bias, weights + one_bias),
        Layer("head.0", "Linear", (5,), 12 * 5 + 5, 12 * 5 + 5),
        Layer("head.1", "ReLU", (5,), 0, 0),
        Layer("head.2", "Dropout", (5,), 0, 0),
        Layer("head.3", "Linear", (3,), 5 * 3 + 3, 5 * 3 + 3),
        Layer("between", "Dropout", None, 0, 0),
    ]


def test_the_layers_of_a_convolutional_network_by_hand(tiny_config: Callable[..., TrialConfig]) -> None:
    network = cnn2d.Config((4, 8), 3, batch_norm=True, global_pool="mean", head=(), dropout=0.5)
    found = layers(replace(tiny_config(), network="cnn2d", model=network), (3, 9, 9), 2)
    assert [(layer.kind, layer.output_shape, layer.parameters) for layer in found] == [
        ("Conv2d", (4, 9, 9), 3 * 9 * 4 + 4),
        ("BatchNorm2d", (4, 9, 9), 8),
        ("MaxPool2d", (4, 5, 5), 0),
        ("ReLU", (4, 5, 5), 0),
        ("Conv2d", (8, 5, 5), 4 * 9 * 8 + 8),
        ("BatchNorm2d", (8, 5, 5), 16),
        ("MaxPool2d", (8, 3, 3), 0),
        ("ReLU", (8, 3, 3), 0),
        ("GlobalPool", (8,), 0),
        ("Dropout", (8,), 0),
        ("Linear", (2,), 18),
    ]


DATA = DataConfig("demo", "0" * 64, "family", keep_synth_lead=False, split="official", split_seed=0)
TORCHVISION = {"vgg16", "googlenet", "resnet50"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in TORCHVISION else ()) for name in spaces.names()]
)
def test_the_sums_are_the_networks_parameters(family: str) -> None:
    """Of the default, and of what was published, with whatever is frozen there."""
    space = spaces.load(family)
    for params, overrides in [(space.default, None), *((b.params, b.settings) for b in space.baselines)]:
        overrides = {**(overrides or {}), "weights_file": ""} if family in TORCHVISION else overrides
        config = resolve(point(space, params, data=DATA, seed=0, max_epochs=1, threads=1, overrides=overrides))
        shape = config.features.shape(16_000, 4.0)
        size = footprint(config, shape, 10)
        found = layers(config, shape, 10)
        assert sum(layer.parameters for layer in found) == size.parameters
        assert sum(layer.trainable for layer in found) == size.trainable_parameters
        assert [layer.output_shape for layer in found if layer.output_shape][-1] == (10,)
        assert len({layer.name for layer in found}) == len(found)


class Odd(nn.Module):
    """One layer used twice, weights that two layers share, own weights beside layers, a layer without use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.first.weight
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.idle = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.first(self.first(x)))
        if float(x.sum()) > 1e9:  # a network that looks at values
            return x
        return self.frozen(x) * self.scale  # type: ignore[no-any-return]


ODD = [
    Layer("first", "Linear", (4,), 20, 20),
    Layer("twin", "Linear", (4,), 4, 4),
    Layer("frozen", "Linear", (2,), 10, 0),
    Layer("network", "Odd", (2,), 2, 2),
    Layer("idle", "Linear", None, 12, 12),
]


def test_shared_frozen_and_idle_weights_count_once() -> None:
    model = Odd()
    found = of(model, torch.zeros(2, 4))
    assert found == ODD
    assert sum(layer.parameters for layer in found) == sum(weight.numel() for weight in model.parameters())


class OddNetwork:
    @staticmethod
    def build(config: object, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        return Odd()


def test_a_network_that_looks_at_values_is_shown_zeros(
    tiny_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "network", lambda name: OddNetwork)
    monkeypatch.setattr("trainables.loop.network", lambda name: OddNetwork)
    assert layers(tiny_config(), (4,), 2) == ODD
