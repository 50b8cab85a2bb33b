"""How long a report takes, and how much memory: one of 8 studies of 300 trials each.

python benchmarks/report_time.py [--repeats 3]

The studies are made up: full-length learning curves of 27 epochs, ASHA's decisions, 11 classes, 2,200 clips in each
split, all published recipes. Time is that of the whole command, imports included; memory is the peak of its process.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import spaces
from tests.analysis.made import make_study

CLASSES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth lead", "vocal")


def _processor_seconds() -> float:
    """What all processes that ended so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints a line per run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for family in spaces.names():
            make_study(root / "all" / family, family, trials=300, max_epochs=27, classes=CLASSES, clips=200)
            print(f"made {family}", flush=True)
        seconds = []
        for run in range(repeats):
            started, worked = time.perf_counter(), _processor_seconds()
            command = [sys.executable, "-m", "analysis", str(root / "all"), "--output", str(root / f"report-{run}")]
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
            print(f"run {run + 1}: {seconds[-1]:.1f} s, {_processor_seconds() - worked:.1f} of processors", flush=True)
        files = [path for path in (root / "report-0").rglob("*") if path.is_file()]
        page = (root / "report-0" / "index.html").stat().st_size
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(
            f"median {statistics.median(seconds):.1f} s; peak memory {peak / 1e6:.2f} GB; {len(files)} files, "
            f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB, the page {page / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
