"""Convolutions over pictures against the network that Urbaitis and Payeli print."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.features.picture import Picture
from trainables.models import count_trainable
from trainables.models.cnn2d import Config, build, configure, features

CONFIG = Config(channels=(3, 4), kernel=3, batch_norm=False, global_pool="mean", head=(), dropout=0.0)
PUBLISHED = Config((32, 64, 96), 3, batch_norm=False, global_pool="none", head=(512, 256, 128, 64), dropout=0.5)


def model_of(shape: tuple[int, int, int] = (1, 16, 16), classes: int = 3, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(replace(CONFIG, **changes), shape, classes).double()


def inputs(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


class Printed(nn.Module):
    """`ConvolNeuNet` of Urbaitis and Payeli, as printed but for the size of its first dense layer."""

    def __init__(self, side: int, num_classes: int) -> None:
        super().__init__()
        self.convol1 = nn.Conv2d(3, 32, kernel_size=3, stride=1, padding=1)
        self.convol2 = nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1)
        self.convol3 = nn.Conv2d(64, 96, kernel_size=3, stride=1, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(96 * (side // 8) ** 2, 512)
        self.fc2 = nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, 128)
        self.fc4 = nn.Linear(128, 64)
        self.fc5 = nn.Linear(64, num_classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.convol1(x)))
        x = self.pool(self.relu(self.convol2(x)))
        x = self.pool(self.relu(self.convol3(x)))
        x = torch.flatten(x, 1)
        x = self.relu(self.fc1(x))
        x = self.dropout(x)
        x = self.relu(self.fc2(x))
        x = self.relu(self.fc3(x))
        x = self.dropout(x)
        x = self.relu(self.fc4(x))
        return self.fc5(x)  # type: ignore[no-any-return]


def test_the_published_network_is_the_printed_one_with_its_dropout() -> None:
    ours, printed = build(PUBLISHED, (3, 32, 32), 10), Printed(32, 10)
    for mine, other in zip(ours.parameters(), printed.parameters(), strict=True):
        other.data.copy_(mine.data)
    x = torch.rand(4, 3, 32, 32)
    for training in (False, True):
        outputs = []
        for model in (ours.train(training), printed.train(training)):
            torch.manual_seed(5)
            outputs.append(model(x))
        assert torch.equal(*outputs)
    assert not torch.equal(ours(x), ours(x))


def test_the_published_size_at_512_pixels() -> None:
    with torch.device("meta"):
        ours, printed = build(PUBLISHED, (3, 512, 512), 10), Printed(512, 10)
    assert count_trainable(ours) == count_trainable(printed) == 201_575_018


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", [16, 15, 3, 1])
@pytest.mark.parametrize("global_pool", ["mean", "max", "none"])
def test_logits_against_torchs_own_operations(kernel: int, side: int, global_pool: str) -> None:
    model = model_of((2, side, side), channels=(3, 4, 5), kernel=kernel, global_pool=global_pool, head=(6,)).eval()
    x = inputs(2, 2, side, side)
    *convolutions, (w1, b1), (w2, b2) = zip(*[iter(model.parameters())] * 2, strict=True)
    seen = x
    for weight, bias in convolutions:
        seen = F.relu(F.conv2d(seen, weight, bias, padding=kernel // 2))
        beyond = seen.shape[-1] % 2  # the remainder counts: padded with what no maximum takes
        seen = F.max_pool2d(F.pad(seen, (0, beyond, 0, beyond), value=-torch.inf), 2)
    pooled = {"mean": seen.mean((2, 3)), "max": seen.amax((2, 3)), "none": seen.flatten(1)}[global_pool]
    torch.testing.assert_close(model(x), F.relu(pooled @ w1.T + b1) @ w2.T + b2)


def test_batch_normalisation_takes_its_running_statistics_where_there_is_one_value() -> None:
    model = model_of((1, 2, 2), batch_norm=True, dropout=0.0)
    kinds = ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
    assert [type(part).__name__ for part in model.layers] == [*kinds, *kinds, "GlobalPool"]
    x = inputs(8, 1, 2, 2)
    model(x)
    # Four values a channel in the first layer, one in the second.
    first, second = (part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    before = [norm.running_mean.clone() for norm in (first, second)]
    assert torch.isfinite(model(x[:1])).all()
    assert not torch.equal(first.running_mean, before[0])
    assert torch.equal(second.running_mean, before[1])


def test_configure_and_features() -> None:
    params: dict[str, Any] = {
        "excerpt": "segments",
        "seconds": 3,
        "picture_size": 96,
        "frame_samples": 2048,
        "hop_samples": 256,
        "frequency": "mel",
        "log_scale": "no",
        "colour": "magma",
        "conv_layers": 2,
        "channels_1": 16,
        "channels_2": 24,
        "channels_3": 99,
        "kernel_pixels": 5,
        "batch_norm": "on",
        "global_pool": "max",
        "head_layers": 2,
        "head_1": 32,
        "head_2": 33,
        "head_3": 34,
        "dropout": 0.25,
    }
    assert configure(params) == Config((16, 24), 5, True, "max", (32, 33), 0.25)
    expected = Picture("segments", 3, 2048, 256, "mel", log=False, colour="magma", size=96)
    assert features(params) == expected
    assert features({**params, "log_scale": "yes"}) == replace(expected, log=True)
    del params["seconds"]
    assert features({**params, "excerpt": "whole"}).excerpt == "whole"
