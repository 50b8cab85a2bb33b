"""The contract of every family: whatever module in `spaces` defines a SPACE is held to it."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import spaces
from spaces.domains import Baseline, Domain, Params, Space, Value
from trainables import checkpoint, loop, losses
from trainables.config import DataConfig, TrialConfig, resolve
from trainables.data import Part, TrialData
from trainables.models import count_trainable

RATE_HZ = 16_000
STEPS = 4  # the networks are built for their full input, and tried on a few steps of it
CLASSES = {"family": 10, "source": 3}
SAMPLES = 20
DATA = DataConfig("demo", "0" * 64, "family", keep_synth_lead=False, split_seed=0)

PUBLISHED = {  # trainable parameters and accuracy, from RECIPES
    "lstm-2022": (850_762, 0.5522),
    "blstm-2022": (588_618, 0.5510),
    "blstm-2022-source": (629_251, 0.6628),
    "lstm-2018": (413_962, 0.64844),
    "blstm-2018": (1_090_058, 0.63696),
}

BASELINES = [(space, baseline) for space in map(spaces.load, spaces.names()) for baseline in space.baselines]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=spaces.names())
def space(request: pytest.FixtureRequest) -> Space:
    return spaces.load(request.param)


def config_of(space: Space, params: Params, baseline: Baseline | None = None, max_epochs: int = 1) -> TrialConfig:
    overrides = baseline.settings if baseline else None
    return resolve(space, params, data=DATA, seed=7, max_epochs=max_epochs, threads=1, overrides=overrides)


def samples(space: Space) -> list[Params]:
    """Random points of the space, as Optuna draws them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask()) for _ in range(SAMPLES)]


def point(space: Space, **fixed: Value) -> Params:
    """The lower corner with some values replaced."""
    return space.walk(lambda param: fixed.get(param.name, param.domain.corners()[0]))


def inputs_for(config: TrialConfig, clips: int = 3) -> Tensor:
    steps, frame = config.features.shape(RATE_HZ)
    return torch.randn(clips, min(steps, STEPS), frame, generator=torch.Generator().manual_seed(1))


def model_of(config: TrialConfig, n_classes: int = 10) -> nn.Module:
    return loop.build(config, config.features.shape(RATE_HZ), n_classes)


def check_network(config: TrialConfig, n_classes: int = 10) -> None:
    """Logits `(batch, classes)`, finite; a gradient for every weight that trains, none for the others."""
    model, inputs = model_of(config, n_classes).eval(), inputs_for(config)
    logits = model(inputs)
    assert logits.shape == (len(inputs), n_classes)
    assert torch.isfinite(logits).all()
    F.cross_entropy(logits, torch.arange(len(inputs))).backward()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            assert weight.grad is None, name
            continue
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
        if not without_effect(config, name):
            assert weight.grad.abs().sum() > 0, name


def without_effect(config: TrialConfig, name: str) -> bool:
    """At the last step the backward direction has no past, so there its recurrent weights do nothing."""
    last = len(getattr(config.model, "widths", ())) - 1
    return getattr(config.model, "readout", "") == "last" and name == f"layers.{last}.weight_hh_l0_reverse"


# --- the registry ------------------------------------------------------------------------------


def test_the_directory_is_the_registry() -> None:
    files = {path.stem for path in Path(spaces.__path__[0]).glob("*.py")}
    assert set(spaces.names()) == files - {"__init__", "domains", "shared"}
    assert list(spaces.names()) == sorted(spaces.names())
    assert {"blstm", "lstm"} <= set(spaces.names())
    for name in ("gru", "shared", "domains", ""):
        with pytest.raises(KeyError):
            spaces.load(name)


def test_a_space_is_called_what_its_file_is(space: Space) -> None:
    assert space.name in spaces.names()
    assert spaces.load(space.name) is space
    assert space.title.strip() == space.title != ""


def test_one_name_has_one_domain_across_families() -> None:
    domains: dict[str, dict[Domain, list[str]]] = {}
    for space in map(spaces.load, spaces.names()):
        for param in space.params:
            domains.setdefault(param.name, {}).setdefault(param.domain, []).append(space.name)
    assert {name: found for name, found in domains.items() if len(found) > 1} == {}


def test_baseline_names_are_unique_across_families() -> None:
    names = [baseline.name for _, baseline in BASELINES]
    assert len(set(names)) == len(names)


# --- data --------------------------------------------------------------------------------------


def test_round_trip_through_json_text_and_pickle(space: Space) -> None:
    again = Space.from_json(json.loads(json.dumps(space.to_json(), allow_nan=False)))
    assert again == space
    assert samples(again) == samples(space)
    assert pickle.loads(pickle.dumps(space)) == space


