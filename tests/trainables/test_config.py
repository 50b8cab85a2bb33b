"""A trial's configuration: resolved from a point of a space, named by every value it holds, JSON and back."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

import spaces
from spaces.domains import Params, Value
from trainables.config import Augment, DataConfig, TrainingConfig, TrialConfig, point, resolve
from trainables.features.waveform import Waveform
from trainables.models.recurrent import Config

DATA = DataConfig("nsynth:/data", "ab" * 32, "family", keep_synth_lead=False, split="official", split_seed=5)
POINT: Params = {
    "seconds": 2,
    "pool": 4,
    "frame_ms": 30,
    "layers": 2,
    "width_1": 64,
    "width_2": 96,
    "readout": "mean",
    "dense_layers": 1,
    "dense_1": 32,
    "dropout": 0.25,
    "learning_rate": 3e-3,
    "optimiser": "sgd",
    "momentum": 0.8,
    "batch_size": 128,
    "loss": "kl",
    "kl_smoothing": 0.07,
    "decay": "on",
    "weight_decay": 1e-4,
    "plateau": "on",
    "early_end": "off",
}


def config_of(changes: dict[str, Value] | None = None, drop: tuple[str, ...] = (), **more: Any) -> TrialConfig:
    params = {key: value for key, value in {**POINT, **(changes or {})}.items() if key not in drop}
    space = spaces.load("blstm")
    assert space.why_outside(params) is None
    return resolve(point(space, params, data=DATA, seed=11, max_epochs=27, threads=2, **more))


def test_a_point_resolves_to_every_value() -> None:
    assert config_of() == TrialConfig(
        family="blstm",
        network="recurrent",
        data=DATA,
        features=Waveform(seconds=2, pool=4, frame_ms=30, normalise="peak"),
        augment=Augment(),
        model=Config(
            bidirectional=True, widths=(64, 96), dense=(32,), dropout=0.25, readout="mean", convention="torch"
        ),
        training=TrainingConfig(
            loss="kl",
            smoothing=0.07,
            optimiser="sgd",
            learning_rate=3e-3,
            momentum=0.8,
            adam_epsilon=1e-8,
            weight_decay=1e-4,
            clip_norm=1.0,
            plateau_factor=0.1,
            plateau_patience=3,
            patience=0,
            body_rate_factor=1.0,
            batch_size=128,
            max_epochs=27,
        ),
        seed=11,
        threads=2,
    )


def test_what_does_not_apply_is_switched_off() -> None:
    plain = config_of({"optimiser": "adam", "decay": "off", "plateau": "off"}, ("momentum", "weight_decay"))
    training = plain.training
    assert (training.momentum, training.weight_decay, training.plateau_factor) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "smoothing"),
    [
        ({"loss": "ce", "label_smoothing": 0.2}, 0.2),
        ({"loss": "hinge"}, 0.0),
        ({"loss": "kl", "kl_smoothing": 0.1}, 0.1),
    ],
)
def test_smoothing_is_that_of_the_loss_in_use(changes: dict[str, Value], smoothing: float) -> None:
    drop = () if changes["loss"] == "kl" else ("kl_smoothing",)
    assert config_of(changes, drop).training.smoothing == smoothing


def test_a_baselines_settings_override_the_spaces() -> None:
    config = config_of(overrides={"convention": "keras", "adam_epsilon": 1e-7, "clip_norm": 0.0})
    assert (config.model.convention, config.training.adam_epsilon, config.training.clip_norm) == ("keras", 1e-7, 0.0)


def test_widths_beyond_the_depth_are_not_read() -> None:
    config = config_of({"layers": 1, "dense_layers": 0}, ("width_2", "dense_1"))
    assert (config.model.widths, config.model.dense) == ((64,), ())


# --- identity ----------------------------------------------------------------------------------


def other(value: Any) -> Any:
    """A different value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, 8)
    return value + 1 if isinstance(value, int) else value * 1.0000001 + 1e-9


def with_one_change(config: Any) -> Iterator[tuple[str, Any]]:
    """Every configuration that differs in one field, at whatever depth."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            for inner, changed in with_one_change(value):
                yield f"{field.name}.{inner}", replace(config, **{field.name: changed})
        elif field.name not in ("network", "kind"):  # these name a module
            yield field.name, replace(config, **{field.name: other(value)})


def test_the_identity_changes_with_every_field() -> None:
    config = config_of()
    changed = dict(with_one_change(config))
    assert len(changed) == 43
    assert {"data.digest", "features.pool", "model.widths", "training.max_epochs", "threads"} <= set(changed)
    assert changed.pop("data.corpus").identity == config.identity, "the corpus counts by content, not by place"
    identities = {name: variant.identity for name, variant in changed.items()}
    assert len({config.identity, *identities.values()}) == 1 + len(changed)


def test_the_identity_does_not_depend_on_the_order_of_params() -> None:
    space = spaces.load("blstm")
    backwards = resolve(point(space, dict(reversed(POINT.items())), data=DATA, seed=11, max_epochs=27, threads=2))
    assert backwards.identity == config_of().identity


# --- JSON --------------------------------------------------------------------------------------


def test_a_configuration_survives_json_text() -> None:
    for name, config in [("itself", config_of()), *with_one_change(config_of())]:
        again = TrialConfig.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
        assert again == config, name
        assert (again.identity, hash(again)) == (config.identity, hash(config)), name


def test_an_unknown_or_missing_field_is_an_error() -> None:
    record = config_of().to_json()
    with pytest.raises(TypeError, match="warmup"):
        TrialConfig.from_json({**record, "training": {**record["training"], "warmup": 3}})
    del record["seed"]
    with pytest.raises(TypeError, match="seed"):
        TrialConfig.from_json(record)
