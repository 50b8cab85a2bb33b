"""Memory, time and CPU use of importing an NSynth-layout corpus, against its size.

    python benchmarks/import_memory.py        writes benchmarks/import_memory.md; 10 minutes, 8 GB of disk

Each import runs in a process of its own, into an empty cache. A few hundred distinct notes stand under
as many names as asked, as hard links or repeated in archives; each is read, checked, decoded and hashed.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import soundfile

RATE_HZ = 16_000
DISTINCT = 300
SHARES = {"train": 0.9, "valid": 0.06, "test": 0.04}
FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "vocal")
PACKAGES = ("numpy", "pandas", "pyarrow", "soundfile")


@dataclass(frozen=True)
class Case:
    """One corpus to import; the third has as many notes as NSynth has. Other rates than NSynth's come in 24 bits."""

    notes: int
    seconds: float
    archived: bool
    rate_hz: int = RATE_HZ


CASES = (
    Case(5_000, 4.0, archived=False),
    Case(50_000, 4.0, archived=False),
    Case(306_000, 0.25, archived=False),
    Case(5_000, 4.0, archived=True),
    Case(20_000, 4.0, archived=True),
    Case(5_000, 4.0, archived=False, rate_hz=44_100),
)


def note_wav(index: int, case: Case) -> bytes:
    random, seconds = np.random.default_rng(index), case.seconds
    times = np.arange(int(seconds * case.rate_hz)) / case.rate_hz
    tone = sum(np.sin(2 * np.pi * 110 * 2 ** (index / 60) * k * times) / k for k in range(1, 8))
    wave = (tone + 0.02 * random.standard_normal(len(times))) * np.exp(-times) * (times < 0.8 * seconds) / 4
    file = io.BytesIO()
    subtype = "PCM_16" if case.rate_hz == RATE_HZ else "PCM_24"
    soundfile.write(file, wave.clip(-1, 1), case.rate_hz, subtype=subtype, format="WAV")
    return file.getvalue()


def rows(split: str, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    for index in range(count):
        number = 10_000 * list(SHARES).index(split) + index // 640
        instrument = f"{FAMILIES[index % 10]}_acoustic_{number:05d}"
        pitch, velocity = 20 + index // 10 % 64, 100
        name = f"{instrument}-{pitch:03d}-{velocity:03d}"
        yield (
            name,
            {
                "note": index,
                "note_str": name,
                "instrument": index // 640,
                "instrument_str": instrument,
                "pitch": pitch,
                "velocity": velocity,
                "sample_rate": RATE_HZ,
                "qualities": [0] * 10,
                "qualities_str": [],
                "instrument_family": index % 10,
                "instrument_family_str": FAMILIES[index % 10],
                "instrument_source": 0,
                "instrument_source_str": "acoustic",
            },
        )


def write_folder(root: Path, case: Case) -> None:
    for index in range(DISTINCT):
        (root / f"{index}.wav").write_bytes(note_wav(index, case))
    for split, share in SHARES.items():
        audio = root / f"nsynth-{split}" / "audio"
        audio.mkdir(parents=True)
        listed = dict(rows(split, int(share * case.notes)))
        (audio.parent / "examples.json").write_text(json.dumps(listed, indent=1))
        for index, name in enumerate(listed):
            os.link(root / f"{index % DISTINCT}.wav", audio / f"{name}.wav")


def write_archives(root: Path, case: Case) -> None:
    wavs = [note_wav(index, case) for index in range(DISTINCT)]
    for split, share in SHARES.items():
        listed = dict(rows(split, int(share * case.notes)))
        with tarfile.open(root / f"nsynth-{split}.jsonwav.tar.gz", "w:gz", compresslevel=1) as archive:
            for index, name in enumerate(listed):
                add(archive, f"nsynth-{split}/audio/{name}.wav", wavs[index % DISTINCT])
            add(archive, f"nsynth-{split}/examples.json", json.dumps(listed, indent=1).encode())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def import_once(path: Path) -> None:
    """Runs in the fresh process: import, and print what it took."""
    from trainables.corpora.store import open_store

    started, cpu = time.perf_counter(), time.process_time()
    store = open_store("nsynth", path)
    wall = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        "clips": len(store.clips),
        "wall": wall,
        "cores": (time.process_time() - cpu) / wall,
        "peak": peak,
    }
    started = time.perf_counter()
    open_store("nsynth", path)
    print(json.dumps({**found, "reopen": time.perf_counter() - started}))


