"""The networks: one module per architecture, each with a frozen `Config` and a `build` function."""

from torch import nn


def count_trainable(model: nn.Module) -> int:
    """The number of weights that training changes."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
