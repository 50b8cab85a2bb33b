"""ONNX files: the same probabilities at any batch, whatever the network, and what they say of themselves."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from analysis import export as command
from tests.analysis.models import DENSE, KINDS, PICTURES, RECURRENT, TRAINING, write_model
from trainables import data, export, loop, saved
from trainables.config import Augment, DataConfig, TrialConfig
from trainables.errors import UserError
from trainables.features.waveform import Waveform
from trainables.models import cnn1d, mlp, pretrained
from trainables.saved import SavedModel

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
DATA = DataConfig("demo", "0" * 64, "family", keep_synth_lead=False, split="official", split_seed=0)


def untrained(network: str, config: Any, shape: tuple[int, ...], kind: str = "waveform") -> SavedModel:
    trial = TrialConfig(
        family="toy",
        network=network,
        data=DATA,
        features=KINDS[kind]["features"],
        augment=Augment(),
        model=config,
        training=TRAINING,
        seed=1,
        threads=1,
    )
    made = loop.build(trial, shape, 3).eval()
    return SavedModel(Path(), trial, ("a", "b", "c"), 16_000, 1.0, shape, (), made, None, CPU)


def agree(model: SavedModel, file: Path) -> None:
    """Compared here once more: with a batch that the export does not try, on inputs of another range."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(9).normal(0, 2, (5, *model.input_shape)).astype(np.float32)
    with torch.no_grad():
        wanted = model.network(torch.from_numpy(inputs)).softmax(1).numpy()
    given = session.run(["probabilities"], {"features": inputs})[0]
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert wanted.std(axis=0).max() > 1e-4, "the answer depends on the input"


@pytest.mark.parametrize("readout", ["final", "last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_networks(readout: str, bidirectional: bool, tmp_path: Path) -> None:
    config = replace(RECURRENT, readout=readout, bidirectional=bidirectional, widths=(4, 3))
    model = untrained("recurrent", config, (12, 20))
    assert export.export(model, tmp_path / "a.onnx") < 1e-5
    agree(model, tmp_path / "a.onnx")


CNN1D = cnn1d.Config((4, 4), 9, 4, 3, 1, "same", "relu", True, 2, "max", "each", "mean", (5,), 0.1, "keras")
VALID = replace(CNN1D, padding="valid", activation="leaky_relu", global_pool="none", stage_pool_kind="mean")
BODY = pretrained.Config("vgg16", 2, (4,), 0.1, True, "", "")
NETWORKS: dict[str, tuple[str, Any, tuple[int, ...], str]] = {
    "perceptron": ("mlp", DENSE, (1, 30), "waveform"),
    "perceptron with batch norm": ("mlp", mlp.Config((4,), ("leaky_relu",), True, 0.1), (20,), "vector"),
    "cnn1d": ("cnn1d", CNN1D, (1, 200), "waveform"),
    "cnn1d valid": ("cnn1d", VALID, (1, 200), "waveform"),
    "cnn2d": ("cnn2d", PICTURES, (1, 17, 17), "picture"),
    "cnn2d flat": ("cnn2d", replace(PICTURES, global_pool="none"), (3, 17, 17), "picture"),
    "vgg16": ("pretrained", BODY, (1, 32, 32), "picture"),
    "googlenet": ("pretrained", replace(BODY, architecture="googlenet"), (3, 32, 32), "picture"),
    "resnet50": ("pretrained", replace(BODY, architecture="resnet50"), (3, 32, 32), "picture"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "cnn2d" else pytest.mark.slow) for name in NETWORKS]
)
def test_other_networks(name: str, tmp_path: Path) -> None:
    model = untrained(*NETWORKS[name])
    assert export.export(model, tmp_path / "a.onnx") < 1e-4
    if NETWORKS[name][0] != "pretrained":  # whose untrained bodies answer the same to everything
        agree(model, tmp_path / "a.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"], "one file, weights and all"


@pytest.fixture(scope="module")
def folder(tiny_corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(cache))
        yield write_model(tmp_path_factory.mktemp("study") / "best", "waveform", f"nsynth:{tiny_corpus}")
        data.load.cache_clear()
        data._kept.clear()


def test_the_file_says_what_it_takes_and_gives(folder: Path, tmp_path: Path) -> None:
    model = saved.load(folder, CPU)
    export.export(model, tmp_path / "a.onnx")
    content = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(content, full_check=True)
    found = {row.key: json.loads(row.value) for row in content.metadata_props}
    assert found["classes"] == ["bass", "organ", "reed"]
    assert found["sample_rate_hz"] == 16_000
    assert found["clip_seconds"] == 0.25
    assert found["scaling"] is None
    features = {key: value for key, value in found["features"].items() if key != "kind"}
    assert Waveform(**features) == model.config.features
    (taken,), (given,) = content.graph.input, content.graph.output
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (taken, given)]
    assert (taken.name, given.name) == ("features", "probabilities")
    assert shapes[0] == ["batch", *model.input_shape]
    assert shapes[1][0] == "batch"


def test_a_file_that_differs_is_not_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved.load(folder, CPU)
    (tmp_path / "a.onnx").write_bytes(b"before")
    write = export._write

    def wrong(model: SavedModel, path: Path) -> None:
        """The file of a model that differs a little."""
        with torch.no_grad():
            last = next(weight for weight in reversed(list(model.network.parameters())) if weight.ndim == 1)
            last[0] += 0.01
            write(model, path)
            last[0] -= 0.01

    monkeypatch.setattr(export, "_write", wrong)
    with pytest.raises(UserError, match=r"to within 0\.0001, but they differ by 0\.00\d+\. No file was written"):
        export.export(model, tmp_path / "a.onnx")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.onnx", b"before")]
    for bad in (float("nan"), float("inf")):
        monkeypatch.setattr(export, "difference", lambda *_, bad=bad: bad)
        with pytest.raises(UserError, match="No file was written"):
            export.export(model, tmp_path / "a.onnx")


def test_a_difference_that_is_no_number_is_one(folder: Path, tmp_path: Path) -> None:
    model = saved.load(folder, CPU)
    export.export(model, tmp_path / "a.onnx")
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    assert np.isnan(export.difference(model, tmp_path / "a.onnx"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    def ask(*arguments: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command.main()
        out, err = capsys.readouterr()
        assert err == ""
        return caught.value.code, out

    return ask


def test_the_command(folder: Path, tmp_path: Path, asked: Callable[..., tuple[object, str]]) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        code, out = asked(folder, tmp_path / "a.onnx")
    assert (code, heard) == (0, [])
    assert "features (batch, 8, 50) to probabilities (batch, 3)" in out
    assert "(at most 0.0001)" in out
    agree(saved.load(folder, CPU), tmp_path / "a.onnx")
    assert "must end in .onnx" in str(asked(folder, tmp_path / "a.pt")[0])
    assert "does not exist. Check the path." in str(asked(tmp_path / "gone", tmp_path / "a.onnx")[0])
    assert f"{tmp_path / 'new'} is none. Make it first" in str(asked(folder, tmp_path / "new" / "a.onnx")[0])
    assert "among what it is made of" in str(asked(folder, folder / "a.onnx")[0])
    assert "among what it is made of" in str(asked(folder.parent, folder.parent / "a.onnx")[0])
