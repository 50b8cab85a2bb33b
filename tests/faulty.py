"""A small network that fails on purpose, once or always, when its second epoch begins.

`fault` is one of none, nan, error, kill, memory, crowded (does not fit in less than a whole GPU),
huge (fits in none), small (says that it takes a quarter of a GPU); a `marker` file makes it happen once.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor, nn

from search import trial
from spaces.domains import Choice, Float, Param, Space
from spaces.shared import TRAINING, TRAINING_SETTINGS
from trainables.features.waveform import Waveform

DEFAULT = {
    "learning_rate": 1e-3,
    "optimiser": "adam",
    "loss": "ce",
    "label_smoothing": 0.0,
    "decay": "off",
    "plateau": "off",
    "early_end": "off",
}
MEMORY_STEP_BYTES = 64_000_000


@dataclass(frozen=True)
class Config:
    fault: str
    marker: str
    width: float


def configure(params: Mapping[str, Any]) -> Config:
    return Config(params["fault"], params["marker"], params["width"])


def features(params: Mapping[str, Any]) -> Waveform:
    return Waveform(seconds=1, pool=8, frame_ms=20, normalise="none")


def build(config: Config, input_shape: tuple[int, int], n_classes: int) -> nn.Module:
    return Faulty(config, input_shape, n_classes)


def space(faults: tuple[str, ...], marker: Path | None = None) -> Space:
    """A space whose trials take one of `faults` each."""
    training = tuple(param for param in TRAINING if param.name != "batch_size")
    return Space(
        name="faulty",
        title="faulty",
        network="tests.faulty",
        settings={**TRAINING_SETTINGS, "marker": str(marker or ""), "batch_size": 1024},
        params=(Param("fault", Choice(faults)), Param("width", Float(0.1, 1.0)), *training),
        default={**DEFAULT, "fault": faults[0], "width": 0.5},
    )


class Faulty(nn.Module):
    def __init__(self, config: Config, input_shape: tuple[int, int], n_classes: int) -> None:
        super().__init__()
        self.config = config
        if config.fault == "small":
            trial.gpu_memory_share = lambda: 0.25
        self.linear = nn.Linear(input_shape[0] * input_shape[1], n_classes)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.abs().flatten(1)) * self.config.width
        if not self.training:
            return logits
        self.epochs += 1
        if int(self.epochs) != 2 or not self._due():
            return logits
        if self.config.fault == "nan":
            return logits * float("nan")
        if self.config.fault == "error":
            raise ValueError("the network does not like\nthis at all")
        if self.config.fault == "crowded" and ray.get_runtime_context().get_assigned_resources()["GPU"] < 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.config.fault == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.")
        if self.config.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fault == "memory":
            held = []
            while True:
                held.append(torch.ones(MEMORY_STEP_BYTES // 4))
        return logits

    def _due(self) -> bool:
        if not self.config.marker:
            return True
        marker = Path(self.config.marker)
        if marker.exists():
            return False
        marker.touch()
        return True
