"""What tells a recording's class by how it was recorded: a model may learn that instead of the sound."""

import re

import numpy as np
import pandas as pd

from trainables.corpora.splits import Split
from trainables.corpora.store import Store
from trainables.corpora.wording import counted

# What an import changed and how it says so, which is all that is known of a recording's file; else it was as kept.
_MADE = (
    ("sample rate", r"resampled from (\d+) Hz", "{} Hz"),
    ("number of channels", r"(\d+) channels mixed to mono", "{} channel(s)"),
)
_STRONG = 0.3  # Cramér's V, from 0 where nothing goes together to 1
_SURE = 4.0  # standard deviations beyond what chance would bring


def giveaways(store: Store, split: Split) -> list[str]:
    """A sentence for each property of the files that goes with the classes of `split`."""
    labelled = split.labels >= 0
    classes = np.array(split.classes, dtype=object)[split.labels[labelled]]
    paths = store.clips["path"][labelled]
    found = []
    for (what, pattern, words), kept in zip(_MADE, (store.sample_rate_hz, 1), strict=True):
        repairs = zip(store.repairs["path"], store.repairs["repair"], strict=True)
        before = {path: int(said[1]) for path, repair in repairs if (said := re.fullmatch(pattern, repair))}
        if before:
            counts = pd.crosstab(classes, paths.map(before).fillna(kept).astype(int).to_numpy())
            found += _told(what, words, counts)
    return found


def _told(what: str, words: str, counts: pd.DataFrame) -> list[str]:
    """A sentence where a table of classes by values holds more than chance; none where there is one value."""
    table = counts.to_numpy(dtype=float)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if not freedom:
        return []
    total = table.sum()
    expected = np.outer(table.sum(1), table.sum(0)) / total
    residuals = (table - expected) / np.sqrt(expected)
    square = float((residuals**2).sum())
    # Wilson and Hilferty 1931: the cube root of chi squared over its freedom is nearly normal.
    deviation = 2 / (9 * freedom)
    sure = ((square / freedom) ** (1 / 3) - (1 - deviation)) / deviation**0.5
    if sure < _SURE or (square / total / (min(table.shape) - 1)) ** 0.5 < _STRONG:
        return []
    row, column = np.unravel_index(residuals.argmax(), residuals.shape)
    here, of_class, of_value = (int(count) for count in (table[row, column], table[row].sum(), table[:, column].sum()))
    value, of_others = words.format(counts.columns[column]), int(total) - of_class
    return [
        f"Warning: a recording's {what} goes with its class: {here:,} of "
        f"{counted(of_class, 'recording', 'recordings')} of {counts.index[row]!r} have {value}, {of_value - here:,} of "
        f"{of_others:,} others. A model may learn that instead of the sound; record all classes alike."
    ]