def in_new_process(*arguments: str | Path, cache: Path | None = None, script: str = __file__) -> str:
    """What a script, by default this one, prints when called with `arguments`.

    Corpora too are written by such a process: on Linux a new one begins with the peak memory of its parent.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "ETUDE_CACHE": str(cache)}
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(case: Case, scratch: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        in_new_process("--write", corpus, "--case", str(CASES.index(case)))
        os.sync()
        found: dict[str, float] = json.loads(in_new_process("--import", corpus, cache=Path(name) / "cache"))
        assert found["clips"] == sum(int(share * case.notes) for share in SHARES.values())
        return found


def base_memory() -> None:
    """Print the peak MB of a process that only imports the libraries."""
    import trainables.corpora.store  # noqa: F401

    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def disk_speed(scratch: Path) -> float:
    """MB a second that the disk takes, waited for."""
    block, blocks = os.urandom(2**24), 64
    started = time.perf_counter()
    with tempfile.TemporaryFile(dir=scratch) as file:
        for _ in range(blocks):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return blocks * len(block) / 1e6 / (time.perf_counter() - started)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def kind(case: Case) -> str:
    words = "archives" if case.archived else "folders"
    return words if case.rate_hz == RATE_HZ else f"{words}, 24 bits at {case.rate_hz / 1000:g} kHz"


def report(found: list[tuple[Case, dict[str, float]]], base: float, disk: float) -> str:
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        "# Importing a corpus: memory, time, cores",
        "",
        "Written by `python benchmarks/import_memory.py`. Each import runs in a fresh process, into an empty cache.",
        "",
        f"{date.today()} · {cpu_model()}, {os.cpu_count()} cores (shared with other work), {memory:.0f} GiB "
        f"of memory, disk {disk:.0f} MB/s · Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "",
        "| corpus | notes | seconds each | peak memory (MB) | wall (s) | notes/s | MB/s written | cores used "
        "| reopening (s) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, row in found:
        rate = row["clips"] / row["wall"]
        lines.append(
            f"| {kind(case)} | {row['clips']:,} | {case.seconds:g} "
            f"| {row['peak']:.0f} | {row['wall']:.1f} | {rate:,.0f} | {rate * case.seconds * 0.032:.0f} "
            f"| {row['cores']:.2f} | {row['reopen']:.2f} |"
        )
    low, high = found[0][1], max((row for _, row in found), key=lambda row: row["clips"])
    growth = (high["peak"] - low["peak"]) * 2**20 / (high["clips"] - low["clips"])
    lines += [
        "",
        f"The imported libraries alone take {base:.0f} MB. Memory grows by {growth:,.0f} bytes a note (names, "
        f"labels and places; audio is never held) from {low['clips']:,} to {high['clips']:,} notes, the number "
        f"that NSynth has; at that rate 1 GB is reached at "
        f"{high['clips'] + (1_000 - high['peak']) * 2**20 / growth:,.0f} notes.",
        "",
        "The notes are a few hundred distinct ones under many names, so reading comes from the page cache. "
        "Writing goes to the disk and is waited for. Files that are 16 bits at the corpus' rate already are hardly "
        "any work: the disk, or with archives decompression, bounds the speed. Where there is something to convert, "
        "all cores convert.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the 8 GB go")
    parser.add_argument("--import", dest="corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.corpus:
        import_once(arguments.corpus)
    elif arguments.write:
        case = CASES[arguments.case]
        (write_archives if case.archived else write_folder)(arguments.write, case)
    elif arguments.base_memory:
        base_memory()
    else:
        disk = disk_speed(arguments.scratch)
        found = []
        for case in CASES:
            found.append((case, measure(case, arguments.scratch)))
            print(case, found[-1][1], flush=True)
        base = float(in_new_process("--base-memory"))
        Path(__file__).with_suffix(".md").write_text(report(found, base, disk), encoding="utf-8")


if __name__ == "__main__":
    main()
