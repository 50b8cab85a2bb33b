"""Splits by group: train, valid and test, and a tune part of whole training groups.

A group is what must stay together: an instrument, an artist, a speaker; in a corpus without groups, each clip alone.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainables.corpora.kinds import KINDS
from trainables.corpora.layout import UNLABELLED
from trainables.corpora.wording import counted, listed
from trainables.errors import UserError

TASKS = tuple(dict.fromkeys(task for kind in KINDS.values() for task in kind.tasks))
HOWS = ("official", "random", "filtered")
SPLITS = ("train", "tune", "valid", "test")
TUNE_SHARE = 0.2
HELD_OUT_SHARE = 0.1  # of a random split's groups, for each of valid and test
FEW_GROUPS, FEW_IN_A_CLASS = 10, 3  # too few to resample

Rows = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Split:
    """Which clip serves where. `rows` holds row numbers of the store's clips for each of SPLITS.

    `labels` and `groups` have one entry per clip of the store; a label of -1 marks a clip that is left out, or
    has none and stands in `unlabelled`. `notices` are sentences that the user should read.
    """

    classes: tuple[str, ...]
    rows: dict[str, Rows]
    labels: npt.NDArray[np.int64]
    groups: Texts
    notices: tuple[str, ...]
    unlabelled: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @cached_property
    def summary(self) -> dict[str, dict[str, int]]:
        """Clips and groups of each split."""
        return {name: {"clips": len(rows), "groups": len(set(self.groups[rows]))} for name, rows in self.rows.items()}

    def groups_by_class(self, name: str) -> dict[str, int]:
        """How many groups each class has that occurs in one split."""
        rows = self.rows[name]
        pairs = set(zip(self.labels[rows].tolist(), self.groups[rows], strict=True))
        counts = Counter(label for label, _ in pairs)
        return {self.classes[label]: counts[label] for label in sorted(counts)}

    def chance(self, name: str) -> float:
        """The balanced accuracy of always naming one class that occurs in a split."""
        return 1 / len(np.unique(self.labels[self.rows[name]]))

    def majority_share(self, name: str) -> float:
        """The accuracy of always naming the most frequent class of one split."""
        counts = np.bincount(self.labels[self.rows[name]])
        return float(counts.max() / counts.sum())

    def doubts(self) -> list[str]:
        """Sentences about the parts that are too small for what is said of them."""
        parts = {name: (row["groups"], self.groups_by_class(name)) for name, row in self.summary.items()}
        return few_groups({name: (groups, list(each.values())) for name, (groups, each) in parts.items()}, self.classes)


def few_groups(parts: Mapping[str, tuple[int, Sequence[int]]], classes: Sequence[str]) -> list[str]:
    """Sentences about tune and test where they are small.

    `parts` has the number of groups and, where they are known, those of each class that occurs.
    """
    found = []
    for name, so in (("tune", "the choice rests on little"), ("test", "its intervals are too narrow")):
        groups, each = parts.get(name, (0, ()))
        few = f"but of some class {min(each)}" if each else f"less than {FEW_IN_A_CLASS} a class"
        if groups < FEW_GROUPS or min(each, default=groups / len(classes)) < FEW_IN_A_CLASS:
            words = f"{counted(groups, 'group', 'groups')} for {len(classes)} classes"
            found.append(f"{name.capitalize()} holds {words}, {'few' if groups < FEW_GROUPS else few}: {so}.")
    return found


def split(clips: pd.DataFrame, *, task: str, how: str, keep_synth_lead: bool, seed: int) -> Split:
    """Splits `clips` (columns name, split, group and the task's) for one task; depends on nothing else.

    `how` is one of HOWS: train, valid and test as the corpus has them; 80, 10 and 10 % of each class's groups,
    drawn at random; or GTZAN's lists without faults and with artists apart (Kereliuk, Sturm and Larsen 2015,
    arXiv:1507.04761). The tune part takes a fifth of each class's training groups, at least one where there are
    two. Raises UserError where training has fewer than two classes, a split is empty, or valid or test hold a
    class that training lacks.
    """
    if task not in (known := [name for name in TASKS if name in clips]):
        raise UserError(f"--task must be one of {', '.join(known)}, but is {task!r}.")
    names = clips[task].to_numpy(dtype=object)
    groups = clips["group"].to_numpy(dtype=object)
    unlabelled = clips["split"].to_numpy(dtype=object) == UNLABELLED
    used = ~unlabelled
    # The reports drop synth_lead: valid and test have none of it.
    if "family" in clips and not keep_synth_lead:
        used &= clips["family"].to_numpy(dtype=object) != "synth_lead"
    parts, notices = _parts(clips, names, used, how, seed)

    classes = tuple(sorted(set(names[parts == "train"])))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        advice = _remedy(clips, parts, how, ["train"][: not classes]) or "Name another --task or another corpus."
        raise UserError(
            f"A classifier needs at least two classes in the training split, but there is {found} for the task "
            f"{task!r}. {advice}"
        )
    index = {name: number for number, name in enumerate(classes)}
    for part in ("valid", "test"):
        unseen = sorted(set(names[parts == part]) - set(classes))
        if unseen:
            do, which = ("does", "that class") if len(unseen) == 1 else ("do", "those classes")
            advice = _remedy(clips, parts, how, []) or f"Remove those clips or add training clips of {which}."
            raise UserError(
                f"Every class of the {part} split must occur in training, but {listed(unseen)} {do} not. {advice}"
            )
    labels = np.array([index[name] if part else -1 for name, part in zip(names, parts, strict=True)], dtype=np.int64)

    train = np.flatnonzero(parts == "train")
    held_out, alone = _held_out(groups[train], names[train], seed)
    tuned = _among(groups[train], held_out)
    rows = {
        "train": train[~tuned],
        "tune": train[tuned],
        "valid": np.flatnonzero(parts == "valid"),
        "test": np.flatnonzero(parts == "test"),
    }
    if empty := [name for name in SPLITS if len(rows[name]) == 0]:
        advice = _remedy(clips, parts, how, empty) or (
            _too_few(clips, names, parts != "")
            if how == "random"
            else "The tune split takes whole groups of classes that have two or more in training. Add what is missing."
        )
        raise UserError(f"Every split needs at least one clip, but none is left for {' and '.join(empty)}. {advice}")
    notices += [
        f"{name!r} has too few training groups for the tune split to hold one of them." for name in sorted(alone)
    ]
    notices += _leaks(rows, groups)
    if "digest" in clips:
        notices += _twins(rows, clips["digest"].to_numpy(dtype=object), clips["name"].to_numpy(dtype=object), labels)
    return Split(classes, rows, labels, groups, tuple(notices), np.flatnonzero(unlabelled))


def _remedy(clips: pd.DataFrame, parts: Texts, how: str, empty: Sequence[str]) -> str:
    """What to do where a split that comes from elsewhere is not all here, with these parts `empty`; else nothing."""
    if how == "filtered":
        return f"{_listed_here(parts)}: complete the corpus or use --split random."
    # Only a table has a split of its own with labels called so.
    lacking = [name for name in empty if name != "tune"]
    if how == "official" and "label" in clips and lacking:
        return f"Mark some rows of the table {' and some '.join(lacking)}, or remove its split column."
    return ""


def _listed_here(parts: Texts) -> str:
    sizes = Counter(_filtered().values())
    here = [f"{np.count_nonzero(parts == part):,} of {size:,}" for part, size in sizes.items()]
    return f"Of the clips in the filtered split's lists for {_joined(list(sizes))} {_joined(here)} are here"


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]])


def _too_few(clips: pd.DataFrame, names: Texts, used: npt.NDArray[np.bool_]) -> str:
    """Why a random split came out without some part."""
    groups = clips["group"].to_numpy(dtype=object)
    most = max(Counter(name for _, name in set(zip(groups[used], names[used], strict=True))).values())
    alone = "name" in clips and bool((clips["name"] == clips["group"]).all())
    what = "clips" if alone else "whole groups"
    return (
        f"A random split takes {what} of each class, for train, test, valid and tune in this order, so at least one "
        f"class must have four {what.removeprefix('whole ')} or more, but the largest has {most}. Add recordings, or "
        f"coarser labels."
    )


def _parts(
    clips: pd.DataFrame, names: Texts, used: npt.NDArray[np.bool_], how: str, seed: int
) -> tuple[Texts, list[str]]:
    """The part of each clip, train, valid, test or empty, and notices."""
    parts: Texts = np.full(len(clips), "", dtype=object)
    if how == "official":
        parts[used] = clips["split"].to_numpy(dtype=object)[used]
        return parts, []
    if how == "random":
        drawn, notices = _drawn(clips["group"].to_numpy(dtype=object)[used], names[used], seed)
        parts[used] = [drawn[group] for group in clips["group"].to_numpy(dtype=object)[used]]
        return parts, notices
    if how != "filtered":
        raise UserError(f"--split must be one of {', '.join(HOWS)}, but is {how!r}.")
    listed = _filtered()
    parts[used] = [listed.get(name, "") for name in clips["name"][used]]
    if out := int(np.count_nonzero(used & (parts == ""))):
        stand = "stands" if out == 1 else "stand"
        return parts, [
            f"The filtered split leaves out {out:,} of {used.sum():,} clips, which {stand} in none of its lists."
        ]
    return parts, []


def _filtered() -> dict[str, str]:
    """The part of each clip that is in GTZAN's fault- and artist-filtered lists: 443, 197 and 290."""
    # Imported here, because it takes seconds: the command line reads corpora without Torch.
    from torchaudio.datasets import gtzan

    lists = {"train": gtzan.filtered_train, "valid": gtzan.filtered_valid, "test": gtzan.filtered_test}
    return {name: part for part, names in lists.items() for name in names}


