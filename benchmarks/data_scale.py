"""Time, disk and memory of a corpus from 3,000 to 300,000 notes: its import, and training epochs on it.

    python benchmarks/data_scale.py [--notes 3000,30000,300000] [--epochs 2]     25 minutes, 10 GB of disk

The notes last one second and are made as in `import_memory.py`. Import and each family run in processes of their own.
A trial keeps its inputs if they take at most 300 MB and computes them anew for every batch otherwise, as in a study on
a small machine. Memory is what a process has for itself; pages of the mapped store, which all processes of a machine
share, are told apart.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import import_memory
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import spaces
from search import adapt
from trainables import corpora, data, loop
from trainables.config import DataConfig, point, resolve

SECONDS, KEPT_BYTES = 1.0, 300 * 10**6
# Networks that are small against their inputs, so that the data path shows: one per kind of input.
FAMILIES = {
    "mlp": ("input=waveform", "seconds=1", "resample_hz=16000", "pool=16", "depth=1", "hidden_1=64", "batch_size=256"),
    "lstm": ("seconds=1", "pool=16", "frame_ms=60", "layers=1", "width_1=32", "batch_size=256"),
    "cnn2d": ("picture_size=32", "conv_layers=2", "channels_1=8", "channels_2=8", "batch_size=256"),
}


@contextmanager
def memory() -> Iterator[dict[str, float]]:
    """The most megabytes that this process has for itself and maps from files, filled in at the end."""
    found, stop = {"own": 0.0, "mapped": 0.0}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            now = psutil.Process().memory_info()
            found["own"] = max(found["own"], (now.rss - now.shared) / 1e6)
            found["mapped"] = max(found["mapped"], now.shared / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def imported(corpus: Path) -> dict[str, float]:
    """What the import took."""
    began, cpu = time.perf_counter(), time.process_time()
    with memory() as used:
        store = corpora.open_corpus(f"nsynth:{corpus}")
    wall = time.perf_counter() - began
    disk = sum(file.stat().st_size for file in store.root.rglob("*") if file.is_file())
    return {"wall": wall, "cores": (time.process_time() - cpu) / wall, "disk": disk / 1e6, **used}


def trained(corpus: Path, family: str, epochs: int) -> dict[str, float]:
    """What training took: seconds to open, to the end of the first epoch, and of each further one."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    named = f"nsynth:{corpus}"
    with memory() as used:
        store = corpora.open_corpus(named)
        space = adapt.fitted(adapt.fixed(spaces.load(family), FAMILIES[family]), store.clip_seconds)
        config = DataConfig(named, store.digest, corpora.tasks(named)[0], False, corpora.splits_of(named)[0], 0)
        trial = resolve(point(space, space.default, data=config, seed=0, max_epochs=epochs, threads=1))
        inputs = data.trial_data(config, trial.features, torch.device("cpu"), 2 * KEPT_BYTES)
        ready = time.perf_counter()
        ends = []
        for _ in loop.train(trial, inputs):
            ends.append(time.perf_counter())
    examples = len(inputs.parts["train"].labels)
    needed = data._stored_bytes(data.load(config), "train", trial.features)
    return {
        "examples": examples,
        "ready": ready - began,
        "first": ends[0] - ready,
        "epoch": (ends[-1] - ends[0]) / (len(ends) - 1),
        "kept": float(needed <= KEPT_BYTES),
        "needed": needed / 1e6,
        **used,
    }


def main() -> None:
    """Prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", default="3000,30000,300000")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the files go")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs must be at least 2, since the first is told apart.")
    if given.step:
        step, _, family = given.step.partition(":")
        if step == "write":
            import_memory.write_folder(given.corpus, import_memory.Case(int(given.notes), SECONDS, archived=False))
        else:
            found = imported(given.corpus) if step == "import" else trained(given.corpus, family, given.epochs)
            print(json.dumps(found))
        return
    print("| step | notes | start (s) | epoch (s) | µs a note | inputs (MB) | kept | own memory (MB) | mapped (MB) |")
    print(f"|---|{'--:|' * 8}", flush=True)
    for notes in given.notes.split(","):
        with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
            measure(Path(folder), int(notes), given.epochs)


def measure(folder: Path, notes: int, epochs: int) -> None:
    """The rows of one size."""
    corpus = folder / "corpus"
    corpus.mkdir()

    def run(step: str) -> str:
        arguments = ("--corpus", corpus, "--step", step, "--notes", str(notes), "--epochs", str(epochs))
        # A process of its own begins without its parent's memory.
        return import_memory.in_new_process(*arguments, script=__file__, cache=folder / "cache")

    run("write")
    os.sync()
    took = json.loads(run("import"))
    print(
        f"| import | {notes:,} | {took['wall']:.1f} | | {1e6 * took['wall'] / notes:.0f} | {took['disk']:,.0f} on disk "
        f"| | {took['own']:.0f} | {took['mapped']:,.0f} |",
        flush=True,
    )
    for family in FAMILIES:
        took = json.loads(run(f"train:{family}"))
        kept = "yes" if took["kept"] else "no"
        print(
            f"| {family} | {notes:,} | {took['ready']:.1f} | {took['epoch']:.1f} "
            f"| {1e6 * took['epoch'] / took['examples']:.0f} | {took['needed']:,.0f} | {kept} "
            f"| {took['own']:.0f} | {took['mapped']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
