"""What the networks see: from stored samples to tensors. One module per kind of input.

A kind is a frozen dataclass whose fields are its settings. `prepare` computes what is kept for an example, in
batches on the trial's device; `present` makes the network's input of it, for every batch anew.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the command line reads configurations without waiting for Torch
    from torch import Tensor

KINDS = ("waveform", "picture", "vector")
EXCERPTS = ("first", "segments", "whole")


class Features(Protocol):
    """How excerpts of clips become inputs.

    `excerpt` says what is taken of a clip: "first" its first `seconds`, "segments" consecutive pieces of that
    length, each an example of its own whose scores are averaged per clip, "whole" all of it (padded to the longest
    clip of the corpus; `seconds` counts for nothing).
    """

    @property
    def kind(self) -> str:
        """The module's name, by which `from_json` finds it."""
        ...

    @property
    def excerpt(self) -> str:
        """One of EXCERPTS."""
        ...

    @property
    def seconds(self) -> float:
        """The length of an excerpt, unless it is whole."""
        ...

    def shape(self, sample_rate_hz: int, clip_seconds: float) -> tuple[int, ...]:
        """The shape of one input; `clip_seconds` is the longest clip of the corpus."""
        ...

    def stored_bytes(self, sample_rate_hz: int, clip_seconds: float) -> int:
        """What keeping one prepared example takes."""
        ...

    def prepare(self, waveforms: "Tensor", sample_rate_hz: int) -> "Tensor":
        """What is kept of excerpts `(clips, samples)`, float32 in [-1, 1), on their device."""
        ...

    def present(self, kept: "Tensor") -> "Tensor":
        """Inputs `(clips, *shape)`, float32, of what `prepare` gave."""
        ...


def excerpt_seconds(features: Features, clip_seconds: float) -> float:
    """The length of one excerpt."""
    return clip_seconds if features.excerpt == "whole" else float(features.seconds)


def from_json(record: Mapping[str, Any]) -> Features:
    """The features of which `dataclasses.asdict` made `record`."""
    kind = record["kind"]
    module = importlib.import_module(f"trainables.features.{kind}")
    made: Features = getattr(module, kind.capitalize())(**{k: v for k, v in record.items() if k != "kind"})
    return made
