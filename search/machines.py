"""The machines of the running Ray cluster: those that are up, and those that its autoscaler could still start."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml  # type: ignore[import-untyped]
from ray import tune

from search.slots import Cluster, Machine, Resources, choose, gpu_share, machines_to_come, needs, room, slots_of
from trainables.errors import UserError

_HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
_LOOK_SECONDS = 5.0
_BUSY_SECONDS = 60.0
_ASK_SECONDS = 60.0
_UNKNOWN_SECONDS = 1800.0
_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Machines(tune.Callback):
    """What the cluster can run, as machines come and go; says so when it can run nothing.

    A `joined` cluster may have an autoscaler, which starts machines for trials that wait; it is asked which.
    """

    def __init__(
        self,
        cpus_per_trial: int,
        gpus_per_trial: float | None,
        concurrency: int | None,
        *,
        joined: bool = False,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._asked = (cpus_per_trial, gpus_per_trial, concurrency)
        self._config = autoscaler_config() if joined else None
        self.say = say
        self._looked, self._room = 0.0, 1
        self._ran, self._watched, self._waits = time.monotonic(), -math.inf, False
        self._each = (cpus_per_trial, gpus_per_trial or 0.0)
        self._peak = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: kept out of Tune's snapshots, which nothing reads."""
        return {}

    def resources(self) -> Resources:
        """What a trial takes, and how many at a time; raises UserError where no machine, there or to come, has it.

        Asks for machines whose size is not known before they are up, waits for them, and says so.
        """
        until = time.monotonic() + _UNKNOWN_SECONDS
        while True:
            cluster = self._look()
            try:
                found = choose(cluster, *self._asked)
            except UserError:
                if not cluster.may_grow or time.monotonic() > until:
                    raise
                if not self._waits:
                    waiting = ask_for(*self._asked[:2])  # noqa: F841, as long as it is held
                self._wait("none that is up can run a trial, but others may come")
                time.sleep(_LOOK_SECONDS)
                continue
            self._each = (found.cpus_per_trial, found.gpus_per_trial)
            self._looked, self._room = time.monotonic(), found.concurrency
            return found

    def room(self) -> int:
        """How many trials to have at a time, now; those that wait for a machine to come are among them."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked, self._room = time.monotonic(), room(self._look(), *self._each, self._asked[2])
        return self._room

    def advice(self) -> str | None:
        """How to have more trials at a time, where those that had a GPU each took so little that several fit."""
        if not self._peak:
            return None
        share, trials = gpu_share(machines_up(), self._each[0], self._asked[2], self._peak)
        if trials == 1:
            return None
        return (
            f"Trials took up to {self._peak:.0%} of a GPU's memory each; with --gpus-per-trial {share:g} "
            f"{trials} share one."
        )

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Takes in what part of a GPU's memory a trial took."""
        self._peak = max([self._peak, *(row.get("gpu_share") or 0.0 for row in result.get("reports", ()))])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Looks at once and then every few seconds whether any trial runs, and says so when none can.

        Whether they run again is looked at every time: they may all be over within those seconds.
        """
        now = time.monotonic()
        if now - self._watched < _LOOK_SECONDS and not self._waits:
            return
        self._watched = now
        if any(trial.status == "RUNNING" for trial in trials):
            self._ran = now
            if self._waits:
                self.say("Trials run again.")
            self._waits = False
        elif any(trial.status == "PENDING" for trial in trials) and not self._waits:
            if not slots_of(machines_up(), *self._each):
                self._wait(f"none that is up has the {needs(*self._each)} of a trial")
            elif now - self._ran > _BUSY_SECONDS:
                self._wait(f"none that is up has the {needs(*self._each)} of a trial free")

    def _wait(self, why: str) -> None:
        if not self._waits:
            self.say(f"Waiting for a machine: {why}.")
        self._waits = True

    def _look(self) -> Cluster:
        up = machines_up()
        if self._config is None:
            return Cluster(up)
        if not self._config:
            return Cluster(up, strangers=None)
        return Cluster(up, *machines_to_come(self._config, sum(not head for head in _heads())))


def ask_for(cpus: int, gpus: float | None) -> object:
    """Makes known to the autoscaler, for as long as what it returns lives, that somebody waits for a machine."""
    return ray.remote(_nothing).options(num_cpus=cpus, num_gpus=gpus or 0.0).remote()


def _nothing() -> None:
    """What one asks for a machine with."""


def machines_up() -> tuple[Machine, ...]:
    """The machines that are up."""
    return tuple(Machine(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in _alive())


def _alive() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _heads() -> list[bool]:
    return [_HEAD in node for node in _alive()]


def autoscaler_config() -> dict[str, Any] | None:
    """The configuration of the cluster's autoscaler: None where it has none, empty where it cannot be read."""
    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    asking = ray.remote(_read_config).options(num_cpus=0, resources={_HEAD: 0.001}).remote(port)
    try:
        found: dict[str, Any] | None = json.loads(ray.get(asking, timeout=_ASK_SECONDS))
    except (ray.exceptions.RayError, TimeoutError):
        return {}
    return found


def _read_config(port: str) -> str:
    """The autoscaler's configuration as JSON, read on the head: from the file that it was started with, or its pod."""
    return json.dumps(_from_file(port) if not os.environ.get("RAY_CLUSTER_NAME") else _from_kubernetes())


def _from_file(port: str) -> Mapping[str, Any] | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        named = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        monitor = any(word.endswith("monitor.py") for word in words)
        if monitor and named.get("--gcs-address", "").endswith(f":{port}") and "--autoscaling-config" in named:
            return _shapes(yaml.safe_load(Path(named["--autoscaling-config"]).expanduser().read_text("utf-8")))
    return None


def _from_kubernetes() -> Mapping[str, Any]:
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    with contextlib.suppress(Exception):  # whatever the pod may not do or read, the study can do without
        producer = AutoscalingConfigProducer(os.environ["RAY_CLUSTER_NAME"], _POD.read_text("utf-8").strip())
        return _shapes(producer())
    return {}


def _shapes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a configuration says which machines there may be; the rest, such as keys, stays on the head."""
    types = {
        name: {key: kind[key] for key in ("resources", "max_workers") if key in kind}
        for name, kind in config["available_node_types"].items()
    }
    return {
        "max_workers": config.get("max_workers", 0),
        "head_node_type": config["head_node_type"],
        "available_node_types": types,
    }
