"""The training loop: a generator that yields one report per epoch and knows nothing of who is listening."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import augment, checkpoint, losses
from trainables.config import TrainingConfig, TrialConfig, network
from trainables.data import Part, TrialData, evaluation_batch
from trainables.metrics import scores
from trainables.signals import held_back


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave. Scores are in [0, 1]; losses are means per example, None where not finite.

    Where clips are cut into segments, tune scores are those of clips: the segments' probabilities are averaged.

    `score` is the best tune balanced accuracy so far and `best_epoch` the epoch that reached it first: the one
    definition of how good a trial is. `failure` says why the trial ends here, if it must: its numbers then
    count nowhere. `ended` says that training ended by itself here: no better score for as long as its patience.
    Training metrics are those of the forward passes that trained (dropout and augmentation on).
    """

    epoch: int
    score: float
    best_epoch: int
    learning_rate: float
    train_loss: float | None
    train_cross_entropy: float | None
    train_accuracy: float
    train_balanced_accuracy: float
    train_macro_f1: float
    tune_loss: float | None
    tune_cross_entropy: float | None
    tune_accuracy: float
    tune_balanced_accuracy: float
    tune_macro_f1: float
    failure: str | None = None
    ended: bool = False
    epoch_seconds: float = field(default=0.0, compare=False)


