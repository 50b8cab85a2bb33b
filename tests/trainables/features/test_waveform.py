"""Waveforms against a loop over samples, scipy's resampling and hand-worked cases."""

from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
import soxr
import torch

from trainables import features
from trainables.features.waveform import Waveform, resample_fourier

Samples = npt.NDArray[np.float32]
RATES_HZ = (16_000, 11_025, 8_000)


def noise(clips: int, samples: int, seed: int = 0) -> Samples:
    return (0.4 * np.random.default_rng(seed).normal(size=(clips, samples))).astype(np.float32)


def prepare(waveforms: npt.NDArray[np.float32], how: Waveform, rate_hz: int) -> Samples:
    prepared: Samples = how.present(how.prepare(torch.from_numpy(waveforms), rate_hz)).numpy()
    return prepared


def by_loop(waveform: Samples, how: Waveform, rate_hz: int) -> list[list[float]]:
    """The frames of one waveform, sample by sample."""
    peak = max(abs(float(sample)) for sample in waveform)
    scale = peak if how.normalise == "peak" and peak > 0 else 1.0
    samples = [float(sample) / scale for sample in waveform]
    pooled = []
    for start in range(0, int(how.seconds * rate_hz) - how.pool + 1, how.pool):
        group = samples[start : start + how.pool]
        pooled.append(max(group) if how.pool_kind == "max" else sum(group) / how.pool)
    frame = int(rate_hz / how.pool * how.frame_ms / 1000)
    found = []
    while len(pooled) >= frame:
        found.append(pooled[:frame])
        pooled = pooled[frame:]
    return found


@pytest.mark.parametrize(
    ("seconds", "pool", "frame_ms", "normalise", "pool_kind"),
    [
        (0.1, 1, 10, "none", "mean"),
        (0.1, 16, 20, "none", "max"),
        (0.1, 4, 30, "peak", "mean"),  # 10 ms are left over
        (0.13, 8, 50, "peak", "max"),
        (0.05, 2, 50, "none", "mean"),  # a single frame
        (0.0999, 16, 10, "peak", "mean"),
    ],
)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_frames_against_a_loop(
    seconds: float, pool: int, frame_ms: int, normalise: str, pool_kind: str, rate_hz: int
) -> None:
    how = Waveform(seconds, pool, frame_ms, normalise, pool_kind=pool_kind)
    waveforms = noise(3, int(seconds * rate_hz))
    found = prepare(waveforms, how, rate_hz)
    assert found.dtype == np.float32
    assert found.shape == (3, *how.shape(rate_hz, clip_seconds=9))
    for clip, waveform in zip(found, waveforms, strict=True):
        np.testing.assert_allclose(clip, by_loop(waveform, how, rate_hz), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "pool", "frame_ms", "shape"),
    [
        (1, 16, 20, (50, 20)),  # the published recipes
        (1, 1, 10, (100, 160)),
        (4, 16, 10, (400, 10)),  # the corners of the space
        (4, 1, 80, (50, 1280)),
        (1, 1, 70, (14, 1120)),
        (1, 16, 70, (14, 70)),
        (4, 16, 0, (1, 4000)),  # one channel without frames
    ],
)
def test_shapes_at_16_khz(seconds: int, pool: int, frame_ms: int, shape: tuple[int, int]) -> None:
    how = Waveform(seconds, pool, frame_ms, "none")
    assert how.shape(16_000, clip_seconds=2) == shape
    assert how.stored_bytes(16_000, clip_seconds=2) == 4 * shape[0] * shape[1]


def test_a_whole_clip_has_the_length_of_the_longest() -> None:
    how = Waveform(1, 2, 0, "none", excerpt="whole")
    assert how.shape(8_000, clip_seconds=2.5) == (1, 10_000)
    assert prepare(noise(2, 20_000), how, 8_000).shape == (2, 1, 10_000)


def test_a_frame_lasts_as_long_whatever_the_pooling() -> None:
    shapes = {pool: Waveform(2, pool, 40, "none").shape(16_000, 4) for pool in (1, 2, 4, 8, 16)}
    assert {steps for steps, _ in shapes.values()} == {50}
    assert {pool * frame for pool, (_, frame) in shapes.items()} == {640}


