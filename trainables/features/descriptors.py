"""Descriptors of one whole clip: what librosa measures of each frame, as means and deviations over time.

Urbaitis and Payeli list MFCC, chroma, spectral, rhythm and zero-crossing features. Frames are librosa's default, 2048
samples every 512. All spectral descriptors share one short-time Fourier transform, taken in blocks of frames: that
bounds the memory of long clips and, since a block stays in the processor's cache, halves the time of a 30-s clip.
What librosa measures relative to the loudest point of a clip is therefore put together at the end.
"""

import os
import signal
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # librosa and SciPy take seconds to import, and most trials need neither
    from scipy.sparse import csr_array

FRAME_SAMPLES = 2048
HOP_SAMPLES = 512
BLOCK_FRAMES = 256
MFCCS = 20
CHROMAS = 12
CONTRASTS = 7
RHYTHM_SECONDS = 5.0
START_TEMPO = 120.0  # librosa's expectation before it has heard anything

Floats = npt.NDArray[np.float32]


def names(clip_seconds: float) -> tuple[str, ...]:
    """The descriptors of clips of a corpus whose longest lasts `clip_seconds`: all means, all deviations, the tempo.

    Rows are counted from 0, as librosa does. Rhythm means nothing on single notes: onset strength and tempo are left
    out where no clip lasts 5 s.
    """
    rhythm = has_rhythm(clip_seconds)
    over_time = (
        *(f"mfcc_{row}" for row in range(MFCCS)),
        *(f"chroma_{row}" for row in range(CHROMAS)),
        "centroid",
        "bandwidth",
        "rolloff",
        *(f"contrast_{row}" for row in range(CONTRASTS)),
        "flatness",
        "zero_crossing_rate",
        *(("onset_strength",) if rhythm else ()),
    )
    return (
        *(f"{name}_mean" for name in over_time),
        *(f"{name}_deviation" for name in over_time),
        *(("tempo",) if rhythm else ()),
    )


def has_rhythm(clip_seconds: float) -> bool:
    """Whether onset strength and tempo are measured in a corpus whose longest clip lasts `clip_seconds`."""
    return clip_seconds >= RHYTHM_SECONDS


def describe(waveform: Floats, sample_rate_hz: int, rhythm: bool) -> Floats:
    """The descriptors `(names,)` of a clip `(samples,)` in [-1, 1) of at least one sample; all are finite.

    Takes about 7 bytes a sample beside the waveform, and some 12 MB for a block of frames.
    """
    rows = over_time(waveform, sample_rate_hz, rhythm)
    found = [rows.mean(axis=1, dtype=np.float64), rows.std(axis=1, dtype=np.float64)]
    if rhythm:
        found.append(np.array([tempo(rows[-1], len(waveform) / sample_rate_hz, sample_rate_hz)]))
    return np.concatenate(found).astype(np.float32)


class BadClip(Exception):  # noqa: N818 - a verdict on one clip
    """A clip of which no descriptors could be computed: its row and the reason."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive rows of a store, from `first`: where their samples begin in its file and how many they are.

    `scale` makes values in [-1, 1) of the samples, which are 16-bit integers.
    """

    samples_file: Path
    scale: float
    sample_rate_hz: int
    rhythm: bool
    first: int
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @property
    def seconds(self) -> float:
        """How much audio it is."""
        return float(self.lengths.sum()) / self.sample_rate_hz


def describe_chunk(chunk: Chunk) -> Floats:
    """The descriptors `(clips, names)` of the clips of a chunk; raises BadClip."""
    samples = np.memmap(chunk.samples_file, dtype="<i2", mode="r").view(np.ndarray)
    rows = []
    for row, (offset, length) in enumerate(zip(chunk.offsets, chunk.lengths, strict=True), start=chunk.first):
        waveform = samples[offset : offset + length] * np.float32(chunk.scale)
        rows.append(describe_clip(row, waveform, chunk.sample_rate_hz, chunk.rhythm))
    return np.stack(rows)


