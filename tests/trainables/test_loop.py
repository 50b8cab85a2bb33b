"""The training loop, driven by a for-loop: what it reports, when it stops, and that a resumed run is the same run."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from torch import Tensor

from trainables import checkpoint, loop
from trainables.config import TrialConfig
from trainables.data import Part, TrialData
from trainables.files import BEST_WEIGHTS, STATE
from trainables.metrics import Scores

Configs = Callable[..., TrialConfig]
Data = Callable[..., TrialData]
METRICS = ("loss", "cross_entropy", "accuracy", "balanced_accuracy", "macro_f1")


# The share of the time that saving may take: every epoch is saved, or the rungs and the last.
ALWAYS, SELDOM = float("inf"), 1e-9


def save(patch: pytest.MonkeyPatch, share: float) -> None:
    patch.setattr(checkpoint, "_SHARE", share)
    patch.setattr(checkpoint, "_FIRST_SECONDS", 0.0 if share == ALWAYS else 1e9)


def run(config: TrialConfig, data: TrialData, folder: Path | None = None) -> list[loop.EpochReport]:
    return list(loop.train(config, data, folder))


def part_of_run(config: TrialConfig, data: TrialData, folder: Path, epochs: int) -> list[loop.EpochReport]:
    """The first epochs of more, after which the folder holds all that the next one depends on."""
    longer = replace(config, training=replace(config.training, max_epochs=epochs + 1))
    return list(islice(chain.from_iterable(loop.train_by_save(longer, data, folder, rungs=(epochs,))), epochs))


def everything(data: TrialData, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a split."""
    part = data.parts[name]
    return part.fetch(torch.arange(len(part.labels))), part.labels


def with_inputs(data: TrialData, name: str, change: Callable[[Tensor], Tensor]) -> TrialData:
    """The same data with a split's inputs passed through `change` whenever they are fetched."""
    part = data.parts[name]
    changed = Part(part.labels, lambda positions: change(part.fetch(positions)))
    return replace(data, parts={**data.parts, name: changed})


def weights_of(folder: Path) -> dict[str, Tensor]:
    return dict(torch.load(folder / STATE, weights_only=True)["model"])


