"""The waveform as a sequence of frames: first seconds, average pooling, framing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frames:
    """How a waveform becomes a sequence: `seconds` used, average-pooling factor, frame length, normalisation.

    `normalise` "peak" scales each waveform to a peak of 1, "none" leaves it as recorded.
    """

    seconds: float
    pool: int
    frame_ms: int
    normalise: str

    def shape(self, sample_rate_hz: int) -> tuple[int, int]:
        """`(steps, frame)`: how many frames there are and how many pooled samples each holds."""
        frame = sample_rate_hz * self.frame_ms // (1000 * self.pool)
        pooled = int(self.seconds * sample_rate_hz) // self.pool
        return pooled // frame, frame


def frames(waveforms: Samples, how: Frames, sample_rate_hz: int) -> Samples:
    """Frames `(clips, steps, frame)` of waveforms `(clips, samples)`; a remainder at the end is dropped."""
    steps, frame = how.shape(sample_rate_hz)
    if how.normalise == "peak":
        peak = np.abs(waveforms).max(axis=1, keepdims=True)
        waveforms = waveforms / np.maximum(peak, np.finfo(np.float32).tiny)
    used = waveforms[:, : steps * frame * how.pool]
    pooled = used.reshape(len(used), steps * frame, how.pool).mean(axis=2, dtype=np.float32)
    framed: Samples = pooled.reshape(len(used), steps, frame)
    return framed
