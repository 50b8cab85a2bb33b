"""A network's layers with the shapes of their outputs and their weights, told without computing anything.

The network is built on Torch's meta device and shown a batch of two, so size and corpus do not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trainables.config import TrialConfig, network
from trainables.footprint import on_nothing, stand_in
from trainables.loop import build, without_initial_weights

_BATCH = 2


@dataclass(frozen=True)
class Layer:
    """A layer: its name in the network, its class, the shape of one example's output, its weights.

    `output_shape` is None for a layer that the network does not use; of several outputs, as a recurrent layer has,
    the first counts. `trainable` of the `parameters` are changed by training. Weights that several layers share count
    for the first of them, so the sums are the network's.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    trainable: int


def layers(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> list[Layer]:
    """The layers of a configuration's network in the order in which they are used; those without use come last.

    A layer is a module that holds no others, or weights of its own.
    """
    plain = without_initial_weights(config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: nn.Module = network(config.network).build(plain.model, input_shape, n_classes)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.forward = stand_in(module)
    try:
        return of(model, torch.empty(_BATCH, *input_shape, device="meta"))
    except RuntimeError as error:
        if not on_nothing(error):
            raise
    return of(build(plain, input_shape, n_classes), torch.zeros(_BATCH, *input_shape))


def of(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """The layers of a network that is shown `inputs` `(batch, …)`; it is left in evaluation mode."""
    named = {name: module for name, module in model.named_modules() if _is_layer(module)}
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}
    hooks = [module.register_forward_hook(_noting(shapes)) for module in named.values()]
    try:
        with torch.inference_mode():
            model.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    order = {module: place for place, module in enumerate(shapes)}
    counted: set[Tensor] = set()
    found = []
    for name, module in sorted(named.items(), key=lambda item: order.get(item[1], len(order))):
        own = [weight for weight in module.parameters(recurse=False) if weight not in counted]
        counted.update(own)
        found.append(
            Layer(
                name or "network",
                type(module).__name__,
                shapes.get(module),
                sum(weight.numel() for weight in own),
                sum(weight.numel() for weight in own if weight.requires_grad),
            )
        )
    return found


def _is_layer(module: nn.Module) -> bool:
    return not any(module.children()) or any(True for _ in module.parameters(recurse=False))


def _noting(shapes: dict[nn.Module, tuple[int, ...] | None]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that keeps the shape of what a layer gives when it is first used."""

    def note(module: nn.Module, _: Any, output: Any) -> None:
        first = next((value for value in tree_leaves(output) if isinstance(value, Tensor)), None)
        shapes.setdefault(module, None if first is None else tuple(first.shape[1:]))

    return note
