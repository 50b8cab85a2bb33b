"""ASHA against rung tables worked by hand."""

import math

import pytest

from search.scheduler import Asha, rung_epochs
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("max_epochs", "grace", "factor", "rungs"),
    [
        (27, 1, 3, (1, 3, 9, 27)),
        (27, 3, 3, (3, 9, 27)),
        (20, 2, 4, (2, 8, 20)),
        (16, 2, 2, (2, 4, 8, 16)),
        (5, 5, 3, (5,)),
        (1, 1, 2, (1,)),
    ],
)
def test_rungs_grow_by_the_factor_and_end_at_full_length(
    max_epochs: int, grace: int, factor: int, rungs: tuple[int, ...]
) -> None:
    assert rung_epochs(max_epochs, grace, factor) == rungs


def test_grace_beyond_full_length_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="30 > 27"):
        rung_epochs(27, 30, 3)


@pytest.mark.parametrize(("max_epochs", "grace", "factor"), [(0, 1, 3), (5, 0, 3), (5, 1, 1)])
def test_numbers_that_make_no_rungs_are_refused(max_epochs: int, grace: int, factor: int) -> None:
    with pytest.raises(UserError, match="must be at least"):
        rung_epochs(max_epochs, grace, factor)


# Arrivals at one rung in order, with reduction factor 3, and who goes on: those ahead of which fewer than a third
# of all that arrived so far rank, itself included in the count. Of equals the earlier ranks higher.
TABLE = [
    (0.50, True),  # alone
    (0.40, False),  # 1 of 2 ahead: 3 ≥ 2
    (0.60, True),  # the best
    (0.55, True),  # 1 of 4 ahead: 3 < 4
    (0.55, False),  # 2 of 5 ahead, an equal among them: 6 ≥ 5
    (0.52, False),  # 3 of 6 ahead
    (0.58, True),  # 1 of 7 ahead
    (0.56, True),  # 2 of 8 ahead: 6 < 8
    (0.56, False),  # 3 of 9 ahead: 9 ≥ 9
    (0.60, True),  # 1 of 10 ahead, its equal
]


def test_hand_worked_table_of_one_rung() -> None:
    asha = Asha((1, 3, 9), 3)
    assert [asha.passes(1, score) for score, _ in TABLE] == [goes_on for _, goes_on in TABLE]


def test_trials_that_all_score_at_chance_do_not_carry_each_other_on() -> None:
    asha = Asha((1, 3, 9), 3)
    assert [asha.passes(1, 0.1) for _ in range(6)] == [True, False, False, False, False, False]


def test_each_rung_compares_only_its_own_arrivals() -> None:
    asha = Asha((1, 3, 9), 3)
    assert asha.passes(1, 0.9)
    assert not asha.passes(1, 0.5)
    assert asha.passes(3, 0.1), "the first at a rung goes on, however others did elsewhere"
    assert not asha.passes(3, 0.05)


def test_between_rungs_everything_goes_on_and_nothing_is_recorded() -> None:
    asha = Asha((1, 3, 9), 3)
    assert all(asha.passes(2, score) for score in (0.9, 0.1, 0.0))
    assert asha.scores == {}


def test_the_last_rung_stops_nobody() -> None:
    asha = Asha((1, 3), 3)
    assert all(asha.passes(3, score) for score in (0.9, 0.1, 0.0))


def test_a_non_finite_score_never_gets_into_a_rung() -> None:
    asha = Asha((1, 3), 3)
    for score in (math.nan, math.inf, -math.inf):
        with pytest.raises(AssertionError, match="never counts"):
            asha.passes(1, score)
    assert asha.scores == {}


def test_a_trial_that_ended_by_itself_counts_at_the_rungs_it_will_not_see() -> None:
    """With one score of 0.8 known there, a newcomer's 0.7 is second of two and stops; it would have passed alone."""
    asha = Asha((3, 9, 27), reduction_factor=3)
    assert asha.passes(3, 0.8)
    asha.ends(3, 0.8)
    assert asha.scores == {3: [0.8], 9: [0.8], 27: [0.8]}
    assert not asha.passes(9, 0.7)
    assert Asha((3, 9, 27), reduction_factor=3).passes(9, 0.7)


def test_ending_between_rungs_counts_from_the_next_one_on() -> None:
    asha = Asha((3, 9, 27), reduction_factor=3)
    asha.ends(5, 0.8)
    assert asha.scores == {9: [0.8], 27: [0.8]}
