"""Tiny corpora in NSynth's layout, written into temporary folders."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from trainables.corpora import importer

RATE_HZ = 16_000
FAMILIES = ("bass", "synth_lead")
SPLITS = ("train", "valid", "test")


def wav(samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype=subtype, format=kind)
    return file.getvalue()


def noise(seed: int, samples: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples).astype(np.int16)


def row(family: str, pitch: int, instrument: int = 0, velocity: int = 100) -> dict[str, Any]:
    name = f"{family}_synthetic_{instrument:03d}"
    return {
        "note_str": f"{name}-{pitch:03d}-{velocity:03d}",
        "instrument_str": name,
        "instrument_family_str": family,
        "instrument_source_str": "synthetic",
        "pitch": pitch,
        "velocity": velocity,
    }


@dataclass(frozen=True)
class Files:
    """A corpus on the disk, and ways to spoil it."""

    root: Path

    def audio(self, split: str, name: str) -> Path:
        return self.root / f"nsynth-{split}" / "audio" / f"{name}.wav"

    def list_path(self, split: str) -> Path:
        return self.root / f"nsynth-{split}" / "examples.json"

    def rows(self, split: str) -> dict[str, Any]:
        rows: dict[str, Any] = json.loads(self.list_path(split).read_text())
        return rows

    def names(self, split: str) -> list[str]:
        return list(self.rows(split))

    def write_rows(self, split: str, rows: dict[str, Any]) -> None:
        self.list_path(split).write_text(json.dumps(rows, indent=1))

    def archived(self, target: Path, change: Callable[[str, tarfile.TarFile], None] | None = None) -> Path:
        """The same corpus as three archives, to each of which `change(split, archive)` may add members."""
        target.mkdir()
        for split in SPLITS:
            with tarfile.open(target / f"nsynth-{split}.jsonwav.tar.gz", "w:gz") as archive:
                archive.add(self.root / f"nsynth-{split}", f"nsynth-{split}")
                if change:
                    change(split, archive)
        return target


@pytest.fixture
def make_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Files]:
    """Write a corpus of `train` + 20 + 20 notes of 25 ms; the cache lies in the temporary folder too."""
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))

    def write(train: int = 40, name: str = "corpus") -> Files:
        files = Files(tmp_path / name)
        for number, (split, count) in enumerate({"train": train, "valid": 20, "test": 20}.items()):
            (files.root / f"nsynth-{split}" / "audio").mkdir(parents=True)
            rows = [row(FAMILIES[i % 2], 20 + i // 2 % 100, 10 * number + i // 200) for i in range(count)]
            files.write_rows(split, {fields["note_str"]: fields for fields in rows})
            for i, fields in enumerate(rows):
                files.audio(split, fields["note_str"]).write_bytes(wav(noise(1_000 * number + i)))
        return files

    return write


@pytest.fixture
def corpus(make_corpus: Callable[..., Files]) -> Files:
    return make_corpus()


@pytest.fixture
def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Call it for a list that grows by one for every note decoded from then on."""

    def start() -> list[int]:
        real, calls = importer.decode, []

        def counted(data: bytes, **options: Any) -> Any:
            calls.append(1)
            return real(data, **options)

        monkeypatch.setattr(importer, "decode", counted)
        return calls

    return start
