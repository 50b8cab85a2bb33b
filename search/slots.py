"""What a trial takes, and how many trials at a time the machines of a cluster have room for.

Machines may differ: some with GPUs, some without, some of a cluster that starts them only when there is work.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainables.errors import UserError

# Ray counts in ten-thousandths; sums of fractions may miss a whole number by less.
_TOLERANCE = 1e-6
_MEMORY_SHARE = 0.85
# Of what a trial took of a GPU's memory, for others that take more.
_GPU_HEADROOM = 1.5
_GPU_PARTS = 10_000  # Ray counts in them
_TRIALS_PER_GPU = 99  # of more, the parts rounded down would have room for one more


@dataclass(frozen=True)
class Resources:
    """What trials run on: cores and GPUs of each, how many at a time, and the memory that bounds each.

    `memory_bytes` None means a trial's share of its node.
    """

    cpus_per_trial: int
    gpus_per_trial: float
    concurrency: int
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """A machine's cores and GPUs; `count` None of those that a cluster may start means any number."""

    cpus: float
    gpus: float
    count: int | None = 1

    def slots(self, cpus_per_trial: int, gpus_per_trial: float) -> int:
        """How many trials one such machine can run at a time. A trial's fraction of a GPU is of one GPU, not of two."""
        by_cores = math.floor(self.cpus / cpus_per_trial + _TOLERANCE)
        if not gpus_per_trial:
            return by_cores
        if gpus_per_trial < 1:
            by_gpus = math.floor(self.gpus + _TOLERANCE) * math.floor(1 / gpus_per_trial + _TOLERANCE)
        else:
            by_gpus = math.floor(self.gpus / gpus_per_trial + _TOLERANCE)
        return min(by_cores, by_gpus)


@dataclass(frozen=True)
class Cluster:
    """The machines that are up, and the kinds of those that may come: `workers` in all, None without limit.

    `strangers` are machines that may come of which nothing is known before they do; None means any number.
    """

    up: tuple[Machine, ...]
    kinds: tuple[Machine, ...] = ()
    workers: int | None = 0
    strangers: int | None = 0

    @property
    def known(self) -> tuple[Machine, ...]:
        """All machines, there or not, whose size is known."""
        return (*self.up, *(kind for kind in self.kinds if kind.count != 0))

    @property
    def may_grow(self) -> bool:
        """Whether machines of unknown size may come."""
        return self.strangers != 0


def gpus_of_trial(asked: float | None, most_gpus: float) -> float:
    """The GPUs of a trial: as asked, else one where there are any, else none."""
    return (1.0 if most_gpus else 0.0) if asked is None else asked


def choose(cluster: Cluster, cpus_per_trial: int, gpus_per_trial: float | None, concurrency: int | None) -> Resources:
    """Resources that at least one machine, there or to come, can give to a trial; raises UserError.

    With GPUs in the cluster a trial takes one unless told otherwise; with none, a core is all it takes.
    """
    most_gpus = max((machine.gpus for machine in cluster.known), default=0.0)
    most_cpus = max((machine.cpus for machine in cluster.known), default=0.0)
    gpus = gpus_of_trial(gpus_per_trial, most_gpus)
    if gpus > most_gpus:
        raise UserError(
            f"A trial must fit one node, but --gpus-per-trial is {gpus:g} and the node with the most GPUs has "
            f"{most_gpus:g}. Ask for at most that."
        )
    if cpus_per_trial > most_cpus:
        raise UserError(
            f"A trial must fit one node, but --cpus-per-trial is {cpus_per_trial} and the node with the most cores "
            f"has {most_cpus:g}. Ask for at most that."
        )
    if not any(machine.slots(cpus_per_trial, gpus) for machine in cluster.known):
        shapes = sorted({(machine.gpus, machine.cpus) for machine in cluster.known if machine.cpus}, reverse=True)
        raise UserError(
            f"A trial must fit one node, but none has the {needs(cpus_per_trial, gpus)} that one takes: there are "
            f"nodes with {'; '.join(f'{c:g} cores and {g:g} GPUs' for g, c in shapes)}. Ask for less with "
            f"--cpus-per-trial or --gpus-per-trial."
        )
    return Resources(cpus_per_trial, gpus, room(cluster, cpus_per_trial, gpus, concurrency))


