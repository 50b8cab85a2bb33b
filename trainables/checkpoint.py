"""Saved training: `state.pt` to go on from, `best.safetensors` with the weights of the best epoch so far.

Both are replaced as a whole, and only if `check`, called right before, raises nothing.
"""

import io
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.files import BEST_WEIGHTS, STATE, replace_file

# A trial that is over by then is saved once, at its end.
_FIRST_SECONDS = 1.0
# Of the time of training. Saving costs as much as a short epoch of a network with many weights.
_SHARE = 0.01
# Of training that a crash may cost a trial beside the epoch in flight, or a power cut.
_LONGEST_SECONDS = 10.0
# Of a copy of the best weights that waits to be saved; a larger one is saved at once.
HELD_BYTES = 100_000_000


class Saver:
    """Saves a configuration's training in `folder`, not oftener than it can be afforded.

    The first one is due after a second. After a save that took a tenth of a second the next one is due after ten, which
    is the longest.
    """

    def __init__(self, folder: Path, identity: str, check: Callable[[], object] = lambda: None) -> None:
        self._folder, self._identity, self._check = folder, identity, check
        self._best: dict[str, Tensor] | None = None
        self._due = time.monotonic() + _FIRST_SECONDS
        self._lasting_from = time.monotonic() + _LONGEST_SECONDS

    def is_due(self) -> bool:
        """Whether it is time for the next save."""
        return time.monotonic() >= self._due

    def keep(self, model: nn.Module) -> None:
        """Copies the weights of `model`, the best so far, for the next save."""
        self._best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        if sum(tensor.nbytes for tensor in self._best.values()) > HELD_BYTES:
            self._due = 0.0

    def save(self, state: dict[str, Any]) -> None:
        """Saves the best weights, where better ones came since the last save, and the state.

        What may become the study's result waits for the disk. The state, three times as large, does so once there is
        more than ten seconds of training to lose.
        """
        began = time.monotonic()
        if self._best is not None:
            save_weights(self._folder, self._best, self._check)
            self._best = None
        lasting = began >= self._lasting_from
        save_state(self._folder, self._identity, state, self._check, lasting=lasting)
        ended = time.monotonic()
        self._due = ended + min((ended - began) / _SHARE, _LONGEST_SECONDS)


def save_state(
    folder: Path,
    identity: str,
    state: dict[str, Any],
    check: Callable[[], object] = lambda: None,
    *,
    lasting: bool = True,
) -> None:
    """Writes `state` for the configuration of that identity; `lasting` as of `replace_file`."""

    def write(path: Path) -> None:
        torch.save({"identity": identity, **state}, path)

    replace_file(folder / STATE, write, check, lasting=lasting)


def load_state(folder: Path, identity: str) -> dict[str, Any] | None:
    """The saved state; None where there is none, where it cannot be read, or belongs to another configuration.

    Training then begins anew, which gives the same reports again, only later.
    """
    path = folder / STATE
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())  # a disk that cannot be read is another matter, and raises here
    try:
        # After a power cut a file may be long enough and yet hold zeros; Torch writes checksums and reads none.
        if zipfile.ZipFile(content).testzip():
            return None
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file makes Torch raise nearly anything
        return None
    return state if isinstance(state, dict) and state.pop("identity", None) == identity else None


def save_weights(folder: Path, weights: Mapping[str, Tensor], check: Callable[[], object] = lambda: None) -> None:
    """Writes the weights of a model, by name, as the best so far."""
    replace_file(folder / BEST_WEIGHTS, lambda path: save_file(dict(weights), path), check)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads weights that `save_weights` wrote into `model`."""
    model.load_state_dict(load_file(path))