def equal(left: Any, right: Any) -> bool:
    """Whether two nested states hold equal values, bit by bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


# --- reports -----------------------------------------------------------------------------------


def test_one_report_per_epoch(tiny_config: Configs, tiny_data: Data) -> None:
    reports = run(tiny_config(), tiny_data())
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    for report in reports:
        assert report.failure is None
        assert report.learning_rate == 0.02
        assert report.epoch_seconds > 0
        values = asdict(report)
        assert all(0 <= values[f"{part}_{name}"] <= 1 for part in ("train", "tune") for name in METRICS[2:])
        assert all(values[f"{part}_{name}"] > 0 for part in ("train", "tune") for name in METRICS[:2])
    assert reports[-1].train_loss < reports[0].train_loss


@pytest.mark.parametrize("loss", ["ce", "hinge", "kl"])
def test_tune_metrics_are_those_of_the_weights_after_the_epoch(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, loss: str
) -> None:
    """Computed again from the saved weights, with Torch and scikit-learn; dropout is off."""
    config, data = tiny_config(loss=loss, dropout=0.5), tiny_data()
    report = part_of_run(config, data, tmp_path, epochs=5)[-1]
    model = loop.build(config, data.input_shape, data.n_classes)
    model.load_state_dict(weights_of(tmp_path))
    inputs, labels = everything(data, "tune")
    with torch.no_grad():
        logits = model.eval()(inputs)
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    assert report.tune_cross_entropy == pytest.approx(F.cross_entropy(logits, labels).item())
    assert report.tune_loss == pytest.approx(loop.losses.make(loss, 0.1)(logits, labels).item())
    assert report.tune_loss != pytest.approx(report.tune_cross_entropy)
    assert report.tune_accuracy == pytest.approx(accuracy_score(true, predicted))
    assert report.tune_balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))
    assert report.tune_macro_f1 == pytest.approx(
        f1_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    )


def test_train_metrics_are_means_per_clip_although_the_last_batch_is_short(
    tiny_config: Configs, tiny_data: Data
) -> None:
    """With a learning rate of 0 every batch meets the first weights, so the split can be scored at once."""
    config, data = tiny_config(optimiser="sgd", learning_rate=0.0, batch_size=8, max_epochs=1), tiny_data(train=20)
    (report,) = run(config, data)
    inputs, labels = everything(data, "train")
    with torch.no_grad():
        logits = loop.build(config, data.input_shape, data.n_classes)(inputs)
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    assert report.train_loss == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1).item())
    assert report.train_cross_entropy == pytest.approx(F.cross_entropy(logits, labels).item())
    assert report.train_accuracy == pytest.approx(accuracy_score(true, predicted))
    assert report.train_balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))


def orders_of(config: TrialConfig, data: TrialData) -> list[list[int]]:
    """The batches of positions in which training fetches its clips."""
    met: list[list[int]] = []

    def fetch(positions: Tensor) -> Tensor:
        met.append(positions.tolist())
        return data.parts["train"].fetch(positions)

    run(config, replace(data, parts={**data.parts, "train": Part(data.parts["train"].labels, fetch)}))
    return met


def test_every_clip_is_met_once_an_epoch_in_a_new_order(tiny_config: Configs, tiny_data: Data) -> None:
    met = orders_of(tiny_config(max_epochs=3), tiny_data(train=20))
    assert [len(batch) for batch in met] == [8, 8, 4] * 3
    orders = [[*met[start], *met[start + 1], *met[start + 2]] for start in (0, 3, 6)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 3
    assert len({tuple(order) for order in (*orders, range(20))}) == 4


def test_score_and_best_epoch_are_the_running_maximum_and_its_first_epoch(
    tiny_config: Configs, tiny_data: Data
) -> None:
    ties = drops = 0
    for seed in range(6):
        best = (-1.0, 0)
        for report in run(tiny_config(seed=seed, max_epochs=12), tiny_data(noise=2.5, seed=seed)):
            value = report.tune_balanced_accuracy
            ties += value == best[0]
            drops += value < best[0]
            best = max(best, (value, report.epoch), key=lambda pair: pair[0])
            assert (report.score, report.best_epoch) == best
    assert ties > 5 and drops > 5


def test_a_score_of_zero_is_a_score(tiny_config: Configs, tiny_data: Data, tmp_path: Path) -> None:
    """Every tune clip wrong in every epoch: the first is the best one, and its weights are kept."""
    config, data = tiny_config(optimiser="sgd", learning_rate=0.0, max_epochs=2), tiny_data()
    with torch.no_grad():
        guesses = loop.build(config, data.input_shape, data.n_classes)(everything(data, "tune")[0]).argmax(1)
    wrong = Part((guesses + 1) % 3, data.parts["tune"].fetch)
    reports = run(config, replace(data, parts={**data.parts, "tune": wrong}), tmp_path)
    assert [(report.score, report.best_epoch, report.failure) for report in reports] == [(0.0, 1, None)] * 2
    assert (tmp_path / BEST_WEIGHTS).exists()


def test_the_kept_weights_are_those_of_the_best_epoch(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = tiny_config(max_epochs=13), tiny_data(noise=2.5)
    by_epoch = []
    save(monkeypatch, ALWAYS)
    for report in islice(loop.train(config, data, tmp_path / "always"), 12):
        by_epoch.append(weights_of(tmp_path / "always"))
        assert equal(load_file(tmp_path / "always" / BEST_WEIGHTS), by_epoch[report.best_epoch - 1])
    assert 1 < report.best_epoch < 12
    save(monkeypatch, SELDOM)
    part_of_run(config, data, tmp_path / "seldom", epochs=12)
    assert equal(load_file(tmp_path / "seldom" / BEST_WEIGHTS), by_epoch[report.best_epoch - 1])


# --- seeds -------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_reports_and_different_seeds_different_ones(
    tiny_config: Configs, tiny_data: Data
) -> None:
    config, data = tiny_config(dropout=0.4), tiny_data()
    torch.manual_seed(1)
    first = run(config, data)
    torch.manual_seed(2)
    torch.rand(17)
    assert run(config, data) == first
    assert run(replace(config, seed=4), data) != first


def test_the_seed_decides_weights_and_order_and_dropout(tiny_config: Configs, tiny_data: Data) -> None:
    data = tiny_data()
    one, two = (loop.build(tiny_config(seed=seed), (4, 3), 3).state_dict() for seed in (1, 2))
    again = loop.build(tiny_config(seed=1), (4, 3), 3).state_dict()
    assert equal(one, again) and not equal(one, two)
    assert orders_of(tiny_config(seed=1), data) == orders_of(tiny_config(seed=1), data)
    assert orders_of(tiny_config(seed=1), data) != orders_of(tiny_config(seed=2), data)
    without = run(tiny_config(dropout=0.0), data)
    assert run(tiny_config(dropout=0.4), data)[0].train_loss != without[0].train_loss


def test_nobody_elses_random_numbers_are_disturbed(tiny_config: Configs, tiny_data: Data) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(tiny_config(dropout=0.4), tiny_data())
    assert torch.equal(torch.get_rng_state(), before)


# --- resuming ----------------------------------------------------------------------------------

RESUMED = {
    "adam": {"optimiser": "adam", "weight_decay": 0.01},
    "adam, dropout": {"optimiser": "adam", "dropout": 0.4},
    "sgd, momentum, dropout": {"optimiser": "sgd", "momentum": 0.9, "dropout": 0.4, "clip_norm": 0.5},
    "adam, plateau": {"optimiser": "adam", "plateau_factor": 0.5, "plateau_patience": 1},
    "sgd, momentum, plateau": {"optimiser": "sgd", "momentum": 0.9, "plateau_factor": 0.1, "plateau_patience": 0},
}


@pytest.mark.parametrize("share", [ALWAYS, SELDOM])
@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED.keys())
def test_resuming_after_any_epoch_changes_nothing(
    tiny_config: Configs,
    tiny_data: Data,
    tmp_path: Path,
    changes: dict[str, Any],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reports, state and best weights equal those of the run that nobody interrupted, to the last bit."""
    save(monkeypatch, share)
    config, data = tiny_config(max_epochs=8, **changes), tiny_data(noise=2.5)

    def train(folder: Path, epochs: int) -> list[loop.EpochReport]:
        return list(islice(chain.from_iterable(loop.train_by_save(config, data, folder, rungs=(7,))), epochs))

    train(tmp_path / "whole", 7)
    before_the_last = {name: _saved(tmp_path / "whole", name) for name in (STATE, "best")}
    whole = train(tmp_path / "whole", 8)
    assert (len({report.learning_rate for report in whole}) > 1) == (config.training.plateau_factor < 1)
    assert len({report.train_loss for report in whole}) == 8
    for killed_after in range(1, 8):
        folder = tmp_path / str(killed_after)
        assert train(folder, killed_after) == whole[:killed_after]
        torch.manual_seed(killed_after)
        assert train(folder, 7) == whole[:7], killed_after
        for name, saved in before_the_last.items():
            assert equal(_saved(folder, name), saved), (killed_after, name)
        assert train(folder, 8) == whole, killed_after
        for name in (STATE, "best"):
            left, right = (_saved(place, name) for place in (folder, tmp_path / "whole"))
            assert equal(left, right), (killed_after, name)


