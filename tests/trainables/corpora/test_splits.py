"""Splits on corpora small enough to work out by hand: whole instruments, by class, from seed and names alone."""

import itertools
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
    return pd.DataFrame([note for group in groups for note in group], columns=["split", "family", "source", "group"])


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
    return split(clips, task=task, how="official", keep_synth_lead=keep_synth_lead, seed=seed)


def names_in(found: Split, name: str) -> set[str]:
    return set(found.groups[found.rows[name]])


def tuned(found: Split, family: str) -> set[str]:
    return {name for name in names_in(found, "tune") if name.startswith(f"{family}_")}


# --- groups ------------------------------------------------------------------------------------


def test_whole_instruments_are_held_out_of_train() -> None:
    clips = corpus(bass=10, flute=5, organ=7)
    found = split_of(clips)
    assert names_in(found, "train").isdisjoint(names_in(found, "tune"))
    assert names_in(found, "train") | names_in(found, "tune") == set(clips["group"][clips["split"] == "train"])
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
    assert found.notices[0].startswith("'flute' has too few training groups")
    assert found.notices[1].startswith("'organ' ")
    assert split_of(corpus(bass=5, flute=2)).notices == ()


def test_labels_groups_and_summary() -> None:
    found = split_of(corpus(flute=5, bass=2))
    assert found.classes == ("bass", "flute")
    assert [found.classes[label] for label in found.labels] == [name.split("_")[0] for name in found.groups]
    assert found.summary == {
        "train": {"clips": 10, "groups": 5},
        "tune": {"clips": 4, "groups": 2},
        "valid": {"clips": 4, "groups": 2},
        "test": {"clips": 4, "groups": 2},
    }
    assert found.groups_by_class("train") == {"bass": 1, "flute": 4}
    assert (found.chance("tune"), found.chance("test")) == (1 / 2, 1 / 2)
    assert split_of(corpus(bass=5, flute=1)).chance("tune") == 1, "flute's one instrument is trained on"
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
    with pytest.raises(UserError, match=f"class of the {part} split .* 'vocal' does not.* clips of that class") as one:
        split_of(clips)
    assert "table" not in str(one.value)
    more = pd.concat([clips, table(notes(part, "brass", [1]))], ignore_index=True)
    with pytest.raises(UserError, match=r"'brass', 'vocal' do not\. .* training clips of those classes"):
        split_of(more)


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
    with pytest.raises(UserError, match="none is left for tune"):
        split_of(corpus(bass=1, flute=1))
    clips = corpus(bass=3, flute=3)
    for part in ("valid", "test"):
        with pytest.raises(UserError, match=rf"none is left for {part}\. The tune split takes whole groups"):
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
        "1 group of test also occurs in training (such as 'bass_acoustic_000')" in n for n in split_of(shared).notices
    )
    clean = clean.assign(name=[f"{family} {number}" for number, family in enumerate(clean["family"])])
    same = clean.assign(digest="one")
    found = split_of(same).notices
    assert len(found) == 4
    assert all("identical to training recordings (such as '" in notice for notice in found[:3])
    assert found[3].startswith("Warning: 1 recording stands under several labels (such as 'bass 0' and 'flute")
    assert split_of(clean.assign(digest=[str(n) for n in range(len(clean))])).notices == ()


# --- random and filtered -----------------------------------------------------------------------


def songs(**groups: int) -> pd.DataFrame:
    """So many groups of two clips for each class, in a corpus without splits of its own."""
    rows = [
        (f"{name}.{group:05d}.{clip}", "", f"{name}.{group:05d}", name)
        for name, count in groups.items()
        for group in range(count)
        for clip in range(2)
    ]
    return pd.DataFrame(rows, columns=["name", "split", "group", "genre"])


def drawn(clips: pd.DataFrame, how: str = "random", seed: int = 0, task: str = "genre") -> Split:
    return split(clips, task=task, how=how, keep_synth_lead=False, seed=seed)


def shares(found: Split, name: str) -> list[int]:
    """Groups of one class in train and tune together, valid and test."""
    held = [{g for g in names_in(found, part) if g.startswith(f"{name}.")} for part in SPLITS]
    return [len(held[0] | held[1]), len(held[2]), len(held[3])]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (3, [1, 1, 1]),
        (4, [2, 1, 1]),
        (10, [8, 1, 1]),
        (16, [12, 2, 2]),
        (20, [16, 2, 2]),
        (100, [80, 10, 10]),
    ],
)
def test_a_random_split_takes_a_tenth_of_each_classes_groups(groups: int, expected: list[int]) -> None:
    found = drawn(songs(blues=groups, jazz=30))
    assert shares(found, "blues") == expected
    assert shares(found, "jazz") == [24, 3, 3]
    everything = np.concatenate([found.rows[name] for name in SPLITS])
    assert sorted(everything) == list(range(2 * (groups + 30)))
    for one, other in itertools.combinations(SPLITS, 2):
        assert names_in(found, one).isdisjoint(names_in(found, other))


