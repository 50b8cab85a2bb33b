"""How much memory a configuration takes, told without taking it: one training step is played on Torch's meta device.

Every tensor that a step makes, forward, backward and in the scoring of a batch, is counted while it lives, so what
autograd keeps is counted as it is kept. Only what lies below Torch's own operations is estimated.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables import augment, losses
from trainables.checkpoint import HELD_BYTES
from trainables.config import TrialConfig, network
from trainables.data import evaluation_batch
from trainables.heap import LARGE_BLOCK_BYTES
from trainables.loop import without_initial_weights

# What a worker process takes before its first trial, measured: Python, Torch, Ray and what they import.
WORKER_BYTES = 500_000_000

_META = torch.device("meta")
_FLOAT_BYTES = 4
# The C library gives large blocks back at once, and jemalloc rounds them up; smaller ones leave holes in the heap. Both
# shares are measured. What jemalloc keeps beside, up to half as much again, a worker gives back at its share.
_LARGE_BLOCK_FACTOR, _SMALL_BLOCK_FACTOR = 1.1, 1.5
# The kernels that oneDNN makes and keeps, measured.
_KERNEL_BYTES = 35_000_000
# What oneDNN's LSTM keeps of each step for its backward pass, in values per unit: gates, cells, states, measured.
_RECURRENT_VALUES = 10
# oneDNN computes in a layout of its own, into which it copies whatever it is given.
_COPYING = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


@dataclass(frozen=True)
class Footprint:
    """Weights, those of them that training changes, and memory in bytes.

    `training_bytes` is what a trial's process takes at its peak beside itself (`WORKER_BYTES`) and its data;
    `example_bytes` what one example of a training batch takes.
    """

    parameters: int
    trainable_parameters: int
    training_bytes: int
    example_bytes: int

    @property
    def process_bytes(self) -> int:
        """Memory of a trial's process at its peak, without the data that stays."""
        return WORKER_BYTES + self.training_bytes


