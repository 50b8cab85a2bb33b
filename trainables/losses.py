"""Training losses on logits `(batch, classes)` and integer targets `(batch,)`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def make(name: str, smoothing: float) -> Loss:
    """The loss of that name, a mean over the batch; `smoothing` spreads that much of each target evenly."""
    if name == "ce":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if name == "hinge":
        return F.multi_margin_loss
    assert name == "kl", name
    assert smoothing > 0, "against one-hot targets the KL divergence is cross-entropy"
    return lambda logits, targets: kl(logits, targets, smoothing)


def kl(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """KL(smoothed targets ‖ softmax(logits)), the mean over the batch.

    It differs from cross-entropy with the same smoothing by the targets' entropy, a constant.
    """
    classes = logits.shape[1]
    smoothed = torch.full_like(logits, smoothing / classes)
    smoothed.scatter_(1, targets[:, None], 1 - smoothing + smoothing / classes)
    return F.kl_div(F.log_softmax(logits, dim=1), smoothed, reduction="batchmean")
