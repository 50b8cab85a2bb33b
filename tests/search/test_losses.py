"""Workers that are lost: which losses tell against a trial, and what becomes of it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.engine import Decision, Engine, State
from search.records import Journal
from search.slots import Resources
from search.study import StudySpec
from search.tuning import NODE_RETRIES, WORKER_RETRIES, _Link
from trainables.errors import UserError

ROOT = Path(__file__).parents[2]
DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
NODE = "The actor died because its node has died. Node Id: c4274c42"
AWAY = "The actor is temporarily unavailable: RpcError"


@pytest.fixture
def link(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> _Link:
    """A study whose first trial runs as Tune's trial "a"."""
    engine = Engine(make_spec(), Journal(tmp_path))
    found = _Link(engine, Resources(1, 0.0, 1), 1, {})
    trial = engine.next_trial()
    assert trial is not None
    found.numbers["a"], found.left = trial.number, 0
    return found


def report(link: _Link, epoch: int) -> Decision:
    row = {"epoch": epoch, "score": 0.5, "best_epoch": 1, "failure": None, "ended": False}
    return link.decide("a", {"training_iteration": 1, "reports": [row]})


def lose(link: _Link, words: str, times: int) -> int:
    return [link.lost("a", words) for _ in range(times)][-1]


def test_a_trial_whose_workers_die_again_and_again_fails(link: _Link) -> None:
    assert lose(link, DIED, WORKER_RETRIES + 1) == WORKER_RETRIES + 1
    link.end("a", error=True)
    assert link.engine.trials[0].state is State.FAILED
    assert link.engine.trials[0].reason == "its worker process died 4 times"


def test_deaths_with_an_epoch_in_between_do_not_add_up(link: _Link) -> None:
    for epoch in range(1, 6):
        assert lose(link, DIED, WORKER_RETRIES) == WORKER_RETRIES
        assert report(link, epoch) is Decision.CONTINUE
    assert lose(link, DIED, 1) == 1


def test_epochs_that_are_told_again_are_no_progress(link: _Link) -> None:
    """A worker that was replaced goes through what its checkpoint holds, and dies where the first one died."""
    report(link, 1)
    for _ in range(WORKER_RETRIES + 1):
        lose(link, DIED, 1)
        report(link, 1)
    link.end("a", error=True)
    assert link.engine.trials[0].state is State.FAILED


@pytest.mark.parametrize("words", [NODE, AWAY])
def test_machines_that_are_lost_do_not_tell_against_the_trial_so_soon(link: _Link, words: str) -> None:
    assert lose(link, words, NODE_RETRIES - 1) == 0, "Tune counts nothing"
    link.end("a", error=True)
    assert link.engine.trials[0].state is State.RUNNING
    assert lose(link, words, 2) == WORKER_RETRIES, "Tune gives up at the next one"
    link.end("a", error=True)
    assert link.engine.trials[0].reason == "the node that it ran on was lost 13 times"


def test_a_trial_that_tune_gave_up_for_no_fault_of_its_own_comes_next(link: _Link) -> None:
    lose(link, DIED, 1)
    link.end("a", error=True)
    assert link.left == 1
    found = link.engine.next_trial()
    assert found is not None and found.number == 0
    second = link.engine.next_trial()
    assert second is not None and second.number == 1


def test_a_trial_that_ended_does_not_come_again(link: _Link) -> None:
    link.engine.fail(0, "nan")
    link.end("a", error=True)
    found = link.engine.next_trial()
    assert found is not None and found.number == 1


def test_a_node_without_the_code_stops_the_study(link: _Link) -> None:
    lose(link, "The actor died because of an error raised in its creation task\nModuleNotFoundError: No module 'x'", 1)
    assert isinstance(link.abort, UserError)
    assert "same code and environment" in str(link.abort) and "No module 'x'" in str(link.abort)
    assert link.suggest("b") is None


_SUGGESTING = """
import sys
from pathlib import Path
from search.engine import Engine
from search.records import Journal
from search.slots import Resources
from search.tuning import _Link
from tests.search.conftest import DATA, SPACE
from search.study import StudySpec
engine = Engine(StudySpec("toy", SPACE, DATA, 3, 9, 1, 3, 0, 1, False), Journal(Path(sys.argv[1])))
found = _Link(engine, Resources(1, 0.0, 1), 3, {}).suggest("a")
print(found["point"]["seed"] == engine.trials[0].seed, "ray" in sys.modules, "torch" in sys.modules)
"""


def test_a_trial_is_suggested_without_torch(tmp_path: Path) -> None:
    """It takes seconds to import, for which the first trial would wait."""
    done = subprocess.run(
        [sys.executable, "-c", _SUGGESTING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "True True False\n", done.stderr