def build(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The untrained network of a configuration; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: nn.Module = network(config.network).build(config.model, input_shape, n_classes)
    return model


def without_initial_weights(config: TrialConfig) -> TrialConfig:
    """The configuration for a network whose weights are loaded anyway: a pretrained one needs no file of its own."""
    if not hasattr(config.model, "weights_file"):
        return config
    return replace(config, model=replace(config.model, weights_file=""))


def train(config: TrialConfig, data: TrialData, folder: Path | None = None) -> Iterator[EpochReport]:
    """The reports of `train_by_save` one by one, for callers that train to the end."""
    return chain.from_iterable(train_by_save(config, data, folder))


def train_by_save(
    config: TrialConfig,
    data: TrialData,
    folder: Path | None = None,
    check: Callable[[], object] = lambda: None,
    rungs: Collection[int] = (),
    before_epoch: Callable[[], object] = lambda: None,
) -> Iterator[list[EpochReport]]:
    """Trains to `max_epochs`, yielding the reports of its epochs, or until it diverges or its patience ends.

    With a `folder` each epoch is saved there before it is reported, short ones several at once: `checkpoint.Saver` says
    when, and their reports come together. Where an epoch raises, those before it are reported first. None after an
    epoch in `rungs`, where the caller may stop, is begun before that one is reported. Started again with the same
    folder, the generator yields the same reports from the first on, those of saved epochs without any work. Every
    random number derives from the seed and the epoch, so a resumed run equals an uninterrupted one. `check` is called
    before each file is put in its place, `before_epoch` before each epoch; they raise where the folder is no longer
    this run's.
    """
    torch.set_num_threads(config.threads)
    run = _Run(config, data)
    if folder is not None and (state := checkpoint.load_state(folder, config.identity)):
        run.restore(state)
        del state  # another copy of the weights, for as long as the trial runs
    saver = checkpoint.Saver(folder, config.identity, check) if folder is not None else None
    if run.reports:
        yield list(run.reports)
    unreported: list[EpochReport] = []
    while not run.finished:
        before_epoch()
        try:
            report = run.epoch()
        except Exception:
            if unreported:  # they ended well, though what they led to was not saved
                yield unreported
            raise
        unreported.append(report)
        if saver is not None:
            if report.best_epoch == report.epoch:
                saver.keep(run.model)
            if not (run.finished or report.epoch in rungs or saver.is_due()):
                continue
            saver.save(run.state())
        yield unreported
        unreported = []


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits in single precision; on a GPU the network itself computes in bfloat16 where it can."""
    with held_back(), torch.autocast("cuda", torch.bfloat16, enabled=_half_precision(model, inputs.device)):
        logits: Tensor = model(inputs)
    return logits.float()


class _Run:
    """Model, optimiser, learning-rate schedule and the reports so far."""

    def __init__(self, config: TrialConfig, data: TrialData) -> None:
        self.config, self.data = config, data
        self.model = build(config, data.input_shape, data.n_classes).to(data.device)
        self.augment = augment.build(config.augment)
        self.mixup = augment.Mixup(config.augment.mixup)
        self.loss = losses.make(config.training.loss, config.training.smoothing)
        self.optimiser = _optimiser(self.model, config.training)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser,
            mode="max",
            factor=min(config.training.plateau_factor, 0.999),
            patience=config.training.plateau_patience,
            threshold=0.0,
        )
        self.reports: list[EpochReport] = []

    @property
    def finished(self) -> bool:
        last = self.reports[-1] if self.reports else None
        if last is None:
            return False
        return last.failure is not None or last.ended or last.epoch >= self.config.training.max_epochs

    def epoch(self) -> EpochReport:
        """Trains for one epoch, scores it, and appends the report."""
        started = time.perf_counter()
        epoch = len(self.reports) + 1
        learning_rate = float(self.optimiser.param_groups[0]["lr"])
        devices = [self.data.device] if self.data.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_derived(self.config.seed, epoch))
            train_metrics = self._pass(self.data.parts["train"], training=True)
        tune_metrics = self._pass(self.data.parts["tune"], training=False)
        values = {f"train_{k}": v for k, v in train_metrics.items()} | {f"tune_{k}": v for k, v in tune_metrics.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        before = self.reports[-1] if self.reports else None
        better = not bad and (before is None or values["tune_balanced_accuracy"] > before.score)
        best_epoch = epoch if better else before.best_epoch if before else 0
        patience = self.config.training.patience
        report = EpochReport(
            epoch=epoch,
            score=values["tune_balanced_accuracy"] if better else before.score if before else 0.0,
            best_epoch=best_epoch,
            learning_rate=learning_rate,
            failure=f"{bad[0].replace('_', ' ')} became {values[bad[0]]} in epoch {epoch}" if bad else None,
            ended=not bad and 0 < patience <= epoch - best_epoch,
            epoch_seconds=time.perf_counter() - started,
            **{name: None if name in bad else value for name, value in values.items()},  # type: ignore[arg-type]
        )
        if not bad and self.config.training.plateau_factor < 1:
            self.schedule.step(values["tune_balanced_accuracy"])
        self.reports.append(report)
        return report

    def _pass(self, part: Part, *, training: bool) -> dict[str, float]:
        """One pass over a split. Sums stay on the device; it is waited for once, at the end."""
        n, classes, device = len(part.labels), self.data.n_classes, self.data.device
        order = torch.randperm(n) if training else torch.arange(n)
        batch = self.config.training.batch_size if training else evaluation_batch(self.data.input_shape)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        outcome = _Outcome(part, classes, by_clip=not training)
        for module in (self.model, self.augment, self.mixup):
            module.train(training)
        with torch.set_grad_enabled(training):
            for positions in order.split(batch):
                positions = positions.to(part.labels.device)
                targets = part.labels[positions]
                inputs, others, share = self.mixup(self.augment(part.fetch(positions)), targets)
                logits = forward(self.model, inputs)
                loss = self.loss(logits, targets)
                if share < 1:
                    loss = share * loss + (1 - share) * self.loss(logits, others)
                if training:
                    self._step(loss)
                logits = logits.detach()
                sums += torch.stack([loss.detach(), F.cross_entropy(logits, targets)]).double() * len(targets)
                outcome.add(positions, logits)
        loss_sum, cross_entropy_sum = sums.tolist()
        found = scores(outcome.confusion().cpu().numpy().reshape(classes, classes).astype(np.int64))
        return {"loss": loss_sum / n, "cross_entropy": cross_entropy_sum / n, **asdict(found)}

    def _step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        with held_back():
            loss.backward()
        if self.config.training.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip_norm)
        self.optimiser.step()

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on; after the last one the reports alone.

        Random numbers are no part of it: they derive from seed and epoch.
        """
        reports = [asdict(report) for report in self.reports]
        if self.finished:
            return {"reports": reports}
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "reports": reports,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a saved state."""
        self.reports = [EpochReport(**report) for report in state["reports"]]
        if not self.finished:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])


class _Outcome:
    """Counts right and wrong answers on the device, of examples or, `by_clip`, of clips cut into several."""

    def __init__(self, part: Part, classes: int, *, by_clip: bool) -> None:
        self.part, self.classes = part, classes
        device = part.labels.device
        self.clips = part.clips if by_clip else None
        n_clips = 0 if self.clips is None else int(self.clips[-1]) + 1
        self.chances = torch.zeros(n_clips, classes, device=device)
        self.counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)

    def add(self, positions: Tensor, logits: Tensor) -> None:
        """Takes the logits `(batch, classes)` of the examples at `positions`."""
        if self.clips is None:
            self._count(self.part.labels[positions], logits)
        else:
            self.chances.index_add_(0, self.clips[positions], logits.softmax(1))

    def confusion(self) -> Tensor:
        """Counts `(true class * predicted class,)`."""
        if self.clips is not None:
            truth = torch.zeros(len(self.chances), dtype=torch.int64, device=self.clips.device)
            self._count(truth.scatter_(0, self.clips, self.part.labels), self.chances)
        return self.counts

    def _count(self, targets: Tensor, values: Tensor) -> None:
        self.counts += torch.bincount(targets * self.classes + values.argmax(1), minlength=self.classes**2)


def _optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (plain Adam where that is zero), or SGD with momentum.

    A pretrained body, `model.body`, learns at its own rate.
    """
    inner = getattr(model, "body", None)
    body = set(inner.parameters()) if isinstance(inner, nn.Module) else set()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    weights = [
        {"params": [weight for weight in trained if weight not in body], "lr": config.learning_rate},
        {
            "params": [weight for weight in trained if weight in body],
            "lr": config.learning_rate * config.body_rate_factor,
        },
    ]
    weights = [group for group in weights if group["params"]]
    if config.optimiser == "adam":
        return torch.optim.AdamW(
            weights,
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
    assert config.optimiser == "sgd", config.optimiser
    return torch.optim.SGD(
        weights,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _half_precision(model: nn.Module, device: torch.device) -> bool:
    """Whether a network computes in bfloat16 on a device.

    Recurrent ones do not: whatever type is asked for, Torch gives cuDNN's recurrent layers float16, in whose narrow
    range small gradients are lost (aten/src/ATen/cudnn/AutocastRNN.cpp).
    """
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    return not any(isinstance(module, nn.RNNBase) for module in model.modules())


def _derived(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
