"""Which recordings a model was trained and chosen by, so that scores on them are not taken for scores on new ones.

They are told by digests of their waveforms (`trainables.corpora.audio.samples_digest`), so under other names and in
other corpora as well; not where they were decoded at another rate or cut otherwise.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables.corpora.store import Store
from trainables.errors import UserError
from trainables.files import replace_file

SEEN = "seen.safetensors"  # in a model's folder

Rows = npt.NDArray[np.int64]


def save(folder: Path, store: Store, rows: Rows) -> None:
    """Notes the clips of a store that a model has seen."""
    from safetensors.numpy import save_file

    replace_file(folder / SEEN, lambda path: save_file({"digests": np.unique(_digests(store, rows))}, path))


def seen(folder: Path, store: Store, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of a store's clips a model has seen; none where an older version noted nothing. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / SEEN).exists():
        return np.zeros(len(rows), dtype=np.bool_)
    try:
        known = load_file(folder / SEEN)["digests"]
    except (KeyError, OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"A model's files must be whole, but {folder / SEEN} is not ({error}). Restore the folder from a copy."
        ) from error
    return np.isin(_digests(store, rows), known)


def _digests(store: Store, rows: Rows) -> npt.NDArray[np.uint64]:
    texts = store.clips["digest"].to_numpy(dtype=object)[rows]
    return np.array([int(text, 16) for text in texts], dtype=np.uint64)
