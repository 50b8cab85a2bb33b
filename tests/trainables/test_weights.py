"""Where initial weights come from, and what is refused. The download is never a real one."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from trainables import weights
from trainables.errors import UserError
from trainables.weights import InitialWeights, find, load, skeleton

pytestmark = pytest.mark.slow  # real networks of torchvision

State = dict[str, Tensor]
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def state() -> State:
    """What torchvision's GoogLeNet saves, auxiliary heads included."""
    torch.manual_seed(0)
    model = models.googlenet(weights=None, aux_logits=True, init_weights=False)
    return dict(model.state_dict())


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves an object and returns where."""

    def write(content: Any, name: str = "weights.pth", **how: Any) -> Path:
        path = tmp_path / name
        torch.save(content, path, **how)
        return path

    return write


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Caches of the test's own: the project's and torch.hub's. Downloading fails unless the test says otherwise."""
    weights._checked.cache_clear()
    ours, hub = tmp_path / "cache" / "weights", tmp_path / "hub" / "hub" / "checkpoints"
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def refused(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    return ours, hub


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_refused(path: Path, message: str, architecture: str = "googlenet") -> None:
    with pytest.raises(UserError, match=message) as error:
        find(str(path), architecture)
    assert architecture in str(error.value)
    assert str(path) in str(error.value)


# --- files -------------------------------------------------------------------------------------


def test_none_means_random_weights_and_nothing_is_looked_for() -> None:
    assert find("none", "vgg16") == InitialWeights("", "")


def test_a_file_is_found_by_any_path_and_read(
    state: State, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(state)
    monkeypatch.chdir(tmp_path)
    found = find("weights.pth", "googlenet")
    assert found == find(str(path), "googlenet") == InitialWeights(str(path), sha256(path))
    body = load(found.file, found.digest, "googlenet")
    assert set(body) == {name for name in state if not name.startswith(("fc.", "aux1.", "aux2."))}
    assert all(torch.equal(value, state[name]) for name, value in body.items())


def test_old_files_have_another_format_and_no_counters(state: State, save: Save) -> None:
    """The official ones date from before PyTorch 1.6, some from before the counters."""
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = save(old, _use_new_zipfile_serialization=False)
    found = find(str(path), "googlenet")
    assert torch.equal(load(found.file, found.digest, "googlenet")["conv1.conv.weight"], old["conv1.conv.weight"])


@pytest.mark.parametrize(("architecture", "classifier"), [("vgg16", "classifier.6.weight"), ("resnet50", "fc.weight")])
def test_the_other_architectures_files_are_read_without_their_classifiers(
    architecture: str, classifier: str, save: Save
) -> None:
    body = skeleton(architecture).to_empty(device="cpu")
    content = {name: torch.zeros_like(value) for name, value in body.state_dict().items()}
    path = save({**content, classifier: torch.ones(2)})
    found = find(str(path), architecture)
    assert set(load(found.file, found.digest, architecture)) == set(content)
    check_refused(path, f"looks like {architecture}'s, and one file cannot serve several architectures", "googlenet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("inception5b.branch4.1.bn.running_var"), "running_var is missing"),
        (lambda state: state.update({"conv2.bn.bias": torch.ones(65)}), r"the shape \(65,\) instead of \(64,\)"),
        (lambda state: state.update({"conv2.bn.bias": torch.full((64,), torch.nan)}), "conv2.bn.bias is not finite"),
        # as a deeper relative has it
        (lambda state: state.update({"inception6.weight": torch.ones(1)}), "there is 'inception6.weight' too"),
        (lambda state: state.update({"note": "trained on Tuesday"}), "holds something else"),
        (lambda state: state.update({7: torch.ones(1)}), "holds something else"),
    ],
)
def test_what_is_not_that_architecture_is_refused(
    change: Callable[[Any], Any], message: str, state: State, save: Save
) -> None:
    changed: Any = dict(state)
    change(changed)
    check_refused(save(changed), message)


@pytest.mark.parametrize("content", [[], 5, {"state_dict": {}}, None, torch.ones(3)])
def test_what_is_no_state_dict_is_refused(content: Any, save: Save) -> None:
    check_refused(save(content), "holds something else")


def test_an_empty_state_dict_is_refused(save: Save) -> None:
    check_refused(save({}), "is missing")


def test_code_in_a_file_is_not_run(save: Save, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trodden"),)

    for number, zipped in enumerate((True, False)):
        path = save({"conv1.conv.weight": Hostile()}, f"{number}.pth", _use_new_zipfile_serialization=zipped)
        check_refused(path, "without running any code")
    assert not (tmp_path / "trodden").exists()
    check_refused(save(nn.Linear(2, 2)), "without running any code")


def test_damaged_files_are_refused(state: State, save: Save, tmp_path: Path) -> None:
    path = save(state)
    content = path.read_bytes()
    for number, damaged in enumerate((b"", b"\0" * 100, b"<html>not found</html>", content[:1000], content[:-1000])):
        other = tmp_path / f"damaged-{number}.pth"
        other.write_bytes(damaged)
        check_refused(other, "must be a state dict of torchvision's googlenet")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv2.bn.bias", lambda weight: weight.to("meta"), "conv2.bn.bias is on the device meta"),
        ("conv2.bn.bias", lambda weight: weight.to_sparse(), "is no dense tensor"),
        ("conv2.bn.bias", lambda weight: torch.nested.nested_tensor([weight, weight]), "is no dense tensor"),
        ("conv2.bn.bias", lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "of the type qint8"),
        ("conv2.bn.bias", lambda weight: weight.to(torch.complex64), "of the type complex64"),
        ("conv2.bn.bias", lambda weight: weight.to(torch.int32), "of the type int32"),
        ("conv2.bn.bias", lambda weight: weight.to(torch.float8_e4m3fn), "of the type float8_e4m3fn"),
        ("conv2.bn.bias", lambda weight: torch.full((64,), 1e300, dtype=torch.float64), "is not finite"),
        ("conv2.bn.running_var", lambda weight: -weight, "running_var is negative"),
        ("conv2.bn.num_batches_tracked", lambda weight: weight.to("meta"), "num_batches_tracked is on the device meta"),
        (
            "conv2.bn.num_batches_tracked",
            lambda weight: weight.to(torch.bool),
            "num_batches_tracked is of the type bool",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of quantised and nested tensors, which are experimental
def test_weights_are_plain_numbers_in_memory(
    name: str, change: Callable[[Tensor], Tensor], message: str, state: State, save: Save
) -> None:
    check_refused(save({**state, name: change(state[name])}), message)


def test_other_precisions_and_parameters_are_read_as_single_precision(state: State, save: Save) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        path = save({name: nn.Parameter(value.to(kind)) for name, value in state.items()})
        body = load(str(path), sha256(path), "googlenet")
        for name, value in body.items():
            counter = name.endswith("num_batches_tracked")
            assert value.dtype == (torch.int64 if counter else torch.float32) and not value.requires_grad
            assert torch.equal(value, state[name].to(kind).to(value.dtype))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOFError"),
        (b"hello", "KeyError 101"),
        (b"\x80\x02.", "pop from empty list"),
        (b"\x80\x02K", "index out of range"),
        (b"\x80\x02h\x05.", "KeyError 5"),
        (b"\0" * 100, "Unsupported operand 0"),
    ],
)
def test_whatever_the_reader_raises_is_said_in_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    check_refused(path, f"cannot be read so: {said}$")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotImplementedError(), "NotImplementedError"),
        (AssertionError("7"), "AssertionError 7"),
        (TypeError("an int\nsecond line"), "an int"),
    ],
)
def test_an_exception_without_words_is_named(
    error: Exception, said: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save({})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    check_refused(path, f"cannot be read so: {said}$")


def test_nobody_is_told_to_run_a_files_code(save: Save) -> None:
    path = save(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"Unsupported global: GLOBAL torch\.nn\.modules\.linear\.Linear") as caught:
        find(str(path), "googlenet")
    assert "weights_only" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(UserError, match=r"imagenet, none or a file .* there is no file"):
            find(str(path), "resnet50")


def test_a_file_that_changes_is_noticed(state: State, save: Save) -> None:
    path = save(state)
    found = find(str(path), "googlenet")
    load(found.file, found.digest, "googlenet")
    save({**state, "conv2.bn.bias": torch.ones(64)})
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=f"another content by now .* was {found.digest[:12]}"):
        load(found.file, found.digest, "googlenet")
    save(state)
    assert load(found.file, sha256(path), "googlenet")


