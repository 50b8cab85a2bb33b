"""A small network whose epochs take as long as told and leave a trace, so that those trained twice can be counted."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.domains import Float, Param, Space
from spaces.shared import TRAINING, TRAINING_SETTINGS
from tests.faulty import DEFAULT
from tests.faulty import features as features
from trainables.config import TrialConfig

NAME = "steady"


@dataclass(frozen=True)
class Config:
    width: float
    seconds: float
    trace: str


def configure(params: Mapping[str, Any]) -> Config:
    return Config(params["width"], params["seconds"], params["trace"])


def build(config: Config, input_shape: tuple[int, int], n_classes: int) -> nn.Module:
    return Steady(config, input_shape, n_classes)


def space(seconds: float, trace: Path) -> Space:
    """A space whose trials differ in `width`; each epoch takes `seconds` and writes to `trace`."""
    training = tuple(param for param in TRAINING if param.name != "batch_size")
    return Space(
        name=NAME,
        title=NAME,
        network="tests.faults.family",
        # One batch is the whole corpus: the network is called once per epoch of training.
        settings={**TRAINING_SETTINGS, "batch_size": 1024, "seconds": seconds, "trace": str(trace)},
        params=(Param("width", Float(0.1, 1.0)), *training),
        default={**DEFAULT, "width": 0.5},
    )


def undisturbed(config: TrialConfig) -> TrialConfig:
    """The same trial, for which nobody has to wait and which leaves no trace."""
    return replace(config, model=replace(config.model, seconds=0.0, trace=""))


class Steady(nn.Module):
    def __init__(self, config: Config, input_shape: tuple[int, int], n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm1d(input_shape[0] * input_shape[1])
        self.linear = nn.Linear(input_shape[0] * input_shape[1], n_classes)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.epochs += 1
            self._note("begun")
            time.sleep(self.config.seconds)
            self._note("trained")
        logits: Tensor = self.linear(self.norm(x.abs().flatten(1))) * self.config.width
        return logits

    def _note(self, what: str) -> None:
        if not self.config.trace:
            return
        row = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), "what": what}
        line = json.dumps({**row, "width": self.config.width, "epoch": int(self.epochs)}) + "\n"
        descriptor = os.open(self.config.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())  # in one piece, as lines come from several hosts
        finally:
            os.close(descriptor)
