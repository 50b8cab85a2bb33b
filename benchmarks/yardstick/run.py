"""The same trials by this project and by every other way to run them, side by side.

python benchmarks/yardstick/run.py --family blstm --size small [--repeats 5] [--raw runs.jsonl] [--peers-path FOLDER]

Each tool runs the same list of configurations with the same training code on the same decoded corpus, one thread and
one core per trial, as a command of its own; the tools take turns, in another order each round. In mode `throughput`
every trial trains all its epochs; in mode `search` each tool ends trials early by its own successive halving; mode
`memory` runs this project alone, with one and with two trials at a time. Runs that the raw file holds are not repeated.
No GPU is used.

Syne Tune is no dependency of the project: `pip install --target FOLDER syne-tune`, and name the folder.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import measure
import psutil
import tables
from jobs import SIZES, Job, best_so_far, final_scores

from trainables.errors import UserError

HERE = Path(__file__).parent
TOOLS = {
    tables.FLOOR: "plain_loop.py",
    tables.OURS: "this_project.py",
    tables.STOCK: "stock_ray.py",
    tables.ALONE: "optuna_alone.py",
    "Syne Tune": "syne_tune_alone.py",
}
MODES = ("throughput", "search", "memory")
_MEMORY_TRIALS = 8


@dataclass(frozen=True)
class Turn:
    """One run: which tool, how many trials at a time, in which round."""

    tool: str
    slots: int
    round: int


def main() -> None:
    """Runs what is missing, then prints the table."""
    # Ended by a termination as by Ctrl-C, so that no tool is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = parse()
    from trials import prepare  # only here: Torch takes seconds to import

    stopping = given.mode == "search"
    trials = given.trials or (_MEMORY_TRIALS if given.mode == "memory" else None)
    job = prepare(
        given.family,
        given.size,
        given.data,
        stopping=stopping,
        slots=given.slots,
        trials=trials,
        epochs=given.epochs,
    )
    what = {"family": given.family, "size": given.size, "mode": given.mode, "data": given.data}
    what |= {"trials": len(job.points), "epochs": job.epochs}
    print(f"{machine()}; {', '.join(f'{name} {value}' for name, value in what.items())}", flush=True)
    rows = [row for row in read(given.raw) if all(row[name] == value for name, value in what.items())]
    done = {(row["tool"], row["slots"], row["round"]) for row in rows}
    for turn in turns(given):
        if (turn.tool, turn.slots, turn.round) in done:
            continue
        row = {**what, "stopping": stopping, **asdict(turn), **one_run(job, turn, given), "machine": machine()}
        with given.raw.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(
            f"round {turn.round + 1}, {turn.tool}, {turn.slots} at a time: {row['wall_seconds']:.1f} s, "
            f"{row['cpu_seconds']:.1f} of cores, first epoch after {row['epoch_times'][0]:.1f} s, "
            f"{row['peak_bytes'] / 1e9:.2f} GB, {row['all_processes']} processes",
            flush=True,
        )
    order = [*TOOLS]
    rows.sort(key=lambda row: (order.index(row["tool"]), row["round"]))
    print()
    print(tables.memory_table(rows) if given.mode == "memory" else tables.table(rows))
    if not has_syne_tune(given) and given.mode != "memory":
        print("Syne Tune is left out: --peers-path names no folder that has it.")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SIZES, required=True)
    parser.add_argument("--size", choices=("small", "medium", "large"), default="small")
    parser.add_argument("--mode", choices=MODES, default="throughput")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tools", help=f"some of: {', '.join(TOOLS)}")
    parser.add_argument("--data", default="demo", help="the corpus, as the main command names it")
    parser.add_argument("--trials", type=int, help="configurations of the list [as the size says]")
    parser.add_argument("--epochs", type=int, help="epochs of a trial [as the size and the mode say]")
    parser.add_argument("--slots", type=int, default=2, help="trials at a time")
    parser.add_argument("--raw", type=Path, default=Path("yardstick.jsonl"), help="where every run is noted")
    parser.add_argument("--peers-path", type=Path, help="a folder into which Syne Tune was installed")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a run is given up")
    return parser.parse_args()


def turns(given: argparse.Namespace) -> Iterator[Turn]:
    """All runs in their order: each round begins with another tool."""
    names = [name.strip() for name in given.tools.split(",")] if given.tools else [*TOOLS]
    if unknown := set(names) - set(TOOLS):
        raise SystemExit(f"--tools must be some of {', '.join(TOOLS)}, but has {', '.join(unknown)}.")
    if not has_syne_tune(given):
        names = [name for name in names if name != "Syne Tune"]
    kinds: Sequence[tuple[str, int]] = [(name, given.slots) for name in names]
    if given.mode == "memory":
        kinds = [(tables.OURS, slots) for slots in range(1, given.slots + 1)]
    for round_ in range(given.repeats):
        first = round_ % len(kinds)
        yield from (Turn(name, slots, round_) for name, slots in (*kinds[first:], *kinds[:first]))


def has_syne_tune(given: argparse.Namespace) -> bool:
    """Whether Syne Tune was installed where the command line says."""
    return bool(given.peers_path and (given.peers_path / "syne_tune").is_dir())


def one_run(job: Job, turn: Turn, given: argparse.Namespace) -> dict[str, object]:
    """Runs a tool once; what it cost and what it reached, times counted from the command."""
    # Short, because sockets lie in it, whose paths may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="yard"))
    own = replace(job, slots=turn.slots, folder=str(folder))
    own.write()
    environment = {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "SYNETUNE_FOLDER": str(folder),
        "YARDSTICK_PEERS": str(given.peers_path.resolve() if given.peers_path else ""),
    }
    log = folder / "log"
    cost = measure.run(HERE / TOOLS[turn.tool], [str(own.file)], environment, log, given.limit)
    rows = own.noted()
    scores = final_scores(rows)
    if cost.exit_code or len(scores) < len(job.points):
        words = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise SystemExit(
            f"{words}\n{turn.tool} ended with {cost.exit_code} and {len(scores)} of {len(job.points)} trials; what it "
            f"wrote lies in {folder}. The same command goes on from here."
        )
    shutil.rmtree(folder, ignore_errors=True)
    return {
        **{name: value for name, value in asdict(cost).items() if name != "exit_code"},
        "epoch_times": [round(row["time"] - cost.started, 3) for row in rows],
        "train_seconds": rows[-1]["time"] - rows[0]["time"],
        "best": [(round(seconds - cost.started, 3), best) for seconds, best in best_so_far(rows)],
        "scores": {str(trial): score for trial, score in scores.items()},
    }


def read(path: Path) -> list[dict[str, object]]:
    """The runs noted so far; a line that was cut off is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def machine() -> str:
    """What it was measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = psutil.virtual_memory().total / 1e9
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray", "optuna"))
    return (
        f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} cores, {memory:.0f} GB, "
        f"Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("Interrupted; the same command goes on.") from None
