"""The recurrent network against a loop over its cells, and the conventions of the two frameworks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from trainables import loop
from trainables.config import TrialConfig
from trainables.data import TrialData
from trainables.models import count_trainable
from trainables.models.recurrent import Config, Recurrent, build, configure

Array = npt.NDArray[np.float64]
CONFIG = Config(bidirectional=False, widths=(5,), dense=(), dropout=0.0, readout="final", convention="torch")


def model_of(seed: int = 0, frame: int = 3, classes: int = 4, **changes: Any) -> Recurrent:
    torch.manual_seed(seed)
    model = build(replace(CONFIG, **changes), (7, frame), classes)
    assert isinstance(model, Recurrent)
    return model.double()


def inputs(clips: int = 2, steps: int = 7, frame: int = 3) -> Tensor:
    return torch.randn(clips, steps, frame, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm_by_loop(layer: nn.LSTM, x: Array, suffix: str) -> list[Array]:
    """One direction of one layer: the hidden state after each step `(steps, width)`, in the order of time."""
    w_ih, w_hh, b_ih, b_hh = (
        getattr(layer, f"{name}_l0{suffix}").detach().numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = np.zeros(layer.hidden_size)
    states = []
    for frame in x[::-1] if suffix else x:
        enter, forget, content, leave = np.split(w_ih @ frame + w_hh @ hidden + b_ih + b_hh, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(content)
        hidden = sigmoid(leave) * np.tanh(cell)
        states.append(hidden)
    return states[::-1] if suffix else states


def by_loop(model: Recurrent, x: Array, readout: str, bidirectional: bool) -> Array:
    """Logits of one clip `(steps, frame)`."""
    for layer in model.layers:
        assert isinstance(layer, nn.LSTM)
        directions = [lstm_by_loop(layer, x, suffix) for suffix in (["", "_reverse"] if bidirectional else [""])]
        x = np.concatenate([np.array(states) for states in directions], axis=1)
    ends = [directions[0][-1], *(states[0] for states in directions[1:])]
    seen = {"final": np.concatenate(ends), "last": x[-1], "mean": x.mean(axis=0)}[readout]
    linear = [module for module in model.head if isinstance(module, nn.Linear)]
    for number, module in enumerate(linear):
        seen = module.weight.detach().numpy() @ seen + module.bias.detach().numpy()
        if number < len(linear) - 1:
            seen = np.maximum(seen, 0)
    return np.asarray(seen)


@pytest.mark.parametrize("readout", ["final", "last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("widths", "dense"), [((5,), ()), ((4, 6, 3), (7,)), ((6, 2), (5, 8))])
def test_logits_against_a_loop(
    readout: str, bidirectional: bool, widths: tuple[int, ...], dense: tuple[int, ...]
) -> None:
    model = model_of(readout=readout, bidirectional=bidirectional, widths=widths, dense=dense).eval()
    x = inputs()
    expected = [by_loop(model, clip.numpy(), readout, bidirectional) for clip in x]
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_last_output_is_the_final_state_in_one_direction_but_not_in_two() -> None:
    x = inputs()
    for bidirectional in (False, True):
        final, last = (model_of(readout=readout, bidirectional=bidirectional).eval() for readout in ("final", "last"))
        assert torch.equal(final(x), last(x)) != bidirectional


# --- dropout -----------------------------------------------------------------------------------


def dropped(changes: dict[str, Any]) -> bool:
    """Whether training with a dropout of 0.5 gives other logits than evaluation does."""
    model, x = model_of(dropout=0.5, **changes), inputs()
    return not torch.equal(model.train()(x), model.eval()(x))


def test_dropout_acts_between_layers_and_after_the_first_dense_one_or_before_the_output() -> None:
    assert dropped({"widths": (5, 4)})
    assert dropped({"dense": (6,)})
    assert dropped({})  # one layer and no dense one: it always acts, or a dimension of the search would be idle
    heads = {dense: [type(part).__name__ for part in model_of(dense=dense).head] for dense in ((), (6,), (6, 7))}
    assert heads == {
        (): ["Dropout", "Linear"],
        (6,): ["Linear", "ReLU", "Dropout", "Linear"],
        (6, 7): ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"],
    }


def test_evaluation_is_deterministic_and_does_not_mix_clips() -> None:
    model, x = model_of(dropout=0.5, widths=(5, 4), dense=(6,)).eval(), inputs(clips=5)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))
    assert torch.equal(model(x), model(x))


# --- conventions -------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
def test_keras_has_one_bias_per_gate(bidirectional: bool) -> None:
    """Keras counts 4 · width · (inputs + width + 1) per direction, PyTorch one more bias vector."""
    ways = 2 if bidirectional else 1
    changes = {"widths": (5, 6), "dense": (7,), "bidirectional": bidirectional}
    recurrent = sum(ways * 4 * w * (size + w + 1) for size, w in ((3, 5), (5 * ways, 6)))
    keras = recurrent + 7 * (6 * ways + 1) + 4 * (7 + 1)
    assert count_trainable(model_of(convention="keras", **changes)) == keras
    assert count_trainable(model_of(convention="torch", **changes)) == keras + ways * 4 * (5 + 6)


def test_keras_initial_weights() -> None:
    """Forget bias 1 and other biases 0, orthogonal recurrent kernels, Glorot-uniform others."""
    model = model_of(frame=40, widths=(32,), dense=(64,), bidirectional=True, convention="keras")
    for name, weight in model.layers[0].named_parameters():
        if name.startswith("weight_hh"):
            torch.testing.assert_close(weight.T @ weight, torch.eye(32, dtype=torch.float64), atol=1e-6, rtol=0)
        elif name.startswith("weight_ih"):
            check_glorot(weight)
        else:
            gates = weight.detach().view(4, 32)
            forget = 1.0 if name.startswith("bias_ih") else 0.0
            assert gates.mean(1).tolist() == [0.0, forget, 0.0, 0.0]
            assert gates.std(1).abs().max() == 0
            assert weight.requires_grad == name.startswith("bias_ih")
    for module in model.head:
        if isinstance(module, nn.Linear):
            check_glorot(module.weight)
            assert not module.bias.any()


def check_glorot(weight: Tensor) -> None:
    """Uniform in ±sqrt(6 / (inputs + outputs)), so the largest of many comes close to that."""
    limit = (6 / sum(weight.shape)) ** 0.5
    assert 0.9 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.15)


def test_the_second_bias_stays_zero_through_training(
    tiny_config: Callable[..., TrialConfig], tiny_data: Callable[..., TrialData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even weight decay or momentum moves it; the other bias is trained."""
    built: list[nn.Module] = []
    original = loop.build

    def remember(*args: Any) -> nn.Module:
        built.append(original(*args))
        return built[-1]

    monkeypatch.setattr(loop, "build", remember)
    for optimiser in ("adam", "sgd"):
        config = tiny_config(convention="keras", weight_decay=0.1, optimiser=optimiser, momentum=0.9)
        list(loop.train(config, tiny_data()))
        layer = built[-1].layers[0]
        assert not layer.bias_hh_l0.any()
        assert layer.bias_ih_l0.any() and not torch.equal(layer.bias_ih_l0[6:12], torch.ones(6))


def test_torch_convention_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    own = nn.LSTM(3, 5, batch_first=True).double()
    ours = model_of(convention="torch").layers[0]
    assert all(weight.requires_grad for weight in ours.parameters())
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), ours.parameters(), strict=True))


# --- configuration -----------------------------------------------------------------------------


def test_configure_reads_as_many_widths_as_there_are_layers() -> None:
    params = {
        "bidirectional": "yes",
        "layers": 2,
        "width_1": 64,
        "width_2": 32,
        "width_3": 96,
        "dense_layers": 1,
        "dense_1": 128,
        "dense_2": 64,
        "dropout": 0.3,
        "readout": "last",
        "convention": "keras",
        "learning_rate": 0.1,
    }
    assert configure(params) == Config(True, (64, 32), (128,), 0.3, "last", "keras")
    assert configure({**params, "bidirectional": "no", "dense_layers": 0}) == Config(
        False, (64, 32), (), 0.3, "last", "keras"
    )