def _saved(folder: Path, name: str) -> dict[str, Any]:
    """What lies in the folder, less the seconds that epochs took."""
    if name != STATE:
        return dict(load_file(folder / BEST_WEIGHTS))
    state: dict[str, Any] = torch.load(folder / STATE, weights_only=True)
    for report in state["reports"]:
        del report["epoch_seconds"]
    return state


def test_resuming_again_and_again_changes_nothing(tiny_config: Configs, tiny_data: Data, tmp_path: Path) -> None:
    config, data = tiny_config(dropout=0.4), tiny_data()
    whole = run(config, data)
    for epochs in range(1, 6):
        assert list(islice(loop.train(config, data, tmp_path), epochs)) == whole[:epochs]
    assert run(config, data, tmp_path) == whole


@pytest.mark.parametrize(("dies_in", "after"), [("save_weights", 0), ("save_state", 0), ("save_state", 3)])
def test_dying_while_an_epoch_is_saved_repeats_that_epoch(
    tiny_config: Configs,
    tiny_data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_in: str,
    after: int,
) -> None:
    config, data = tiny_config(dropout=0.4), tiny_data()
    whole = run(config, data, tmp_path / "whole")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    save(monkeypatch, ALWAYS)
    running = loop.train(config, data, tmp_path / "killed")
    assert list(islice(running, after)) == whole[:after]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, dies_in, die)
        next(running)
    assert run(config, data, tmp_path / "killed") == whole
    assert equal(load_file(tmp_path / "killed" / BEST_WEIGHTS), load_file(tmp_path / "whole" / BEST_WEIGHTS))


