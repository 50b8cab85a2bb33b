"""Frames of a waveform against a loop over samples."""

import numpy as np
import numpy.typing as npt
import pytest

from trainables.features.waveform import Frames, frames

Samples = npt.NDArray[np.float32]
RATES_HZ = (16_000, 11_025, 8_000)


def noise(clips: int, samples: int, seed: int = 0) -> Samples:
    return (0.4 * np.random.default_rng(seed).normal(size=(clips, samples))).astype(np.float32)


def by_loop(waveform: Samples, how: Frames, rate_hz: int) -> list[list[float]]:
    """The frames of one waveform, sample by sample."""
    peak = max(abs(float(sample)) for sample in waveform)
    scale = peak if how.normalise == "peak" and peak > 0 else 1.0
    samples = [float(sample) / scale for sample in waveform]
    pooled = []
    for start in range(0, int(how.seconds * rate_hz) - how.pool + 1, how.pool):
        pooled.append(sum(samples[start : start + how.pool]) / how.pool)
    frame = int(rate_hz / how.pool * how.frame_ms / 1000)
    found = []
    while len(pooled) >= frame:
        found.append(pooled[:frame])
        pooled = pooled[frame:]
    return found


@pytest.mark.parametrize(
    ("seconds", "pool", "frame_ms", "normalise"),
    [
        (0.1, 1, 10, "none"),
        (0.1, 16, 20, "none"),
        (0.1, 4, 30, "peak"),  # 10 ms are left over
        (0.13, 8, 50, "peak"),
        (0.05, 2, 50, "none"),  # a single frame
        (0.0999, 16, 10, "peak"),
    ],
)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_frames_against_a_loop(seconds: float, pool: int, frame_ms: int, normalise: str, rate_hz: int) -> None:
    how = Frames(seconds, pool, frame_ms, normalise)
    waveforms = noise(3, int(seconds * rate_hz))
    found = frames(waveforms, how, rate_hz)
    assert found.dtype == np.float32
    assert found.shape == (3, *how.shape(rate_hz))
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
    ],
)
def test_shapes_at_16_khz(seconds: int, pool: int, frame_ms: int, shape: tuple[int, int]) -> None:
    assert Frames(seconds, pool, frame_ms, "none").shape(16_000) == shape


def test_a_frame_lasts_as_long_whatever_the_pooling() -> None:
    shapes = {pool: Frames(2, pool, 40, "none").shape(16_000) for pool in (1, 2, 4, 8, 16)}
    assert {steps for steps, _ in shapes.values()} == {50}
    assert {pool * frame for pool, (_, frame) in shapes.items()} == {640}


def test_by_hand() -> None:
    """Eight samples at 1 kHz, averaged in pairs, in frames of 4 ms."""
    waveform = np.array([[1, 3, -2, 0, 4, 4, 0, -8]], dtype=np.float32)
    plain = frames(waveform, Frames(0.008, 2, 4, "none"), 1_000)
    np.testing.assert_array_equal(plain, [[[2, -1], [4, -4]]])
    scaled = frames(waveform, Frames(0.008, 2, 4, "peak"), 1_000)
    np.testing.assert_array_equal(scaled, plain / 8)


def test_each_waveform_is_scaled_to_its_own_peak_and_silence_stays_silent() -> None:
    waveforms = np.array([[0.1, -0.5, 0.2, 0.0], [0, 0, 0, 0], [1e-4, 0, 0, 5e-5]], dtype=np.float32)
    found = frames(waveforms, Frames(0.004, 1, 4, "peak"), 1_000)
    np.testing.assert_allclose(found[:, 0], [[0.2, -1, 0.4, 0], [0, 0, 0, 0], [1, 0, 0, 0.5]], rtol=1e-6)
    assert np.isfinite(found).all()


def test_without_normalisation_values_stay_and_the_input_is_not_touched() -> None:
    waveforms = noise(2, 80)
    before = waveforms.copy()
    how = Frames(0.08, 1, 20, "none")
    np.testing.assert_array_equal(frames(waveforms, how, 1_000).reshape(2, 80), before)
    frames(waveforms, Frames(0.08, 1, 20, "peak"), 1_000)
    np.testing.assert_array_equal(waveforms, before)