def test_too_few_groups_go_to_training_first_then_test_then_valid() -> None:
    found = drawn(songs(blues=10, rare=1, scarce=2))
    assert (shares(found, "rare"), shares(found, "scarce")) == ([1, 0, 0], [1, 0, 1])
    assert found.notices == (
        "2 classes have too few groups for valid to hold one of them: 'rare', 'scarce'.",
        "1 class has too few groups for test to hold one of them: 'rare'.",
        "'rare' has too few training groups for the tune split to hold one of them.",
        "'scarce' has too few training groups for the tune split to hold one of them.",
    )


@pytest.mark.parametrize(("groups", "empty"), [(2, "tune and valid"), (3, "tune"), (1, "tune and valid and test")])
def test_a_random_split_of_too_few_groups_is_refused(groups: int, empty: str) -> None:
    with pytest.raises(
        UserError, match=rf"none is left for {empty}\. .* four groups or more, but the largest has {groups}\."
    ):
        drawn(songs(blues=groups, jazz=1))


def test_clips_that_are_their_own_groups_are_called_clips() -> None:
    clips = songs(blues=2, jazz=1).drop_duplicates("group").reset_index(drop=True)
    clips["name"] = clips["group"]
    with pytest.raises(UserError, match=r"takes clips of each class.* four clips or more, but the largest has 2\."):
        drawn(clips)