def test_no_epoch_is_reported_before_it_is_saved_nor_one_begun_before_a_rung_is_reported(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(monkeypatch, SELDOM)
    config, data = tiny_config(max_epochs=7, dropout=0.4), tiny_data(noise=2.5)
    whole = run(config, data)
    assert len({report.best_epoch for report in whole}) > 2, "the best epoch is not always the last saved one"
    trained = []

    def counted(inputs: Tensor) -> Tensor:
        trained.append(None)
        return inputs

    data = with_inputs(data, "tune", counted)
    seen = []
    begun: list[None] = []
    saves = loop.train_by_save(config, data, tmp_path, rungs=(3, 5), before_epoch=lambda: begun.append(None))
    for report in chain.from_iterable(saves):
        state = torch.load(tmp_path / STATE, weights_only=True)
        assert [saved["epoch"] for saved in state["reports"]][report.epoch - 1] == report.epoch
        assert state["reports"][-1]["best_epoch"] == report.best_epoch or report.epoch < state["reports"][-1]["epoch"]
        seen.append((report.epoch, len(trained)))
    assert [epochs for _, epochs in seen] == [3, 3, 3, 5, 5, 7, 7], "trained when each was reported"
    assert len(begun) == 7


def test_epochs_that_ended_well_are_reported_before_one_that_raises(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(monkeypatch, SELDOM)
    scored: list[None] = []

    def full(inputs: Tensor) -> Tensor:
        scored.append(None)
        if len(scored) == 6:
            raise MemoryError("all of it")
        return inputs

    data = with_inputs(tiny_data(), "tune", full)
    saves = loop.train_by_save(tiny_config(max_epochs=9), data, tmp_path, rungs=(3,))
    assert [[report.epoch for report in next(saves)] for _ in range(2)] == [[1, 2, 3], [4, 5]]
    with pytest.raises(MemoryError, match="all of it"):
        next(saves)


def test_saved_epochs_are_reported_again_without_any_work(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path
) -> None:
    config, data = tiny_config(), tiny_data()
    whole = run(config, data, tmp_path)

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError("no input is needed")

    idle = replace(data, parts={name: Part(part.labels, refuse) for name, part in data.parts.items()})
    again = run(config, idle, tmp_path)
    assert again == whole
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state.keys() == {"identity", "reports"}, "nothing that only another epoch would need"
    assert [report.epoch_seconds for report in again] == [report.epoch_seconds for report in whole]


def test_a_checkpoint_of_another_configuration_is_ignored(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path
) -> None:
    data = tiny_data()
    run(tiny_config(), data, tmp_path)
    changed = tiny_config(learning_rate=0.021)
    assert run(changed, data, tmp_path) == run(changed, data)


# --- optimisation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        (
            {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 0.1},
            lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9, weight_decay=0.1),
        ),
        (
            {"optimiser": "adam", "weight_decay": 0.5, "adam_epsilon": 0.1},
            lambda weights: torch.optim.AdamW(weights, lr=0.02, weight_decay=0.5, eps=0.1),
        ),
        (
            {"optimiser": "adam", "adam_epsilon": 1e-7},
            lambda weights: torch.optim.Adam(weights, lr=0.02, eps=1e-7),
        ),
    ],
)
def test_training_is_the_textbook_loop(
    tiny_config: Configs,
    tiny_data: Data,
    tmp_path: Path,
    changes: dict[str, Any],
    make: Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer],
) -> None:
    """On whole batches, where the order does not matter, the weights are those of four plain steps."""
    config, data = tiny_config(batch_size=64, clip_norm=0.0, **changes), tiny_data()
    part_of_run(config, data, tmp_path, epochs=4)
    model = loop.build(config, data.input_shape, data.n_classes)
    optimiser, (inputs, labels) = make(model.parameters()), everything(data, "train")
    for _ in range(4):
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels, label_smoothing=0.1).backward()
        optimiser.step()
    for name, weight in weights_of(tmp_path).items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.01, 0.01), (0.05, 0.05), (1e6, None), (0.0, None)])
