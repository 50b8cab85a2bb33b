"""A multi-layer perceptron on inputs of any shape, and the dense layers that other networks end with."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from trainables.features.vector import Vector
from trainables.features.waveform import Waveform

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU}


@dataclass(frozen=True)
class Config:
    """The resolved architecture: width and activation (relu, tanh, leaky_relu) of each hidden layer.

    `dropout` acts after every hidden layer, batch normalisation before its activation.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    batch_norm: bool
    dropout: float


def configure(params: Mapping[str, Any]) -> Config:
    """The architecture that a point of the space describes; takes what it needs from `params`."""
    layers = range(1, params["depth"] + 1)
    return Config(
        widths=tuple(params[f"hidden_{n}"] for n in layers),
        activations=tuple(params[f"activation_{n}"] for n in layers),
        batch_norm=params["batch_norm"] == "on",
        dropout=float(params["dropout"]),
    )


def features(params: Mapping[str, Any]) -> Vector | Waveform:
    """The vector of features or the waveform that a point of the space describes."""
    if params["input"] == "features":
        return Vector(statistics=params["statistics"], pca=params["pca"])
    return waveform(params)


def waveform(params: Mapping[str, Any]) -> Waveform:
    """The unframed waveform `(1, samples)` that a point of a space describes."""
    return Waveform(
        excerpt=params["excerpt"],
        seconds=params["seconds"],
        pool=params["pool"],
        pool_kind=params.get("pool_kind", "mean"),
        frame_ms=0,
        normalise=params["normalise"],
        resample_hz=params["resample_hz"],
        resampling=params["resampling"],
    )


def build(config: Config, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """An untrained network for inputs `(batch, *input_shape)`."""
    sizes = (prod(input_shape), *config.widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, width, activation in zip(sizes, config.widths, config.activations, strict=False):
        layers.append(nn.Linear(inputs, width))
        if config.batch_norm:
            layers.append(BatchNorm1d(width))
        layers += [_ACTIVATIONS[activation](), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_classes))


def head(
    inputs: int, widths: tuple[int, ...], n_classes: int, dropout: float, dropout_after: Container[int]
) -> nn.Sequential:
    """Dense layers with relu, then the logits; dropout after the layers of these numbers, counted from 1.

    Where there are no such layers dropout acts before the logits, so that it is never without effect.
    """
    sizes = (inputs, *widths)
    layers: list[nn.Module] = [] if widths else [nn.Dropout(dropout)]
    for number, width in enumerate(widths, start=1):
        layers += [nn.Linear(sizes[number - 1], width), nn.ReLU()]
        if number in dropout_after:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_classes))


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation that takes its running statistics where a training batch holds one value a channel.

    The last batch of an epoch may hold a single example; PyTorch's own refuses it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same shape, `(batch, channels)` or `(batch, channels, steps)`."""
        return super().forward(input) if several(input) or not self.training else by_running_statistics(self, input)


def several(x: Tensor) -> bool:
    """Whether `(batch, channels, …)` holds more than one value a channel."""
    return x.numel() > x.shape[1]


def by_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What `norm` makes of `x` in evaluation."""
    return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
