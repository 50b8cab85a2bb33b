"""A Ray cluster on hosts of this machine and a study that runs on it, each of which may be ended at any time."""

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.records import EPOCHS, TRIALS, read_rows
from tests.hosts import Host

ROOT = Path(__file__).parent.parent.parent
PORT = 6379
LIMIT_SECONDS = 240.0
# A node counts as lost after some five seconds of silence instead of the usual half minute.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "30",
}


def wait_until(done: Callable[[], object], what: str, limit: float = LIMIT_SECONDS) -> None:
    """Waits until `done()`; raises AssertionError with `what` was waited for when that takes too long."""
    until = time.monotonic() + limit
    while not done():
        assert time.monotonic() < until, f"waited {limit:.0f} s in vain for {what}"
        time.sleep(0.05)


@dataclass
class Cluster:
    """Ray on the hosts: the first is the head and runs no trials, each other one runs `slots` at a time."""

    hosts: list[Host]
    folder: Path
    environment: dict[str, str]
    slots: int = 1

    @property
    def head(self) -> Host:
        """The host with the head node."""
        return self.hosts[0]

    @property
    def workers(self) -> list[Host]:
        """The others."""
        return self.hosts[1:]

    @property
    def address(self) -> str:
        """What --address takes."""
        return f"{self.head.address}:{PORT}"

    def start(self) -> None:
        """Starts Ray on all hosts."""
        self.start_head()
        for host in self.workers:
            self.join(host)

    def start_head(self) -> None:
        """Starts the head node; what an earlier one knew is lost."""
        self._ray(self.head, f"--head --port={PORT} --num-cpus=0 --include-dashboard=false")

    def join(self, host: Host) -> None:
        """Makes a host a node of the cluster."""
        self._ray(host, f"--address={self.address} --num-cpus={self.slots}")

    def _ray(self, host: Host, how: str) -> None:
        sizes = "--num-gpus=0 --object-store-memory=100000000"
        # Ray gives its agents 15 s to start, which a busy machine would not keep to. Workers take the priority back.
        command = f"nice -n -15 ray start {how} {sizes} --node-ip-address={host.address} --disable-usage-stats"
        for _ in range(4):
            done = host.run(command, timeout=LIMIT_SECONDS, check=False, env=self.environment)
            if done.returncode == 0:
                return
            host.run("ray stop --force", timeout=LIMIT_SECONDS, env=self.environment)
        raise AssertionError(f"{host.name}: {command}\n{done.stdout}\n{done.stderr[-2000:]}")

    def lost(self, host: Host) -> bool:
        """Whether the head counts a host as lost."""
        asked = (
            f"import ray; ray.init('{self.address}', log_to_driver=False); "
            f"print([n['Alive'] for n in ray.nodes() if n['NodeManagerAddress'] == '{host.address}'])"
        )
        done = self.head.run(f'{sys.executable} -c "{asked}"', timeout=LIMIT_SECONDS, env=self.environment)
        return "True" not in done.stdout

    def trial_processes(self, host: Host) -> list[int]:
        """The ids, outside of the host, of the processes that train on it."""
        return [process.pid for process in host.processes("ray::ResourceTrainable")]


@contextlib.contextmanager
def running(hosts: list[Host], folder: Path, *, slots: int = 1, **more: str) -> Iterator[Cluster]:
    """A cluster on these hosts. `more` are variables for all its processes and the study's."""
    environment = {
        **HEALTH,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "15",
        "RAY_prestart_worker_first_driver": "0",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    cluster = Cluster(hosts, folder, environment, slots)
    cluster.start()
    yield cluster


@dataclass
class Study:
    """A study of the steady family on a cluster, in a process of its own on `host`."""

    cluster: Cluster
    corpus: Path
    name: str
    seconds: float
    options: tuple[str, ...]
    storage: str = ""
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    host: Host | None = field(default=None, init=False)
    sessions: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder = self.cluster.folder / self.name
        self.folder.mkdir()
        self.storage = self.storage or str(self.folder / "studies")
        self.trace = self.folder / "trace.jsonl"

    @property
    def directory(self) -> Path:
        """Its directory, or its working copy on the host that it was started on, as seen from here."""
        if "://" not in self.storage:
            return Path(self.storage) / "study"
        assert self.host
        return next((self.host.home / ".cache" / "etude" / "studies").glob("*/study"), self.folder / "none")

    def start(self, host: Host, *more: str) -> None:
        """Starts a session of it on a host; `more` are options such as --resume."""
        self.sessions += 1
        self.host = host
        options = f"--name study --storage {self.storage} --address {self.cluster.address} {' '.join(more)}"
        if "--resume" not in more:
            options += f" --space steady --data nsynth:{self.corpus} --no-baselines {' '.join(self.options)}"
        command = f"cd {ROOT} && exec {sys.executable} -m tests.faults.driver {self.seconds} {self.trace} {options}"
        self.process = host.start(command, log=self.log, env=self.cluster.environment)

    @property
    def log(self) -> Path:
        """What the session said."""
        return self.folder / f"session-{self.sessions}.log"

    def rows(self, name: str = EPOCHS) -> list[dict[str, Any]]:
        """The journal's rows so far."""
        return read_rows(self.directory / name)

    def trained(self) -> list[dict[str, Any]]:
        """The trace: what was begun and what was trained."""
        return [json.loads(line) for line in self.trace.read_text().splitlines()] if self.trace.exists() else []

    def wait_for_epochs(self, n: int) -> None:
        """Waits until the journal has `n` epochs more than now."""
        wanted = len(self.rows()) + n
        wait_until(lambda: len(self.rows()) >= wanted or self._ended(), f"{n} epochs\n{self.words()}")

    def wait(self, code: int = 0, limit: float = LIMIT_SECONDS) -> str:
        """Waits for the session's end; what it said. Raises AssertionError unless it ends with that code."""
        assert self.process
        try:
            found = self.process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the session does not end\n{self.words()}") from None
        assert found == code, f"exit {found}\n{self.words()}"
        return self.log.read_text()

    def kill(self) -> None:
        """Ends the session's process as `kill -9` does."""
        assert self.process
        self.process.kill()
        self.process.wait(timeout=LIMIT_SECONDS)

    def words(self) -> str:
        """The end of what the session and Ray said, for messages."""
        log = self.directory / "logs" / "search.log"
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in (self.log, log) if path.exists())

    def history(self) -> dict[str, bytes]:
        """The journal's bytes so far."""
        return {
            name: (self.directory / name).read_bytes() for name in (TRIALS, EPOCHS) if (self.directory / name).exists()
        }

    def _ended(self) -> bool:
        assert self.process
        assert self.process.poll() in (None, 0), f"the session ended with {self.process.poll()}\n{self.words()}"
        return self.process.poll() is not None
