"""The contract of every family: whatever module in `spaces` defines a SPACE is held to it.

Every network is built in full on Torch's meta device, which has shapes and no numbers. Numbers are computed on
pictures of at most 64 pixels: by the same network where it takes pictures of any size, else by one with a smaller
first dense layer. Recurrent networks are tried on a few steps of their input.
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import spaces
from spaces.domains import Baseline, Domain, Params, Space, Value
from trainables import checkpoint, loop
from trainables.config import DataConfig, TrialConfig, resolve
from trainables.config import point as point_of
from trainables.data import Part, TrialData
from trainables.features.picture import Picture
from trainables.features.waveform import Waveform
from trainables.models import count_trainable

RATE_HZ = 16_000
CLIP_SECONDS = 4.0
STEPS = 4
PIXELS = 64
DESCRIPTORS = 60  # of a hand-crafted vector; how many PCA keeps depends on the corpus
CLASSES = {"family": 10, "source": 3, "genre": 10}
SAMPLES = 20
DATA = DataConfig("demo", "0" * 64, "family", keep_synth_lead=False, split="official", split_seed=0)

PRETRAINED = ("vgg16", "googlenet", "resnet50")
FAMILIES = ("blstm", "cnn1d", "cnn2d", "googlenet", "lstm", "mlp", "resnet50", "vgg16")

# Trainable parameters, accuracy and balanced accuracy: as published, but for the pretrained networks' sizes. Those
# count the new head of 512-256-128-64-10 on 25,088, 1,024 and 2,048 values.
PUBLISHED: dict[str, tuple[int | None, float | None, float | None]] = {
    "lstm-2022": (850_762, 0.5522, None),
    "blstm-2022": (588_618, 0.5510, None),
    "blstm-2022-source": (629_251, 0.6628, None),
    "lstm-2018": (413_962, 0.64844, None),
    "blstm-2018": (1_090_058, 0.63696, None),
    "cnn1d-small": (9_098, 0.410400390625, None),
    "cnn1d-deep": (8_838_158, 0.901611328125, None),
    "cnn2d-genre": (201_575_018, 0.5223, 0.4600),
    "vgg16-genre": (25_088 * 512 + 512 + 173_130, 0.76, None),
    "vgg16-genre-rotated": (25_088 * 512 + 512 + 173_130, 0.6993, None),
    "googlenet-genre": (1_024 * 512 + 512 + 173_130, None, 0.42702),
    "resnet50-genre": (2_048 * 512 + 512 + 173_130, None, 0.50488),
    "mlp-genre-ce": (None, None, 0.54732),
    "mlp-genre-hinge": (None, None, 0.59896),
    "mlp-genre-kl": (None, None, 0.54256),
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


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in PRETRAINED else []) for name in spaces.names()]
)
def costly_space(request: pytest.FixtureRequest) -> Space:
    """The same, for tests that take seconds with a deep network."""
    return spaces.load(request.param)


def config_of(space: Space, params: Params, baseline: Baseline | None = None, max_epochs: int = 1) -> TrialConfig:
    overrides = baseline.settings if baseline else None
    return resolve(point_of(space, params, data=DATA, seed=7, max_epochs=max_epochs, threads=1, overrides=overrides))


def samples(space: Space) -> list[Params]:
    """Random points of the space, as Optuna draws them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask()) for _ in range(SAMPLES)]


def point(space: Space, **fixed: Value) -> Params:
    """The lower corner with some values replaced."""
    return space.walk(lambda param: fixed.get(param.name, param.domain.corners()[0]))


def shape_of(config: TrialConfig) -> tuple[int, ...]:
    """The full input."""
    return (DESCRIPTORS,) if config.features.kind == "vector" else config.features.shape(RATE_HZ, CLIP_SECONDS)


def reduced(config: TrialConfig) -> TrialConfig:
    """The configuration with small pictures."""
    if not isinstance(config.features, Picture):
        return config
    return replace(config, features=replace(config.features, size=min(config.features.size, PIXELS)))


def tried_shape(config: TrialConfig) -> tuple[int, ...]:
    """The input on which the network is tried."""
    shape = shape_of(config)
    return (min(shape[0], STEPS), shape[1]) if config.network == "recurrent" else shape


def inputs_for(config: TrialConfig, clips: int = 3) -> Tensor:
    return torch.randn(clips, *tried_shape(config), generator=torch.Generator().manual_seed(1))


def model_of(config: TrialConfig, n_classes: int = 10) -> nn.Module:
    return loop.build(config, shape_of(config), n_classes)


def check_shapes(config: TrialConfig, n_classes: int = 10) -> int:
    """The full network: logits `(batch, classes)`, and a gradient for what trains only. Returns its trained size."""
    with torch.device("meta"):
        model = model_of(config, n_classes)
        logits = model(torch.empty(2, *tried_shape(config)))
    assert logits.shape == (2, n_classes)
    logits.sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    return count_trainable(model)


