"""Workers that are forked from a process with Torch: as Ray would have begun them, wherever that cannot be too."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from search import forks
from tests.faults.nodes import wait_until

ROOT = Path(__file__).parents[2]
PLAIN = ("--language=PYTHON", "--serialized-runtime-env-context={}")
WORKER = """
import json, os, resource, signal, sys
print(json.dumps({
    "command": sys.argv, "name": __name__, "folder": os.getcwd(),
    "parent": os.getppid(), "torch": "torch" in sys.modules,
    "ray": "ray" in sys.modules, "leads": os.getpgrp() == os.getpid(),
    "own": os.environ.get("OWN"), "others": os.environ.get("OTHERS"), "path": sys.path,
    "blocked": signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    "threads": len(os.listdir("/proc/self/task")), "blas": os.environ.get("OMP_NUM_THREADS"),
    "torch_threads": "torch" in sys.modules and sys.modules["torch"].get_num_threads(),
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "files": len(os.listdir("/proc/self/fd")), "input": sys.stdin.read(),
    "jemalloc": "libjemalloc" in open("/proc/self/maps").read(), "preloads": os.environ.get("LD_PRELOAD"),
    "oom_score_adj": open("/proc/self/oom_score_adj").read().strip(),
}))
sys.exit(3)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or any(Path(name).exists() for name in forks._GPUS),
    reason="forks are for Linux without GPUs",
)


@dataclass(frozen=True)
class Server:
    """A server, whose address is not in the environment of the tests."""

    process: psutil.Process
    address: str


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    before = psutil.Process().children()
    os.environ["OTHERS"] = "the server's"
    with forks.server():
        del os.environ["OTHERS"]
        address = os.environ.pop(forks.ADDRESS)
        (process,) = set(psutil.Process().children()) - set(before)
        yield Server(process, address)
    assert not process.is_running()
    assert not Path(address).exists()


