"""Splits by group: the corpus' own train, valid and test, and a tune part of whole training instruments."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainables.errors import UserError

TASKS = ("family", "source")
SPLITS = ("train", "tune", "valid", "test")
TUNE_SHARE = 0.2

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Which clip serves where. `rows` holds row numbers of the store's clips for each of SPLITS.

    `labels` and `groups` have one entry per clip of the store; a label of -1 marks a clip that is left out.
    `notices` are sentences that the user should read.
    """

    classes: tuple[str, ...]
    rows: dict[str, Rows]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.object_]
    notices: tuple[str, ...]

    @cached_property
    def summary(self) -> dict[str, dict[str, int]]:
        """Notes and groups of each split."""
        return {name: {"notes": len(rows), "groups": len(set(self.groups[rows]))} for name, rows in self.rows.items()}

    def majority_share(self, name: str) -> float:
        """The accuracy of always naming the most frequent class of one split."""
        counts = np.bincount(self.labels[self.rows[name]])
        return float(counts.max() / counts.sum())


def split(clips: pd.DataFrame, *, task: str, keep_synth_lead: bool, seed: int) -> Split:
    """Splits `clips` (columns split, family, source, instrument) for one task; depends on nothing else.

    The tune part takes a fifth of each class's training instruments, at least one where there are two. Raises
    UserError where the training part has fewer than two classes, a split is empty, or valid or test hold a
    class that training lacks.
    """
    if task not in TASKS:
        raise UserError(f"--task must be one of {', '.join(TASKS)}, but is {task!r}.")
    names = clips[task].to_numpy(dtype=object)
    groups = clips["instrument"].to_numpy(dtype=object)
    official = clips["split"].to_numpy(dtype=object)
    used = np.ones(len(clips), dtype=bool)
    # The reports drop synth_lead: valid and test have none of it.
    if not keep_synth_lead:
        used = clips["family"].to_numpy(dtype=object) != "synth_lead"

    classes = tuple(sorted(set(names[used & (official == "train")])))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise UserError(
            f"A classifier needs at least two classes in the training split, but there is {found} for the task "
            f"{task!r}. Name another --task or another corpus."
        )
    index = {name: number for number, name in enumerate(classes)}
    for part in ("valid", "test"):
        unseen = sorted(set(names[used & (official == part)]) - set(classes))
        if unseen:
            raise UserError(
                f"Every class of the {part} split must occur in training, but {', '.join(map(repr, unseen))} "
                f"does not. Remove those notes or add training notes of that class."
            )
    labels = np.array([index[name] if keep else -1 for name, keep in zip(names, used, strict=True)], dtype=np.int64)

    train = np.flatnonzero(used & (official == "train"))
    held_out, alone = _held_out(groups[train], names[train], seed)
    tuned = np.isin(groups[train], list(held_out))
    rows = {
        "train": train[~tuned],
        "tune": train[tuned],
        "valid": np.flatnonzero(used & (official == "valid")),
        "test": np.flatnonzero(used & (official == "test")),
    }
    if empty := [name for name in SPLITS if len(rows[name]) == 0]:
        raise UserError(
            f"Every split needs at least one note, but {', '.join(empty)} has none. "
            f"The tune split takes whole instruments of classes that have two or more in training."
        )
    notices = [
        f"{name!r} has too few training instruments for the tune split to hold one of them." for name in sorted(alone)
    ]
    notices += _leaks(rows, groups, clips["digest"].to_numpy(dtype=object) if "digest" in clips else None)
    return Split(classes, rows, labels, groups, tuple(notices))


def _leaks(
    rows: dict[str, Rows], groups: npt.NDArray[np.object_], digests: npt.NDArray[np.object_] | None
) -> Iterator[str]:
    """Sentences about instruments or identical recordings that stand on both sides of a split.

    Valid and test share instruments by design; neither may share any with training.
    """
    fitted = np.concatenate([rows["train"], rows["tune"]])
    for name in ("valid", "test"):
        if shared := sorted(set(groups[rows[name]]) & set(groups[fitted])):
            yield (
                f"Warning: {len(shared)} instruments of {name} also occur in training (such as {shared[0]!r}), "
                f"so scores on {name} flatter."
            )
    if digests is not None:
        for name, known in (("tune", rows["train"]), ("valid", fitted), ("test", fitted)):
            if twins := int(np.isin(digests[rows[name]], digests[known]).sum()):
                yield f"Warning: {twins} recordings of {name} are identical to training recordings."


def _held_out(groups: npt.NDArray[np.object_], names: npt.NDArray[np.object_], seed: int) -> tuple[set[str], set[str]]:
    """The groups to hold out, and the classes of which none can be.

    A group is drawn for the class that most of its notes have, and only while every class that it holds is left
    in some other group. The order in which groups are taken is that of a digest of seed and name, so it does not
    depend on the corpus' order or on what else it holds.
    """
    notes: dict[str, Counter[str]] = {}
    for group, name in zip(groups, names, strict=True):
        notes.setdefault(group, Counter())[name] += 1
    left = Counter(name for counts in notes.values() for name in counts)
    by_class: dict[str, list[str]] = {}
    for group, counts in notes.items():
        by_class.setdefault(min(counts, key=lambda name: (-counts[name], name)), []).append(group)

    held_out: set[str] = set()
    for name in sorted(by_class):
        wanted = max(1, round(TUNE_SHARE * len(by_class[name])))
        for group in sorted(by_class[name], key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest()):
            if wanted and all(left[held] > 1 for held in notes[group]):
                held_out.add(group)
                left.subtract(notes[group].keys())
                wanted -= 1
    tuned = {name for group in held_out for name in notes[group]}
    return held_out, set(left) - tuned