def footprint(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> Footprint:
    """The footprint of a configuration's network on inputs of that shape.

    Raises whatever Torch raises where the network cannot be built or run on such inputs.
    """
    model = _built(config, input_shape, n_classes)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.forward = stand_in(module)
    weights = list(model.parameters())
    parameters = sum(weight.numel() for weight in weights)
    trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
    moments = _moments(config) * trainable
    step, scoring = _played(model, config, input_shape)
    copies = 2 + _moments(config)  # of what is trained: weights, gradients, moments
    blocks = {weight: _block_bytes(_FLOAT_BYTES * weight.numel()) for weight in weights}
    held = sum((copies if weight.requires_grad else 1) * block for weight, block in blocks.items())
    held += min(sum(blocks.values()), HELD_BYTES)  # the best weights, until they are saved
    # A resumed trial holds the saved state twice, as it was read and as tensors, beside the fresh weights. The
    # optimiser's own step takes less.
    resumed = _FLOAT_BYTES * (3 * parameters + 2 * moments)
    training = held + max(step, scoring) + _KERNEL_BYTES
    return Footprint(parameters, trainable, max(training, resumed), step // config.training.batch_size)


def count_parameters(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> int:
    """The weights of a configuration's network alone, for which no step need be played; raises as `footprint` does."""
    return sum(weight.numel() for weight in _built(config, input_shape, n_classes).parameters())


def _built(config: TrialConfig, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    plain = without_initial_weights(config).model
    with _META, torch.random.fork_rng(devices=[]):
        model: nn.Module = network(config.network).build(plain, input_shape, n_classes)
    return model


def _block_bytes(size: int) -> int:
    """What a block of so many bytes takes, with its part of the holes between blocks."""
    return int(size * (_SMALL_BLOCK_FACTOR if size < LARGE_BLOCK_BYTES else _LARGE_BLOCK_FACTOR))


def _played(model: nn.Module, config: TrialConfig, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of a training step and of scoring a batch; 0 of a network that looks at values, which are not there."""
    try:
        return _step_bytes(model, config, input_shape), _scoring_bytes(model, input_shape)
    except RuntimeError as error:
        if not on_nothing(error):
            raise
        return 0, 0


def on_nothing(error: RuntimeError) -> bool:
    """Whether Torch complains that a network wants to see values, of which the meta device has none."""
    return "meta tensors" in str(error).lower()


def _moments(config: TrialConfig) -> int:
    """Values that the optimiser keeps per weight."""
    if config.training.optimiser == "adam":
        return 2
    return 1 if config.training.momentum else 0


def _step_bytes(model: nn.Module, config: TrialConfig, input_shape: tuple[int, ...]) -> int:
    """What a training step takes at its peak beside weights, gradients and moments."""
    examples = config.training.batch_size
    change, mixup = augment.build(config.augment), augment.Mixup(config.augment.mixup)
    loss = losses.make(config.training.loss, config.training.smoothing)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.empty_like(weight)  # those of the step before, which live until the backward pass
    model.train()
    live = _Live(model, *(weight.grad for weight in trained if weight.grad is not None))
    with torch.random.fork_rng(devices=[]), live:
        before = _batch(examples, input_shape)  # inputs live until the next ones are there
        targets = torch.zeros(examples, dtype=torch.int64, device=_META)
        inputs, _, _ = mixup(change(_batch(examples, input_shape)), targets)
        del before
        value = loss(model(inputs), targets)
        for weight in trained:
            weight.grad = None
        value.backward()
        for weight in trained:
            weight.grad = None
    return live.peak


def _scoring_bytes(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """What scoring a batch takes at its peak beside weights, gradients and moments."""
    examples = evaluation_batch(input_shape)
    model.eval()
    live = _Live(model)
    with torch.no_grad(), live:
        before = _batch(examples, input_shape)
        inputs = _batch(examples, input_shape)
        del before
        model(inputs)
    return live.peak


def _batch(examples: int, input_shape: tuple[int, ...]) -> Tensor:
    return torch.empty(examples, *input_shape, device=_META)


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors made under it while they live; views share their tensor's.

    `peak` is the most above what lived at first, `model` and `others`; where some of that goes, there is room for as
    much.
    """

    def __init__(self, model: nn.Module, *others: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()
        self._hold(*model.parameters(), *model.buffers(), *others)
        self.peak = self._now = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carries out one operation."""
        found = func(*args, **(kwargs or {}))
        made = _tensors(found)
        self._hold(*made)
        if func in _COPYING:
            copies = sum(_block_bytes(tensor.numel() * tensor.element_size()) for tensor in (*made, *_tensors(args)))
            self.peak = max(self.peak, self._now + copies)
        return found

    def _hold(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) in self._known:
                continue
            size = _block_bytes(storage.nbytes())
            self._known.add(id(storage))
            self._now += size
            weakref.finalize(storage, self._drop, id(storage), size).atexit = False
        self.peak = max(self.peak, self._now)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def stand_in(module: nn.RNNBase) -> Callable[..., tuple[Tensor, Any]]:
    """A forward that takes the memory of oneDNN's kernel. On the meta device Torch would walk every step."""
    directions = 2 if module.bidirectional else 1

    def forward(inputs: Tensor, _: object = None) -> tuple[Tensor, Any]:
        first, second = inputs.shape[:2]
        examples = first if module.batch_first else second
        output, hidden = _Recurrence.apply(  # type: ignore[no-untyped-call]
            inputs,
            (first, second, module.hidden_size * directions),
            (module.num_layers * directions, examples, module.hidden_size),
            _RECURRENT_VALUES * module.num_layers if torch.is_grad_enabled() else 0,
            *module.parameters(),
        )
        return output, (hidden, hidden) if isinstance(module, nn.LSTM) else hidden

    return forward


class _Recurrence(torch.autograd.Function):
    """Empty outputs of a recurrent layer, and what its backward pass needs."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, shape: tuple[int, ...], hidden: tuple[int, ...], kept: int, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        output = inputs.new_empty(shape)
        ctx.save_for_backward(inputs, output, inputs.new_empty((kept, *shape)), *weights)
        return output, inputs.new_empty(hidden)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        inputs, _, _, *weights = ctx.saved_tensors
        return (torch.empty_like(inputs), None, None, None, *map(torch.empty_like, weights))
