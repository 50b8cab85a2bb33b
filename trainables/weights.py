"""Initial weights of torchvision's networks: the official ones of ImageNet, a file, or none. Never by accident none."""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from trainables.errors import UserError
from trainables.files import cache_folder, from_home

IMAGENET = "imagenet"
NONE = "none"

_URLS = {
    "vgg16": models.VGG16_Weights.IMAGENET1K_V1.url,
    "googlenet": models.GoogLeNet_Weights.IMAGENET1K_V1.url,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1.url,
}
ARCHITECTURES = tuple(_URLS)
# What such a file holds beside the body: the classifiers, for which there is a new head.
_CLASSIFIERS = {"vgg16": ("classifier.",), "googlenet": ("fc.", "aux1.", "aux2."), "resnet50": ("fc.",)}
# Counters of batch normalisation, which old files lack and nothing reads.
_COUNTERS = "num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WAYS_OUT = (
    "Name a state dict of torchvision's with --weights FILE, train from random weights with --weights none, or leave "
    "this family out of --space."
)


@dataclass(frozen=True)
class InitialWeights:
    """What a network starts from: `file` is "imagenet", a path, or "" for random weights; `digest` its SHA-256."""

    file: str
    digest: str


def find(source: str, architecture: str) -> InitialWeights:
    """The weights that `--weights` names: "imagenet", "none", or the path of a torchvision state dict.

    Raises UserError where they cannot be had or are not those of `architecture`. ImageNet's are looked for in
    $ETUDE_CACHE/weights and among what torch.hub has downloaded before, then downloaded.
    """
    assert architecture in ARCHITECTURES, architecture
    if source == NONE:
        return InitialWeights("", "")
    path = _located(source, architecture)
    digest = _digest(path)
    _read(path, architecture)
    return InitialWeights(IMAGENET if source == IMAGENET else str(path), digest)


def is_imagenet(digest: str, architecture: str) -> bool:
    """Whether a file of that digest holds the ImageNet weights: the first digits of theirs are in their name."""
    return digest.startswith(_digits(_URLS[architecture]))


def load(file: str, digest: str, architecture: str) -> Mapping[str, Tensor]:
    """The body's weights by torchvision's names, on the CPU; `file` and `digest` are those of `InitialWeights`.

    They are shared: copy, do not change them. Raises UserError where the file is missing, has another digest, or
    holds something else.
    """
    path = _located(file, architecture)
    stat = path.stat()
    return _checked(path, stat.st_size, stat.st_mtime_ns, digest, architecture)


def skeleton(architecture: str) -> nn.Module:
    """The network without its classifier, which returns what that would see; on the meta device, without weights."""
    with torch.device("meta"):
        if architecture == "vgg16":
            network: nn.Module = models.vgg16(weights=None)
            network.classifier = nn.Identity()
            return network
        if architecture == "googlenet":
            # The official weights expect colours in [-1, 1] and the network brings ImageNet's normalisation there.
            network = models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True)
            network.fc, network.dropout = nn.Identity(), nn.Identity()
            return network
        assert architecture == "resnet50", architecture
        network = models.resnet50(weights=None)
        network.fc = nn.Identity()
        return network


def _located(file: str, architecture: str) -> Path:
    if file == IMAGENET:
        return _official(architecture)
    path = from_home(file).absolute()
    try:
        found = path.is_file()
    except OSError:  # no permission to look there, a name too long
        found = False
    if not found:
        raise UserError(
            f"--weights must be {IMAGENET}, {NONE} or a file with torchvision's weights of {architecture}, but there "
            f"is no file {path}."
        )
    return path


def _official(architecture: str) -> Path:
    """The official file: found where it may lie, else downloaded."""
    url = _URLS[architecture]
    name = Path(urlparse(url).path).name
    ours = cache_folder() / "weights" / name
    prefix = _digits(url)
    for path in (ours, Path(torch.hub.get_dir()) / "checkpoints" / name):
        if path.is_file() and _digest(path).startswith(prefix):
            return path
    try:
        ours.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(ours), prefix, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # no network, no room, another content
        raise UserError(
            f"The ImageNet weights of {architecture} must lie in {ours.parent} or be downloaded from {url}, but that "
            f"failed: {error}. {_WAYS_OUT}"
        ) from error
    return ours


