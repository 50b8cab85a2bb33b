"""Two workers of one trial: the one that took it up last writes its checkpoint."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from search.claim import Claim, SupersededError, check_mark, mark
from trainables import checkpoint
from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, STATE
from trainables.folder import open_folder


def saved(folder: Path) -> int:
    state = checkpoint.load_state(folder, "same")
    assert state is not None
    return int(state["epoch"])


def test_a_worker_that_was_replaced_saves_nothing_any_more(tmp_path: Path) -> None:
    first, second = Claim(tmp_path, None), Claim(tmp_path, None)
    first.stake()
    checkpoint.save_state(tmp_path, "same", {"epoch": 1}, first.check)
    second.stake()
    checkpoint.save_state(tmp_path, "same", {"epoch": 3}, second.check)
    for save in (
        lambda: checkpoint.save_state(tmp_path, "same", {"epoch": 2}, first.check),
        lambda: checkpoint.save_weights(tmp_path, nn.Linear(1, 1).state_dict(), first.check),
    ):
        with pytest.raises(SupersededError):
            save()
    assert saved(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATE, "worker"], "and leaves nothing lying about"


def test_a_worker_that_is_replaced_while_it_writes_does_not_put_it_in_place(tmp_path: Path) -> None:
    first, second = Claim(tmp_path, None), Claim(tmp_path, None)
    first.stake()
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:  # after the file was written, before it takes its name
            second.stake()
        first.check()

    with pytest.raises(SupersededError):
        checkpoint.save_state(tmp_path, "same", {"epoch": 2}, check)
    assert not (tmp_path / STATE).exists()


def test_a_worker_whose_trial_has_ended_does_not_make_its_folder_again(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "0007", None)
    claim.stake()
    (tmp_path / "0007" / "worker").unlink()
    (tmp_path / "0007").rmdir()
    with pytest.raises(SupersededError):
        checkpoint.save_state(tmp_path / "0007", "same", {"epoch": 2}, claim.check)
    assert not (tmp_path / "0007").exists()


def test_the_same_holds_in_an_object_store(tmp_path: Path) -> None:
    place = open_folder(tmp_path / "store")
    first, second = Claim(tmp_path / "a", place), Claim(tmp_path / "b", place)
    first.stake_remote()
    first.check_remote()
    second.stake_remote()
    second.check_remote()
    with pytest.raises(SupersededError):
        first.check_remote()
    place.clear()
    with pytest.raises(SupersededError):
        second.check_remote()


def test_a_study_is_known_by_its_newest_mark(tmp_path: Path) -> None:
    old, new = mark(tmp_path), mark(tmp_path)
    check_mark(tmp_path, new)
    for folder, token in ((tmp_path, old), (tmp_path / "elsewhere", new)):
        with pytest.raises(UserError, match="a disk that all nodes share"):
            check_mark(folder, token)
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may exceed two megabytes, as if the disk ended there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_takes_no_more_is_told_from_a_network_that_cannot_be_saved(tmp_path: Path) -> None:
    """Torch says "unexpected pos", safetensors "Error while serializing": neither may count as the trial's fault."""
    with pytest.raises(OSError, match="File too large"):
        checkpoint.save_state(tmp_path, "same", {"weights": torch.zeros(10**6)})
    with pytest.raises(OSError, match="File too large"):
        checkpoint.save_weights(tmp_path, nn.Linear(1000, 1000).state_dict())
    with pytest.raises(TypeError):
        checkpoint.save_state(tmp_path, "same", {"weights": threading.Lock()})
    assert not (tmp_path / STATE).exists() and not (tmp_path / BEST_WEIGHTS).exists()