def test_by_hand() -> None:
    """Eight samples at 1 kHz, averaged in pairs, in frames of 4 ms."""
    waveform = np.array([[1, 3, -2, 0, 4, 4, 0, -8]], dtype=np.float32)
    plain = prepare(waveform, Waveform(0.008, 2, 4, "none"), 1_000)
    np.testing.assert_array_equal(plain, [[[2, -1], [4, -4]]])
    np.testing.assert_array_equal(prepare(waveform, Waveform(0.008, 2, 4, "peak"), 1_000), plain / 8)
    largest = prepare(waveform, Waveform(0.008, 2, 0, "none", pool_kind="max"), 1_000)
    np.testing.assert_array_equal(largest, [[[3, 0, 4, 0]]])


def test_each_waveform_is_scaled_to_its_own_peak_and_silence_stays_silent() -> None:
    waveforms = np.array([[0.1, -0.5, 0.2, 0.0], [0, 0, 0, 0], [1e-4, 0, 0, 5e-5]], dtype=np.float32)
    found = prepare(waveforms, Waveform(0.004, 1, 4, "peak"), 1_000)
    np.testing.assert_allclose(found[:, 0], [[0.2, -1, 0.4, 0], [0, 0, 0, 0], [1, 0, 0, 0.5]], rtol=1e-6)
    assert np.isfinite(found).all()


def test_without_normalisation_values_stay_and_the_input_is_not_touched() -> None:
    waveforms = noise(2, 80)
    before = waveforms.copy()
    found = prepare(waveforms, Waveform(0.08, 1, 20, "none"), 1_000)
    np.testing.assert_array_equal(found.reshape(2, 80), before)
    prepare(waveforms, Waveform(0.08, 1, 20, "peak"), 1_000)
    np.testing.assert_array_equal(waveforms, before)


# --- resampling --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "length"), [(64, 8), (64, 7), (63, 8), (63, 9), (8, 64), (9, 20), (10, 25), (64, 64), (7, 7), (5, 1)]
)
def test_fourier_resampling_is_scipys(samples: int, length: int) -> None:
    waveforms = noise(3, samples).astype(np.float64)
    found = resample_fourier(torch.from_numpy(waveforms), length)
    np.testing.assert_allclose(found, scipy.signal.resample(waveforms, length, axis=1), atol=1e-12)


def test_report_002_keeps_8000_of_64000_samples() -> None:
    how = Waveform(4, 1, 0, "none", resample_hz=2_000)
    waveforms = noise(2, 64_000)
    found = prepare(waveforms, how, 16_000)
    assert how.shape(16_000, 4) == (1, 8_000)
    np.testing.assert_allclose(found[:, 0], scipy.signal.resample(waveforms, 8_000, axis=1), atol=1e-5)


@pytest.mark.parametrize(("rate_hz", "to_hz"), [(16_000, 4_000), (22_050, 16_000), (8_000, 16_000)])
def test_soxr_resampling_is_soxrs(rate_hz: int, to_hz: int) -> None:
    how = Waveform(0.5, 1, 0, "none", resample_hz=to_hz, resampling="soxr")
    waveforms = noise(2, rate_hz // 2)
    found = prepare(waveforms, how, rate_hz)
    assert found.shape == (2, *how.shape(rate_hz, 4))
    for clip, waveform in zip(found[:, 0], waveforms, strict=True):
        expected = soxr.resample(waveform, rate_hz, to_hz)[: found.shape[2]]
        np.testing.assert_allclose(clip[: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("resampling", ["fourier", "soxr"])
def test_a_low_tone_keeps_its_shape_at_another_rate(resampling: str) -> None:
    time = np.arange(16_000) / 16_000
    waveforms = np.sin(2 * np.pi * 100 * time, dtype=np.float32)[None]
    how = Waveform(1, 1, 0, "none", resample_hz=4_000, resampling=resampling)
    found = prepare(waveforms, how, 16_000)[0, 0]
    np.testing.assert_allclose(found[100:-100], waveforms[0, ::4][100:-100], atol=2e-3)


# --- as data -----------------------------------------------------------------------------------


def test_features_survive_json() -> None:
    how = Waveform(2, 4, 0, "peak", excerpt="segments", resample_hz=8_000, pool_kind="max")
    assert features.from_json(asdict(how)) == how
    assert asdict(how)["kind"] == "waveform"
