"""A model's folder that is damaged, older, or says what makes no sense: refused in a sentence, and nothing run."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.analysis.models import write_model
from tests.tiny import RATE_HZ
from trainables import data, loop, saved
from trainables.corpora.audio import BadAudio
from trainables.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tiny_corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(cache))
        kinds = ("waveform", "picture", "vector", "plain vector")
        yield {kind: write_model(root / kind.replace(" ", "-"), kind, f"nsynth:{tiny_corpus}") for kind in kinds}
        data.load.cache_clear()
        data.fitted.cache_clear()
        data._kept.clear()


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Path:
    """The model on vectors, to be damaged."""
    return shutil.copytree(models["vector"], tmp_path / "model")


def change(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, **changes}))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        saved.load(folder, CPU)
    return str(caught.value)


@pytest.mark.parametrize("key", ["clip_seconds", "input_shape", "layers"])
def test_an_older_folder_is_named_so_with_what_to_do(copy: Path, key: str) -> None:
    config = saved.load(copy, CPU).config
    assert saved.whole(copy, config)
    record = json.loads((copy / "config.json").read_text())
    del record[key]
    (copy / "config.json").write_text(json.dumps(record))
    assert f"lacks {key}: it comes from an older version" in refused(copy)
    assert "--resume" in refused(copy)
    assert not saved.whole(copy, config)


@pytest.mark.parametrize("name", ["model.safetensors", "features.safetensors", "config.json"])
def test_a_file_that_is_missing_or_damaged_is_named(copy: Path, name: str) -> None:
    config = saved.load(copy, CPU).config
    content = (copy / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\0" * len(content)):
        (copy / name).write_bytes(damaged)
        assert f"{copy / name} is not (" in refused(copy)
    (copy / name).unlink()
    assert (name if name != "config.json" else "holds none") in refused(copy)
    assert not saved.whole(copy, config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["bass", "organ"]}, "model.safetensors is not"),
        ({"classes": ["bass", "organ", "organ"]}, "no list of different names"),
        ({"classes": None}, "TypeError"),
        ({"sample_rate_hz": 0}, "0.25 s at 0 Hz"),
        ({"sample_rate_hz": 10**9}, "0.25 s at 1000000000 Hz"),
        ({"clip_seconds": 1e9}, "1000000000.0 s"),
        ({"clip_seconds": 9.0}, "scales 88 columns of 91"),
        ({"clip_seconds": "long"}, "ValueError"),
        ({"input_shape": [7]}, "model.safetensors is not"),
        ({"input_shape": "x"}, "ValueError"),
        ({"config": None}, "holds no configuration"),
        ({"config": {}}, "config.json is not (its features are None"),
        ({"config": {"network": ["mlp"]}}, "must be one of the project's own"),
        ({"config": {"network": "mlp", "features": ["vector"]}}, "its features are ['vector']"),
        ({"config": {"network": "mlp", "features": {"kind": "vector"}}}, "config.json is not (KeyError: 'data')"),
    ],
)
def test_values_that_do_not_fit_are_refused(copy: Path, changes: dict[str, object], words: str) -> None:
    change(copy, **changes)
    assert words in refused(copy)


def test_scaling_of_another_model_is_refused(copy: Path, models: dict[str, Path]) -> None:
    shutil.copy(models["plain vector"] / "features.safetensors", copy)
    assert "scales 44 columns of 88" in refused(copy)
    save_file({"mean": np.zeros(3, np.float32)}, copy / "features.safetensors")
    assert "it holds no scaling of features" in refused(copy)
    good = load_file(models["vector"] / "features.safetensors")
    save_file({**good, "scale": np.full_like(good["scale"], np.nan)}, copy / "features.safetensors")
    assert "it holds no scaling of features" in refused(copy)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(copy: Path, bad: float) -> None:
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].flat[-1] = bad
    save_file(weights, copy / "model.safetensors")
    assert "model.safetensors is not (some of its numbers are NaN or infinite)" in refused(copy)


def test_an_answer_that_is_no_number_is_no_answer(copy: Path) -> None:
    """Finite weights that overflow; the model itself is loaded, since a noise may do what no recording does."""
    weights = load_file(copy / "model.safetensors")
    for name, array in weights.items():
        weights[name] = np.full_like(array, 3e38) * (-1) ** np.arange(len(array), dtype=np.float32).reshape(
            -1, *[1] * (array.ndim - 1)
        )
    save_file(weights, copy / "model.safetensors")
    model = saved.load(copy, CPU)
    with pytest.raises(BadAudio, match=r"^not finite: the model's answer holds NaN$"):
        model.probabilities(np.sin(np.arange(4000) / 9).astype(np.float32), RATE_HZ)
    assert np.isnan(model.chances_of_vectors(np.ones((2, 88), np.float32))).all()


def test_weights_are_compared_before_anything_is_made(
    copy: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of JSON that asks for a terabyte is refused without it."""
    folder = shutil.copytree(models["picture"], tmp_path / "picture")
    whole = json.loads((folder / "config.json").read_text())["config"]
    for channels in ([60_000_000], [10**11], [4, 10**9]):
        change(folder, config={**whole, "model": {**whole["model"], "channels": channels}})
        assert "config.json makes it" in refused(folder)
    built: list[str] = []
    build = loop.build

    def noting(*arguments: Any) -> Any:
        built.append(torch.get_default_device().type)
        return build(*arguments)

    monkeypatch.setattr(loop, "build", noting)
    refused(folder)
    assert built == ["meta"]
    monkeypatch.undo()
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, "more": np.zeros(2, np.float32)}, copy / "model.safetensors")
    assert "more is (2,), where config.json makes it no part" in refused(copy)
    save_file({key: value for key, value in weights.items() if key != name}, copy / "model.safetensors")
    assert f"{name} is missing, where config.json makes it (" in refused(copy)


