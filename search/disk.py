"""Room on the disk for a study's checkpoints."""

import shutil
from pathlib import Path

from search.engine import KEPT_TRIALS
from search.slots import share_of_memory
from search.study import StudySpec
from trainables.errors import UserError
from trainables.files import cache_folder, prepared_bytes

# The weights and two moments per weight with Adam, twice while the one file replaces the other, and the best weights
# again; of trials that ended, the last alone.
_CHECKPOINT_BYTES_PER_PARAMETER, _WEIGHTS_BYTES_PER_PARAMETER = 28, 4
# Of the memory of training: at most with all weights frozen, which lie there twice and on the disk three times.
_CHECKPOINT_SHARE, _WEIGHTS_SHARE = 1.5, 0.5
_SPARE_BYTES = 200_000_000


def checkpoint_bytes(spec: StudySpec, parameters: int, slots: int) -> int:
    """What the checkpoints of live and top trials take at most, if all were of a model of so many `parameters`."""
    live, kept = _held(spec, slots)
    return parameters * (live * _CHECKPOINT_BYTES_PER_PARAMETER + kept * _WEIGHTS_BYTES_PER_PARAMETER)


def check_disk(folder: Path, checkpoints: int) -> None:
    """Raises UserError where a study with so many bytes of checkpoints would not fit."""
    free, needed = free_bytes(folder), checkpoints + spare_bytes(folder)
    if free < needed:
        raise UserError(
            f"The study needs about {needed / 1e9:.1f} GB of disk, but {folder} has "
            f"{free / 1e9:.1f} GB free. Make room or name another place with --storage."
        )


def is_roomy(folder: Path, spec: StudySpec, slots: int) -> bool:
    """Whether there is room for the checkpoints of whatever networks this machine's memory holds.

    That is told without building the study's largest one. In memory lie the weights, their gradients, their moments
    and the best weights, all but the first and the last of those alone that are trained. `slots` trials at a time share
    the memory.
    """
    live, kept = _held(spec, slots)
    trials = live * _CHECKPOINT_SHARE + kept * _WEIGHTS_SHARE
    return free_bytes(folder) >= trials * share_of_memory(1 / slots) + spare_bytes(folder)


def free_bytes(folder: Path) -> int:
    """The free bytes where a folder lies or will lie."""
    return shutil.disk_usage(_existing(folder)).free


def spare_bytes(folder: Path) -> int:
    """What must be free beside checkpoints, for the prepared inputs too where they are kept on the same disk."""
    same = _existing(folder).stat().st_dev == _existing(cache_folder()).stat().st_dev
    return _SPARE_BYTES + (prepared_bytes(free_bytes(folder)) if same else 0)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _held(spec: StudySpec, slots: int) -> tuple[int, int]:
    """Of how many trials whole checkpoints lie there at a time, and of how many ended ones the weights."""
    live = min(spec.trials, slots)
    return live, min(spec.trials - live, KEPT_TRIALS + len(spec.baselines))
