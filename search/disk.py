"""Room on the disk for a study's checkpoints."""

import shutil
from pathlib import Path

from search.engine import KEPT_TRIALS
from search.slots import share_of_memory
from search.study import StudySpec
from trainables.errors import UserError

# The weights, two moments per weight with Adam, and the best weights again; of trials that ended, the last alone.
_CHECKPOINT_BYTES_PER_PARAMETER, _WEIGHTS_BYTES_PER_PARAMETER = 16, 4
_SPARE_BYTES = 200_000_000


def checkpoint_bytes(spec: StudySpec, parameters: int, slots: int) -> int:
    """What the checkpoints of live and top trials take at most, if all were of a model of so many `parameters`."""
    live, kept = _held(spec, slots)
    return parameters * (live * _CHECKPOINT_BYTES_PER_PARAMETER + kept * _WEIGHTS_BYTES_PER_PARAMETER)


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raises UserError where a study's checkpoints would not fit."""
    free = free_bytes(folder)
    if free < needed_bytes + _SPARE_BYTES:
        raise UserError(
            f"The study needs about {(needed_bytes + _SPARE_BYTES) / 1e9:.1f} GB of disk, but {folder} has "
            f"{free / 1e9:.1f} GB free. Make room or name another place with --storage."
        )


def is_roomy(folder: Path, spec: StudySpec, slots: int) -> bool:
    """Whether there is room for the checkpoints of whatever networks this machine's memory holds.

    That is told without building the study's largest one. What lies in a checkpoint lies in memory too as it is
    trained, or in place of the best weights their gradients; those weights lie there twice, as they are and as the
    best. `slots` trials at a time share the memory.
    """
    live, kept = _held(spec, slots)
    return free_bytes(folder) >= (live + kept / 2) * share_of_memory(1 / slots) + _SPARE_BYTES


def free_bytes(folder: Path) -> int:
    """The free bytes where a folder lies or will lie."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def _held(spec: StudySpec, slots: int) -> tuple[int, int]:
    """Of how many trials whole checkpoints lie there at a time, and of how many ended ones the weights."""
    live = min(spec.trials, slots)
    return live, min(spec.trials - live, KEPT_TRIALS + len(spec.baselines))
