"""Freezing and initial weights of torchvision's networks, against torchvision itself."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.functional import normalize

from trainables import weights
from trainables.errors import UserError
from trainables.models import count_trainable
from trainables.models.pretrained import FEATURES, STAGES, Config, Pretrained, build, configure
from trainables.weights import ARCHITECTURES

pytestmark = pytest.mark.slow  # real networks of torchvision

CONFIG = Config("googlenet", 0, (), 0.0, normalise=False, weights_file="", weights_digest="")


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """torchvision's GoogLeNet as its authors' weights come, with auxiliary heads; statistics that mean something."""
    torch.manual_seed(4)
    model = models.googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=True)
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def file(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state dict."""
    path = tmp_path_factory.mktemp("weights") / "googlenet.pth"
    torch.save(original.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    weights._checked.cache_clear()


def model_of(classes: int = 4, seed: int = 0, **changes: Any) -> Pretrained:
    torch.manual_seed(seed)
    model = build(replace(CONFIG, **changes), (3, 32, 32), classes)
    assert isinstance(model, Pretrained)
    return model


def loaded(file: Path, **changes: Any) -> Pretrained:
    found = weights.find(str(file), "googlenet")
    return model_of(weights_file=found.file, weights_digest=found.digest, **changes)


def pictures(clips: int = 3, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(clips, channels, size, size, generator=torch.Generator().manual_seed(9))


def penultimate(model: nn.Module, x: Tensor) -> Tensor:
    """What torchvision's own network hands its last layer, in evaluation."""
    seen: list[Tensor] = []
    hook = model.fc.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return seen[0]


# --- weights -----------------------------------------------------------------------------------


def test_the_body_with_loaded_weights_is_torchvisions(original: nn.Module, file: Path) -> None:
    model, x = loaded(file).eval(), pictures()
    with torch.no_grad():
        torch.testing.assert_close(model.body(x), penultimate(original, x))
        torch.testing.assert_close(model(x), model.head(penultimate(original, x)))
        assert not torch.allclose(model_of().eval().body(x), model.body(x), atol=1e-3)


def test_loaded_weights_do_not_depend_on_the_seed_but_the_head_does(file: Path) -> None:
    one, other = loaded(file, seed=1), loaded(file, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.body.parameters(), other.body.parameters(), strict=True))
    assert not torch.equal(one.head[1].weight, other.head[1].weight)
    random = [model_of(seed=seed).body.conv1.conv.weight for seed in (1, 2)]
    assert not torch.equal(*random)


def test_training_one_network_leaves_the_kept_weights_alone(original: nn.Module, file: Path) -> None:
    first = loaded(file)
    with torch.no_grad():
        for weight in first.parameters():
            weight.add_(1.0)
    again = loaded(file)
    assert torch.equal(again.body.conv1.conv.weight, original.conv1.conv.weight)


def test_another_content_than_the_studys_is_an_error(file: Path, tmp_path: Path) -> None:
    found = weights.find(str(file), "googlenet")
    with pytest.raises(UserError, match=r"has another content by now \(SHA-256 .*, was 000000000000\)"):
        model_of(weights_file=found.file, weights_digest="0" * 64)
    with pytest.raises(UserError, match="there is no file"):
        model_of(weights_file=str(tmp_path / "gone.pth"), weights_digest=found.digest)


def test_random_weights_are_hes() -> None:
    """Deviation sqrt(2 / (outputs · kernel²)), biases zero, batch normalisation as it begins."""
    model = model_of(architecture="vgg16")
    for convolution in (part for part in model.body.modules() if isinstance(part, nn.Conv2d)):
        expected = (2 / (convolution.out_channels * 9)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not convolution.bias.any()
    norm = model_of(architecture="resnet50").body.layer4[2].bn3
    assert [value.unique().tolist() for value in norm.state_dict().values()] == [[1.0], [0.0], [0.0], [1.0], [0]]


# --- freezing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stages_divide_all_weights_of_the_body_from_the_input_on(architecture: str) -> None:
    body = weights.skeleton(architecture)
    names = [name for stage in STAGES[architecture] for name in stage]
    covered = [f"{name}.{inner}" for name in names for inner, _ in body.get_submodule(name).named_parameters()]
    assert covered == [name for name, _ in body.named_parameters()]
    assert len(STAGES[architecture]) == 5


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    """Weights of a convolution without bias and of its batch normalisation."""
    return inputs * outputs * kernel**2 + 2 * outputs


def inception(inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> int:
    """Szegedy et al. 2015, table 1; torchvision's "5 × 5" branch has kernels of 3 (pytorch/vision#906)."""
    branches = sum(convolution(inputs, reduced, 1) + convolution(reduced, out, 3) for reduced, out in (three, five))
    return convolution(inputs, one, 1) + branches + convolution(inputs, pooled, 1)


def bottlenecks(inputs: int, width: int, blocks: int) -> int:
    """He et al. 2016, table 1: 1 × 1, 3 × 3, 1 × 1 with four times the width, and a projection in the first block."""
    first = convolution(inputs, 4 * width, 1) - convolution(4 * width, width, 1) + convolution(inputs, width, 1)
    each = convolution(4 * width, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
    return first + blocks * each


# Weights of the body's five stages, from the published layer tables.
SIZES = {
    "vgg16": tuple(
        sum(9 * a * b + b for a, b in pairwise(widths))
        for widths in ((3, 64, 64), (64, 128, 128), (128, *[256] * 3), (256, *[512] * 3), [512] * 4)
    ),
    "googlenet": (
        convolution(3, 64, 7),
        convolution(64, 64, 1) + convolution(64, 192, 3),
        inception(192, 64, (96, 128), (16, 32), 32) + inception(256, 128, (128, 192), (32, 96), 64),
        inception(480, 192, (96, 208), (16, 48), 64)
        + inception(512, 160, (112, 224), (24, 64), 64)
        + inception(512, 128, (128, 256), (24, 64), 64)
        + inception(512, 112, (144, 288), (32, 64), 64)
        + inception(528, 256, (160, 320), (32, 128), 128),
        inception(832, 256, (160, 320), (32, 128), 128) + inception(832, 384, (192, 384), (48, 128), 128),
    ),
    "resnet50": (
        convolution(3, 64, 7),
        bottlenecks(64, 64, 3),
        bottlenecks(256, 128, 4),
        bottlenecks(512, 256, 6),
        bottlenecks(1024, 512, 3),
    ),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_as_many_stages_are_frozen_as_asked(architecture: str) -> None:
    head_weights = 4 * FEATURES[architecture] + 4
    for stages in range(6):
        with torch.device("meta"):
            model = model_of(architecture=architecture, frozen_stages=stages)
        assert count_trainable(model) == sum(SIZES[architecture][stages:]) + head_weights
        assert sum(weight.numel() for weight in model.parameters()) == sum(SIZES[architecture]) + head_weights
        for number, stage in enumerate(STAGES[architecture]):
            parts = [part for name in stage for part in model.body.get_submodule(name).modules()]
            assert {part.training for part in parts} == {number >= stages}
            trained = {weight.requires_grad for part in parts for weight in part.parameters()}
            assert trained == {number >= stages}
        assert model.training and model.head.training


def test_known_sizes_of_the_whole_networks() -> None:
    """138,357,544, 6,624,904 and 25,557,032 weights less the classifiers."""
    assert {name: sum(sizes) for name, sizes in SIZES.items()} == {
        "vgg16": 138_357_544 - (25_088 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000),
        "googlenet": 6_624_904 - 1_025_000,
        "resnet50": 25_557_032 - 2_049_000,
    }


@pytest.mark.parametrize("frozen", [0, 2, 5])
def test_a_training_step_changes_what_is_not_frozen_and_nothing_else(file: Path, frozen: int) -> None:
    """Statistics of batch normalisation included, also after the network has been evaluated in between."""
    model = loaded(file, frozen_stages=frozen, head=(8,)).eval().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD((weight for weight in model.parameters() if weight.requires_grad), lr=0.1)
    nn.functional.cross_entropy(model(pictures(4, size=64)), torch.arange(4)).backward()
    optimiser.step()
    unchanged = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    stages = STAGES["googlenet"][:frozen]
    still = tuple(f"body.{name}." for stage in stages for name in stage)
    expected = {name for name in before if still and name.startswith(still)}
    assert unchanged == expected
    assert all((weight.grad is None) == (name in expected) for name, weight in model.named_parameters())


def test_frozen_statistics_are_those_that_count_in_training(file: Path) -> None:
    model, x = loaded(file, frozen_stages=5), pictures()
    with torch.no_grad():
        assert torch.equal(model.train().body(x), model.eval().body(x))
        assert not torch.allclose(loaded(file).train().body(x), model.body(x), atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_one_small_picture_trains(architecture: str) -> None:
    model = model_of(architecture=architecture, frozen_stages=2, head=(8,), dropout=0.2)
    model(pictures(1)).sum().backward()
    assert model.training and model.body.training
    assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())


# --- colours and head --------------------------------------------------------------------------


def test_one_channel_is_grey_and_colours_are_normalised_as_imagenets() -> None:
    plain, shifted = (model_of(normalise=normalise).eval() for normalise in (False, True))
    grey, colour = pictures(channels=1), pictures()
    with torch.no_grad():
        torch.testing.assert_close(plain(grey), plain(grey.repeat(1, 3, 1, 1)))
        expected = normalize(colour, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(shifted(colour), plain(expected))
        assert not torch.allclose(shifted(colour), plain(colour))
    assert not {"mean", "deviation"} & set(shifted.state_dict())


def test_the_head_has_relu_and_dropout_at_each_layer() -> None:
    model = model_of(classes=10, architecture="resnet50", head=(512, 256), dropout=0.5)
    assert [type(part).__name__ for part in model.head] == [*["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert count_trainable(model.head) == 2048 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10


def test_configure() -> None:
    params: dict[str, Any] = {
        "architecture": "vgg16",
        "frozen_stages": 3,
        "head_layers": 1,
        "head_1": 64,
        "head_2": 65,
        "dropout": 0.25,
        "imagenet_normalise": "yes",
        "weights_file": "imagenet",
        "weights_digest": "ab" * 32,
    }
    assert configure(params) == Config("vgg16", 3, (64,), 0.25, True, "imagenet", "ab" * 32)
    assert configure({**params, "imagenet_normalise": "no"}).normalise is False
