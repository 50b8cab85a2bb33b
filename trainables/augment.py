"""Augmentation as modules that act in training mode only. Their random numbers are Torch's global ones.

What an input is shows in its dimensions: `(batch, channels, height, width)` is pictures, `(batch, steps, frame)` or
`(batch, 1, samples)` waveforms, `(batch, values)` vectors. A module leaves alone what it does not understand, so that
one setting serves every family. Each example draws its own random numbers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import Augment


def build(how: Augment) -> nn.Module:
    """What changes single examples, as one module from inputs to inputs; `mixup` is not part of it (see `Mixup`).

    The masks come last, so that their bands stay upright and whole.
    """
    steps: list[nn.Module] = []
    if how.gain_db:
        steps.append(Gain(how.gain_db))
    if how.shift:
        steps.append(Shift(how.shift))
    if how.rotation:
        steps.append(Rotation(how.rotation))
    if how.time_mask:
        steps.append(Mask(how.time_mask, axis=3))
    if how.frequency_mask:
        steps.append(Mask(how.frequency_mask, axis=2))
    return nn.Sequential(*steps)


class Gain(nn.Module):
    """Waveforms at another level, up to `decibels` higher or lower."""

    def __init__(self, decibels: float) -> None:
        super().__init__()
        self.decibels = decibels

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the same shape."""
        if not self.training or inputs.ndim != 3:
            return inputs
        levels_db = _either_way(self.decibels, inputs)
        return inputs * (10 ** (levels_db / 20))[:, None, None]


class Shift(nn.Module):
    """Pictures and waveforms moved in time by up to `share` of their length, with zeros in the vacated part.

    A waveform `(batch, steps, frame)` is moved by samples, not by whole frames.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the same shape."""
        if not self.training or inputs.ndim not in (3, 4):
            return inputs
        series = inputs if inputs.ndim == 4 else inputs.flatten(1)
        most = _part(self.share, series.shape[-1])
        amounts = torch.randint(-most, most + 1, (len(series),), device=series.device)
        return move(series, amounts).view(inputs.shape)


class Rotation(nn.Module):
    """Pictures turned by up to `degrees` either way, as torchvision's `RandomRotation`, but each by its own angle."""

    def __init__(self, degrees: float) -> None:
        super().__init__()
        self.degrees = degrees

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the same shape."""
        if not self.training or inputs.ndim != 4:
            return inputs
        return rotate(inputs, _either_way(self.degrees, inputs))


class Mask(nn.Module):
    """Pictures with a band of zeros of up to `share` of the picture: over times (axis 3) or frequencies (axis 2).

    After SpecAugment (Park et al. 2019, arXiv:1904.08779): width and place are uniform among all whole pixels.
    """

    def __init__(self, share: float, axis: int) -> None:
        super().__init__()
        self.share, self.axis = share, axis

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the same shape."""
        if not self.training or inputs.ndim != 4:
            return inputs
        length = inputs.shape[self.axis]
        widths = torch.randint(_part(self.share, length) + 1, (len(inputs), 1), device=inputs.device)
        # A random number below 1 times a count, rounded down: a uniform integer whose range differs by example.
        starts = (torch.rand(widths.shape, device=inputs.device) * (length - widths + 1)).long()
        places = torch.arange(length, device=inputs.device)
        band = (places >= starts) & (places < starts + widths)
        return inputs.masked_fill(band[:, None, None, :] if self.axis == 3 else band[:, None, :, None], 0.0)


class Mixup(nn.Module):
    """Mixes each example of a batch with another one of it (Zhang et al. 2018), whatever the inputs are."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mixed inputs, the other examples' targets, and the share of the first ones in [0, 1].

        The share is one for the whole batch; the loss is to be shared out likewise.
        """
        if not self.training or not self.alpha:
            return inputs, targets, 1.0
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        others = torch.randperm(len(inputs), device=inputs.device)
        return share * inputs + (1 - share) * inputs[others], targets[others], share


def rotate(pictures: Tensor, degrees: Tensor) -> Tensor:
    """Pictures `(batch, channels, height, width)` turned counter-clockwise about their centres, zeros outside.

    `degrees` is `(batch,)`, of the same type. Bilinear, and of the same size.
    """
    height, width = pictures.shape[2:]
    radians = torch.deg2rad(degrees)
    cos, sin, none = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # From places in the turned picture to places in the given one, both counted from -1 to 1 in height and width.
    across = torch.stack([cos, -sin * (height / width), none], dim=1)
    down = torch.stack([sin * (width / height), cos, none], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def move(series: Tensor, amounts: Tensor) -> Tensor:
    """Series `(batch, …, time)` moved later by `amounts` `(batch,)` places, earlier where negative, zeros elsewhere."""
    length = series.shape[-1]
    sources = torch.arange(length, device=series.device) - amounts[:, None]
    outside = (sources < 0) | (sources >= length)
    along = (len(series), *[1] * (series.ndim - 2), length)
    places = sources.clamp(0, length - 1).view(along).expand_as(series)
    return series.gather(-1, places).masked_fill(outside.view(along), 0.0)


def _either_way(most: float, inputs: Tensor) -> Tensor:
    """A uniform random number in [-most, most) for each example."""
    return (2 * torch.rand(len(inputs), dtype=inputs.dtype, device=inputs.device) - 1) * most


def _part(share: float, length: int) -> int:
    """Whole places in a share of a length; 0.29 of 100 is 29, whatever floating point thinks."""
    return math.floor(share * length + 1e-6)
