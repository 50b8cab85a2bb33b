"""The multi-layer perceptron against NumPy, layer by layer, and the head that other networks share."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.features.vector import Vector
from trainables.features.waveform import Waveform
from trainables.models import count_trainable
from trainables.models.mlp import Config, build, configure, features, head

CONFIG = Config(widths=(5, 4), activations=("relu", "tanh"), batch_norm=False, dropout=0.0)
BY_NUMPY = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
}


def model_of(shape: tuple[int, ...] = (6,), classes: int = 3, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(replace(CONFIG, **changes), shape, classes).double()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 3, 2)])
@pytest.mark.parametrize(
    ("widths", "activations"),
    [
        ((5,), ("relu",)),
        ((5, 4), ("leaky_relu", "tanh")),
        ((3, 3, 7), ("tanh", "relu", "tanh")),
        ((4, 3, 2, 5), ("relu", "leaky_relu", "tanh", "leaky_relu")),
    ],
)
def test_logits_against_numpy(shape: tuple[int, ...], widths: tuple[int, ...], activations: tuple[str, ...]) -> None:
    model, x = model_of(shape, widths=widths, activations=activations).eval(), inputs(4, *shape)
    seen = x.numpy().reshape(4, 6)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    assert [module.out_features for module in linear] == [*widths, 3]
    for number, module in enumerate(linear):
        seen = seen @ module.weight.detach().numpy().T + module.bias.detach().numpy()
        if number < len(activations):
            seen = BY_NUMPY[activations[number]](seen)
    np.testing.assert_allclose(model(x).detach().numpy(), seen, rtol=1e-12)


def test_the_published_network_on_sixty_features() -> None:
    """512-512-512 has 60·512 + 512 + 2·(512·512 + 512) + 512·10 + 10 weights."""
    published = Config((512, 512, 512), ("tanh", "relu", "tanh"), batch_norm=False, dropout=0.0)
    model = build(published, (60,), 10)
    assert count_trainable(model) == 561_674
    kinds = [type(part).__name__ for part in model if not isinstance(part, nn.Dropout)]
    assert kinds == ["Flatten", "Linear", "Tanh", "Linear", "ReLU", "Linear", "Tanh", "Linear"]


def test_dropout_and_batch_normalisation_stand_in_every_hidden_layer() -> None:
    model = model_of(batch_norm=True, dropout=0.5)
    layer = ["Linear", "BatchNorm1d", "{}", "Dropout"]
    expected = ["Flatten", *layer, *layer, "Linear"]
    expected[3], expected[7] = "ReLU", "Tanh"
    assert [type(part).__name__ for part in model] == expected
    assert {part.p for part in model if isinstance(part, nn.Dropout)} == {0.5}


def test_batch_normalisation_is_that_of_torch_but_for_a_batch_of_one() -> None:
    ours, x = model_of(batch_norm=True, widths=(5,), activations=("relu",)), inputs(8, 6)
    theirs = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        other.copy_(mine)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs(x[:1])
    assert torch.equal(ours(x[:1]), theirs.eval()(x[:1]))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    torch.testing.assert_close(ours.eval()(x), theirs(x))


@pytest.mark.parametrize(
    ("widths", "after", "expected"),
    [
        ((), (), "Dropout Linear"),
        ((), (1, 3), "Dropout Linear"),
        ((4,), (), "Linear ReLU Linear"),
        ((4,), (1, 3), "Linear ReLU Dropout Linear"),
        ((4, 5, 6, 7), (1, 3), "Linear ReLU Dropout Linear ReLU Linear ReLU Dropout Linear ReLU Linear"),
        ((4, 5), range(1, 3), "Linear ReLU Dropout Linear ReLU Dropout Linear"),
    ],
)
def test_where_dropout_acts_in_a_head(widths: tuple[int, ...], after: Any, expected: str) -> None:
    built = head(9, widths, 10, 0.25, after)
    assert " ".join(type(part).__name__ for part in built) == expected
    linear = [part for part in built if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linear] == list(
        zip((9, *widths), (*widths, 10), strict=True)
    )
    assert {part.p for part in built if isinstance(part, nn.Dropout)} <= {0.25}


def test_configure_reads_as_many_layers_as_there_are() -> None:
    params = {
        "depth": 2,
        "hidden_1": 64,
        "hidden_2": 32,
        "hidden_3": 16,
        "activation_1": "tanh",
        "activation_2": "relu",
        "activation_3": "leaky_relu",
        "batch_norm": "on",
        "dropout": 0.25,
        "learning_rate": 0.1,
    }
    assert configure(params) == Config((64, 32), ("tanh", "relu"), batch_norm=True, dropout=0.25)
    assert configure({**params, "batch_norm": "off", "depth": 1}) == Config((64,), ("tanh",), False, 0.25)


def test_features_are_a_vector_or_the_unframed_waveform() -> None:
    assert features({"input": "features", "statistics": "mean", "pca": 0.95}) == Vector("mean", 0.95)
    params = {
        "input": "waveform",
        "excerpt": "segments",
        "seconds": 2,
        "pool": 4,
        "pool_kind": "max",
        "normalise": "peak",
        "resample_hz": 4000,
        "resampling": "soxr",
    }
    found = features(params)
    assert found == Waveform(
        seconds=2,
        pool=4,
        frame_ms=0,
        normalise="peak",
        excerpt="segments",
        resample_hz=4000,
        resampling="soxr",
        pool_kind="max",
    )
    assert found.shape(16_000, 30.0) == (1, 2000)