def _leaks(rows: dict[str, Rows], groups: Texts) -> Iterator[str]:
    """Sentences about groups that stand on both sides of a split.

    NSynth's valid and test share instruments by design; neither may share any group with training.
    """
    fitted = np.concatenate([rows["train"], rows["tune"]])
    for name in ("valid", "test"):
        if shared := sorted(set(groups[rows[name]]) & set(groups[fitted])):
            yield (
                f"Warning: {counted(len(shared), f'group of {name} also occurs', f'groups of {name} also occur')} "
                f"in training (such as {shared[0]!r}), so scores on {name} flatter."
            )


def _twins(rows: dict[str, Rows], digests: Texts, names: Texts, labels: npt.NDArray[np.int64]) -> Iterator[str]:
    """Sentences about identical recordings that stand on both sides of a split, or under two labels."""
    fitted = np.concatenate([rows["train"], rows["tune"]])
    for part, known in (("tune", rows["train"]), ("valid", fitted), ("test", fitted)):
        twins = names[rows[part]][_among(digests[rows[part]], set(digests[known]))]
        if len(twins):
            found = counted(len(twins), f"recording of {part} is", f"recordings of {part} are")
            yield f"Warning: {found} identical to training recordings (such as {twins[0]!r})."
    used = pd.DataFrame({"digest": digests, "name": names, "label": labels})[labels >= 0]
    alike = used[used.duplicated("digest", keep=False)].drop_duplicates(["digest", "label"])
    several = alike[alike.duplicated("digest", keep=False)]
    if len(several):
        first = several["name"][several["digest"] == several["digest"].iloc[0]]
        count = counted(several["digest"].nunique(), "recording stands", "recordings stand")
        yield f"Warning: {count} under several labels (such as {' and '.join(map(repr, first[:2]))})."


