"""The waveform itself: an excerpt, normalised, resampled, pooled and, for recurrent networks, framed."""

from dataclasses import dataclass, field

import numpy as np
import soxr
import torch
from torch import Tensor


@dataclass(frozen=True)
class Waveform:
    """How an excerpt becomes a sequence.

    `normalise` "peak" scales each excerpt to a peak of 1, "none" leaves it as recorded. `resample_hz` 0 keeps the
    corpus' rate; `resampling` is "fourier" (as `scipy.signal.resample`) or "soxr". Every `pool` samples
    become their mean or maximum (`pool_kind`). `frame_ms` 0 leaves one channel `(1, samples)`; otherwise the
    samples are cut into frames `(steps, frame)`, and a remainder at the end is dropped.
    """

    seconds: float
    pool: int
    frame_ms: int
    normalise: str
    excerpt: str = "first"
    resample_hz: int = 0
    resampling: str = "fourier"
    pool_kind: str = "mean"
    kind: str = field(default="waveform", init=False)

    def shape(self, sample_rate_hz: int, clip_seconds: float) -> tuple[int, int]:
        """`(steps, frame)`, or `(1, samples)` without framing, counted in resampled and pooled samples."""
        seconds = clip_seconds if self.excerpt == "whole" else self.seconds
        return self._shape(round(seconds * sample_rate_hz), sample_rate_hz)

    def stored_bytes(self, sample_rate_hz: int, clip_seconds: float) -> int:
        """Four bytes a value."""
        steps, frame = self.shape(sample_rate_hz, clip_seconds)
        return 4 * steps * frame

    def prepare(self, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        """Inputs `(clips, steps, frame)` or `(clips, 1, samples)` of excerpts `(clips, samples)`."""
        steps, frame = self._shape(waveforms.shape[1], sample_rate_hz)
        if self.normalise == "peak":
            peak = waveforms.abs().amax(dim=1, keepdim=True)
            waveforms = waveforms / peak.clamp_min(torch.finfo(torch.float32).tiny)
        waveforms = self._resampled(waveforms, sample_rate_hz)
        groups = waveforms[:, : steps * frame * self.pool].reshape(len(waveforms), steps * frame, self.pool)
        pooled = groups.amax(dim=2) if self.pool_kind == "max" else groups.mean(dim=2)
        return pooled.reshape(len(waveforms), steps, frame)

    def present(self, kept: Tensor) -> Tensor:
        """The same."""
        return kept

    def _rate_hz(self, sample_rate_hz: int) -> int:
        return self.resample_hz or sample_rate_hz

    def _length(self, samples: int, sample_rate_hz: int) -> int:
        return samples * self._rate_hz(sample_rate_hz) // sample_rate_hz

    def _shape(self, samples: int, sample_rate_hz: int) -> tuple[int, int]:
        pooled = self._length(samples, sample_rate_hz) // self.pool
        if not self.frame_ms:
            return 1, pooled
        frame = max(1, self._rate_hz(sample_rate_hz) * self.frame_ms // (1000 * self.pool))
        return pooled // frame, frame

    def _resampled(self, waveforms: Tensor, sample_rate_hz: int) -> Tensor:
        length = self._length(waveforms.shape[1], sample_rate_hz)
        if self._rate_hz(sample_rate_hz) == sample_rate_hz:
            return waveforms
        if self.resampling == "fourier":
            return resample_fourier(waveforms, length)
        found = soxr.resample(waveforms.T.cpu().numpy(), sample_rate_hz, self.resample_hz)[:length].T
        padded = np.zeros((len(waveforms), length), dtype=np.float32)
        padded[:, : found.shape[1]] = found
        return torch.from_numpy(padded).to(waveforms.device)


def resample_fourier(waveforms: Tensor, length: int) -> Tensor:
    """Waveforms `(clips, samples)` resampled to `length` samples by cutting or padding their spectrum.

    Equal to `scipy.signal.resample`, which halves or doubles the bin at the smaller Nyquist frequency likewise.
    """
    samples = waveforms.shape[1]
    spectrum = torch.fft.rfft(waveforms)
    shorter = min(samples, length)
    kept = spectrum[:, : shorter // 2 + 1].clone()
    if shorter % 2 == 0 and length != samples:
        kept[:, shorter // 2] *= 2.0 if length < samples else 0.5
    resampled: Tensor = torch.fft.irfft(kept, n=length) * (length / samples)
    return resampled
