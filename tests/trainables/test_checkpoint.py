"""Files are there as a whole or not at all, and a checkpoint serves the configuration that wrote it only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trainables import checkpoint, files
from trainables.files import BEST_WEIGHTS, STATE, replace_file


class WriteError(Exception):
    pass


def half_written(path: Path) -> None:
    path.write_bytes(b"half")
    raise WriteError


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    return model


# --- files -------------------------------------------------------------------------------------


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in ("old", "new"):
        replace_file(path, lambda temporary, content=content: temporary.write_text(content))  # type: ignore[misc]
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


def test_nothing_is_in_place_before_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary != path and temporary.parent == path.parent
        temporary.write_text("new")
        assert path.read_text() == "old"

    replace_file(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_writer_leaves_everything_as_it_was(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "file"
    if existing:
        path.write_text("old")
    with pytest.raises(WriteError):
        replace_file(path, half_written)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] * existing
    assert not existing or path.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, pathlib, sys; from trainables.files import replace_file\n"
        "def write(path): path.write_text('half'); os._exit(9)\n"
        "replace_file(pathlib.Path(sys.argv[1]), write)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == 9
    assert path.read_text() == "old"
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


# --- states ------------------------------------------------------------------------------------


def test_a_state_comes_back_for_its_own_configuration_only(tmp_path: Path) -> None:
    state = {"model": {"w": torch.arange(3.0)}, "reports": [{"epoch": 1, "failure": None}]}
    assert checkpoint.load_state(tmp_path, "mine") is None
    checkpoint.save_state(tmp_path, "mine", state)
    found = checkpoint.load_state(tmp_path, "mine")
    assert found is not None
    assert found.keys() == state.keys()
    assert torch.equal(found["model"]["w"], state["model"]["w"])
    assert found["reports"] == state["reports"]
    assert checkpoint.load_state(tmp_path, "other") is None
    checkpoint.save_state(tmp_path, "other", state)
    assert checkpoint.load_state(tmp_path, "mine") is None


def test_a_state_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_state(tmp_path, "mine", {"epoch": 1})
    with monkeypatch.context() as patch, pytest.raises(WriteError):
        patch.setattr(torch, "save", lambda _, path: half_written(path))
        checkpoint.save_state(tmp_path, "mine", {"epoch": 2})
    assert checkpoint.load_state(tmp_path, "mine") == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_state_with_code_in_it_is_not_run_and_not_used(tmp_path: Path) -> None:
    torch.save({"identity": "mine", "epoch": Bomb(tmp_path / "went-off")}, tmp_path / STATE)
    assert checkpoint.load_state(tmp_path, "mine") is None
    assert not (tmp_path / "went-off").exists()


def test_a_state_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    checkpoint.save_state(tmp_path, "mine", {"weights": torch.ones(1000)})
    content = (tmp_path / STATE).read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        (tmp_path / STATE).write_bytes(content[:length])
        assert checkpoint.load_state(tmp_path, "mine") is None, length


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_state_with_holes_is_not_used(tmp_path: Path, at: float) -> None:
    """As a power cut leaves a file that was as long as this, but not all on the disk."""
    checkpoint.save_state(tmp_path, "mine", {"weights": torch.ones(10_000)})
    with (tmp_path / STATE).open("r+b") as file:
        file.seek(int(at * (tmp_path / STATE).stat().st_size))
        file.write(bytes(4096))
    assert checkpoint.load_state(tmp_path, "mine") is None


# --- weights -----------------------------------------------------------------------------------


def test_weights_come_back_with_buffers_and_what_is_frozen(tmp_path: Path) -> None:
    model, other, x = linear(1), linear(2), torch.randn(5, 3)
    model.train()(x)  # moves the running statistics
    checkpoint.save_weights(tmp_path, model.state_dict())
    assert [entry.name for entry in tmp_path.iterdir()] == [BEST_WEIGHTS]
    assert load_file(tmp_path / BEST_WEIGHTS).keys() == model.state_dict().keys()
    assert not torch.equal(model.eval()(x), other.eval()(x))
    checkpoint.load_weights(tmp_path / BEST_WEIGHTS, other)
    assert torch.equal(model(x), other(x))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoint.save_weights(tmp_path, linear(1).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        checkpoint.load_weights(tmp_path / BEST_WEIGHTS, nn.Linear(3, 4))


@pytest.mark.parametrize(("took", "waits"), [(0.01, 1.0), (0.05, 5.0), (1.0, 10.0)])
def test_saving_takes_a_hundredth_of_the_time_and_none_waits_for_long(
    took: float, waits: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)

    def save(*_: object, lasting: bool) -> None:
        nonlocal now
        now += took

    monkeypatch.setattr(checkpoint, "save_state", save)
    saver = checkpoint.Saver(tmp_path, "mine")
    now += 0.999
    assert not saver.is_due()
    now += 0.002
    assert saver.is_due()
    saver.save({})
    now += waits - 0.001
    assert not saver.is_due()
    now += 0.002
    assert saver.is_due()


def test_the_best_weights_are_saved_as_they_were_then(tmp_path: Path) -> None:
    model = linear(0)
    saver = checkpoint.Saver(tmp_path, "mine")
    saver.keep(model)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight += 1  # type: ignore[operator, index]
    saver.save({"epoch": 2})
    found = load_file(tmp_path / BEST_WEIGHTS)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    (tmp_path / BEST_WEIGHTS).unlink()
    saver.save({"epoch": 3})
    assert not (tmp_path / BEST_WEIGHTS).exists(), "written once"
    assert checkpoint.load_state(tmp_path, "mine") == {"epoch": 3}


def test_a_large_copy_of_weights_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SHARE", 1e-9)
    saver = checkpoint.Saver(tmp_path, "mine")
    saver.save({})
    saver.keep(linear(0))
    assert not saver.is_due()
    monkeypatch.setattr(checkpoint, "HELD_BYTES", 100)
    saver.keep(linear(0))
    assert saver.is_due()


def test_weights_wait_for_the_disk_and_the_state_once_there_is_much_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut takes of the state is trained again; weights may be the study's result."""
    now, synced = 1000.0, []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name[1:6]))
    saver = checkpoint.Saver(tmp_path, "mine")
    for after, state in ((1, []), (8.9, []), (0.2, ["state"]), (1, ["state"])):
        now += after
        saver.save({})
        assert [name for name in synced if name in ("best.", "state")] == state
        synced.clear()
    saver = checkpoint.Saver(tmp_path, "mine")
    saver.keep(linear(0))
    saver.save({})
    assert "best." in synced and "state" not in synced