def _among(words: Texts, known: Container[str]) -> npt.NDArray[np.bool_]:
    """Which of the words are among those known; `np.isin` compares each with each."""
    return np.fromiter((word in known for word in words), dtype=np.bool_, count=len(words))


@dataclass(frozen=True)
class Groups:
    """`clips` counts each group's clips by class; `by_class` lists the groups that are drawn for each class.

    A group is drawn for the class that most of its clips have. The order in which groups are taken is that of a
    digest of seed and name, so it depends neither on the corpus' order nor on what else it holds.
    """

    clips: dict[str, Counter[str]]
    by_class: dict[str, list[str]]

    def holding(self) -> dict[str, list[str]]:
        """All groups in which a class occurs, in the order in which they are taken."""
        found: dict[str, list[str]] = defaultdict(list)
        for group in (group for groups in self.by_class.values() for group in groups):
            for name in self.clips[group]:
                found[name].append(group)
        return found


def _groups(groups: Iterable[str], names: Iterable[str], seed: int) -> Groups:
    clips: dict[str, Counter[str]] = {}
    for group, name in zip(groups, names, strict=True):
        clips.setdefault(group, Counter())[name] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for group in sorted(clips, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest()):
        counts = clips[group]
        by_class[min(counts, key=lambda name: (-counts[name], name))].append(group)
    return Groups(clips, dict(sorted(by_class.items())))


