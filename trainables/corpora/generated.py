"""Corpora that the project makes itself: written as a whole or not at all, and kept in the user's cache."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from trainables.errors import UserError
from trainables.files import cache_folder

Progress = Callable[[str, int, int], None]


def write_whole(root: Path, files: Iterable[Path], write: Callable[[Path], None]) -> Path:
    """Has `write` fill the folder `root`, all or nothing, and returns it; a complete one is left as it is.

    The folder is complete if it holds `files`, which are relative to it. It is written to a temporary sibling and
    renamed, so whoever finds `root` finds all of it.

    Raises:
        FileExistsError: ``root`` holds something else.
    """
    if all((root / file).is_file() for file in files):
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f"the demo corpus must go to a new or empty folder, but {root} holds something else or is "
            "incomplete; choose another folder or remove it"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        draft = Path(temporary) / root.name
        draft.mkdir()
        write(draft)
        draft.replace(root)
    return root


def cached(name: str, generate: Callable[[Path, Progress | None], Path], progress: Progress | None) -> Path:
    """The folder `name` in the user's cache (``$ETUDE_CACHE`` or ``~/.cache/etude``), generated at the first call."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        root = cache / name
        with FileLock(cache / f"{name}.lock"):
            for leftover in cache.glob(f".{name}-*"):  # of a process that was killed
                shutil.rmtree(leftover)
            return generate(root, progress)
    except OSError as error:
        raise UserError(
            f"Étude must be able to write to {cache}, but {error}. Put that right or move it with ETUDE_CACHE."
        ) from error
