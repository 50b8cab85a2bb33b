"""Memory told without taking it: by hand, against real networks, and against what real processes take."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import spaces
from tests import faulty
from tests.conftest import ROOT
from trainables import footprint, loop
from trainables.config import DataConfig, TrialConfig, point, resolve
from trainables.models import cnn1d, count_trainable, mlp

# A study's worker does the same, watched from within every tenth of a second (search/trial.py).
REAL_PEAK = """
import json, sys, tempfile
from pathlib import Path
import psutil, torch
from trainables import heap, loop
from trainables.config import TrialConfig
from trainables.data import Part, TrialData, evaluation_batch

torch.set_num_threads(1)
heap.keep_freed()
config = TrialConfig.from_json(json.loads(sys.argv[1]))
shape = tuple(json.loads(sys.argv[2]))

def part(examples):
    return Part(torch.arange(examples) % 10, lambda positions: torch.rand(len(positions), *shape))

parts = {"train": part(2 * config.training.batch_size), "tune": part(evaluation_batch(shape))}
memory = psutil.Process().memory_info()
before = memory.rss - memory.shared
Path("/proc/self/clear_refs").write_text("5")
with tempfile.TemporaryDirectory() as folder:
    list(loop.train(config, TrialData(parts, shape, 10, torch.device("cpu")), Path(folder)))
status = Path("/proc/self/status").read_text().splitlines()
peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(peak - psutil.Process().memory_info().shared - before)
"""


@pytest.mark.parametrize("convention", ["torch", "keras"])
def test_weights_are_those_of_the_real_network(tiny_config: Callable[..., TrialConfig], convention: str) -> None:
    """Keras' convention freezes one of the two bias vectors: 4 · 6 values."""
    config = tiny_config(convention=convention)
    found = footprint.footprint(config, (10, 20), 3)
    model = loop.build(config, (10, 20), 3)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.trainable_parameters == count_trainable(model)
    assert found.parameters - found.trainable_parameters == (24 if convention == "keras" else 0)


@pytest.fixture
def every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks without holes and no kernels, so that bytes can be counted by hand."""
    monkeypatch.setattr(footprint, "_block_bytes", lambda size: size)
    monkeypatch.setattr(footprint, "_KERNEL_BYTES", 0)


@pytest.fixture
def dense(tiny_config: Callable[..., TrialConfig]) -> Callable[..., TrialConfig]:
    """A hidden layer of 1,000 tanh units."""
    model = mlp.Config(widths=(1000,), activations=("tanh",), batch_norm=False, dropout=0.0)

    def make(**training: Any) -> TrialConfig:
        config = replace(tiny_config(), network="mlp", model=model)
        return replace(config, training=replace(config.training, smoothing=0.0, **training))

    return make


@pytest.mark.usefixtures("every_byte")
def test_a_step_by_hand(dense: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches leave weights behind: 20,000 inputs of 5 values, a layer of 1,000, its tanh, 2 logits.

    The peak comes in the backward pass of tanh: its output, the gradients of its output and of its input. The inputs
    are there, and what lies between logits and loss has gone, but for targets and their sort.
    """
    monkeypatch.setattr(footprint, "evaluation_batch", lambda shape: 1)
    found = footprint.footprint(dense(batch_size=20_000, optimiser="sgd", momentum=0.0), (5,), 2)
    weights = 4 * 3 * (5 * 1_000 + 1_000 + 2 * 1_000 + 2)  # with gradients and a copy of the best
    assert found.training_bytes - weights == pytest.approx(4 * 20_000 * (5 + 3 * 1_000), rel=0.01)
    assert found.example_bytes == pytest.approx(4 * (5 + 3 * 1_000), rel=0.01)
    assert found.process_bytes == footprint.WORKER_BYTES + found.training_bytes


@pytest.mark.usefixtures("every_byte")
def test_scoring_by_hand(dense: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a backward pass a layer's input and output live together and nothing else does."""
    monkeypatch.setattr(footprint, "evaluation_batch", lambda shape: 20_000)
    found = footprint.footprint(dense(batch_size=1, optimiser="sgd", momentum=0.0), (5,), 2)
    weights = 4 * 3 * (5 * 1_000 + 1_000 + 2 * 1_000 + 2)  # with gradients and a copy of the best
    assert found.training_bytes - weights == pytest.approx(4 * 20_000 * (5 + 2 * 1_000), rel=0.01)


@pytest.mark.usefixtures("every_byte")
@pytest.mark.parametrize(("optimiser", "momentum", "copies"), [("adam", 0.0, 7), ("sgd", 0.9, 5), ("sgd", 0.0, 3)])
def test_large_weights_count_as_often_as_a_resumed_trial_holds_them(
    dense: Callable[..., TrialConfig], optimiser: str, momentum: float, copies: int
) -> None:
    """The network, and twice what was saved: weights and moments."""
    found = footprint.footprint(dense(batch_size=1, optimiser=optimiser, momentum=momentum), (100_000,), 2)
    assert found.training_bytes == pytest.approx(copies * 4 * 100_000 * 1_000, rel=0.15)


def test_autograd_keeps_what_a_real_step_keeps() -> None:
    """The same saved tensors as Torch's own hook sees on the CPU, views and weights left out."""
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4 * 49, 3))
    sizes: dict[int, int] = {}
    known = {weight.data_ptr() for weight in model.parameters()}

    def note(saved: torch.Tensor) -> torch.Tensor:
        if saved.data_ptr() not in known:
            sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    inputs = torch.rand(8, 1, 100)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        held = model(inputs)
    played = model.to("meta")
    with footprint._Live(played) as live:
        also_held = played(torch.empty(8, 1, 100, device="meta"))
        now = live._now
    logits = 8 * 3 * 4
    assert held.shape == also_held.shape
    assert sum(sizes.values()) <= now / 1.5 <= sum(sizes.values()) + logits + 1
    del also_held
    assert live._now == 0, "nothing lives on when the graph has gone"


