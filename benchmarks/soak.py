"""Random faults under a running study, on hosts of this machine, and a tally of what came of it.

    python benchmarks/soak.py [--faults 60] [--trials 300] [--seed 0] [--store]

With `--store` the study lies in an object store (a server of moto's), else on a disk that all machines share.

As root on Linux with iproute2. Prints a table in Markdown; exits with 1 where anything was violated.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import hosts, s3
from tests.faults.checks import Tally, tally
from tests.faults.nodes import Cluster, Study, running, wait_until
from tests.hosts import Host
from tests.tiny import write_corpus

_DISK_BYTES = 4 * 2**30
_EPOCH_SECONDS, _END_SECONDS = 1.0, 3600.0
_LOST_SECONDS = 20.0  # twice what the cluster waits for a machine


class Soak:
    """A study on a cluster with what may happen to them: each fault is mended before the next one comes."""

    def __init__(self, cluster: Cluster, study: Study, disk: Path, chance: random.Random) -> None:
        self.cluster, self.study, self.disk, self.chance = cluster, study, disk, chance
        self.done: Counter[str] = Counter()
        self.before: list[dict[str, bytes]] = []
        self.faults: dict[str, tuple[int, Callable[[], None]]] = {
            "worker process killed": (4, self.worker),
            "two worker processes killed": (2, self.workers),
            "machine switched off, then on again": (3, self.machine),
            "all machines but the head switched off, then on again": (1, self.machines),
            "link cut for longer than the heartbeat, then mended": (3, self.link),
            "link cut for a second": (2, self.blink),
            "`ray stop` on a machine, then started again": (2, self.stopped),
            "driver killed, study resumed": (3, self.driver),
            "head killed, cluster started again, study resumed": (1, self.head),
            "disk full, then room made, study resumed": (2, self.full),
            "store stopped for some seconds": (3, self.store),
        }
        # A store keeps a study for five minutes for a driver whose machine is gone.
        left_out = (self.full, self.head) if "://" in study.storage else (self.store,)
        self.faults = {kind: found for kind, found in self.faults.items() if found[1] not in left_out}

    @property
    def over(self) -> bool:
        """Whether the study has ended."""
        return self.study.process is not None and self.study.process.poll() == 0

    def strike(self) -> None:
        """One fault, by chance."""
        kinds, weights = zip(*((kind, weight) for kind, (weight, _) in self.faults.items()), strict=True)
        (kind,) = self.chance.choices(kinds, weights)
        self.before.append(self.study.history())
        for host in self.cluster.workers:
            if not _up(host):  # a busy machine may seem lost without having been
                self.cluster.join(host)
        print(f"{time.strftime('%H:%M:%S')} {self.done.total() + 1}: {kind}", file=sys.stderr, flush=True)
        self.faults[kind][1]()
        self.done[kind] += 1

    def worker(self) -> None:
        """One process, wherever it is in its epoch or between trials."""
        running = [pid for host in self.cluster.workers for pid in self.cluster.trial_processes(host)]
        if running:
            _kill(self.chance.choice(running))

    def workers(self) -> None:
        """Two at once."""
        running = [pid for host in self.cluster.workers for pid in self.cluster.trial_processes(host)]
        for pid in self.chance.sample(running, min(2, len(running))):
            _kill(pid)

    def machine(self) -> None:
        """A power cut, and the machine comes back some epochs later."""
        host = self._any()
        host.power_off()
        self.study.wait_for_epochs(self.chance.randrange(1, 4))
        host.power_on()
        self.cluster.join(host)

    def machines(self) -> None:
        """A power cut everywhere else."""
        for host in self.cluster.workers:
            host.power_off()
        for host in self.cluster.workers:
            host.power_on()
            self.cluster.join(host)

    def link(self) -> None:
        """The cluster gives the machine up, which goes on with its epoch; mended, it learns that it is lost."""
        host = self._any()
        host.cut()
        time.sleep(_LOST_SECONDS)
        host.mend()
        wait_until(lambda: not _up(host), "a machine to learn that it is lost")
        self.cluster.join(host)

    def blink(self) -> None:
        """Shorter than the heartbeat."""
        host = self._any()
        host.cut()
        time.sleep(1)
        host.mend()

    def stopped(self) -> None:
        """As when a spot machine is told to go."""
        host = self._any()
        host.run("ray stop --grace-period 5", timeout=120, check=False, env=self.cluster.environment)
        self.cluster.join(host)

    def driver(self) -> None:
        """kill -9, and --resume at once, while the workers may not have noticed yet."""
        if not self.over:
            self.study.kill()
            self.study.start(self.cluster.head, "--resume")

    def head(self) -> None:
        """A power cut of the head, with the driver on it."""
        self.cluster.head.power_off()
        assert self.study.process
        self.study.process.wait(timeout=60)
        for host in self.cluster.workers:
            host.power_off()
            host.power_on()
        self.cluster.head.power_on()
        self.cluster.start()
        self.study.start(self.cluster.head, "--resume")

    def full(self) -> None:
        """Not a byte more on the disk that all share."""
        _resize(self.disk, 4096)
        assert self.study.process
        code = self.study.process.wait(timeout=240)
        _resize(self.disk, _DISK_BYTES)
        if code:
            assert code == 1 and "--resume" in self.study.log.read_text(), self.study.words()
            self.study.start(self.cluster.head, "--resume")

    def store(self) -> None:
        """It takes connections and answers nothing."""
        (server,) = (p for p in psutil.Process().children() if "moto.server" in p.cmdline())
        server.suspend()
        time.sleep(self.chance.uniform(3, 20))
        server.resume()

    def _any(self) -> Host:
        return self.chance.choice(self.cluster.workers)


def soak(folder: Path, faults: int, trials: int, seed: int, in_store: bool) -> tuple[Soak, Tally]:
    """Runs a study of `trials` trials to its end, with `faults` faults on the way."""
    write_corpus(folder / "corpus")
    options = ("--trials", str(trials), "--max-epochs", "9", "--grace-epochs", "3", "--reduction-factor", "3")
    with (
        _disk() as disk,
        hosts.hosts(folder, 4) as made,
        s3.server(folder, made[0].outside),
        running(made, folder, **{name: value for name, value in os.environ.items() if name[:4] == "AWS_"}) as cluster,
    ):
        study = Study(cluster, folder / "corpus", "soak", _EPOCH_SECONDS, options)
        study.storage = "s3://studies/soak" if in_store else str(disk / "studies")
        study.start(cluster.head)
        study.wait_for_epochs(3)
        found = Soak(cluster, study, disk, random.Random(seed))
        while found.done.total() < faults and not found.over:
            found.strike()
            study.wait_for_epochs(found.chance.randrange(1, 5))
        study.wait(limit=_END_SECONDS)
        return found, tally(study.directory, study.trained(), found.before)


def _up(host: Host) -> bool:
    return bool(host.processes("raylet/raylet"))


def _kill(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()


def _resize(disk: Path, size_bytes: int) -> None:
    """Sets the size of a memory disk; not below what it holds."""
    used = psutil.disk_usage(str(disk)).used
    size = max(used, size_bytes) // 1024
    subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)


@contextlib.contextmanager
def _disk() -> Iterator[Path]:
    """A disk that all hosts share, of a size that can be changed."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="soak-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