def room(cluster: Cluster, cpus_per_trial: int, gpus_per_trial: float, concurrency: int | None) -> int:
    """How many trials to have at a time, those included that wait for a machine to come; at least one.

    Of a cluster that starts machines on demand it is what all of them can run, so that they are started. Where nothing
    is known of them, one trial more than fits waits, so that one more is asked for.
    """
    now = slots_of(cluster.up, cpus_per_trial, gpus_per_trial)
    if cluster.strangers is None:
        return max(1, concurrency or now + 1)
    possible = max(now, _slots_to_come(cluster, cpus_per_trial, gpus_per_trial))
    return max(1, min(concurrency or possible, possible))


def gpu_share(
    machines: Sequence[Machine], cpus_per_trial: int, concurrency: int | None, peak: float
) -> tuple[float, int]:
    """The part of a GPU for each of as many trials as its memory and its machine's cores have room for, and how many.

    `peak` is the part of a GPU's memory that a trial was measured to take.
    """
    gpus = sum(machine.gpus for machine in machines)
    by_memory = 1 / (_GPU_HEADROOM * peak)
    by_cores = max((machine.cpus / machine.gpus / cpus_per_trial for machine in machines if machine.gpus), default=1.0)
    wished = math.ceil(concurrency / gpus) if concurrency and gpus else math.inf
    trials = max(1, math.floor(min(by_memory, by_cores, wished, _TRIALS_PER_GPU)))
    return math.floor(_GPU_PARTS / trials) / _GPU_PARTS, trials


def slots_of(machines: Sequence[Machine], cpus_per_trial: int, gpus_per_trial: float) -> int:
    """How many trials at a time these machines can run."""
    return sum(machine.slots(cpus_per_trial, gpus_per_trial) for machine in machines)


def _slots_to_come(cluster: Cluster, cpus_per_trial: int, gpus_per_trial: float) -> int:
    """What a cluster's workers come to if as many as may be are up, the roomiest first."""
    left = cluster.workers
    total = 0
    for kind in sorted(cluster.kinds, key=lambda kind: -kind.slots(cpus_per_trial, gpus_per_trial)):
        limits = [n for n in (kind.count, left) if n is not None]
        taken = min(limits, default=0)
        total += taken * kind.slots(cpus_per_trial, gpus_per_trial)
        left = None if left is None else left - taken
    return total


def needs(cpus_per_trial: int, gpus_per_trial: float) -> str:
    """What a trial takes, in words."""
    cores = f"{cpus_per_trial} core{'s' if cpus_per_trial > 1 else ''}"
    return f"{cores} and {gpus_per_trial:g} GPU{'s' if gpus_per_trial > 1 else ''}" if gpus_per_trial else cores


def machines_to_come(config: Mapping[str, Any], workers_up: int) -> tuple[tuple[Machine, ...], int | None, int]:
    """The kinds of machines in an autoscaler's configuration, how many in all, and how many of unknown size.

    Of machines over SSH the autoscaler knows nothing until they are up: `workers_up` of them are.
    """
    most = int(config.get("max_workers", 0))
    kinds, strangers = [], 0
    for name, kind in config["available_node_types"].items():
        count = int(kind.get("max_workers", 0 if name == config["head_node_type"] else most))
        if "CPU" in kind["resources"] or "GPU" in kind["resources"]:
            kinds.append(Machine(kind["resources"].get("CPU", 0), kind["resources"].get("GPU", 0), count))
        else:
            strangers += count
    return tuple(kinds), most, max(0, min(strangers, most) - workers_up)


def share_of_memory(share: float) -> int:
    """The bytes that a trial with that share of the node's cores or GPUs may use."""
    return int(_MEMORY_SHARE * min(1.0, share) * total_memory_bytes())


def total_memory_bytes() -> int:
    """The memory of this machine, or of the container that this process is confined to."""
    limits = [psutil.virtual_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text()))
    return min(limits)
