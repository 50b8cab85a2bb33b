"""Convolutions along the waveform against SciPy, and the layer table of Jamal, Karda and Sarde."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.signal import correlate
from torch import Tensor, nn

from trainables.models import count_trainable
from trainables.models.cnn1d import Config, build, configure

Array = npt.NDArray[np.float64]
CONFIG = Config(
    channels=(3, 4),
    first_kernel=5,
    first_stride=1,
    kernel=3,
    stride=1,
    padding="valid",
    activation="relu",
    batch_norm=False,
    stage_pool=1,
    stage_pool_kind="max",
    stage_pool_after="last",
    global_pool="mean",
    head=(),
    dropout=0.0,
    convention="torch",
)
DEEP = replace(
    CONFIG,
    channels=(64, 32, 92),
    first_kernel=2,
    kernel=2,
    activation="leaky_relu",
    stage_pool=2,
    global_pool="none",
    head=(24,),
    dropout=0.5,
    convention="keras",
)


def model_of(samples: int = 40, classes: int = 3, seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build(replace(CONFIG, **changes), (1, samples), classes).double()


def inputs(clips: int = 2, samples: int = 40) -> Tensor:
    return torch.randn(clips, 1, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def by_scipy(model: nn.Module, config: Config, x: Array) -> Array:
    """Logits of one clip `(1, samples)`."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    slope = {"keras": 0.3, "torch": 0.01}[config.convention] if config.activation == "leaky_relu" else 0.0
    for index, module in enumerate(convolutions):
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        kernel, stride = (config.kernel, config.stride) if index else (config.first_kernel, config.first_stride)
        if config.padding == "same":
            x = np.pad(x, ((0, 0), (kernel // 2, kernel // 2)))
        x = np.array([correlate(x, w, mode="valid")[0] + b for w, b in zip(weight, bias, strict=True)])[:, ::stride]
        x = np.where(x < 0, slope * x, x)
        if config.stage_pool > 1 and (config.stage_pool_after == "each" or index == len(convolutions) - 1):
            starts = range(0, x.shape[1], config.stage_pool)
            windows = [x[:, start : start + config.stage_pool] for start in starts]
            if config.padding == "valid":
                windows = [window for window in windows if window.shape[1] == config.stage_pool]
            x = np.stack([w.max(1) if config.stage_pool_kind == "max" else w.mean(1) for w in windows], axis=1)
    seen = {"mean": x.mean(1), "max": x.max(1), "none": x.ravel()}[config.global_pool]
    dense = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for number, module in enumerate(dense):
        seen = module.weight.detach().numpy() @ seen + module.bias.detach().numpy()
        if number < len(dense) - 1:
            seen = np.maximum(seen, 0)
    return np.asarray(seen)


@pytest.mark.parametrize("global_pool", ["mean", "max", "none"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": (2, 5, 3), "first_stride": 2, "stride": 2, "activation": "leaky_relu", "convention": "keras"},
        {"stage_pool": 4, "stage_pool_after": "each", "head": (6,), "activation": "leaky_relu"},
        {"stage_pool": 4, "stage_pool_after": "last", "stage_pool_kind": "mean", "first_kernel": 2, "kernel": 2},
        {"stage_pool": 2, "stage_pool_after": "each", "stage_pool_kind": "mean", "head": (6, 5), "first_kernel": 8},
    ],
)
def test_logits_against_scipy(global_pool: str, padding: str, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **{**changes, "global_pool": global_pool, "padding": padding})
    model, x = model_of(**vars(config)).eval(), inputs()
    expected = [by_scipy(model, config, clip.numpy()) for clip in x]
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_layer_table_of_report_002() -> None:
    """Fig. 2: output shapes and parameters of each layer, channels first here."""
    model = build(DEEP, (1, 8000), 10)
    rows: list[tuple[str, tuple[int, ...], int]] = []

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        rows.append((type(module).__name__, tuple(output.shape[1:]), count_trainable(module)))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    model(torch.zeros(1, 1, 8000))
    assert [row for row in rows if row[0] not in ("ReLU", "LeakyReLU")] == [
        ("Conv1d", (64, 7999), 192),
        ("Conv1d", (32, 7998), 4128),
        ("Conv1d", (92, 7997), 5980),
        ("MaxPool1d", (92, 3998), 0),
        ("Flatten", (367_816,), 0),
        ("Dropout", (367_816,), 0),
        ("Linear", (24,), 8_827_608),
        ("Linear", (10,), 250),
    ]
    assert [row[0] for row in rows].count("LeakyReLU") == 3
    assert count_trainable(model) == 8_838_158


@pytest.mark.parametrize("samples", [1, 2, 3, 17])
@pytest.mark.parametrize("kernel", [2, 3, 16])
def test_no_input_is_too_short_with_same_padding(samples: int, kernel: int) -> None:
    changes = {"channels": (3, 4, 5), "first_kernel": 64, "first_stride": 16, "kernel": kernel, "stride": 2}
    for pool, kind in ((4, "max"), (4, "mean"), (1, "max")):
        for readout in ("mean", "max", "none"):
            model = model_of(
                samples,
                padding="same",
                stage_pool=pool,
                stage_pool_kind=kind,
                stage_pool_after="each",
                global_pool=readout,
                batch_norm=True,
                **changes,
            )
            for clips in (1, 3):  # in training mode, a batch of one included
                logits = model(inputs(clips, samples))
                assert logits.shape == (clips, 3)
                assert torch.isfinite(logits).all()


def test_keras_convention() -> None:
    """Glorot-uniform kernels, which are as wide as inputs, outputs and kernel together say, and zero biases."""
    model = build(replace(DEEP, kernel=8), (1, 400), 10)
    found = [module for module in model.modules() if isinstance(module, nn.Conv1d | nn.Linear)]
    assert len(found) == 5
    for module in found:
        weight = module.weight
        around = weight[0, 0].numel()
        limit = (6 / (around * (weight.shape[0] + weight.shape[1]))) ** 0.5
        assert 0.9 * limit < weight.abs().max() <= limit
        assert not module.bias.any()
    assert {part.negative_slope for part in model.modules() if isinstance(part, nn.LeakyReLU)} == {0.3}
    own = build(replace(DEEP, convention="torch"), (1, 400), 10)
    assert {part.negative_slope for part in own.modules() if isinstance(part, nn.LeakyReLU)} == {0.01}
    assert all(part.bias.any() for part in own.modules() if isinstance(part, nn.Conv1d | nn.Linear))


def test_dropout_acts_before_the_head_and_batch_normalisation_after_every_convolution() -> None:
    model = model_of(dropout=0.5, batch_norm=True, head=(6,))
    assert [name for name, _ in model.named_children()] == ["layers", "dropout", "head"]
    assert [type(part).__name__ for part in model.layers] == [*["Conv1d", "BatchNorm1d", "ReLU"] * 2, "GlobalPool"]
    assert [type(part).__name__ for part in model.head] == ["Linear", "ReLU", "Linear"]
    x = inputs(4)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_equal_seeds_give_equal_weights_whatever_the_length_of_the_input() -> None:
    """The network's size is found without touching the random numbers."""
    short, long = (model_of(samples, seed=3, head=(6,)) for samples in (30, 300))
    assert all(torch.equal(a, b) for a, b in zip(short.parameters(), long.parameters(), strict=True))


def test_configure() -> None:
    params: dict[str, Any] = {
        "conv_layers": 2,
        "channels_1": 16,
        "channels_2": 24,
        "channels_3": 99,
        "first_kernel": 64,
        "first_stride": 2,
        "kernel": 5,
        "stride": 2,
        "padding": "same",
        "activation": "leaky_relu",
        "batch_norm": "on",
        "stage_pool": 4,
        "stage_pool_kind": "mean",
        "stage_pool_after": "each",
        "global_pool": "max",
        "head_layers": 1,
        "head_1": 32,
        "head_2": 33,
        "dropout": 0.25,
        "convention": "keras",
    }
    expected = Config((16, 24), 64, 2, 5, 2, "same", "leaky_relu", True, 4, "mean", "each", "max", (32,), 0.25, "keras")
    assert configure(params) == expected
    params["long_stride"] = 16
    del params["first_stride"]
    assert configure(params) == replace(expected, first_stride=16)
    for name in ("stage_pool_kind", "stage_pool_after"):
        del params[name]
    assert configure({**params, "stage_pool": 1}).stage_pool == 1
