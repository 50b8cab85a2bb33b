"""torchvision's VGG-16, GoogLeNet and ResNet-50 with a new head; any number of their stages can be frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables import weights
from trainables.features.picture import Picture
from trainables.models import cnn2d
from trainables.models.mlp import head

# The network's own stages, each with its layers that have weights, counted from the input.
STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "vgg16": (
        ("features.0", "features.2"),
        ("features.5", "features.7"),
        ("features.10", "features.12", "features.14"),
        ("features.17", "features.19", "features.21"),
        ("features.24", "features.26", "features.28"),
    ),
    "googlenet": (
        ("conv1",),
        ("conv2", "conv3"),
        ("inception3a", "inception3b"),
        ("inception4a", "inception4b", "inception4c", "inception4d", "inception4e"),
        ("inception5a", "inception5b"),
    ),
    "resnet50": (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)),
}
FEATURES = {"vgg16": 512 * 7 * 7, "googlenet": 1024, "resnet50": 2048}

# Mean and deviation of ImageNet's red, green and blue, which torchvision's weights were trained with.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Config:
    """The resolved architecture.

    `frozen_stages` of the body's five, counted from the input, are not trained. `head` holds the widths of the dense
    layers before the logits, each followed by relu and dropout. `normalise` shifts and scales the colours as
    ImageNet's. `weights_file` "" means random weights, "imagenet" torchvision's official ones, anything else is the
    path of a state dict; `weights_digest` is the SHA-256 that the file must have.
    """

    architecture: str
    frozen_stages: int
    head: tuple[int, ...]
    dropout: float
    normalise: bool
    weights_file: str
    weights_digest: str


def configure(params: Mapping[str, Any]) -> Config:
    """The architecture that a point of a space describes; takes what it needs from `params`."""
    return Config(
        architecture=params["architecture"],
        frozen_stages=params["frozen_stages"],
        head=tuple(params[f"head_{n}"] for n in range(1, params["head_layers"] + 1)),
        dropout=float(params["dropout"]),
        normalise=params["imagenet_normalise"] == "yes",
        weights_file=params["weights_file"],
        weights_digest=params["weights_digest"],
    )


def features(params: Mapping[str, Any]) -> Picture:
    """The picture that a point of a space describes."""
    return cnn2d.features(params)


def build(config: Config, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """A network for pictures `(batch, *input_shape)`: one channel, shown as grey, or three.

    Raises UserError where its weights cannot be had, or are not those of `weights_digest`.
    """
    return Pretrained(config, n_classes)


class Pretrained(nn.Module):
    """Logits `(batch, classes)` from pictures `(batch, 1 or 3, height, width)`, of 32 pixels at least.

    The frozen stages stay in evaluation mode, so their batch normalisation keeps the statistics it came with.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, n_classes: int) -> None:
        super().__init__()
        self.body = _body(config)
        inputs = FEATURES[config.architecture]
        every = range(1, len(config.head) + 1)
        self.head = head(inputs, config.head, n_classes, config.dropout, every)
        mean, deviation = (_MEAN, _DEVIATION) if config.normalise else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)
        self._frozen = [name for stage in STAGES[config.architecture][: config.frozen_stages] for name in stage]
        for module in self._frozen_layers():
            module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Pretrained":
        """Training mode for all but the frozen layers."""
        super().train(mode)
        for module in self._frozen_layers():
            module.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits `(batch, classes)`."""
        colours = (pictures.expand(-1, 3, -1, -1) - self.mean) / self.deviation
        if self.training and len(colours) == 1:
            # An epoch's last batch may hold one example, and of small pictures one place is left in the end:
            # batch normalisation has no statistics of one value, so it takes its running ones.
            self.body.eval()
            seen = self.body(colours)
            self.train()
        else:
            seen = self.body(colours)
        logits: Tensor = self.head(seen)
        return logits

    def _frozen_layers(self) -> list[nn.Module]:
        return [self.body.get_submodule(name) for name in self._frozen]


def _body(config: Config) -> nn.Module:
    """The network up to its classifier, on the default device."""
    body = weights.skeleton(config.architecture).to_empty(device=torch.get_default_device())
    for module in body.modules():
        _initialise(module)
    if config.weights_file:
        # Not strict: old files lack the counters of batch normalisation, which nothing reads.
        body.load_state_dict(
            weights.load(config.weights_file, config.weights_digest, config.architecture), strict=False
        )
    return body


def _initialise(module: nn.Module) -> None:
    """He's weights for convolutions, as torchvision's VGG and ResNet have them.

    Its GoogLeNet's differ in scale only, which batch normalisation undoes.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