def test_clip_norm_bounds_the_gradient(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, clip_norm: float, expected: float | None
) -> None:
    """One step of plain SGD with a learning rate of 1 moves the weights by the gradient."""
    config = tiny_config(optimiser="sgd", learning_rate=1.0, batch_size=64, clip_norm=clip_norm)
    data = tiny_data()
    part_of_run(config, data, tmp_path, epochs=1)
    start = loop.build(config, data.input_shape, data.n_classes)
    inputs, labels = everything(data, "train")
    F.cross_entropy(start(inputs), labels, label_smoothing=0.1).backward()
    gradient = math.sqrt(sum(weight.grad.square().sum().item() for weight in start.parameters()))
    assert gradient > 0.1
    before = start.state_dict()
    moved = math.sqrt(sum((weight - before[name]).square().sum() for name, weight in weights_of(tmp_path).items()))
    assert moved == pytest.approx(expected or gradient, rel=1e-3)


def test_the_plateau_rule_by_hand(tiny_config: Configs, tiny_data: Data) -> None:
    """Steps too small to change a prediction: epoch 1 is the best, two bad epochs are borne, the third is not."""
    changes = {"optimiser": "sgd", "learning_rate": 1e-5, "plateau_factor": 0.1, "max_epochs": 8}
    reports = run(tiny_config(plateau_patience=2, **changes), tiny_data())
    assert len({report.tune_balanced_accuracy for report in reports}) == 1
    rates = [report.learning_rate for report in reports]
    assert rates == pytest.approx([1e-5] * 4 + [1e-6] * 3 + [1e-7])
    without = run(tiny_config(plateau_patience=2, **{**changes, "plateau_factor": 1.0}), tiny_data())
    assert {report.learning_rate for report in without} == {1e-5}


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_plateau_rule_on_noisy_curves(tiny_config: Configs, tiny_data: Data, patience: int) -> None:
    config = tiny_config(plateau_factor=0.7, plateau_patience=patience, max_epochs=16)
    reports = run(config, tiny_data(noise=2.5))
    rate, best, bad = 0.02, -1.0, 0
    for report in reports:
        assert report.learning_rate == pytest.approx(rate)
        bad = 0 if report.tune_balanced_accuracy > best else bad + 1
        best = max(best, report.tune_balanced_accuracy)
        if bad > patience:
            rate, bad = rate * 0.7, 0
    assert rate < 0.02


