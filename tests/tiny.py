"""A tiny corpus in NSynth's layout that a small network can learn, for studies that must end in seconds."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000
CLASSES = ("bass", "organ", "reed")
INSTRUMENTS = {"train": (0, 1, 2, 3), "valid": (10, 11), "test": (10, 11)}
PITCHES = {"train": (40, 45, 50), "valid": (41, 46), "test": (43, 48)}


def write_corpus(root: Path) -> Path:
    """36 + 12 + 12 notes of a quarter second: a sine, a square wave and noise, each with its own loudness."""
    for split, instruments in INSTRUMENTS.items():
        folder = root / f"nsynth-{split}" / "audio"
        folder.mkdir(parents=True)
        rows = {}
        for number, family in enumerate(CLASSES):
            for instrument in instruments:
                for pitch in PITCHES[split]:
                    name = f"{family}_acoustic_{instrument:03d}"
                    note = f"{name}-{pitch:03d}-100"
                    rows[note] = {
                        "note_str": note,
                        "instrument_str": name,
                        "instrument_family_str": family,
                        "instrument_source_str": "acoustic" if instrument % 2 else "electronic",
                        "pitch": pitch,
                        "velocity": 100,
                        "sample_rate": RATE_HZ,
                    }
                    soundfile.write(
                        folder / f"{note}.wav", _sound(number, instrument, pitch), RATE_HZ, subtype="PCM_16"
                    )
        (root / f"nsynth-{split}" / "examples.json").write_text(json.dumps(rows))
    return root


def _sound(number: int, instrument: int, pitch: int) -> np.ndarray:
    rng = np.random.default_rng([number, instrument, pitch])
    time = np.arange(RATE_HZ // 4) / RATE_HZ
    tone = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)
    sound = (tone, np.sign(tone), rng.standard_normal(len(time)) / 3)[number]
    return (0.2 + 0.2 * number) * sound + 0.01 * rng.standard_normal(len(time))