def begin(folder: Path, address: str | None, *arguments: str) -> dict[str, Any]:
    """What a worker says that is begun as Ray begins it."""
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        process = subprocess.Popen(
            [sys.executable, forks.__file__, str(worker), "one", *arguments],
            cwd=folder,
            env={**os.environ, "OWN": "its own", **({forks.ADDRESS: address} if address else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    said, _ = process.communicate("input", timeout=60)
    return {"asker": process.pid, "code": process.returncode, **json.loads(said)}


def test_a_worker_is_a_fork_and_yet_as_ray_began_it(server: Server, tmp_path: Path) -> None:
    found = begin(tmp_path, server.address, *PLAIN, "--two=2")
    assert found["parent"] == server.process.pid
    assert found["torch"] and not found["ray"]
    assert found["command"] == [str(tmp_path / "worker.py"), "one", "--two=2"]
    assert (found["name"], found["folder"], found["input"]) == ("__main__", str(tmp_path), "input")
    assert (found["own"], found["others"]) == ("its own", None)
    assert found["leads"] and found["blocked"]
    assert found["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    assert (found["threads"], found["torch_threads"], found["blas"]) == (1, 1, None)
    assert found["jemalloc"] == bool(forks.jemalloc(os.environ))
    assert found["preloads"] == os.environ.get("LD_PRELOAD")
    assert found["files"] == 4, "its own three, the listing's, and none of the server's"
    assert found["code"] == 0


def test_workers_leave_no_trace_of_one_another(server: Server, tmp_path: Path) -> None:
    assert begin(tmp_path, server.address, *PLAIN)["parent"] == server.process.pid
    again = begin(tmp_path, server.address, PLAIN[0])
    assert (again["parent"], again["own"]) == (server.process.pid, "its own")
    wait_until(lambda: not server.process.children(), "the workers to be gone", 10)


def test_the_kernel_ends_a_forked_worker_first_where_ray_wants_it_so(server: Server, tmp_path: Path) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    command = (
        "import os, sys; open('/proc/self/oom_score_adj', 'w').write('700'); os.execv(sys.executable, sys.argv[1:])"
    )
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    said = subprocess.run(
        [sys.executable, "-c", command, sys.executable, forks.__file__, str(worker), *PLAIN],
        env={**os.environ, forks.ADDRESS: server.address},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert json.loads(said.stdout)["oom_score_adj"] == "700"
    assert own.read_text() == before


@pytest.mark.parametrize(
    "context",
    [
        '{"command_prefix": ["true", "&&"]}',
        '{"py_executable": "/usr/bin/env -S python"}',
        '{"override_worker_entrypoint": "worker.py"}',
        '{"env_vars": {"ADDED": "by Ray"}}',
    ],
)
def test_what_ray_wants_otherwise_is_left_to_ray(context: str, server: Server, tmp_path: Path) -> None:
    command = context.replace("/usr/bin/env -S python", f"/usr/bin/env {sys.executable}")
    found = begin(tmp_path, server.address, PLAIN[0], f"--serialized-runtime-env-context={command}")
    assert not found["torch"]
    assert found["parent"] != server.process.pid
    assert found["code"] == 3


def test_flags_for_python_itself_are_left_to_ray(server: Server, tmp_path: Path) -> None:
    """Ray puts them before the worker's file where user packages are off, as PYTHONNOUSERSITE has it."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    done = subprocess.run(
        [sys.executable, forks.__file__, "-s", str(worker), *PLAIN],
        env={**os.environ, forks.ADDRESS: server.address},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert not json.loads(done.stdout)["torch"]


def test_a_server_that_nobody_needs_can_be_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_servers", [])  # not the fixture's
    before = psutil.Process().children()
    with forks.server():
        (process,) = set(psutil.Process().children()) - set(before)
        forks.dismiss()
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, "the server to end", 10)


@pytest.mark.parametrize("address", [None, "/nowhere/forks"])
def test_without_a_server_a_worker_begins_all_the_same(address: str | None, tmp_path: Path) -> None:
    found = begin(tmp_path, address, *PLAIN)
    assert not found["torch"]
    assert (found["code"], found["own"]) == (3, "its own")


def test_a_server_that_dies_before_it_forks_is_done_without(tmp_path: Path) -> None:
    """Its socket takes whoever asks while it imports."""
    before = psutil.Process().children()
    with forks.server():
        (process,) = set(psutil.Process().children()) - set(before)
        process.suspend()
        asker = subprocess.Popen(
            [sys.executable, forks.__file__, str(tmp_path / "worker.py"), *PLAIN],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        (tmp_path / "worker.py").write_text(WORKER)
        wait_until(lambda: psutil.Process(asker.pid).net_connections("unix"), "the question", 10)
        process.kill()
        said, _ = asker.communicate(timeout=60)
        assert not json.loads(said)["torch"]


def test_the_server_runs_where_the_command_has_no_standard_input(tmp_path: Path) -> None:
    words = (
        "import os, sys; from search import forks\nwith forks.server(): print(forks._ask([sys.argv[1]]), flush=True)"
    )
    worker = tmp_path / "worker.py"
    worker.write_text("")
    command = ["sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", words, str(worker)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_the_server_ends_with_the_process_that_began_it() -> None:
    words = (
        "import os, sys; from search import forks\n"
        "with forks.server(): print(os.environ[forks.ADDRESS], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        address = Path(process.stdout.readline().strip())
        (server,) = psutil.Process(process.pid).children()
        assert address.is_socket()
        process.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server to end", 30)
    assert not address.parent.exists()


def test_none_is_begun_where_its_socket_can_have_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's path may have 107 letters."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    for folder in (long, tmp_path / "nowhere"):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with forks.server():
            assert forks.ADDRESS not in os.environ
    assert not list(long.iterdir())


def test_a_fork_that_cannot_take_over_leaves_the_worker_to_itself(server: Server, tmp_path: Path) -> None:
    """Its folder is gone by the time it is asked."""
    folder = tmp_path / "gone"
    folder.mkdir()
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.replace('"folder": os.getcwd(),', '"folder": None,'))
    command = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from search import forks\n"
        "found = os.getcwd(); os.rmdir(found); forks.Path.cwd = lambda: found; print(forks._ask([sys.argv[2]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command, str(ROOT), str(worker)],
        cwd=folder,
        env={**os.environ, forks.ADDRESS: server.address},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.stdout == "False\n"
    assert "FileNotFoundError" in done.stderr


def test_none_is_begun_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forks, "_GPUS", ("/nowhere", str(tmp_path)))
    with forks.server():
        assert forks.ADDRESS not in os.environ


_TRAINED = """
import json, os, psutil, ray, sys
from search import forks
from search.cluster import cluster

@ray.remote(num_cpus=1)
class Worker:
    def look(self):
        return os.getpid(), os.getppid(), psutil.Process().parent().cmdline()

def begin():
    worker = Worker.remote()
    return worker, *ray.get(worker.look.remote(), timeout=120)

with forks.server(), cluster(None):
    (server,) = (child for child in psutil.Process().children() if "serve(" in " ".join(child.cmdline()))
    first, pid, parent, _ = begin()
    assert parent == server.pid, parent
    ray.kill(first)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert not psutil.pid_exists(pid), "Ray ends its forked workers"
    second, _, parent, _ = begin()
    assert parent == server.pid, parent
    server.kill()
    _, _, _, command = begin()
    assert "raylet" in command[0], command
    print("as it should be")
"""


def test_there_is_no_jemalloc_where_another_library_is_preloaded_or_none_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not forks.jemalloc({"LD_PRELOAD": "their.so"})
    for folder, can_be_named in (("ray", True), ("a ray", False), ("ra:y", False)):
        library = tmp_path / folder / "core" / "libjemalloc.so"
        library.parent.mkdir(parents=True)
        monkeypatch.setattr(forks, "_ray", lambda folder=folder: tmp_path / folder)
        assert not forks.jemalloc({"LD_PRELOAD": ""})
        library.touch()
        assert forks.jemalloc({"LD_PRELOAD": ""}).get("LD_PRELOAD") == (str(library) if can_be_named else None)


@pytest.mark.slow
def test_ray_takes_forks_for_its_workers_and_does_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", _TRAINED], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "as it should be", done.stderr[-2000:]
