"""How large a configuration is, told without allocating it: the network is built and run on Torch's meta device."""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from trainables.config import TrialConfig, network
from trainables.data import evaluation_batch
from trainables.loop import without_initial_weights

_META = torch.device("meta")
# Recurrent layers keep four gates, the cell and its tanh for every step beside their output.
_RECURRENT_FACTOR = 8
# What is kept for one number per weight: the weight; where it is trained also its gradient and two moments.
_BYTES = 4
_STEPS = 4
_TRAINED_BYTES = 12


@dataclass(frozen=True)
class Footprint:
    """Weights, those of them that training changes, and what one example leaves in the layers, in values.

    `kept` values wait for the backward pass, `largest` is the largest output of a single layer. Frozen layers keep
    nothing.
    """

    parameters: int
    trainable_parameters: int
    kept: int
    largest: int

    def training_bytes(self, batch_size: int, scoring_batch: int, input_values: int) -> int:
        """Memory that training takes at its peak, without the data that stays: training a batch or scoring one."""
        weights = _BYTES * self.parameters + _TRAINED_BYTES * self.trainable_parameters
        training = batch_size * (2 * self.kept + 2 * self.largest + 2 * input_values)
        scoring = scoring_batch * (2 * self.largest + 2 * input_values)
        return weights + _BYTES * max(training, scoring)


def footprint(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> Footprint:
    """The footprint of a configuration's network on inputs of that shape."""
    plain = without_initial_weights(config).model
    with _META, torch.random.fork_rng(devices=[]):
        model: nn.Module = network(config.network).build(plain, input_shape, n_classes)
    weights = list(model.parameters())
    kept, largest = _values(model, input_shape)
    return Footprint(
        parameters=sum(weight.numel() for weight in weights),
        trainable_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
        kept=kept,
        largest=largest,
    )


def _values(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Values that wait for the backward pass, and the largest output, for one example.

    Recurrent layers walk every step even here, so they walk a few, and the rest follows: both grow evenly.
    """
    steps = input_shape[0]
    if steps <= 2 * _STEPS or not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return _noted(model, input_shape)
    few, more = (_noted(model, (n * _STEPS, *input_shape[1:])) for n in (1, 2))
    times = steps / _STEPS - 1
    kept, largest = (round(one + times * (two - one)) for one, two in zip(few, more, strict=True))
    return kept, largest


def _noted(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    kept: list[int] = [0]
    outputs: list[int] = [0]

    def note(module: nn.Module, inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            values = first.numel() * (_RECURRENT_FACTOR if isinstance(module, nn.RNNBase) else 1)
            outputs.append(values)
            kept.append(values if first.requires_grad else 0)

    hooks = [module.register_forward_hook(note) for module in model.modules() if not list(module.children())]
    examples = 2  # batch normalisation refuses a single one
    model(torch.empty(examples, *input_shape, device=_META))
    for hook in hooks:
        hook.remove()
    return sum(kept) // examples, max(outputs) // examples


def training_bytes(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> int:
    """Memory that a trial takes at its peak, in bytes, without the data that stays."""
    size = footprint(config, input_shape, n_classes)
    return size.training_bytes(config.training.batch_size, evaluation_batch(input_shape), prod(input_shape))