def check_network(config: TrialConfig, n_classes: int = 10) -> None:
    """Logits `(batch, classes)`, finite; a gradient for every weight that trains, none for the others."""
    config = reduced(config)
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
    assert set(FAMILIES) <= set(spaces.names())
    for name in ("none-such", "shared", "domains", ""):
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


def test_every_parameter_that_applies_counts(space: Space) -> None:
    """Another value of any of them is another configuration."""
    moved: set[str] = set()
    for params in [space.corner(high=False), space.corner(high=True), dict(space.default), *samples(space)]:
        before = config_of(space, params).identity
        for param in space.params:
            if param.name not in params:
                continue
            other = next(value for value in param.domain.corners() if value != params[param.name])
            fixed = {**params, param.name: other}
            moved.add(param.name)
            assert config_of(space, point(space, **fixed)).identity != before, param.name
    assert moved == {param.name for param in space.params}


def test_the_default_lies_in_the_space(space: Space) -> None:
    assert space.why_outside(space.default) is None


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [False, True])
def test_networks_at_the_corners(space: Space, high: bool) -> None:
    config = config_of(space, space.corner(high=high))
    check_shapes(config)
    check_network(config)


def test_the_default_network(space: Space) -> None:
    check_network(config_of(space, dict(space.default)))


def test_networks_at_random_samples(costly_space: Space) -> None:
    """Large pictures in shape only, and small ones in numbers."""
    for params in samples(costly_space):
        config = config_of(costly_space, params)
        if reduced(config) != config:
            check_shapes(config)
        check_network(config)


@pytest.mark.parametrize("loss", ["ce", "hinge", "kl"])
def test_one_batch_can_be_memorised(costly_space: Space, loss: str) -> None:
    """At the lower corner, where averages over noise are all alike and hence not taken; of the deep networks the last
    stage and the head are trained, from random weights."""
    shallow: Params = {"learning_rate": 1e-2, "global_pool": "none"}
    deep: Params = {"learning_rate": 1e-3, "frozen_stages": 4, "body_rate_factor": 1.0}
    fixed = deep if costly_space.name in PRETRAINED else shallow
    params = point(costly_space, loss=loss, **fixed)
    config = config_of(costly_space, params, max_epochs=40)
    inputs, labels = inputs_for(config, clips=8), torch.arange(8) % 4
    part = Part.resident(inputs, labels)
    data = TrialData({"train": part, "tune": part}, shape_of(config), 4, torch.device("cpu"))
    reports = list(loop.train(config, data))
    assert reports[0].train_accuracy < 1
    assert reports[-1].tune_accuracy == reports[-1].train_accuracy == 1
    assert reports[-1].train_loss < reports[0].train_loss


def test_saved_and_restored_networks_agree(costly_space: Space, tmp_path: Path) -> None:
    for number, params in enumerate([costly_space.corner(high=False), *samples(costly_space)[:2]]):
        config = reduced(config_of(costly_space, params))
        inputs = inputs_for(config)
        model, other = model_of(config).eval(), model_of(replace(config, seed=8)).eval()
        checkpoint.save_weights(tmp_path / str(number), model.state_dict())
        with torch.no_grad():
            assert not torch.equal(other(inputs), model(inputs))
            checkpoint.load_weights(tmp_path / str(number) / "best.safetensors", other)
            assert torch.equal(other(inputs), model(inputs))


# --- baselines ---------------------------------------------------------------------------------


def found(name: str) -> tuple[TrialConfig, Baseline]:
    """A baseline and what it resolves to."""
    space, baseline = next(pair for pair in BASELINES if pair[1].name == name)
    return config_of(space, dict(baseline.params), baseline, baseline.epochs), baseline


@pytest.mark.parametrize(("space", "baseline"), BASELINES, ids=[baseline.name for _, baseline in BASELINES])
def test_a_baseline_lies_in_its_space_and_has_its_stated_size(space: Space, baseline: Baseline) -> None:
    assert space.why_outside(baseline.params) is None
    assert set(baseline.settings) <= set(space.settings)
    config = config_of(space, dict(baseline.params), baseline)
    n_classes = CLASSES[baseline.task]
    size = check_shapes(config, n_classes)
    assert baseline.trainable_parameters in (size, None)
    check_network(config, n_classes)


def test_the_published_recipes_are_all_there() -> None:
    assert {baseline.name for _, baseline in BASELINES} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_baselines_have_their_exact_size_and_scores(name: str) -> None:
    _, baseline = found(name)
    scores = (baseline.published_accuracy, baseline.published_balanced_accuracy)
    assert (baseline.trainable_parameters, *scores) == PUBLISHED[name]
    assert baseline.corpus == {"genre": "gtzan"}.get(baseline.task, "nsynth")


