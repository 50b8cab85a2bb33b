"""Saved training: `state.pt` to go on from, `best.safetensors` with the weights of the best epoch so far.

Both are replaced as a whole, and only if `check`, called right before, raises nothing.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.files import STATE, WEIGHTS, replace_file


def save_state(folder: Path, identity: str, state: dict[str, Any], check: Callable[[], object] = lambda: None) -> None:
    """Writes `state` for the configuration of that identity."""
    replace_file(folder / STATE, lambda path: torch.save({"identity": identity, **state}, path), check)


def load_state(folder: Path, identity: str) -> dict[str, Any] | None:
    """The saved state; None where there is none, where it cannot be read, or belongs to another configuration.

    Training then begins anew, which gives the same reports again, only later.
    """
    path = folder / STATE
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())  # a disk that cannot be read is another matter, and raises here
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file makes Torch raise nearly anything
        return None
    return state if isinstance(state, dict) and state.pop("identity", None) == identity else None


def save_weights(folder: Path, model: nn.Module, check: Callable[[], object] = lambda: None) -> None:
    """Writes the weights of `model` as the best so far."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    replace_file(folder / WEIGHTS, lambda path: save_file(weights, path), check)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads weights that `save_weights` wrote into `model`."""
    model.load_state_dict(load_file(path))
