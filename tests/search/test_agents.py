"""Ray without its agents: what stands in for them, and where they are there as ever."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray._private import services

from search import agents, cluster
from tests.faults.nodes import wait_until

RAYLET = [
    "/somewhere/raylet",
    "--session_dir={session}",
    "--node_id=0a1b",
    "--labels={{}}",
    "--dashboard_agent_command=python dashboard/agent.py --node-id=0a1b",
    "--runtime_env_agent_command=python runtime_env/agent/main.py",
    "--head",
]
PORTS = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")


def started(command: list[str]) -> list[str]:
    """The command that Ray's function is given in the end."""
    found: list[list[str]] = []
    agents.stood_in_for(lambda given, kind: found.append(given))(command, "kind")
    return found[0]


def test_only_the_agents_of_a_raylet_are_others(tmp_path: Path) -> None:
    command = [part.format(session=tmp_path) for part in RAYLET]
    found = started(command)
    assert [part for part in found if "agent_command" not in part] == [command[n] for n in (0, 1, 2, 3, 6)]
    assert [part.partition("=")[0] for part in found] == [part.partition("=")[0] for part in command]
    other = ["/somewhere/gcs_server", "--log_dir=/somewhere"]
    assert started(other) == other


def test_they_tell_ray_that_there_are_no_ports_and_end_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    commands = [
        shlex.split(part.partition("=")[2])
        for part in started([part.format(session=folder) for part in RAYLET])
        if "agent_command" in part
    ]
    assert len(commands) == 2
    words = (
        "import subprocess, sys, json; [print(subprocess.Popen(c).pid, flush=True) for c in json.loads(sys.argv[1])]"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{words}; sys.stdin.read()", json.dumps(commands)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as raylet:
        assert raylet.stdout
        stand_ins = [psutil.Process(int(raylet.stdout.readline())) for _ in commands]
        wait_until(lambda: len(list(folder.glob("*_0a1b"))) == 4, "the ports to be told", 20)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {f"{port}_0a1b": "-1" for port in PORTS}
        time.sleep(0.2)
        assert all(process.is_running() for process in stand_ins)
        raylet.kill()
    wait_until(lambda: not any(map(alive, stand_ins)), "them to end", 20)


def test_they_end_where_the_raylet_is_gone_before_they_know_it(tmp_path: Path) -> None:
    """As they begin, their parent may be another process already."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-I", "-S", agents.__file__, str(tmp_path / "port")],
        env={**os.environ, "RAY_RAYLET_PID": str(gone.pid)},
        timeout=20,
    )
    assert done.returncode == 0


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("name", [None, "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RUNTIME_ENV_HOOK"])
def test_where_an_environment_is_to_be_made_ray_has_its_own(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RUNTIME_ENV_HOOK"):
        monkeypatch.delenv(known, raising=False)
    if name:
        monkeypatch.setenv(name, "{}")
    before = services.start_ray_process
    with cluster._alone():
        assert (services.start_ray_process is before) == (name is not None)
    assert services.start_ray_process is before


FORKED = """
import sys
import psutil, ray
from search import agents, cluster, forks
from search.worker import TrialWorker
from ray.tune.execution.class_cache import _ActorClassCache

class Looks(TrialWorker):
    def setup(self, config):
        pass
    def step(self):
        return {"forked": "torch" in sys.modules}

with forks.server(), cluster.cluster(None), agents.needless():
    print(ray.get(_ActorClassCache().get(Looks).remote().train.remote())["forked"])
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    print(sum("runtime_env/agent/main.py" in command for command in commands))
"""

RUN = """
import json, os
import psutil, ray
from search import agents, cluster
from search.worker import TrialWorker
from ray.tune.execution.class_cache import _ActorClassCache

with cluster.cluster(None), agents.needless():
    print(_ActorClassCache().get(TrialWorker)._default_options.get("runtime_env"))
    actor = ray.remote(lambda: os.environ["OWN"])
    print(ray.get(actor.remote()))
    print(json.dumps([process.cmdline() for process in psutil.Process().children(recursive=True)]))
print(_ActorClassCache().get(TrialWorker)._default_options.get("runtime_env"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("hook", [False, True])
def test_workers_are_forked_also_where_ray_has_its_agents(hook: bool, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("def same(environment):\n    return environment\n")
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    if hook:
        environment["RAY_RUNTIME_ENV_HOOK"] = "hooks.same"
    done = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "1" if hook else "0"], done.stderr


@pytest.mark.slow
def test_a_real_ray_does_without_and_its_workers_have_the_environment_of_the_search() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, "OWN": "inherited", "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["None", "inherited"], done.stderr
    commands = json.loads(lines[2])
    assert sum(agents.__file__ in command for command in commands) == 2
    assert not [command for command in commands if "Agent" in command[0] or "/agent/" in " ".join(command[:3])]
    assert "PL_DISABLE_FORK" in lines[3], "Tune as it was"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
