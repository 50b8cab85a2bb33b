"""A trial's fully resolved configuration: what is trained, on what, how. It alone suffices to train again."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from spaces.domains import Space, Value
from trainables import features
from trainables.features import Features


@dataclass(frozen=True)
class DataConfig:
    """Which corpus (as `--data` names it), which task, which splits. `digest` identifies the content.

    `split` is how the corpus is divided: "official", as it comes; "random", by group; "filtered", GTZAN's
    fault-filtered lists.
    """

    corpus: str
    digest: str
    task: str
    keep_synth_lead: bool
    split: str
    split_seed: int


@dataclass(frozen=True)
class Augment:
    """What is done to training inputs; 0 means nothing.

    `rotation` turns pictures by up to that many degrees either way; `time_mask` and `frequency_mask` blank a band of
    up to that share of the picture; `gain_db` changes a waveform's level by up to that much either way; `shift` moves
    a picture or a waveform in time by up to that share of its length; `mixup` is the parameter of the Beta distribution
    from which the shares of two mixed examples are drawn (Zhang et al. 2018, arXiv:1710.09412).
    """

    rotation: float = 0.0
    time_mask: float = 0.0
    frequency_mask: float = 0.0
    gain_db: float = 0.0
    shift: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained. `smoothing` is that of the loss in use; `clip_norm` 0 means no clipping.

    `plateau_factor` multiplies the learning rate once more than `plateau_patience` epochs in a row brought no
    better tune score; a factor of 1 leaves it alone. After `patience` such epochs training ends by itself; 0 means
    that it never does. `body_rate_factor` multiplies the learning rate of a pretrained network's body.
    """

    loss: str
    smoothing: float
    optimiser: str
    learning_rate: float
    momentum: float
    adam_epsilon: float
    weight_decay: float
    clip_norm: float
    plateau_factor: float
    plateau_patience: int
    patience: int
    body_rate_factor: float
    batch_size: int
    max_epochs: int


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides a trial's reports. `network` names the module of `trainables.models`.

    `threads` is part of it because the order of floating-point sums on a CPU depends on it.
    """

    family: str
    network: str
    data: DataConfig
    features: Features
    augment: Augment
    model: Any
    training: TrainingConfig
    seed: int
    threads: int

    @property
    def identity(self) -> str:
        """A short digest of every resolved value: equal configurations, equal identities.

        The corpus counts by its content, not by the place where it lies, and so do a network's initial weights.
        """
        record = self.to_json()
        del record["data"]["corpus"]
        record["model"].pop("weights_file", None)
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record from which `from_json` makes an equal configuration."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "TrialConfig":
        """The configuration that `to_json` recorded."""
        return cls(
            **{
                **record,
                "data": DataConfig(**record["data"]),
                "features": features.from_json(record["features"]),
                "augment": Augment(**record["augment"]),
                "model": network(record["network"]).Config(**_tuples(record["model"])),
                "training": TrainingConfig(**record["training"]),
            }
        )


def network(name: str) -> ModuleType:
    """The module of a network: `Config`, `configure(params)`, `features(params)` and `build(...)`.

    A name with a dot is that of a module elsewhere, for networks that are not part of the project.
    """
    return importlib.import_module(name if "." in name else f"trainables.models.{name}")


def point(
    space: Space,
    params: Mapping[str, Value],
    *,
    data: DataConfig,
    seed: int,
    max_epochs: int,
    threads: int,
    overrides: Mapping[str, Value] | None = None,
) -> dict[str, Any]:
    """All that `resolve` makes one point of a space's configuration of, as a plain record; this takes no Torch.

    `overrides` are a baseline's own settings.
    """
    return {
        "family": space.name,
        "network": space.network,
        "values": {**space.settings, **(overrides or {}), **params},
        "data": asdict(data),
        "seed": seed,
        "max_epochs": max_epochs,
        "threads": threads,
    }


def resolve(record: Mapping[str, Any]) -> TrialConfig:
    """The configuration of a point of a space, as `point` describes it."""
    values: dict[str, Any] = record["values"]
    module = network(record["network"])
    return TrialConfig(
        family=record["family"],
        network=record["network"],
        data=DataConfig(**record["data"]),
        features=module.features(values),
        augment=Augment(**{name: float(values.get(name, 0.0)) for name in Augment.__dataclass_fields__}),
        model=module.configure(values),
        training=_training(values, record["max_epochs"]),
        seed=record["seed"],
        threads=record["threads"],
    )


def _training(values: Mapping[str, Any], max_epochs: int) -> TrainingConfig:
    smoothing = {
        "ce": values.get("label_smoothing", 0.0),
        "kl": values.get("kl_smoothing", 0.0),
        "hinge": 0.0,
    }
    return TrainingConfig(
        loss=values["loss"],
        smoothing=float(smoothing[values["loss"]]),
        optimiser=values["optimiser"],
        learning_rate=float(values["learning_rate"]),
        momentum=float(values.get("momentum", 0.0)),
        adam_epsilon=float(values["adam_epsilon"]),
        weight_decay=float(values.get("weight_decay", 0.0)),
        clip_norm=float(values["clip_norm"]),
        plateau_factor=float(values["plateau_factor"]) if values["plateau"] == "on" else 1.0,
        plateau_patience=values["plateau_patience"],
        patience=int(values["patience"]) if values["early_end"] == "on" else 0,
        body_rate_factor=float(values.get("body_rate_factor", 1.0)),
        batch_size=values["batch_size"],
        max_epochs=max_epochs,
    )


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
