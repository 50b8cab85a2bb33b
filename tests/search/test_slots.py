"""What a trial takes and where it fits, on machines that differ, also on those that are not there yet."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search import machines, options, preflight, trial
from search.slots import Cluster, Machine, choose, gpu_share, machines_to_come, room
from trainables.errors import UserError

HEAD = Machine(0, 0)
CPUS = Machine(8, 0)
ONE_GPU = Machine(4, 1)
FOUR_GPUS = Machine(16, 4)


@pytest.mark.parametrize(
    ("machine", "cpus", "gpus", "expected"),
    [
        (CPUS, 1, 0.0, 8),
        (CPUS, 3, 0.0, 2),
        (CPUS, 1, 1.0, 0),
        (ONE_GPU, 1, 0.25, 4),
        (ONE_GPU, 2, 0.25, 2),
        (ONE_GPU, 1, 0.1, 4),
        (Machine(16, 1), 1, 0.1, 10),
        (FOUR_GPUS, 1, 1.0, 4),
        (FOUR_GPUS, 1, 3.0, 1),
        # A fraction is of one GPU: two trials of 0.4 on each of four, though 4 / 0.4 is 10; one of 0.6 on each.
        (FOUR_GPUS, 1, 0.4, 8),
        (FOUR_GPUS, 1, 0.6, 4),
        (HEAD, 1, 0.0, 0),
    ],
)
def test_slots_of_one_machine(machine: Machine, cpus: int, gpus: float, expected: int) -> None:
    assert machine.slots(cpus, gpus) == expected


def chosen(*up: Machine, cpus: int = 1, gpus: float | None = None, concurrency: int | None = None) -> tuple[float, int]:
    found = choose(Cluster(up), cpus, gpus, concurrency)
    return found.gpus_per_trial, found.concurrency


def test_a_trial_takes_a_gpu_where_there_is_one_and_runs_on_no_machine_without() -> None:
    assert chosen(HEAD, CPUS) == (0.0, 8)
    assert chosen(HEAD, CPUS, ONE_GPU, FOUR_GPUS) == (1.0, 5)
    assert chosen(HEAD, CPUS, ONE_GPU, FOUR_GPUS, gpus=0.5) == (0.5, 10)
    assert chosen(HEAD, CPUS, ONE_GPU, FOUR_GPUS, gpus=2.0) == (2.0, 2)
    assert chosen(HEAD, CPUS, ONE_GPU, FOUR_GPUS, gpus=0.0) == (0.0, 28)
    assert chosen(HEAD, CPUS, ONE_GPU, FOUR_GPUS, concurrency=3) == (1.0, 3)
    assert chosen(HEAD, CPUS, concurrency=100) == (0.0, 8)


def test_what_fits_no_machine_is_refused_with_numbers() -> None:
    with pytest.raises(UserError, match=r"--gpus-per-trial is 5 and the node with the most GPUs has 4"):
        chosen(HEAD, CPUS, FOUR_GPUS, gpus=5.0)
    with pytest.raises(UserError, match=r"--cpus-per-trial is 17 and the node with the most cores has 16"):
        chosen(HEAD, CPUS, FOUR_GPUS, cpus=17)
    with pytest.raises(UserError, match=r"--cpus-per-trial is 1 and the node with the most cores has 0"):
        chosen(HEAD)
    # Each alone would fit somewhere, both together nowhere.
    with pytest.raises(
        UserError, match=r"none has the 6 cores and 1 GPU .* nodes with 4 cores and 1 GPUs; 8 cores and 0 GPUs"
    ):
        chosen(HEAD, CPUS, ONE_GPU, cpus=6)
    assert chosen(HEAD, CPUS, ONE_GPU, cpus=6, gpus=0.0) == (0.0, 1)


CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "GPU": 0}},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4},
        "large": {"resources": {"CPU": 16, "GPU": 4}, "max_workers": 2},
        "plain": {"resources": {"CPU": 8}},
    },
}


def test_machines_that_an_autoscaler_could_start_count_as_if_they_were_there() -> None:
    cluster = Cluster((HEAD,), *machines_to_come(CONFIG, 0))
    found = choose(cluster, 1, None, None)
    # Five machines at most: both large ones and three small ones.
    assert (found.gpus_per_trial, found.concurrency) == (1.0, 2 * 4 + 3 * 1)
    assert choose(cluster, 1, 4.0, None).concurrency == 2
    assert choose(cluster, 1, 0.0, None).concurrency == 2 * 16 + 3 * 8
    assert choose(cluster, 1, None, 2).concurrency == 2
    with pytest.raises(UserError, match="--gpus-per-trial is 8 and the node with the most GPUs has 4"):
        choose(cluster, 1, 8.0, None)
    with pytest.raises(UserError, match="--cpus-per-trial is 20 and the node with the most cores has 16"):
        choose(cluster, 20, 0.0, None)


def test_a_machine_added_by_hand_counts_too() -> None:
    """An autoscaler of one small machine; somebody else's large one has joined."""
    config = {
        "max_workers": 1,
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0}}, "small": {"resources": {"CPU": 2}}},
    }
    assert choose(Cluster((HEAD, CPUS), *machines_to_come(config, 1)), 1, None, None).concurrency == 8
    assert choose(Cluster((HEAD,), *machines_to_come(config, 0)), 1, None, None).concurrency == 2


