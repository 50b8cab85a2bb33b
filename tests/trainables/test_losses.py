"""Each loss against its definition in plain numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import entropy

from trainables import losses

Array = npt.NDArray[np.float64]
SMOOTHINGS = (0.02, 0.1, 0.3)


def cases(seed: int, classes: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Logits `(9, classes)`, some of them large, and targets."""
    rng = np.random.default_rng(seed)
    return 4 * rng.normal(size=(9, classes)), rng.integers(0, classes, 9)


def value(name: str, smoothing: float, logits: Array, targets: npt.NDArray[np.int64]) -> float:
    return losses.make(name, smoothing)(torch.from_numpy(logits), torch.from_numpy(targets)).item()


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def smoothed(targets: npt.NDArray[np.int64], classes: int, smoothing: float) -> Array:
    """One-hot targets mixed with the uniform distribution."""
    return (1 - smoothing) * np.eye(classes)[targets] + smoothing / classes


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("smoothing", [0.0, *SMOOTHINGS])
def test_cross_entropy(classes: int, smoothing: float) -> None:
    logits, targets = cases(classes, classes)
    expected = -(smoothed(targets, classes, smoothing) * log_softmax(logits)).sum(axis=1).mean()
    assert value("ce", smoothing, logits, targets) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_hinge_is_the_margin_to_every_other_class(classes: int) -> None:
    logits, targets = cases(classes, classes)
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        for other in range(classes):
            if other != target:
                total += max(0.0, 1.0 - row[target] + row[other]) / classes
    assert total > 0
    assert value("hinge", 0.0, logits, targets) == pytest.approx(total / len(logits), rel=1e-12)


def test_hinge_by_hand() -> None:
    """Right by 3 costs nothing; right by 0.5 costs (1 - 0.5) / 2; the mean of both is 0.125."""
    assert value("hinge", 0.0, np.array([[3.0, 0.0], [0.0, 0.5]]), np.array([0, 1])) == pytest.approx(0.125)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_kl_is_the_divergence_from_smoothed_targets(classes: int, smoothing: float) -> None:
    logits, targets = cases(classes, classes)
    chances, aims = np.exp(log_softmax(logits)), smoothed(targets, classes, smoothing)
    expected = np.mean([entropy(aim, chance) for aim, chance in zip(aims, chances, strict=True)])
    assert value("kl", smoothing, logits, targets) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_kl_is_cross_entropy_less_the_entropy_of_the_targets(smoothing: float) -> None:
    """So for one amount of smoothing the two give equal gradients; they differ in the number shown."""
    logits, targets = cases(1, 10)
    constant = entropy(smoothed(targets[:1], 10, smoothing)[0])
    assert constant > 0.1
    gap = value("ce", smoothing, logits, targets) - value("kl", smoothing, logits, targets)
    assert gap == pytest.approx(constant, rel=1e-9)


def test_kl_without_smoothing_would_be_cross_entropy() -> None:
    logits, targets = cases(2, 10)
    gaps = [
        abs(value("kl", smoothing, logits, targets) - value("ce", 0.0, logits, targets))
        for smoothing in (1e-2, 1e-4, 1e-6, 1e-8)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-5 < gaps[0]


def test_kl_is_zero_where_the_network_says_what_the_targets_say() -> None:
    aims = smoothed(np.array([0, 2]), 3, 0.1)
    assert value("kl", 0.1, np.log(aims) + 5, np.array([0, 2])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["ce", "hinge", "kl"])
def test_gradients_of_a_batch_are_means_over_its_clips(name: str) -> None:
    logits, targets = (torch.from_numpy(array) for array in cases(3, 4))
    loss = losses.make(name, 0.1)
    whole = loss(logits, targets).item()
    single = [loss(logits[i : i + 1], targets[i : i + 1]).item() for i in range(len(targets))]
    assert whole == pytest.approx(np.mean(single), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits.requires_grad_())


def test_kl_needs_smoothing_and_unknown_names_are_refused() -> None:
    with pytest.raises(AssertionError, match="cross-entropy"):
        losses.make("kl", 0.0)
    with pytest.raises(AssertionError, match="focal"):
        losses.make("focal", 0.1)