def _held_out(groups: Texts, names: Texts, seed: int) -> tuple[set[str], set[str]]:
    """The groups to hold out for tuning, and the classes of which none can be.

    A group is held out only while every class that it holds is left in some other group.
    """
    found = _groups(groups, names, seed)
    left = Counter(name for counts in found.clips.values() for name in counts)
    held_out: set[str] = set()
    for of_class in found.by_class.values():
        wanted = max(1, round(TUNE_SHARE * len(of_class)))
        for group in of_class:
            if wanted and all(left[held] > 1 for held in found.clips[group]):
                held_out.add(group)
                left.subtract(found.clips[group].keys())
                wanted -= 1
    tuned = {name for group in held_out for name in found.clips[group]}
    return held_out, set(left) - tuned


def _drawn(groups: Iterable[str], names: Iterable[str], seed: int) -> tuple[dict[str, str], list[str]]:
    """The part of each group in a random split, and notices about classes that are missing in one.

    Of each class's groups valid and test take a tenth, but at least one where there are three; of two, one is for
    training and one for test.
    """
    found = _groups(groups, names, seed)
    parts: dict[str, str] = {}
    for of_class in found.by_class.values():
        share = round(HELD_OUT_SHARE * len(of_class))
        parts |= dict.fromkeys(of_class, "train")
        parts |= dict.fromkeys(of_class[:share], "test") | dict.fromkeys(of_class[share : 2 * share], "valid")
    holding = found.holding()
    settled: set[str] = set()
    for name in sorted(holding, key=lambda name: (len(holding[name]), name)):
        settled.add(name)
        for part in _needed(name, holding):
            if part not in {parts[group] for group in holding[name]}:
                _move_one(name, part, parts, found, holding, settled)
    return parts, list(_missing(parts, holding))


def _needed(name: str, holding: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The parts that the groups of a class suffice for."""
    return ("train", "test", "valid")[: len(holding[name])]


def _move_one(
    name: str, part: str, parts: dict[str, str], found: Groups, holding: Mapping[str, list[str]], settled: Set[str]
) -> None:
    """Move a group that holds the class `name` to `part`, where no class of `settled` loses what it needs by it.

    That is needed for classes of which a tenth is less than one group, and where groups of several classes, drawn
    for one, decide about the others too. Rare classes come first, and commoner ones make up for what those took.
    Training must have every class, so it takes a group in any case.
    """

    def spared(group: str) -> bool:
        return all(
            parts[group] not in _needed(held, holding)
            or any(parts[other] == parts[group] for other in holding[held] if other != group)
            for held in settled & found.clips[group].keys()
        )

    spare = [group for group in holding[name] if spared(group)]
    for group in spare or (holding[name] if part == "train" else []):
        parts[group] = part
        return


def _missing(parts: Mapping[str, str], holding: Mapping[str, list[str]]) -> Iterator[str]:
    """Sentences about the classes that valid or test lack."""
    for part in ("valid", "test"):
        lacking = [name for name in sorted(holding) if part not in {parts[group] for group in holding[name]}]
        if lacking:
            classes = counted(len(lacking), "class has", "classes have")
            yield f"{classes} too few groups for {part} to hold one of them: {listed(lacking)}."
