"""Spectrograms as pictures, as Urbaitis and Payeli draw them: no axes, a colour map, any size."""

import difflib
import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.errors import UserError

DYNAMIC_RANGE_DB = 80.0

_MAX_BANDS = 128
_SPECTRUM_BYTES = (
    2**25
)  # of the complex spectra held at a time; the peak of all that is needed is about four times that


@dataclass(frozen=True)
class Picture:
    """How an excerpt becomes a picture `(channels, height, width)` in [0, 1], low frequencies at the bottom.

    The excerpt is scaled to a peak of 1; its short-time Fourier transform has frames of `frame_samples` every
    `hop_samples`. `frequency` is "linear" or "mel"; `log` shows decibels below the loudest point (down to 80),
    otherwise magnitudes. `colour` is a colour map of matplotlib's, three channels, or "none" for one channel.
    `size` is height and width in pixels.

    Shades are resized before they are coloured; they resize coloured pictures. That way a byte a pixel is
    kept, and no colours arise that the map does not have.
    """

    excerpt: str
    seconds: float
    frame_samples: int
    hop_samples: int
    frequency: str
    log: bool
    colour: str
    size: int
    kind: str = field(default="picture", init=False)

    def shape(self, sample_rate_hz: int, clip_seconds: float) -> tuple[int, int, int]:
        """`(channels, height, width)`."""
        return (1 if self.colour == "none" else 3, self.size, self.size)

    def stored_bytes(self, sample_rate_hz: int, clip_seconds: float) -> int:
        """A byte a pixel: the colours are looked up later."""
        return self.size * self.size

    def prepare(self, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        """Shades `(clips, size, size)`, uint8, of excerpts `(clips, samples)`; 0 everywhere for silence.

        Raises UserError where the colour map is unknown, before anything is computed.
        """
        if self.colour != "none":
            _colours(self.colour, waveforms.device)
        clips, samples = waveforms.shape
        together = max(1, _SPECTRUM_BYTES // self._spectrum_bytes(samples))
        shades = torch.empty((clips, self.size, self.size), dtype=torch.uint8, device=waveforms.device)
        for start in range(0, clips, together):
            shades[start : start + together] = self._shades(waveforms[start : start + together], sample_rate_hz)
        return shades

    def present(self, kept: Tensor) -> Tensor:
        """Pictures `(clips, channels, size, size)`, float32 in [0, 1], of shades."""
        if self.colour == "none":
            return kept[:, None].float() / 255
        shades = kept.flatten().int()
        channels = _colours(self.colour, kept.device)
        return torch.stack([channel.index_select(0, shades).view(kept.shape) for channel in channels], dim=1)

    def _spectrum_bytes(self, samples: int) -> int:
        return 8 * (self.frame_samples // 2 + 1) * (1 + samples // self.hop_samples)

    def _shades(self, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        shades = self._brightness(self._magnitudes(waveforms, sample_rate_hz))
        rows = _resizing(shades.shape[1], self.size, shades.device)
        columns = _resizing(shades.shape[2], self.size, shades.device)
        return (rows @ (shades @ columns.T)).flip(1).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _magnitudes(self, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        """`(clips, bins or bands, frames)`. The mel filters are applied to magnitudes, not to powers."""
        # Brightness is relative to the loudest point anyway; the peak of 1 keeps faint excerpts clear of underflow.
        peak = waveforms.abs().amax(dim=1, keepdim=True)
        found = torch.stft(
            waveforms / peak.clamp_min(torch.finfo(waveforms.dtype).tiny),
            self.frame_samples,
            self.hop_samples,
            window=torch.hann_window(self.frame_samples, device=waveforms.device),
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).abs()
        if self.frequency == "linear":
            return found
        assert self.frequency == "mel", self.frequency
        bands = mel_bands(sample_rate_hz, self.frame_samples, self.size)
        return _mel_filters(sample_rate_hz, self.frame_samples, bands, waveforms.device) @ found

    def _brightness(self, magnitudes: Tensor) -> Tensor:
        """In [0, 1]; overwrites `magnitudes`."""
        loudest = magnitudes.amax(dim=(1, 2), keepdim=True)
        relative = magnitudes.div_(loudest.clamp_min(torch.finfo(magnitudes.dtype).tiny))
        if not self.log:
            return relative
        # One floor for all, 80 dB below the loudest point; librosa has a second one, 100 dB below an amplitude of 1.
        faintest = 10 ** (-DYNAMIC_RANGE_DB / 20)
        return relative.clamp_min_(faintest).log10_().mul_(20 / DYNAMIC_RANGE_DB).add_(1)


def mel_bands(sample_rate_hz: int, frame_samples: int, size: int) -> int:
    """How many mel bands a picture `size` pixels high shows: a row each, up to 128, librosa's usual number.

    They are fewer where the lowest bands would stand closer than the transform's bins: bands between two bins
    would be empty, black lines at the same place in every picture.
    """
    linear_hz_per_mel = 200 / 3  # Slaney's scale is linear below 1 kHz, 15 mel, and logarithmic above
    top_hz = sample_rate_hz / 2
    top_mel = top_hz / linear_hz_per_mel if top_hz < 1000 else 15 + 27 * math.log(top_hz / 1000) / math.log(6.4)
    as_many_as_bins = int(top_mel * linear_hz_per_mel * frame_samples / sample_rate_hz) - 1
    return max(1, min(_MAX_BANDS, size, as_many_as_bins))


@lru_cache(maxsize=8)
def _mel_filters(sample_rate_hz: int, frame_samples: int, bands: int, device: torch.device) -> Tensor:
    """Slaney's filters `(bands, bins)`, as `librosa.filters.mel` has them."""
    import torchaudio.functional  # only here: it takes a tenth of a second, and most families use none of it

    # torchaudio puts the last bin at half the rate, rounded down, which is a little off for odd rates and frames.
    # Up to twice that it has no choice, and the bins above the middle see no filter.
    filters: Tensor = torchaudio.functional.melscale_fbanks(
        n_freqs=frame_samples + 1,
        f_min=0.0,
        f_max=sample_rate_hz / 2,
        n_mels=bands,
        sample_rate=2 * sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters[: frame_samples // 2 + 1].T.contiguous().to(device)


@lru_cache(maxsize=16)
def _resizing(before: int, after: int, device: torch.device) -> Tensor:
    """The matrix `(after, before)` of an antialiased bilinear resize, which is what it makes of unit vectors.

    A product with it works at every scale; Torch's own kernel for GPUs refuses to shrink some two hundredfold.
    """
    units = torch.eye(before)[None, None]
    return F.interpolate(units, size=(after, before), mode="bilinear", antialias=True)[0, 0].to(device)


@lru_cache(maxsize=16)
def _colours(name: str, device: torch.device) -> Tensor:
    """A colour map of matplotlib's as 256 reds, greens and blues `(3, 256)` in [0, 1]."""
    from matplotlib import colormaps  # takes a while, and only pictures in colour need it

    if name not in colormaps:
        near = difflib.get_close_matches(name, list(colormaps), n=3) or ["magma", "viridis"]
        raise UserError(
            f"A picture's colour must be a colour map of matplotlib or none, but got {name!r}. "
            f"Use for example {', '.join(near)} or none."
        )
    table = colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return torch.from_numpy(table.T.copy()).float().to(device)
