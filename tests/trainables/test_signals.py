"""Ctrl-C and termination come between batches."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from trainables import loop
from trainables.config import TrialConfig
from trainables.data import TrialData
from trainables.signals import HELD_BACK, held_back

Configs = Callable[..., TrialConfig]
Data = Callable[..., TrialData]


@pytest.fixture
def came() -> Iterator[list[int]]:
    """The signals that came, instead of an end."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in HELD_BACK}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", HELD_BACK)
def test_a_signal_comes_right_after_the_block(number: int, came: list[int]) -> None:
    with held_back():
        signal.pthread_kill(threading.get_ident(), number)
        assert came == []
    assert came == [number]


def test_a_block_within_another_does_not_let_it_through(came: list[int]) -> None:
    with held_back():
        with held_back():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        assert came == []
    assert came == [signal.SIGINT]


def test_an_error_is_no_reason_to_hold_back_what_comes_later(came: list[int]) -> None:
    with pytest.raises(ValueError, match="batch"), held_back():
        raise ValueError("batch")
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    assert came == [signal.SIGINT]


def test_where_threads_take_no_signals_nothing_is_held_back(came: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "pthread_sigmask")
    with held_back():
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]


def test_none_comes_while_a_network_computes(
    tiny_config: Configs, tiny_data: Data, came: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    class Signalled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, inputs: Tensor) -> Tensor:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            seen.append(("forward", len(came)))
            return inputs.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            seen.append(("backward", len(came)))
            return gradient

    class Network(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: Tensor) -> Tensor:
            return Signalled.apply(self.network(inputs))  # type: ignore[no-any-return, no-untyped-call]

    build = loop.build
    monkeypatch.setattr(loop, "build", lambda *given: Network(build(*given)))
    list(loop.train(tiny_config(max_epochs=1), tiny_data()))
    assert {what for what, _ in seen} == {"forward", "backward"}
    assert [so_far for _, so_far in seen] == list(range(len(seen))), "each came after its pass, none was lost"
