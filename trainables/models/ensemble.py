"""Several networks of one configuration that answer together."""

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """A deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474): members that differ by their first weights.

    In training logits are `(batch, members, classes)`, so that each member learns for itself; else `(batch, classes)`,
    the logarithm of the members' mean probabilities.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits; see above."""
        logits = torch.stack([member(inputs) for member in self.members], dim=1)
        return logits if self.training else together(logits)


def together(logits: Tensor) -> Tensor:
    """Logits `(batch, classes)` of the mean probabilities, of logits `(batch, members, classes)`."""
    return torch.logsumexp(logits.log_softmax(2), dim=1)
