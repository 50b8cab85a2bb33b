"""What a command costs, all of its processes together, measured from outside.

A command's processes are those that carry its mark in their environment, that descend from one of them or belong to
their session: Ray's daemons detach, and its workers write over their environment to change their names.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_EVERY_SECONDS = 0.2
# Reading a process' share of all memory walks through its page tables; of a core it takes at most this.
_MEMORY_SHARE = 0.04
_MARK = "YARDSTICK_RUN"


@dataclass(frozen=True)
class Cost:
    """What a command took. Memory is the highest sum, over its processes, of their proportional shares."""

    started: float
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    most_processes: int
    all_processes: int
    exit_code: int


@dataclass
class Family:
    """The processes of one command, seen so far. What a process used in its last 0.2 s is lost."""

    mark: str
    alive: dict[int, psutil.Process] = field(default_factory=dict)
    strangers: set[int] = field(default_factory=set)
    cpu_seconds: dict[tuple[int, float], float] = field(default_factory=dict)

    def look(self) -> None:
        """Finds new processes and reads the clocks of all."""
        pids = set(psutil.pids())
        self.strangers &= pids
        new = sorted(pids - self.strangers - self.alive.keys())
        while found := [pid for pid in new if self._mine(pid)]:  # a parent may have a higher number than its child
            new = [pid for pid in new if pid not in found]
        self.strangers |= set(new)
        for pid, process in list(self.alive.items()):
            try:
                times = process.cpu_times()
                self.cpu_seconds[pid, process.create_time()] = times.user + times.system
                ended = process.status() == psutil.STATUS_ZOMBIE
            except psutil.Error:
                ended = True
            if ended:
                del self.alive[pid]
                self.strangers.add(pid)

    def _mine(self, pid: int) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            sessions = {os.getsid(other) for other in self.alive if psutil.pid_exists(other)}
            if process.ppid() in self.alive or os.getsid(pid) in sessions or process.environ().get(_MARK) == self.mark:
                self.alive[pid] = process
                return True
        return False

    def memory_bytes(self) -> int:
        """The memory of all processes together, shared pages counted once."""
        total = 0
        for process in list(self.alive.values()):
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.uss)
        return total

    def end(self, wait_seconds: float) -> None:
        """Ends what the command left behind, after a while in which it may end by itself."""
        self.look()
        deadline = time.time() + wait_seconds
        while self.alive and time.time() < deadline:
            time.sleep(0.1)
            self.look()
        for process in list(self.alive.values()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def run(script: Path, arguments: list[str], environment: dict[str, str], log: Path, limit_seconds: float) -> Cost:
    """Runs a Python script in a session of its own until it ends, or for so long at most."""
    mark = f"{os.getpid()}-{time.time_ns()}"
    family = Family(mark)
    with log.open("w") as output:
        started = time.time()
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment, _MARK: mark},
            cwd=log.parent,  # Syne Tune leaves files where it is started
            start_new_session=True,
        )
        peak, most, memory_next, ended = 0, 0, 0.0, None
        try:
            while ended is None:
                family.look()
                most = max(most, len(family.alive))
                if time.time() >= memory_next:
                    began = time.thread_time()
                    peak = max(peak, family.memory_bytes())
                    memory_next = time.time() + (time.thread_time() - began) / _MEMORY_SHARE
                if time.time() - started > limit_seconds:
                    os.killpg(process.pid, signal.SIGTERM)
                    limit_seconds += 30
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended = process.wait(_EVERY_SECONDS)
            wall_seconds = time.time() - started
        finally:
            family.end(wait_seconds=15 if process.poll() is not None else 0)
            process.wait()
    cpu_seconds = sum(family.cpu_seconds.values())
    return Cost(started, wall_seconds, cpu_seconds, peak, most, len(family.cpu_seconds), ended)