def table(soak: Soak, found: Tally, seconds: float) -> str:
    """The tally in Markdown."""
    rows = [(kind, soak.done[kind]) for kind in soak.faults] + [("**faults in all**", soak.done.total())]
    lines = ["| fault | times |", "|---|---|", *(f"| {kind} | {n} |" for kind, n in rows), ""]
    ends = ", ".join(f"{n} {state}" for state, n in sorted(found.ends.items()))
    lines += [
        "| outcome | |",
        "|---|---|",
        f"| trials started, ended | {found.ends.total()}: {ends} |",
        f"| sessions | {soak.study.sessions} |",
        f"| epochs in the journal | {found.epochs} |",
        f"| epochs begun by workers | {found.begun} |",
        f"| of these begun again (in flight when a fault came) | {found.repeated} |",
        f"| violations | {len(found.violations)} |",
        f"| wall clock | {seconds / 60:.0f} min |",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true")
    given = parser.parse_args()
    if why := hosts.reason():
        sys.exit(f"Not here: {why}.")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["ETUDE_CACHE"] = f"{folder}/cache"
        done, found = soak(Path(folder), given.faults, given.trials, given.seed, given.store)
    print(table(done, found, time.monotonic() - began))
    print(*found.violations, sep="\n", file=sys.stderr)
    sys.exit(bool(found.violations))


if __name__ == "__main__":
    main()
