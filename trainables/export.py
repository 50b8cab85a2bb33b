"""A saved model's network as ONNX: from prepared features to the classes' probabilities."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.outputs import write_output
from trainables.saved import SavedModel, load

INPUT, OUTPUT = "features", "probabilities"
TOLERANCE = 1e-4

_BATCHES = (1, 2, 7)
_OPSET, _OPSET_OF_OLDER = 18, 17
_MAX_BYTES = 2**31 - 2**24  # of weights: a file of the format holds 2 GB at most, its graph takes some


class Probabilities(nn.Module):
    """The classes' probabilities `(batch, classes)` of inputs `(batch, …)`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, classes)`."""
        probabilities: Tensor = self.network(features).softmax(1)
        return probabilities


def export(model: SavedModel, file: Path) -> float:
    """Writes an ONNX file and returns by how much its probabilities differ from Torch's, at most.

    Its input `features` is `(batch, *input_shape)`, its output `probabilities` `(batch, classes)`; `metadata` says what
    the inputs are. They are compared on random inputs before the file takes its place. Raises UserError where they
    differ by more than 1e-4, and where the file cannot be written.
    """
    assert model.device.type == "cpu", "other devices compute with other rounding"
    weights = sum(weight.numel() * weight.element_size() for weight in model.network.parameters())
    if weights > _MAX_BYTES:
        raise UserError(
            f"An ONNX file holds 2 GB at most, but the weights alone take {weights / 1e9:.1f} GB. Export another model."
        )
    differences: list[float] = []

    def write(path: Path) -> None:
        _write(model, path)
        differences.append(difference(model, path))
        if not differences[-1] <= TOLERANCE:
            raise UserError(
                f"An export must give the model's probabilities to within {TOLERANCE:g}, but they differ by "
                f"{differences[-1]:.2g}. No file was written; use the model's folder itself."
            )

    write_output(file, write)
    return differences[-1]


def load_on_cpu(place: Path) -> SavedModel:
    """A model as `export` wants it; raises UserError as `saved.load`."""
    return load(place, torch.device("cpu"))


def metadata(model: SavedModel) -> dict[str, str]:
    """What stands in the file beside the network, each value as JSON."""
    found = {
        "classes": list(model.classes),
        "sample_rate_hz": model.sample_rate_hz,
        "clip_seconds": model.clip_seconds,
        "features": asdict(model.config.features),  # type: ignore[call-overload]
        "scaling": model.fitted.to_json() if model.fitted else None,
        "family": model.config.family,
    }
    return {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in found.items()}


def difference(model: SavedModel, file: Path, seed: int = 0) -> float:
    """The largest difference between the file's probabilities and Torch's, over random inputs in several batches."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    found = []
    for batch in _BATCHES:
        inputs = _random(model, batch, seed)
        with torch.inference_mode():
            wanted = Probabilities(model.network)(torch.from_numpy(inputs)).numpy()
        given = session.run([OUTPUT], {INPUT: inputs})[0]
        found.append(float(np.abs(given - wanted).max()) if given.shape == wanted.shape else float("inf"))
    # Of NaN and numbers the largest is NaN, whatever their order.
    return float(np.max(found))


def _random(model: SavedModel, batch: int, seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Inputs in the range of their kind: pictures in [0, 1], waveforms in [-1, 1], vectors of deviation 1."""
    rng = np.random.default_rng([seed, batch])
    shape = (batch, *model.input_shape)
    kind = model.config.features.kind
    values = rng.standard_normal(shape) if kind == "vector" else rng.uniform(-(kind == "waveform"), 1, shape)
    return values.astype(np.float32)


def _write(model: SavedModel, path: Path) -> None:
    import onnx

    network = Probabilities(model.network).eval()
    example = torch.zeros(2, *model.input_shape)
    with _quiet():
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            # Torch's newer exporter takes the last states of a recurrent layer for a batch of another size.
            axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=False,
                opset_version=_OPSET_OF_OLDER,
                dynamic_axes=axes,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        else:
            # Its older one cannot pool to more places than there are, as VGG does with small pictures.
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=_OPSET,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
                external_data=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
        content = onnx.load(str(path))
        del content.metadata_props[:]
        onnx.helper.set_model_props(content, metadata(model))
        onnx.checker.check_model(content)
        onnx.save(content, str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporters warn of their own deprecated parts, and log what nobody can do anything about."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