@pytest.mark.parametrize(
    ("name", "shape", "training"),
    [
        ("lstm-2022", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("blstm-2022", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("blstm-2022-source", (50, 20), (1e-3, 1024, 30, 1e-7)),
        ("lstm-2018", (100, 160), (8e-4, 32, 20, 1e-8)),
        ("blstm-2018", (100, 160), (8e-4, 32, 20, 1e-8)),
        ("cnn1d-small", (1, 8000), (1e-3, 32, 10, 1e-7)),
        ("cnn1d-deep", (1, 8000), (1e-3, 32, 10, 1e-7)),
    ],
)
def test_published_baselines_of_notes_resolve_to_their_recipe(
    name: str, shape: tuple[int, int], training: tuple[float, int, int, float]
) -> None:
    config, baseline = found(name)
    assert shape_of(config) == shape
    used = config.training
    assert (used.learning_rate, used.batch_size, baseline.epochs, used.adam_epsilon) == training
    assert (used.optimiser, used.loss, used.smoothing, used.weight_decay) == ("adam", "ce", 0.0, 0.0)
    assert (used.clip_norm, used.plateau_factor, used.patience) == (0.0, 1.0, 0)
    assert not any(vars(config.augment).values())


@pytest.mark.parametrize("name", ["cnn1d-small", "cnn1d-deep"])
def test_report_002_resamples_four_seconds_by_their_spectrum(name: str) -> None:
    expected = Waveform(seconds=4, pool=1, frame_ms=0, normalise="none", resample_hz=2000, resampling="fourier")
    assert found(name)[0].features == expected


@pytest.mark.parametrize(
    ("name", "dropout", "rotation"),
    [
        ("cnn2d-genre", 0.5, 0),
        ("vgg16-genre", 0.5, 0),
        ("vgg16-genre-rotated", 0.5, 15),
        ("googlenet-genre", 0.0, 0),
        ("resnet50-genre", 0.0, 0),
    ],
)
def test_published_baselines_on_pictures_resolve_to_their_recipe(name: str, dropout: float, rotation: float) -> None:
    config, baseline = found(name)
    picture = Picture("whole", 0, 2048, 512, frequency="linear", log=True, colour="magma", size=512)
    assert config.features == picture
    assert {key: value for key, value in vars(config.augment).items() if value} == (
        {"rotation": rotation} if rotation else {}
    )
    assert (config.model.head, config.model.dropout) == ((512, 256, 128, 64), dropout)
    if config.network == "pretrained":
        assert (config.model.frozen_stages, config.model.normalise) == (5, False)
    used = config.training
    assert (used.learning_rate, used.optimiser, used.loss, used.smoothing) == (1e-3, "adam", "ce", 0.0)
    assert (used.plateau_factor, used.plateau_patience, used.patience, baseline.epochs) == (0.1, 3, 5, 20)
    assert (used.clip_norm, used.weight_decay, used.batch_size) == (0.0, 0.0, 32)


@pytest.mark.parametrize(("loss", "smoothing"), [("ce", 0.0), ("hinge", 0.0), ("kl", 0.02)])
def test_published_perceptrons_differ_in_their_loss_only(loss: str, smoothing: float) -> None:
    config, baseline = found(f"mlp-genre-{loss}")
    assert (config.training.loss, config.training.smoothing) == (loss, smoothing)
    assert (config.training.patience, config.training.plateau_factor, baseline.epochs) == (5, 1.0, 25)
    assert config.model == found("mlp-genre-ce")[0].model
    assert vars(config.model) == {
        "widths": (512, 512, 512),
        "activations": ("tanh", "relu", "tanh"),
        "batch_norm": False,
        "dropout": 0.0,
    }
    how: Any = config.features
    assert (how.kind, how.statistics, how.pca, how.excerpt) == ("vector", "mean", 0.95, "whole")
    plain = replace(config.training, loss="ce", smoothing=0.0)
    assert plain == found("mlp-genre-ce")[0].training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn2d-genre", "vgg16-genre"])
def test_deep_baselines_take_a_training_step_at_full_size(name: str) -> None:
    """Two pictures of 512 × 512; `cnn2d-genre` needs 3.2 GB for its weights, their gradients and Adam's moments."""
    config, _ = found(name)
    config = replace(config, training=replace(config.training, batch_size=2, max_epochs=1))
    assert shape_of(config) == (3, 512, 512)
    inputs = torch.rand(2, *shape_of(config), generator=torch.Generator().manual_seed(1))
    part = Part.resident(inputs, torch.tensor([3, 8]))
    data = TrialData({"train": part, "tune": part}, shape_of(config), 10, torch.device("cpu"))
    (report,) = loop.train(config, data)
    assert report.failure is None
    assert report.train_loss == pytest.approx(2.3, abs=0.3)  # an untrained network guesses: log 10
    assert report.tune_loss is not None and report.tune_loss != report.train_loss