def test_the_plateau_rule_and_the_score_agree_on_what_is_better(
    tiny_config: Configs, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clip more in 60,000 is a better score, so no plateau either: nothing ever lowers the rate here."""
    rising = (Scores(0.5, 0.5 + 1e-5 * number, 0.5) for number in range(100))
    monkeypatch.setattr(loop, "scores", lambda confusion: next(rising))
    reports = run(tiny_config(plateau_factor=0.1, plateau_patience=0), tiny_data())
    assert [report.best_epoch for report in reports] == [1, 2, 3, 4, 5]
    assert [report.learning_rate for report in reports] == [0.02] * 5


# --- divergence --------------------------------------------------------------------------------


def check_failure(report: loop.EpochReport, *, score: float, best_epoch: int) -> None:
    """Says why, holds no NaN anywhere, and is JSON."""
    assert report.failure is not None and f"in epoch {report.epoch}" in report.failure
    assert (report.score, report.best_epoch) == (score, best_epoch)
    values = asdict(report)
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
    assert {field.name for field in fields(report)} == set(json.loads(json.dumps(values, allow_nan=False)))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_huge_learning_rate_ends_in_a_failure_report(tiny_config: Configs, tiny_data: Data, optimiser: str) -> None:
    config = tiny_config(optimiser=optimiser, learning_rate=1e30, clip_norm=0.0, momentum=0.9, max_epochs=9)
    reports = run(config, tiny_data())
    assert len(reports) < 9
    assert [report.failure for report in reports[:-1]] == [None] * (len(reports) - 1)
    before = reports[-2] if len(reports) > 1 else None
    check_failure(reports[-1], score=before.score if before else 0.0, best_epoch=before.best_epoch if before else 0)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_input_fails_in_the_first_epoch(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path, value: float, clip_norm: float
) -> None:
    data = with_inputs(tiny_data(), "train", lambda inputs: inputs * value)
    reports = run(tiny_config(clip_norm=clip_norm), data, tmp_path)
    assert len(reports) == 1
    check_failure(reports[0], score=0.0, best_epoch=0)
    assert reports[0].train_loss is reports[0].train_cross_entropy is reports[0].tune_loss is None
    assert not (tmp_path / BEST_WEIGHTS).exists()
    assert run(tiny_config(clip_norm=clip_norm), data, tmp_path) == reports


def test_only_what_is_not_finite_is_left_out(tiny_config: Configs, tiny_data: Data) -> None:
    data = with_inputs(tiny_data(), "tune", lambda inputs: inputs * math.nan)
    (report,) = run(tiny_config(), data)
    check_failure(report, score=0.0, best_epoch=0)
    assert report.failure == "tune loss became nan in epoch 1"
    assert report.tune_loss is report.tune_cross_entropy is None
    assert report.train_loss is not None and report.train_cross_entropy is not None


def test_a_late_failure_keeps_the_score_and_the_weights_of_before(
    tiny_config: Configs, tiny_data: Data, tmp_path: Path
) -> None:
    """One NaN clip from the third epoch on; resumed, the trial stays as it ended."""
    config, sound, calls = tiny_config(batch_size=64), tiny_data(), iter(range(100))
    data = with_inputs(sound, "train", lambda inputs: inputs * (math.nan if next(calls) >= 2 else 1.0))
    healthy = run(config, sound, tmp_path / "healthy")
    reports = run(config, data, tmp_path / "failed")
    assert reports[:2] == healthy[:2]
    assert len(reports) == 3
    check_failure(reports[2], score=healthy[1].score, best_epoch=healthy[1].best_epoch)
    list(islice(loop.train(config, sound, tmp_path / "two"), 2))
    assert equal(load_file(tmp_path / "failed" / BEST_WEIGHTS), load_file(tmp_path / "two" / BEST_WEIGHTS))
    assert run(config, data, tmp_path / "failed") == reports


def test_recurrent_networks_compute_in_single_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of half precision Torch gives them float16 alone, without a scaled loss."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    dense, recurrent = torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.LSTM(2, 2))
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=supported: found)
        assert loop._half_precision(dense, gpu) is supported
        assert not loop._half_precision(recurrent, gpu)
        assert not loop._half_precision(dense, cpu)