def marked(**clips: str) -> pd.DataFrame:
    """A table's clips with the splits that it names for each class."""
    rows = [
        (f"{name}{number}", part, name) for name, parts in clips.items() for number, part in enumerate(parts.split())
    ]
    return pd.DataFrame(rows, columns=["name", "split", "label"]).assign(group=lambda found: found["name"])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("train train test", r"left for valid\. Mark some rows of the table valid, or remove its split column"),
        ("train train", r"left for valid and test\. Mark some rows of the table valid and some test, or remove"),
        ("train test", r"left for tune and valid\. Mark some rows of the table valid, or remove"),
        ("valid test", r"there is none for the task 'label'\. Mark some rows of the table train, or remove"),
        ("train valid test", r"left for tune\. The tune split takes whole groups"),
    ],
)
def test_a_table_that_lacks_a_part_can_be_marked_or_drawn(parts: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        drawn(marked(dog=parts, cat=parts), "official", task="label")


def test_a_random_split_depends_on_seed_and_names_alone() -> None:
    small, large = songs(blues=30, jazz=12), songs(pop=40, jazz=12, metal=3, blues=30)
    order = np.random.default_rng(0).permutation(len(large))
    shuffled = large.iloc[order].reset_index(drop=True)
    for seed in range(5):
        one, other, third = (drawn(clips, seed=seed) for clips in (small, large, shuffled))
        for part in SPLITS:
            assert names_in(other, part) == names_in(third, part)
            kept = {group for group in names_in(other, part) if group.startswith(("blues", "jazz"))}
            assert names_in(one, part) == kept
    assert len({frozenset(names_in(drawn(small, seed=seed), "test")) for seed in range(20)}) > 15


def test_every_group_is_tested_in_its_turn() -> None:
    """Over 200 seeds each of 5 groups is in test 40 times on average; 15 is 4.4 standard deviations off."""
    clips = songs(blues=5, jazz=5)
    tested = [group for seed in range(200) for group in names_in(drawn(clips, seed=seed), "test")]
    assert min(tested.count(f"blues.{group:05d}") for group in range(5)) > 15


def test_speakers_who_say_every_word_stay_whole() -> None:
    rows = [(f"{s}.{w}", "", f"speaker {s}", w) for s in range(20) for w in ("no", "yes", "stop")]
    clips = pd.DataFrame(rows, columns=["name", "split", "group", "label"])
    found = drawn(clips, task="label")
    assert {name: row["groups"] for name, row in found.summary.items()} == {
        "train": 13,
        "tune": 3,
        "valid": 2,
        "test": 2,
    }
    assert all(set(found.labels[found.rows[part]]) == {0, 1, 2} for part in SPLITS)


def test_a_class_that_is_never_in_the_majority_gets_its_share_too() -> None:
    """It occurs in three or four groups, each drawn for another class; so do two that occur in one and two."""
    rows = [(f"{g}.{n}", "", f"{name}{g}", name) for name in ("a", "b") for g in range(12) for n in range(3)]
    rows += [(f"x{g}", "", f"a{g}", "minor") for g in range(4)] + [(f"y{g}", "", f"b{g}", "three") for g in range(3)]
    rows += [("one", "", "a5", "single"), ("two", "", "b6", "pair"), ("more", "", "b7", "pair")]
    clips = pd.DataFrame(rows, columns=["name", "split", "group", "label"])
    for seed in range(40):
        found = drawn(clips, task="label", seed=seed)
        held = {part: {found.classes[k] for k in set(found.labels[found.rows[part]])} for part in SPLITS}
        assert held["train"] | held["tune"] == {"a", "b", "minor", "three", "single", "pair"}
        assert held["valid"] >= {"a", "b", "minor", "three"}
        assert held["test"] >= {"a", "b", "minor", "three", "pair"}
        groups = [names_in(found, part) for part in SPLITS]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 24


def test_clips_without_labels_are_kept_apart() -> None:
    clips = songs(blues=10, jazz=10)
    apart = pd.DataFrame({"name": ["u", "v"], "split": "unlabelled", "group": ["u", "v"], "genre": ""})
    alone, both = drawn(clips), drawn(pd.concat([apart, clips], ignore_index=True))
    assert alone.unlabelled.tolist() == [] and both.unlabelled.tolist() == [0, 1]
    assert both.labels[:2].tolist() == [-1, -1] and both.classes == alone.classes == ("blues", "jazz")
    assert all((both.rows[part] - 2).tolist() == alone.rows[part].tolist() for part in SPLITS)
    assert both.notices == ()


def test_the_filtered_split_is_the_published_one() -> None:
    """443, 197 and 290 of GTZAN's 1,000 clips (Kereliuk, Sturm and Larsen 2015)."""
    genres = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
    names = [f"{genre}.{number:05d}" for genre in genres for number in range(100)]
    clips = pd.DataFrame({"name": names, "split": "", "group": names, "genre": [n.partition(".")[0] for n in names]})
    found = drawn(clips, "filtered")
    sizes = {part: len(rows) for part, rows in found.rows.items()}
    assert (sizes["train"] + sizes["tune"], sizes["valid"], sizes["test"]) == (443, 197, 290)
    assert found.classes == genres
    assert "blues.00012" in names_in(found, "test")
    assert "blues.00029" in names_in(found, "train") | names_in(found, "tune")
    out = np.flatnonzero(found.labels == -1)
    assert len(out) == 70
    assert found.notices == ("The filtered split leaves out 70 of 1,000 clips, which stand in none of its lists.",)
    seeds = {frozenset(names_in(drawn(clips, "filtered", seed), "test")) for seed in range(3)}
    assert len(seeds) == 1


def test_the_filtered_split_says_how_many_of_its_clips_are_here() -> None:
    """By the lists these are for valid: blues 0 to 11, jazz 2 to 10; and for training: blues 29 and 30, jazz 0, 1 and
    11 to 19, pop 2 and 3."""

    def here(**numbers: Iterable[int]) -> pd.DataFrame:
        rows = [(f"{genre}.{number:05d}", "", genre) for genre, found in numbers.items() for number in found]
        return pd.DataFrame(rows, columns=["name", "split", "genre"]).assign(group=lambda found: found["name"])

    cases = [
        (here(blues=range(12), jazz=range(10)), "only 'jazz'", "2 of 443, 20 of 197 and 0 of 290"),
        (
            here(blues=[*range(12), 29, 30], jazz=range(20)),
            "none is left for test",
            "13 of 443, 21 of 197 and 0 of 290",
        ),
        (here(blues=range(12), jazz=[0, 1], pop=[2, 3]), "'blues' does not", "4 of 443, 12 of 197 and 0 of 290"),
    ]
    for clips, problem, counts in cases:
        with pytest.raises(UserError, match=problem) as caught:
            drawn(clips, "filtered")
        assert f"for train, valid and test {counts} are here: complete the corpus or use" in str(caught.value)


def test_an_unknown_way_to_split_is_refused() -> None:
    with pytest.raises(UserError, match="--split must be one of official, random, filtered, but is 'kfold'"):
        drawn(songs(blues=9, jazz=9), "kfold")
    with pytest.raises(UserError, match="but there is none for the task 'genre'"):
        drawn(songs(blues=9, jazz=9), "official")
