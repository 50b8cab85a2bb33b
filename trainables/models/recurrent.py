"""A stack of (bidirectional) LSTM layers over frames, with a dense head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.features.waveform import Waveform
from trainables.models.mlp import head


@dataclass(frozen=True)
class Config:
    """The resolved architecture.

    `convention` "keras" has one bias vector per gate instead of two and Keras' initial weights (Glorot kernels,
    orthogonal recurrent kernels, forget bias 1, zero elsewhere); "torch" is PyTorch's own.
    `readout` is what the head sees: "final" the last state of each direction, "last" the output at the last
    step (as Nagaraja and Li 2018 have it), "mean" the mean over all steps.
    """

    bidirectional: bool
    widths: tuple[int, ...]
    dense: tuple[int, ...]
    dropout: float
    readout: str
    convention: str


def configure(params: Mapping[str, Any]) -> Config:
    """The architecture that a point of a recurrent space describes; takes what it needs from `params`."""
    return Config(
        bidirectional=params["bidirectional"] == "yes",
        widths=tuple(params[f"width_{n}"] for n in range(1, params["layers"] + 1)),
        dense=tuple(params[f"dense_{n}"] for n in range(1, params["dense_layers"] + 1)),
        dropout=float(params["dropout"]),
        readout=params["readout"],
        convention=params["convention"],
    )


def features(params: Mapping[str, Any]) -> Waveform:
    """The sequence of frames that a point of a recurrent space describes."""
    return Waveform(
        excerpt=params["excerpt"],
        seconds=params["seconds"],
        pool=params["pool"],
        frame_ms=params["frame_ms"],
        normalise=params["normalise"],
    )


def build(config: Config, input_shape: tuple[int, int], n_classes: int) -> nn.Module:
    """An untrained network for inputs `(batch, steps, frame)`, `input_shape` being `(steps, frame)`."""
    return Recurrent(config, input_shape[1], n_classes)


class Recurrent(nn.Module):
    """Logits `(batch, classes)` from frames `(batch, steps, frame)`."""

    def __init__(self, config: Config, frame_samples: int, n_classes: int) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        inputs = (frame_samples, *(width * directions for width in config.widths))
        self.readout = config.readout
        self.layers = nn.ModuleList(
            nn.LSTM(size, width, batch_first=True, bidirectional=config.bidirectional)
            for size, width in zip(inputs, config.widths, strict=False)
        )
        self.between = nn.Dropout(config.dropout)
        self.head = head(inputs[-1], config.dense, n_classes, config.dropout, dropout_after=(1,))
        if config.convention == "keras":
            self._follow_keras()

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, classes)`."""
        for index, layer in enumerate(self.layers):
            x, (hidden, _) = layer(self.between(x) if index else x)
        if self.readout == "final":
            return self.head(hidden.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]
        return self.head(x[:, -1] if self.readout == "last" else x.mean(1))  # type: ignore[no-any-return]

    def _follow_keras(self) -> None:
        for layer in self.layers:
            for name, weight in layer.named_parameters():
                with torch.no_grad():
                    if name.startswith("weight_ih"):
                        nn.init.xavier_uniform_(weight)
                    elif name.startswith("weight_hh"):
                        nn.init.orthogonal_(weight)
                    else:
                        weight.zero_()
                        if name.startswith("bias_ih"):  # gates in the order input, forget, cell, output
                            weight.view(4, -1)[1] = 1.0
                # The second bias vector is one too many: held at zero, untrained.
                weight.requires_grad_(not name.startswith("bias_hh"))
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