@pytest.mark.parametrize(
    ("kind", "part", "changes"),
    [
        ("picture", "features", {"excerpt": "x"}),
        ("picture", "features", {"excerpt": "first", "seconds": float("nan")}),
        ("picture", "features", {"excerpt": "first", "seconds": 1e9}),
        ("picture", "features", {"hop_samples": 0}),
        ("picture", "features", {"hop_samples": -5}),
        ("picture", "features", {"hop_samples": 1.5}),
        ("picture", "features", {"hop_samples": "x"}),
        ("picture", "features", {"frame_samples": 10**9}),
        ("picture", "features", {"frame_samples": 0}),
        ("picture", "features", {"frequency": "x"}),
        ("waveform", "features", {"excerpt": "x"}),
        ("waveform", "features", {"pool": 0}),
        ("waveform", "features", {"resample_hz": 10**9}),
        ("waveform", "model", {"dropout": float("nan")}),
        ("waveform", "model", {"bidirectional": "x"}),
        ("waveform", "model", {"widths": [2**62]}),
        ("vector", "features", {"excerpt": "x"}),
        ("vector", "model", {"dropout": float("nan")}),
    ],
)
def test_values_that_make_no_sense_are_refused(
    kind: str, part: str, changes: dict[str, object], models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models[kind], tmp_path / "model")
    whole = json.loads((folder / "config.json").read_text())["config"]
    change(folder, config={**whole, part: {**whole[part], **changes}})
    assert "A model's files must be whole" in refused(folder)


def test_a_lack_of_memory_is_said(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bomb(*_: object) -> None:
        raise MemoryError("Unable to allocate")

    monkeypatch.setattr(saved.SavedModel, "chances", bomb)
    assert "config.json is not (MemoryError: Unable to allocate)" in refused(copy)


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_nothing_that_lies_in_a_folder_is_run(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    for name in ("model.safetensors", "features.safetensors", "config.json"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(pickle.dumps(Trap(mark)))
        assert "must be whole" in refused(copy)
        (copy / name).write_bytes(before)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "network.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((copy / "config.json").read_text())["config"]
    for network in ("evil.network", "..evil.network", "../evil/network", 5):
        change(copy, config={**config, "network": network})
        assert "must be one of the project's own" in refused(copy)
    change(copy, config={**config, "features": {**config["features"], "kind": "..evil"}})
    assert "'kind': '..evil'" in refused(copy)
    assert not mark.exists()


def test_a_network_that_was_imported_by_its_user_is_taken(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())["config"]
    change(copy, config={**config, "network": "trainables.models.mlp"})
    assert saved.load(copy, CPU).config.network == "trainables.models.mlp"


def test_a_study_leads_to_its_chosen_model(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    copy.rename(tmp_path / "study" / "best")
    for place in (tmp_path / "study", tmp_path / "study" / "best", tmp_path / "study" / "best" / "config.json"):
        assert saved.load(place, CPU).folder == tmp_path / "study" / "best"
