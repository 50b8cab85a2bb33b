"""Splits on corpora small enough to work out by hand: whole instruments, by class, from seed and names alone."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest

from trainables.corpora.splits import SPLITS, TUNE_SHARE, Split, split
from trainables.errors import UserError

Note = tuple[str, str, str, str]  # split, family, source, instrument


def notes(part: str, family: str, instruments: Iterable[int], each: int = 2, source: str = "acoustic") -> list[Note]:
    names = [f"{family}_{source}_{number:03d}" for number in instruments]
    return [(part, family, source, name) for name in names for _ in range(each)]


def table(*groups: list[Note]) -> pd.DataFrame:
    return pd.DataFrame(
        [note for group in groups for note in group], columns=["split", "family", "source", "instrument"]
    )


def held_out(family: str) -> list[Note]:
    """What valid and test need of a class: one instrument that they share, as in NSynth."""
    return notes("valid", family, [90]) + notes("test", family, [90])


def corpus(**instruments: int) -> pd.DataFrame:
    """So many training instruments for each family."""
    return table(
        *(notes("train", family, range(count)) for family, count in instruments.items()),
        *(held_out(family) for family in instruments),
    )


def split_of(clips: pd.DataFrame, task: str = "family", keep_synth_lead: bool = False, seed: int = 0) -> Split:
    return split(clips, task=task, keep_synth_lead=keep_synth_lead, seed=seed)


def names_in(found: Split, name: str) -> set[str]:
    return set(found.groups[found.rows[name]])


def tuned(found: Split, family: str) -> set[str]:
    return {name for name in names_in(found, "tune") if name.startswith(f"{family}_")}


# --- groups ------------------------------------------------------------------------------------


def test_whole_instruments_are_held_out_of_train() -> None:
    clips = corpus(bass=10, flute=5, organ=7)
    found = split_of(clips)
    assert names_in(found, "train").isdisjoint(names_in(found, "tune"))
    assert names_in(found, "train") | names_in(found, "tune") == set(clips["instrument"][clips["split"] == "train"])
    for name in ("train", "tune"):
        assert set(clips["split"].iloc[found.rows[name]]) == {"train"}
    everything = np.concatenate([found.rows[name] for name in SPLITS])
    assert sorted(everything) == list(range(len(clips)))


def test_official_valid_and_test_stay_what_they_are() -> None:
    clips = corpus(bass=4, flute=4)
    found = split_of(clips)
    for name in ("valid", "test"):
        assert found.rows[name].tolist() == np.flatnonzero(clips["split"] == name).tolist()


@pytest.mark.parametrize(
    ("instruments", "expected"), [(2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (8, 2), (10, 2), (12, 2), (13, 3), (20, 4)]
)
def test_a_fifth_of_each_class_is_held_out_and_at_least_one(instruments: int, expected: int) -> None:
    assert TUNE_SHARE == 0.2
    found = split_of(corpus(bass=instruments, flute=10))
    assert (len(tuned(found, "bass")), len(tuned(found, "flute"))) == (expected, 2)


def test_a_class_with_one_instrument_stays_in_train_and_is_named() -> None:
    found = split_of(corpus(bass=5, flute=1, organ=1))
    assert {"flute_acoustic_000", "organ_acoustic_000"} <= names_in(found, "train")
    assert len(found.notices) == 2
    assert found.notices[0].startswith("'flute' has too few training instruments")
    assert found.notices[1].startswith("'organ' ")
    assert split_of(corpus(bass=5, flute=2)).notices == ()


def test_labels_groups_and_summary() -> None:
    found = split_of(corpus(flute=5, bass=2))
    assert found.classes == ("bass", "flute")
    assert [found.classes[label] for label in found.labels] == [name.split("_")[0] for name in found.groups]
    assert found.summary == {
        "train": {"notes": 10, "groups": 5},
        "tune": {"notes": 4, "groups": 2},
        "valid": {"notes": 4, "groups": 2},
        "test": {"notes": 4, "groups": 2},
    }
    assert found.majority_share("train") == 8 / 10
    assert found.majority_share("test") == 1 / 2


# --- determinism -------------------------------------------------------------------------------


def test_equal_seeds_split_equally_and_seeds_differ() -> None:
    clips = corpus(bass=20, flute=20)
    one, again = split_of(clips, seed=1), split_of(clips, seed=1)
    assert all(np.array_equal(one.rows[name], again.rows[name]) for name in SPLITS)
    assert len({frozenset(names_in(split_of(clips, seed=seed), "tune")) for seed in range(20)}) > 15


def test_every_instrument_has_its_turn() -> None:
    """Over 200 seeds each of 5 instruments is held out 40 times on average; 15 is 4.4 standard deviations off."""
    clips = corpus(bass=5, flute=5)
    chosen = [next(iter(tuned(split_of(clips, seed=seed), "bass"))) for seed in range(200)]
    assert min(chosen.count(f"bass_acoustic_{number:03d}") for number in range(5)) > 15


def test_the_order_of_rows_does_not_matter() -> None:
    clips = corpus(bass=9, flute=6, organ=3)
    expected = split_of(clips, seed=3)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(clips))
        shuffled = clips.iloc[order].reset_index(drop=True)
        found = split_of(shuffled, seed=3)
        assert found.classes == expected.classes
        for name in SPLITS:
            assert sorted(order[found.rows[name]]) == sorted(expected.rows[name])


def test_a_class_is_split_alike_whatever_else_the_corpus_holds() -> None:
    small, large = corpus(bass=9, flute=6), corpus(organ=30, bass=9, vocal=2, flute=6)
    for seed in range(5):
        for family in ("bass", "flute"):
            assert tuned(split_of(small, seed=seed), family) == tuned(split_of(large, seed=seed), family)


def test_more_notes_of_an_instrument_change_nothing() -> None:
    many = table(
        notes("train", "bass", range(9), each=7), notes("train", "flute", range(6)), *map(held_out, ("bass", "flute"))
    )
    assert names_in(split_of(many), "tune") == names_in(split_of(corpus(bass=9, flute=6)), "tune")


# --- tasks -------------------------------------------------------------------------------------


def test_synth_lead_is_dropped_or_kept() -> None:
    clips = table(
        notes("train", "bass", range(5)),
        notes("train", "synth_lead", range(5), source="synthetic"),
        notes("train", "organ", range(5)),
        *map(held_out, ("bass", "organ")),
    )
    dropped, kept = split_of(clips), split_of(clips, keep_synth_lead=True)
    leads = np.flatnonzero(clips["family"] == "synth_lead")
    assert dropped.classes == ("bass", "organ")
    assert set(dropped.labels[leads]) == {-1} and set(np.delete(dropped.labels, leads)) == {0, 1}
    assert set(leads).isdisjoint(np.concatenate([dropped.rows[name] for name in SPLITS]))
    assert kept.classes == ("bass", "organ", "synth_lead")
    assert set(kept.labels[leads]) == {2}
    assert len(tuned(kept, "synth_lead")) == 1
    assert tuned(kept, "bass") == tuned(dropped, "bass")


@pytest.mark.parametrize(
    ("keep", "sources"), [(False, ("acoustic", "electronic")), (True, ("acoustic", "electronic", "synthetic"))]
)
def test_the_source_task_is_stratified_by_source(keep: bool, sources: tuple[str, ...]) -> None:
    """Without synth_lead its notes are left out of this task too, and here with them a whole class."""
    clips = table(
        notes("train", "bass", range(6)),
        notes("train", "organ", range(6, 10)),
        notes("train", "bass", range(3), source="electronic"),
        notes("train", "synth_lead", range(5), source="synthetic"),
        notes("valid", "bass", [90]),
        notes("test", "organ", [90], source="electronic"),
    )
    found = split_of(clips, task="source", keep_synth_lead=keep)
    assert found.classes == sources
    held = [name.split("_")[-2] for name in names_in(found, "tune")]
    assert [held.count(source) for source in sources] == [2, 1, 1][: len(sources)]
    for row in np.concatenate([found.rows[name] for name in SPLITS]):
        assert found.classes[found.labels[row]] == clips["source"][row]


def test_an_instrument_of_two_classes_goes_with_most_of_its_notes() -> None:
    """And never in halves: an instrument in both train and tune would leak."""
    mixed = [("train", "bass", "acoustic", "hybrid")] * 3 + [("train", "flute", "acoustic", "hybrid")]
    clips = table(mixed, notes("train", "bass", [0]), notes("train", "flute", [0]), *map(held_out, ("bass", "flute")))
    for seed in range(8):
        found = split_of(clips, seed=seed)
        assert names_in(found, "tune") in ({"hybrid"}, {"bass_acoustic_000", "flute_acoustic_000"})
        assert names_in(found, "tune").isdisjoint(names_in(found, "train"))
        assert set(found.labels[found.rows["train"]]) == {0, 1}, "no class is held out whole"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_class_that_training_lacks_is_named(part: str) -> None:
    clips = table(
        notes("train", "bass", range(3)),
        notes("train", "flute", range(3)),
        *map(held_out, ("bass", "flute")),
        notes(part, "vocal", [1]),
    )
    with pytest.raises(UserError, match=f"class of the {part} split .* 'vocal'"):
        split_of(clips)


def test_synth_lead_in_valid_is_no_unseen_class_unless_kept() -> None:
    clips = table(
        notes("train", "bass", range(3)),
        notes("train", "flute", range(3)),
        *map(held_out, ("bass", "flute", "synth_lead")),
    )
    assert split_of(clips).classes == ("bass", "flute")
    with pytest.raises(UserError, match="'synth_lead'"):
        split_of(clips, keep_synth_lead=True)


def test_one_class_or_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"at least two classes .* only 'bass'"):
        split_of(corpus(bass=4))
    with pytest.raises(UserError, match="only 'acoustic' for the task 'source'"):
        split_of(corpus(bass=4, flute=4), task="source")
    with pytest.raises(UserError, match="there is none"):
        split_of(table(*map(held_out, ("bass",))))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="tune has none"):
        split_of(corpus(bass=1, flute=1))
    clips = corpus(bass=3, flute=3)
    for part in ("valid", "test"):
        with pytest.raises(UserError, match=f"{part} has none"):
            split_of(clips[clips["split"] != part].reset_index(drop=True))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"--task must be one of family, source, but is 'pitch'"):
        split_of(corpus(bass=3, flute=3), task="pitch")


# --- leaks -------------------------------------------------------------------------------------


def test_instruments_and_recordings_on_both_sides_are_named() -> None:
    clean = table(
        notes("train", "bass", range(3)), notes("train", "flute", range(3)), *map(held_out, ("bass", "flute"))
    )
    assert split_of(clean).notices == ()
    shared = table(
        notes("train", "bass", range(3)),
        notes("train", "flute", range(3)),
        notes("test", "bass", [0]),
        *map(held_out, ("bass", "flute")),
    )
    assert any(
        "1 instruments of test also occur in training (such as 'bass_acoustic_000')" in n
        for n in split_of(shared).notices
    )
    same = clean.assign(digest="one")
    found = split_of(same).notices
    assert len(found) == 3
    assert all("identical to training recordings" in notice for notice in found)
    assert split_of(clean.assign(digest=[str(n) for n in range(len(clean))])).notices == ()