def _digits(url: str) -> str:
    return Path(urlparse(url).path).stem.rpartition("-")[2]


def _digest(path: Path) -> str:
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _hashed(path: Path, size: int, changed_ns: int) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Initial weights must be readable, but {path} is not: {error.strerror}.") from error


@lru_cache(maxsize=1)
def _checked(path: Path, size: int, changed_ns: int, digest: str, architecture: str) -> Mapping[str, Tensor]:
    """Kept for the next trial, which mostly wants the same."""
    found = _hashed(path, size, changed_ns)
    if found != digest:
        raise UserError(
            f"A study keeps to the initial weights it began with, but {path} has another content by now (SHA-256 "
            f"{found[:12]}, was {digest[:12]}). Restore the file or start a new study."
        )
    return _read(path, architecture)


def _read(path: Path, architecture: str) -> dict[str, Tensor]:
    """The body's weights in a file, copied, so that the classifier's memory is free; raises UserError."""
    expected = f"--weights must be a state dict of torchvision's {architecture}"
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise UserError(
            f"{expected}, saved by torch.save and read without running any code, but {path} cannot be read so: "
            f"{_said(error)}"
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in content.items()
    ):
        raise UserError(f"{expected}, names with tensors, but {path} holds something else. {_WAYS_OUT}")
    if reason := _mismatch(content, architecture):
        for other in ARCHITECTURES:
            if other != architecture and not _mismatch(content, other):
                raise UserError(
                    f"{expected}, but {path} looks like {other}'s, and one file cannot serve several architectures. "
                    f"{_WAYS_OUT}"
                )
        raise UserError(f"{expected}, but in {path} {reason}. {_WAYS_OUT}")
    return {
        name: content[name].detach().to(torch.int64 if name.endswith(_COUNTERS) else torch.float32, copy=True)
        for name in _shapes(architecture)
        if name in content
    }


def _said(error: Exception) -> str:
    """The first line of an exception's text, with its type where that says nothing."""
    text = str(error).strip()
    if text.startswith("Weights only load failed"):  # and then how to run the file's code, which nobody should
        text = text.partition("\n\nCheck the documentation")[0].rpartition("\n\n")[2].rpartition("error: ")[2]
    first = text.partition("\n")[0][:200]
    return first if re.search(r"[^\W\d]{2}", first) else f"{type(error).__name__} {first}".strip()


def _mismatch(content: Mapping[str, Tensor], architecture: str) -> str | None:
    shapes = _shapes(architecture)
    for name, shape in shapes.items():
        if name not in content:
            if not name.endswith(_COUNTERS):
                return f"{name} is missing"
        elif kind := _odd(content[name], name.endswith(_COUNTERS)):
            return f"{name} is {kind}"
        elif content[name].shape != shape:
            return f"{name} has the shape {tuple(content[name].shape)} instead of {tuple(shape)}"
        elif not torch.isfinite(content[name].float()).all():
            return f"{name} is not finite"
        elif name.endswith("running_var") and (content[name] < 0).any():
            return f"{name} is negative"
    for name in content:
        if name not in shapes and not name.startswith(_CLASSIFIERS[architecture]):
            return f"there is {name[:80]!r} too, which that network does not have"
    return None


def _odd(weight: Tensor, counter: bool) -> str | None:
    """What a tensor is instead of plain numbers in memory."""
    if weight.device.type != "cpu":
        return f"on the device {weight.device.type}"
    if type(weight) not in (Tensor, nn.Parameter) or weight.is_nested or weight.layout != torch.strided:
        return "no dense tensor"
    if weight.dtype not in (torch.int64, *_FLOATS) if counter else weight.dtype not in _FLOATS:
        return f"of the type {str(weight.dtype).removeprefix('torch.')}"
    return None


def _shapes(architecture: str) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in skeleton(architecture).state_dict().items()}