def test_memory_grows_with_the_batch(dense: Callable[..., TrialConfig]) -> None:
    small, large = (footprint.footprint(dense(batch_size=size), (8,), 3).training_bytes for size in (4096, 8192))
    assert small < large < 2 * small


@pytest.mark.usefixtures("every_byte")
@pytest.mark.parametrize(("bidirectional", "directions"), [(False, 1), (True, 2)])
def test_recurrent_layers_do_not_walk_their_steps(
    tiny_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
    bidirectional: bool,
    directions: int,
) -> None:
    """Ten values a step and unit and the output are kept until the output's gradient is there."""
    monkeypatch.setattr(footprint, "evaluation_batch", lambda shape: 1)
    config = tiny_config(widths=(500,), bidirectional=bidirectional, batch_size=8)
    found = footprint.footprint(config, (100_000, 2), 3)
    assert found.example_bytes == pytest.approx(4 * (10 + 1 + 1) * 500 * directions * 100_000, rel=0.01)


def test_a_network_that_looks_at_values_counts_with_its_weights(dense: Callable[..., TrialConfig]) -> None:
    """The faulty network counts its epochs, and there is nothing to count on the meta device."""
    config = replace(dense(batch_size=2), network="tests.faulty", model=faulty.Config("none", "", 1.0))
    found = footprint.footprint(config, (5, 2), 3)
    assert found.trainable_parameters == 5 * 2 * 3 + 3
    assert found.training_bytes == footprint._KERNEL_BYTES + 1.5 * 4 * 5 * (5 * 2 * 3 + 3)
    assert found.example_bytes == 0


@pytest.fixture
def convolution(dense: Callable[..., TrialConfig]) -> Callable[[int], TrialConfig]:
    """A convolution of 8 channels with that kernel, relu, the mean over all places."""

    def make(kernel: int) -> TrialConfig:
        model = cnn1d.Config(
            channels=(8,),
            first_kernel=kernel,
            first_stride=1,
            kernel=3,
            stride=1,
            padding="valid",
            activation="relu",
            batch_norm=False,
            stage_pool=1,
            stage_pool_kind="max",
            stage_pool_after="last",
            global_pool="mean",
            head=(),
            dropout=0.0,
            convention="torch",
        )
        return replace(dense(batch_size=1), network="cnn1d", model=model)

    return make


@pytest.mark.usefixtures("every_byte")
def test_convolutions_copy_their_inputs_and_outputs(
    convolution: Callable[[int], TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "evaluation_batch", lambda shape: 100)
    found = footprint.footprint(convolution(3), (1, 10_000), 2)
    assert found.training_bytes == pytest.approx(4 * 2 * (1 + 8) * 100 * 10_000, rel=0.01)


def test_a_network_that_does_not_suit_its_inputs_raises(convolution: Callable[[int], TrialConfig]) -> None:
    with pytest.raises(RuntimeError, match="Output size is too small"):
        footprint.footprint(convolution(64), (1, 50), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("lstm", {"seconds": 4, "frame_ms": 10, "width_1": 256, "width_2": 256, "batch_size": 64}),
        ("cnn2d", {"picture_size": 128, "colour": "magma", "batch_size": 32}),
        ("mlp", {"input": "waveform", "resample_hz": 16000, "seconds": 4, "pool": 1, "hidden_1": 512}),
        ("resnet50", {"picture_size": 64, "frozen_stages": 0}),
    ],
)
def test_the_estimate_is_near_what_training_really_takes(family: str, changes: dict[str, Any]) -> None:
    """Of networks that take half a gigabyte or more, where the allocator's whims count for less."""
    space = spaces.load(family)
    data = DataConfig("demo", "", "family", keep_synth_lead=False, split="official", split_seed=0)
    config = resolve(
        point(
            space,
            {**space.default, **changes},
            data=data,
            seed=0,
            max_epochs=1,
            threads=1,
            overrides={"weights_file": "", "weights_digest": ""} if family == "resnet50" else {},
        )
    )
    shape = config.features.shape(16_000, 4.0)
    estimate = footprint.footprint(config, shape, 10).training_bytes
    arguments = (json.dumps(config.to_json()), json.dumps(shape))
    found = subprocess.run(
        [sys.executable, "-c", REAL_PEAK, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    real = int(found.stdout)
    assert real > 400_000_000
    assert 0.8 < estimate / real < 1.8, f"{estimate / 1e6:.0f} MB against {real / 1e6:.0f} MB"