def describe_clip(row: int, waveform: Floats, sample_rate_hz: int, rhythm: bool) -> Floats:
    """What `describe` finds of the clip of that row; raises BadClip where librosa fails on it."""
    import librosa

    try:
        found = describe(waveform, sample_rate_hz, rhythm)
    except (librosa.LibrosaError, ArithmeticError, LookupError, ValueError) as error:
        raise BadClip(row, f"{type(error).__name__}: {error}") from error
    if not np.isfinite(found).all():
        raise BadClip(row, "descriptors that are no numbers")
    return found


def start_worker() -> None:
    """Prepare a process of its own: it leaves Ctrl-C to its parent, and never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A process pool's worker whose parent was killed waits for work for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def over_time(waveform: Floats, sample_rate_hz: int, rhythm: bool) -> Floats:
    """What is measured of each frame, `(descriptors, frames)`, in the order of `names`."""
    import librosa

    blocks = [
        _block(waveform, first, min(BLOCK_FRAMES, frame_count(waveform) - first), sample_rate_hz)
        for first in range(0, frame_count(waveform), BLOCK_FRAMES)
    ]
    mel, chroma, shape, peaks, valleys, rest = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
    decibels = librosa.power_to_db(mel)
    rows = [
        librosa.feature.mfcc(S=decibels, sr=sample_rate_hz, n_mfcc=MFCCS),
        chroma,
        shape,
        librosa.power_to_db(peaks) - librosa.power_to_db(valleys),
        rest,
    ]
    if rhythm:
        rows.append(librosa.onset.onset_strength(S=decibels, sr=sample_rate_hz)[np.newaxis])
    return np.concatenate(rows).astype(np.float32)


def frame_count(waveform: Floats) -> int:
    """How many frames have their middle in the clip."""
    return 1 + len(waveform) // HOP_SAMPLES


def tempo(onset_strength: Floats, seconds: float, sample_rate_hz: int) -> float:
    """Beats per minute, as `librosa.feature.tempo` finds them; 120 for a clip too short to have a tempo."""
    import librosa

    if not has_rhythm(seconds):
        return START_TEMPO
    found = librosa.feature.tempo(
        tg=mean_tempogram(onset_strength, sample_rate_hz), sr=sample_rate_hz, hop_length=HOP_SAMPLES
    )
    return float(found[0])


def mean_tempogram(onset_strength: Floats, sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """The mean over time `(lags, 1)` of `librosa.feature.tempogram` with windows of 8 s, of which tempo makes use.

    It is taken block by block, since the tempogram of an hour would fill gigabytes.
    """
    import librosa

    window = int(librosa.time_to_frames(8.0, sr=sample_rate_hz, hop_length=HOP_SAMPLES))
    frames = len(onset_strength)
    padded = np.pad(onset_strength, window // 2, mode="linear_ramp")
    total = np.zeros((window, 1))
    for first in range(0, frames, BLOCK_FRAMES):
        piece = padded[first : min(first + BLOCK_FRAMES, frames) + window - 1]
        gram = librosa.feature.tempogram(onset_envelope=piece, win_length=window, center=False)
        total += gram.sum(axis=1, keepdims=True)
    return total / frames


def _block(waveform: Floats, first: int, count: int, sample_rate_hz: int) -> tuple[Floats, ...]:
    """Of `count` frames: mel power, chroma, spectral shape, peaks and valleys of the bands, all other rows."""
    import librosa

    spectrum = librosa.stft(
        _cut(waveform, first, count, "constant"), n_fft=FRAME_SAMPLES, hop_length=HOP_SAMPLES, center=False
    )
    magnitude = np.abs(spectrum)
    power = magnitude**2
    mel, chroma = _filters(sample_rate_hz)
    centroid = librosa.feature.spectral_centroid(S=magnitude, sr=sample_rate_hz)
    shape = (
        centroid,
        librosa.feature.spectral_bandwidth(S=magnitude, sr=sample_rate_hz, centroid=centroid),
        librosa.feature.spectral_rolloff(S=magnitude, sr=sample_rate_hz),
    )
    return (
        mel @ power,
        librosa.util.normalize(chroma @ power, norm=np.inf, axis=0),
        np.concatenate(shape),
        *_peaks_and_valleys(magnitude, sample_rate_hz),
        np.concatenate([librosa.feature.spectral_flatness(S=magnitude), _zero_crossing_rate(waveform, first, count)]),
    )


def _cut(waveform: Floats, first: int, count: int, mode: str) -> Floats:
    """The samples of frames centred on every 512th, padded as `numpy.pad` does where they reach beyond the clip."""
    start = first * HOP_SAMPLES - FRAME_SAMPLES // 2
    end = start + (count - 1) * HOP_SAMPLES + FRAME_SAMPLES
    before, after = max(0, -start), max(0, end - len(waveform))
    return np.pad(waveform[max(0, start) : end], (before, after), mode=mode)  # type: ignore[call-overload,no-any-return]


def _zero_crossing_rate(waveform: Floats, first: int, count: int) -> Floats:
    """Crossings per sample `(1, count)`, counted once rather than in each of the frames that overlap.

    As in `librosa.feature.zero_crossing_rate`, what happens before a frame's first sample is not part of it.
    """
    import librosa

    crossings = librosa.zero_crossings(_cut(waveform, first, count, "edge"), pad=False)
    before = np.concatenate([[0], np.cumsum(crossings)])
    starts = HOP_SAMPLES * np.arange(count)
    rate: Floats = ((before[starts + FRAME_SAMPLES] - before[starts + 1]) / FRAME_SAMPLES).astype(np.float32)
    return rate[np.newaxis]


def _peaks_and_valleys(magnitude: Floats, sample_rate_hz: int) -> tuple[Floats, Floats]:
    """The means of each band's strongest and weakest fiftieth, `(7, frames)` each.

    These are the two halves of `librosa.feature.spectral_contrast`, which refers each to its loudest point.
    """
    peaks, valleys = [], []
    for band in _bands(sample_rate_hz):
        inner = np.sort(magnitude[band.start : band.stop], axis=0)
        valleys.append(inner[: band.extremes].mean(axis=0))
        peaks.append(inner[-band.extremes :].mean(axis=0))
    return np.stack(peaks), np.stack(valleys)


@dataclass(frozen=True)
class _Band:
    """Rows `start` to `stop` of a spectrum, of which the `extremes` strongest and weakest count."""

    start: int
    stop: int
    extremes: int


@lru_cache(maxsize=4)
def _bands(sample_rate_hz: int) -> tuple[_Band, ...]:
    """The octaves of `librosa.feature.spectral_contrast`, the lowest up to 200 Hz, the highest up to Nyquist.

    Where seven bands from 200 Hz upward do not fit below Nyquist, which is so up to 12.8 kHz, all are moved down.
    """
    import librosa

    lowest_hz = 200.0
    if lowest_hz * 2 ** (CONTRASTS - 2) >= sample_rate_hz / 2:
        lowest_hz = sample_rate_hz / 2**CONTRASTS
    frequencies = librosa.fft_frequencies(sr=sample_rate_hz, n_fft=FRAME_SAMPLES)
    bands = []
    for number in range(CONTRASTS):
        low, high = lowest_hz * 2.0 ** (number - 1) if number else 0.0, lowest_hz * 2.0**number
        inside = np.flatnonzero((frequencies >= low) & (frequencies <= high))
        last = number == CONTRASTS - 1
        start = int(inside[0]) - (number > 0)
        stop = len(frequencies) if last else int(inside[-1]) + 1
        bands.append(_Band(start, stop - (not last), max(1, round(0.02 * (stop - start)))))
    return tuple(bands)


@lru_cache(maxsize=4)
def _filters(sample_rate_hz: int) -> "tuple[csr_array, csr_array]":
    """The filters of the mel spectrogram and of the chroma, `(rows, frequencies)`.

    librosa makes them anew in every call, which costs a clip of 4 s a third of its time. As sparse matrices they
    keep away from BLAS, whose threads would fight over the cores that other processes work on. The tuning is not
    estimated: that costs five times as much as the chroma itself.
    """
    import librosa
    from scipy.sparse import csr_array

    with warnings.catch_warnings():
        # At sample rates above about 50 kHz the lowest filters fall between two frequencies and stay empty.
        warnings.filterwarnings("ignore", "Empty filters detected", UserWarning)
        mel = librosa.filters.mel(sr=sample_rate_hz, n_fft=FRAME_SAMPLES)
    chroma = librosa.filters.chroma(sr=sample_rate_hz, n_fft=FRAME_SAMPLES, tuning=0.0)
    return csr_array(mel), csr_array(chroma)
