"""Ray's two agents of a node, stood in for where Ray runs on this machine alone.

One serves a dashboard, which is not there; the other installs what workers ask for, and they ask for nothing. Each is a
Python process of 0.7 s and 70 MB, and Ray waits for both before it starts a worker. As it ends when one of them does,
they must live as long as Ray: run as a program, this file is one that does just that. Whoever asked such a Ray for a
worker with an environment of its own would end it.
"""

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# The raylet's flags with the agents' command lines, and the ports that Ray waits for each to tell.
_PORTS = {
    "--dashboard_agent_command": ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"),
    "--runtime_env_agent_command": ("runtime_env_agent_port",),
}
_NO_PORT = -1


def stood_in_for(start_process: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's function that starts its processes, for a raylet with other agents."""

    def start(command: list[str], *given: Any, **named: Any) -> Any:
        return start_process(_changed(command), *given, **named)

    return start


def _changed(command: list[str]) -> list[str]:
    """A command with stand-ins for the agents that it names, if it does."""
    import subprocess

    flags = dict(given.partition("=")[::2] for given in command)
    found = []
    for given in command:
        flag = given.partition("=")[0]
        if flag in _PORTS:
            files = [f"{flags['--session_dir']}/{port}_{flags['--node_id']}" for port in _PORTS[flag]]
            given = f"{flag}={subprocess.list2cmdline([sys.executable, '-I', '-S', __file__, *files])}"
        found.append(given)
    return found


@contextlib.contextmanager
def needless() -> Iterator[None]:
    """Keeps Tune from asking for workers that agents would prepare, where there are none or workers are forked.

    It wants one variable of the environment set in them, which is for another library, and hands on some that workers
    on the same machine inherit anyway.
    """
    import ray
    from ray.tune.execution.class_cache import _ActorClassCache as Classes

    from search import forks

    if forks.ADDRESS not in os.environ and all(node["RuntimeEnvAgentPort"] != _NO_PORT for node in ray.nodes()):
        yield
        return
    before, plain = Classes.get, functools.cache(ray.remote)  # Ray keeps every class that it is given
    Classes.get = lambda self, trainable: plain(trainable)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Classes.get = before  # type: ignore[method-assign]


def _stand_in(files: list[str]) -> None:
    """Says in each file that there is no such port, as Ray's own agents do, then waits for the raylet to go."""
    raylet = int(os.environ.get("RAY_RAYLET_PID", os.getppid()))  # which may be gone by now
    for name in files:
        with open(f"{name}.new", "w") as file:  # noqa: PTH123 - pathlib takes longer to import than all the rest
            file.write(str(_NO_PORT))
        os.replace(f"{name}.new", name)  # noqa: PTH105
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    _stand_in(sys.argv[1:])
