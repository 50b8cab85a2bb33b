"""Convolutions along the waveform, with a dense head."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from trainables.features.waveform import Waveform
from trainables.models.mlp import BatchNorm1d, head, waveform

_LEAKY_SLOPES = {"keras": 0.3, "torch": 0.01}


@dataclass(frozen=True)
class Config:
    """The resolved architecture.

    The first layer has a kernel and a stride of its own. `padding` "valid" has none and drops incomplete windows;
    "same" keeps the length (up to the stride) and the incomplete window at the end of a pooling, so that no input is
    too short. After "each" layer or the "last" one, `stage_pool` places become their maximum ("max") or "mean".
    `global_pool` is what the head sees of all places: their "mean", their "max", or with "none" each of them.
    `convention` "keras" has Keras' initial weights (Glorot kernels, zero biases) and its slope of the leaky relu, 0.3;
    "torch" is PyTorch's own, with 0.01. Dropout acts before the head, as Jamal, Karda and Sarde have it.
    """

    channels: tuple[int, ...]
    first_kernel: int
    first_stride: int
    kernel: int
    stride: int
    padding: str
    activation: str
    batch_norm: bool
    stage_pool: int
    stage_pool_kind: str
    stage_pool_after: str
    global_pool: str
    head: tuple[int, ...]
    dropout: float
    convention: str


def configure(params: Mapping[str, Any]) -> Config:
    """The architecture that a point of the space describes; takes what it needs from `params`."""
    return Config(
        channels=tuple(params[f"channels_{n}"] for n in range(1, params["conv_layers"] + 1)),
        first_kernel=params["first_kernel"],
        first_stride=params["first_stride"] if "first_stride" in params else params["long_stride"],
        kernel=params["kernel"],
        stride=params["stride"],
        padding=params["padding"],
        activation=params["activation"],
        batch_norm=params["batch_norm"] == "on",
        stage_pool=params["stage_pool"],
        stage_pool_kind=params.get("stage_pool_kind", "max"),
        stage_pool_after=params.get("stage_pool_after", "last"),
        global_pool=params["global_pool"],
        head=tuple(params[f"head_{n}"] for n in range(1, params["head_layers"] + 1)),
        dropout=float(params["dropout"]),
        convention=params["convention"],
    )


def features(params: Mapping[str, Any]) -> Waveform:
    """The unframed waveform that a point of the space describes."""
    return waveform(params)


def build(config: Config, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """An untrained network for inputs `(batch, 1, samples)`, `input_shape` being `(1, samples)`."""
    layers = nn.Sequential(*_layers(config), *_readout(config.global_pool))
    model = nn.Sequential()
    model.add_module("layers", layers)
    model.add_module("dropout", nn.Dropout(config.dropout))
    with torch.device("meta"):
        places = nn.Sequential(*_layers(config), *_readout(config.global_pool)).eval()
        seen = prod(places(torch.empty(1, *input_shape)).shape)
    model.add_module("head", head(seen, config.head, n_classes, 0.0, ()))
    if config.convention == "keras":
        _follow_keras(model)
    return model


class GlobalPool(nn.Module):
    """The mean or the maximum over all places, `(batch, channels)` of `(batch, channels, …)`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        assert kind in ("mean", "max"), kind
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels)`."""
        places = x.flatten(2)
        return places.mean(2) if self.kind == "mean" else places.amax(2)


def _layers(config: Config) -> list[nn.Module]:
    layers: list[nn.Module] = []
    same = config.padding == "same"
    for index, (inputs, outputs) in enumerate(zip((1, *config.channels), config.channels, strict=False)):
        kernel, stride = (config.kernel, config.stride) if index else (config.first_kernel, config.first_stride)
        layers.append(nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2 if same else 0))
        if config.batch_norm:
            layers.append(BatchNorm1d(outputs))
        layers.append(_activation(config))
        if config.stage_pool > 1 and (config.stage_pool_after == "each" or index == len(config.channels) - 1):
            pool = nn.MaxPool1d if config.stage_pool_kind == "max" else nn.AvgPool1d
            layers.append(pool(config.stage_pool, ceil_mode=same))
    return layers


def _activation(config: Config) -> nn.Module:
    return nn.ReLU() if config.activation == "relu" else nn.LeakyReLU(_LEAKY_SLOPES[config.convention])


def _readout(global_pool: str) -> list[nn.Module]:
    return [nn.Flatten()] if global_pool == "none" else [GlobalPool(global_pool)]


def _follow_keras(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            assert module.bias is not None
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