# --- ImageNet ----------------------------------------------------------------------------------


@pytest.fixture
def official(state: State, save: Save, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A stand-in for the official file, and the name that it has by its digest."""
    path = save(state, "source.pth")
    name = f"googlenet-{sha256(path)[:8]}.pth"
    monkeypatch.setitem(weights._URLS, "googlenet", f"https://example.org/models/{name}")
    return path, name


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


@pytest.mark.parametrize("which", [0, 1])
def test_imagenets_weights_are_found_where_they_lie(
    which: int, official: tuple[Path, str], folders: tuple[Path, Path]
) -> None:
    source, name = official
    copy(source, folders[which] / name)
    found = find("imagenet", "googlenet")
    assert found == InitialWeights("imagenet", sha256(source))  # any node finds its own
    assert set(load(found.file, found.digest, "googlenet")) == set(skeleton("googlenet").state_dict())


def test_imagenets_weights_are_downloaded_once_and_checked(
    official: tuple[Path, str], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = official
    asked: list[tuple[str, str, str]] = []

    def download(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, target, hash_prefix))
        copy(source, Path(target))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    copy(source, folders[1] / name).write_bytes(b"half of i")  # not what its name promises
    found = find("imagenet", "googlenet")
    assert found == find("imagenet", "googlenet") == InitialWeights("imagenet", sha256(source))
    assert asked == [(weights._URLS["googlenet"], str(folders[0] / name), sha256(source)[:8])]


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), OSError("no route to host"), RuntimeError("invalid hash value: no route to host")],
)
@pytest.mark.parametrize("architecture", weights.ARCHITECTURES)
def test_without_them_the_message_names_the_ways_out(
    error: Exception, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    for attempt in (
        lambda: find("imagenet", architecture),
        lambda: load("imagenet", "0" * 64, architecture),
    ):
        with pytest.raises(UserError, match="no route to host") as caught:
            attempt()
        for part in (architecture, "https://download.pytorch.org/models/", "--weights FILE", "--weights none"):
            assert part in str(caught.value)
        assert str(caught.value).endswith("or leave this family out of --space.")


def test_the_official_names_end_in_the_beginning_of_a_digest() -> None:
    assert {name: url.rpartition("/")[2] for name, url in weights._URLS.items()} == {
        "vgg16": "vgg16-397923af.pth",
        "googlenet": "googlenet-1378be20.pth",
        "resnet50": "resnet50-0676ba61.pth",
    }
