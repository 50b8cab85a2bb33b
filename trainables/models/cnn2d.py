"""Convolutions over pictures, each followed by relu and max pooling, with a dense head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trainables.features.picture import Picture
from trainables.models.cnn1d import GlobalPool
from trainables.models.mlp import by_running_statistics, head, several


@dataclass(frozen=True)
class Config:
    """The resolved architecture.

    Each layer's convolution keeps height and width, its pooling halves them; a remainder counts, so no picture is too
    small. `global_pool` is what the head sees of all places: their "mean", their "max", or with "none" each of them.
    Dropout acts after the head's first and third dense layer, as Urbaitis and Payeli have it, or before its logits
    where there is none.
    """

    channels: tuple[int, ...]
    kernel: int
    batch_norm: bool
    global_pool: str
    head: tuple[int, ...]
    dropout: float


def configure(params: Mapping[str, Any]) -> Config:
    """The architecture that a point of the space describes; takes what it needs from `params`."""
    return Config(
        channels=tuple(params[f"channels_{n}"] for n in range(1, params["conv_layers"] + 1)),
        kernel=params["kernel_pixels"],
        batch_norm=params["batch_norm"] == "on",
        global_pool=params["global_pool"],
        head=tuple(params[f"head_{n}"] for n in range(1, params["head_layers"] + 1)),
        dropout=float(params["dropout"]),
    )


def features(params: Mapping[str, Any]) -> Picture:
    """The picture that a point of a space describes; the length of a whole clip is its own."""
    return Picture(
        excerpt=params["excerpt"],
        seconds=params.get("seconds", 0),
        frame_samples=params["frame_samples"],
        hop_samples=params["hop_samples"],
        frequency=params["frequency"],
        log=params["log_scale"] == "yes",
        colour=params["colour"],
        size=params["picture_size"],
    )


def build(config: Config, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """An untrained network for pictures `(batch, *input_shape)`, `input_shape` being `(channels, height, width)`."""
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for inputs, outputs in zip((channels, *config.channels), config.channels, strict=False):
        layers.append(nn.Conv2d(inputs, outputs, config.kernel, padding=config.kernel // 2))
        if config.batch_norm:
            layers.append(BatchNorm2d(outputs))
        # Relu is monotone: after pooling it gives the same values and gradients, for a quarter of the pixels.
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
        height, width = -(-height // 2), -(-width // 2)
    flat = config.global_pool == "none"
    layers.append(nn.Flatten() if flat else GlobalPool(config.global_pool))
    seen = config.channels[-1] * (height * width if flat else 1)
    model = nn.Sequential()
    model.add_module("layers", nn.Sequential(*layers))
    model.add_module("head", head(seen, config.head, n_classes, config.dropout, (1, 3)))
    return model


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics where a training batch holds one value a channel."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape, `(batch, channels, height, width)`."""
        return super().forward(input) if several(input) or not self.training else by_running_statistics(self, input)