def test_description_is_printable(space: Space) -> None:
    rows = space.describe()
    assert [name for name, _, _ in rows] == [param.name for param in space.params]
    for name, domain, when in rows:
        assert f"{name}{domain}{when}".isprintable()
        assert domain
    conditional = {param.name for param in space.params if param.when}
    assert {name for name, _, when in rows if when} == conditional != set()


def test_every_sample_and_both_corners_lie_in_the_space(space: Space) -> None:
    points = [space.corner(high=False), space.corner(high=True), *samples(space)]
    assert [space.why_outside(params) for params in points] == [None] * len(points)
    assert len({json.dumps(params) for params in points}) == len(points)


def test_every_sample_has_an_identity_of_its_own_that_json_text_keeps(space: Space) -> None:
    configs = [config_of(space, params) for params in samples(space)]
    assert len({config.identity for config in configs}) == SAMPLES
    for config in configs:
        again = TrialConfig.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
        assert (again, again.identity) == (config, config.identity)


def test_kl_smoothing_is_never_zero(space: Space) -> None:
    """Against one-hot targets the KL divergence is cross-entropy, another name for another option."""
    lowest = config_of(space, point(space, loss="kl"))
    drawn = [config_of(space, params) for params in samples(space)]
    kl = [config.training for config in (lowest, *drawn) if config.training.loss == "kl"]
    assert len(kl) > 2
    assert all(training.smoothing > 0 for training in kl)


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [False, True])
def test_networks_at_the_corners(space: Space, high: bool) -> None:
    check_network(config_of(space, space.corner(high=high)))


def test_networks_at_random_samples(space: Space) -> None:
    for params in samples(space):
        check_network(config_of(space, params))


@pytest.mark.parametrize("loss", losses.NAMES)
def test_one_batch_can_be_memorised(space: Space, loss: str) -> None:
    params = point(space, loss=loss, learning_rate=1e-2)
    config = config_of(space, params, max_epochs=40)
    inputs, labels = inputs_for(config, clips=8), torch.arange(8) % 4
    part = Part.resident(inputs, labels)
    shape = config.features.shape(RATE_HZ)
    data = TrialData({"train": part, "tune": part}, shape, 4, torch.device("cpu"))
    reports = list(loop.train(config, data))
    assert reports[0].train_accuracy < 1
    assert reports[-1].tune_accuracy == reports[-1].train_accuracy == 1
    assert reports[-1].train_loss < reports[0].train_loss


def test_saved_and_restored_networks_agree(space: Space, tmp_path: Path) -> None:
    for number, params in enumerate([space.corner(high=False), *samples(space)[:3]]):
        config = config_of(space, params)
        inputs = inputs_for(config)
        model, other = model_of(config).eval(), model_of(replace(config, seed=8)).eval()
        checkpoint.save_weights(tmp_path / str(number), model)
        with torch.no_grad():
            assert not torch.equal(other(inputs), model(inputs))
            checkpoint.load_weights(tmp_path / str(number) / "best.safetensors", other)
            assert torch.equal(other(inputs), model(inputs))


# --- baselines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "baseline"), BASELINES, ids=[baseline.name for _, baseline in BASELINES])
def test_a_baseline_lies_in_its_space_and_has_its_stated_size(space: Space, baseline: Baseline) -> None:
    assert space.why_outside(baseline.params) is None
    assert set(baseline.settings) <= set(space.settings)
    config = config_of(space, dict(baseline.params), baseline)
    n_classes = CLASSES[baseline.task]
    assert count_trainable(model_of(config, n_classes)) == baseline.trainable_parameters
    check_network(config, n_classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_baselines_have_their_exact_size(name: str) -> None:
    space, baseline = next(found for found in BASELINES if found[1].name == name)
    model = model_of(config_of(space, dict(baseline.params), baseline), CLASSES[baseline.task])
    assert (count_trainable(model), baseline.published_accuracy) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "shape", "training"),
    [
        ("lstm-2022", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("blstm-2022", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("blstm-2022-source", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("lstm-2018", (100, 160), (8e-4, 32, 20, 1e-8)),
        ("blstm-2018", (100, 160), (8e-4, 32, 20, 1e-8)),
    ],
)
def test_published_baselines_resolve_to_their_recipe(
    name: str, shape: tuple[int, int], training: tuple[float, int, int, float]
) -> None:
    space, baseline = next(found for found in BASELINES if found[1].name == name)
    config = config_of(space, dict(baseline.params), baseline)
    assert config.features.shape(RATE_HZ) == shape
    found = config.training
    assert (found.learning_rate, found.batch_size, baseline.epochs, found.adam_epsilon) == training
    assert (found.optimiser, found.loss, found.smoothing, found.weight_decay) == ("adam", "ce", 0.0, 0.0)
    assert (found.clip_norm, found.plateau_factor) == (0.0, 1.0)