def test_machines_over_ssh_are_known_only_once_they_are_up() -> None:
    """What `prepare_config` makes of a cluster file with `provider: local` and two workers."""
    config = {
        "max_workers": 2,
        "head_node_type": "local.cluster.node",
        "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
    }
    before = Cluster((HEAD,), *machines_to_come(config, 0))
    assert before.may_grow
    halfway = Cluster((HEAD, CPUS), *machines_to_come(config, 1))
    assert halfway.may_grow
    assert choose(halfway, 1, None, None).concurrency == 8
    there = Cluster((HEAD, CPUS, CPUS), *machines_to_come(config, 2))
    assert not there.may_grow
    assert room(there, 1, 0.0, None) == 16


def test_where_nothing_is_known_of_machines_to_come_one_trial_more_than_fits_asks_for_them() -> None:
    assert room(Cluster((HEAD,), strangers=None), 1, 0.0, None) == 1
    assert room(Cluster((HEAD, CPUS), strangers=None), 1, 0.0, None) == 9
    assert room(Cluster((HEAD, CPUS), strangers=None), 1, 0.0, 32) == 32


def test_there_is_always_room_for_the_trial_that_asks_for_a_machine() -> None:
    assert room(Cluster((HEAD,)), 1, 1.0, None) == 1


def test_the_estimate_for_this_machine_goes_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def slots(cpus: int, *arguments: str) -> int:
        given = options.parse(["--space", "lstm", *arguments])
        assert given
        return preflight.local_slots(cpus, given)

    monkeypatch.setattr(preflight, "cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert slots(1) == 2
    assert slots(1, "--gpus-per-trial", "0.4") == 4
    assert slots(1, "--gpus-per-trial", "0") == 8
    assert slots(1, "--gpus-per-trial", "0.25", "--concurrency", "3") == 3
    with pytest.raises(UserError, match="--gpus-per-trial is 3 and this machine has 2 GPUs"):
        slots(1, "--gpus-per-trial", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert slots(3) == 2


def test_a_plan_for_a_cluster_may_ask_for_more_than_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "cores", lambda: 4)
    given = options.parse(["--space", "lstm", "--address", "head:1", "--gpus-per-trial", "1"])
    assert given
    assert preflight.local_slots(8, given) == 1


class Fleet:
    """What `search.machines` is told of a cluster, and the time, in place of Ray and the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any] | None, *up: Machine) -> None:
        self.up, self.seconds, self.said, self.asked = list(up), 1000.0, list[str](), list[tuple[int, float | None]]()
        monkeypatch.setattr(machines, "ask_for", lambda cpus, gpus: self.asked.append((cpus, gpus)))
        monkeypatch.setattr(machines, "autoscaler_config", lambda: config)
        monkeypatch.setattr(machines, "machines_up", lambda: tuple(self.up))
        monkeypatch.setattr(machines, "_heads", lambda: [n == 0 for n in range(len(self.up))])
        monkeypatch.setattr(machines, "time", SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.up.append(self.coming.pop(0))

    coming: list[Machine]

    def machines(self, cpus: int = 1, gpus: float | None = None, concurrency: int | None = None) -> machines.Machines:
        return machines.Machines(cpus, gpus, concurrency, joined=True, say=self.said.append)


SSH = {
    "max_workers": 2,
    "head_node_type": "local.cluster.node",
    "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
}


def test_a_study_waits_for_machines_of_which_nothing_is_known_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, SSH, HEAD)
    fleet.coming = [Machine(0, 0), ONE_GPU]
    assert fleet.machines(gpus=1.0).resources().concurrency == 1
    assert fleet.said == ["Waiting for a machine: none that is up can run a trial, but others may come."]
    assert fleet.asked == [(1, 1.0)], "else no autoscaler would know of it"
    fleet = Fleet(monkeypatch, {}, HEAD)
    fleet.coming = [HEAD] * 1000
    with pytest.raises(UserError, match="--gpus-per-trial is 1"):
        fleet.machines(gpus=1.0).resources()
    assert 1800 < fleet.seconds - 1000 < 1900, "not for ever"
    fleet = Fleet(monkeypatch, SSH, HEAD)
    fleet.coming = [CPUS, CPUS]
    with pytest.raises(UserError, match="--gpus-per-trial is 1 and the node with the most GPUs has 0"):
        fleet.machines(gpus=1.0).resources()


def test_there_is_room_for_more_trials_as_machines_come_and_for_fewer_as_they_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(monkeypatch, None, HEAD, CPUS)
    found = fleet.machines(cpus=2)
    assert found.resources().concurrency == found.room() == 4
    fleet.up.append(FOUR_GPUS)
    assert found.room() == 4, "not looked at each time"
    fleet.seconds += 6
    assert found.room() == 4 + 8
    fleet.up = [HEAD, CPUS]
    fleet.seconds += 6
    assert found.room() == 4


@pytest.mark.parametrize(
    ("up", "cpus", "concurrency", "peak", "share", "trials"),
    [
        ((Machine(16, 1),), 1, None, 0.1, 0.1666, 6),  # half as much again is left to those that take more
        ((Machine(16, 1),), 1, None, 0.7, 1, 1),
        ((ONE_GPU,), 1, None, 0.01, 0.25, 4),
        ((ONE_GPU,), 2, None, 0.01, 0.5, 2),
        ((ONE_GPU,), 1, 3, 0.01, 0.3333, 3),
        ((Machine(100, 1),), 1, None, 0.01, 0.0151, 66),
        ((Machine(5000, 1),), 1, None, 0.0001, 0.0101, 99),
        ((Machine(2, 4),), 1, None, 0.01, 1, 1),
        ((HEAD, FOUR_GPUS), 1, 4, 0.01, 1, 1),  # a GPU each
        ((HEAD, FOUR_GPUS), 1, 6, 0.01, 0.5, 2),
        ((HEAD, CPUS), 1, 6, 0.01, 1, 1),  # its machine went
    ],
)
def test_as_many_trials_fit_on_a_gpu_as_its_memory_and_cores_allow(
    up: tuple[Machine, ...], cpus: int, concurrency: int | None, peak: float, share: float, trials: int
) -> None:
    assert gpu_share(up, cpus, concurrency, peak) == (share, trials)
    assert Machine(1_000_000, 1).slots(1, share) == trials
    assert sum(machine.slots(cpus, share) for machine in up) >= sum(machine.slots(cpus, 1.0) for machine in up)


def test_what_trials_took_of_a_gpu_says_how_many_could_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, None, HEAD, Machine(16, 1))
    found = fleet.machines()
    found.resources()
    for peak in (None, 0.1, 0.2):
        found.on_trial_result(1, [], None, {"reports": [{"gpu_share": None}, {"gpu_share": peak}]})
    found.on_trial_result(1, [], None, {"lost": "why"})
    words = "Trials took up to {} of a GPU's memory each; with --gpus-per-trial {} {} share one."
    assert found.advice() == words.format("20%", 0.3333, 3)
    found.on_trial_result(1, [], None, {"reports": [{"gpu_share": 0.6}]})
    assert found.advice() is None
    assert fleet.said == [], "what is said in between may not hold at the end"


def test_that_no_machine_runs_a_trial_is_said_and_that_one_does_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, None, HEAD, CPUS)
    found = fleet.machines()
    found.resources()
    pending, running = SimpleNamespace(status="PENDING"), SimpleNamespace(status="RUNNING")
    fleet.seconds += 6
    found.on_step_end(1, [pending])
    assert fleet.said == [], "a worker takes its time to start"
    fleet.up = [HEAD]
    for _ in range(3):
        fleet.seconds += 6
        found.on_step_end(1, [pending])
    assert fleet.said == ["Waiting for a machine: none that is up has the 1 core of a trial."]
    fleet.up = [HEAD, CPUS]
    fleet.seconds += 1
    found.on_step_end(2, [running, pending])
    assert fleet.said[1:] == ["Trials run again."]
    fleet.seconds += 70
    found.on_step_end(3, [pending])
    assert fleet.said[2:] == ["Waiting for a machine: none that is up has the 1 core of a trial free."]


@pytest.mark.parametrize(("ids", "expected"), [([], ""), ([1], "1")])
def test_a_trial_without_a_gpu_sees_none(ids: list[int], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray shows all of the machine's to it; many trials would share the first one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(trial.ray, "get_gpu_ids", lambda: ids)
    monkeypatch.setattr(trial, "MemoryWatch", lambda limit: None)
    trial.Trials(memory_bytes=1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
