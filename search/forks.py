"""Ray's workers on this machine as forks of one process that has imported Torch.

Ray begins each worker as a new process: three seconds and 350 MB of imports apiece, of which none is the trial's own.
Forked off a process that has them behind it, workers begin at once and share what was imported. That process knows
nothing of Ray, which reads its environment when it is imported, and runs no thread of its own while it forks.

Ray is told to begin its workers with this file instead of its own `setup_worker.py`. It asks the server to fork, by
way of a socket in a folder of the user's own, and goes; wherever that fails, it is the worker itself, as Ray meant it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# Where the server listens, for all that Ray starts.
ADDRESS = "ETUDE_FORKS"
# What trials import, apart from Ray; the compiler's front is what Torch's optimisers import when the first one is made.
_PRELOADED = ("trainables.data", "trainables.folder", "trainables.footprint", "trainables.loop", "torch._dynamo")
_ANSWER_SECONDS = 30.0
_GPUS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_TAKEN = b"taken"
# jemalloc's settings: nothing that was freed goes back to the system by itself (trainables/heap.py).
_KEEP_ALL = "narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:0"
_servers: list["subprocess.Popen[bytes]"] = []


@contextlib.contextmanager
def server() -> Iterator[None]:
    """A process that forks workers, for the time; it takes seconds to get ready, meanwhile others wait for it.

    It ends with this process, however that ends. None is started where none can be, or none was ever tried: CUDA cannot
    be used in a fork of a process that has so much as asked it for devices.
    """
    if sys.platform != "linux" or any(Path(name).exists() for name in _GPUS) or ADDRESS in os.environ:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no folder for temporary files, or one whose name is too long for a socket
            os.environ[ADDRESS] = stack.enter_context(_started())
        try:
            yield
        finally:
            os.environ.pop(ADDRESS, None)


@contextlib.contextmanager
def _started() -> Iterator[str]:
    """A server, for the time; its address."""
    import fcntl
    import tempfile

    with tempfile.TemporaryDirectory(prefix="etude-", ignore_cleanup_errors=True) as folder:
        address = str(Path(folder) / "forks")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen(64)
            # Not one of the three that any process is given, where this one was begun without.
            file = fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 3)
            # In a session of its own: a Ctrl-C at the terminal is for the search, which ends its workers in order.
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from search.forks import serve; serve({file})"],
                # NumPy's library begins its threads when it is imported.
                env={**os.environ, "OMP_NUM_THREADS": "1", **jemalloc(os.environ)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[file],
            )
            os.close(file)
        _servers.append(process)
        try:
            yield address
        finally:
            _servers.remove(process)
            process.kill()
            process.communicate()


def jemalloc(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a process for it to have jemalloc; nothing where there is none.

    Ray brings it for Linux. Whoever preloads something of their own keeps to that.
    """
    library = _ray() / "core" / "libjemalloc.so"
    # A name in the list of libraries ends at spaces and colons, which cannot be escaped.
    if not library.exists() or environment.get("LD_PRELOAD") or set(str(library)) & set(" :"):
        return {}
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": _KEEP_ALL}


def _ray() -> Path:
    """The folder of Ray's package, which is not imported for it."""
    from importlib.util import find_spec

    found = find_spec("ray")
    assert found and found.origin
    return Path(found.origin).parent


def dismiss() -> None:
    """Ends the server, where it turns out that the workers are not here."""
    os.environ.pop(ADDRESS, None)
    for process in _servers:
        process.kill()


def serve(file: int) -> None:
    """Forks a worker for each that asks at the socket with that number, until standard input is closed."""
    import gc
    import importlib
    import select
    import shutil
    import signal

    from trainables import heap

    listener = socket.socket(fileno=file)
    for name in _PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    # A collection in a worker would touch, and so copy, every page that holds an object.
    gc.collect()
    gc.freeze()
    heap.give_back()  # each worker would have it as its own
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
            return
        asking, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(asking)
            return
        asking.close()


def _become(asking: socket.socket) -> None:
    """Makes this fork the process that asks, with its open files, folder, environment and command line.

    It says so when nothing is left that might fail, or else the other goes on by itself.
    """
    import resource
    import runpy
    import signal

    _, files, _, _ = socket.recv_fds(asking, 1, 3)
    asked = json.loads(b"".join(iter(lambda: asking.recv(1 << 16), b"")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, asked["open_files"])
    os.setpgid(0, 0)  # Ray ends a worker's group with it
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])
    Path("/proc/self/oom_score_adj").write_text(asked["oom_score_adj"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["command"]
    Path(sys.argv[0]).open("rb").close()
    asking.sendall(_TAKEN)
    asking.close()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _ask(command: list[str]) -> bool:
    """Has the server fork a process for the command of a Python worker; whether it did."""
    import resource
    import signal

    try:
        asked = {
            "command": command,
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_ANSWER_SECONDS)
            asking.connect(os.environ[ADDRESS])
            socket.send_fds(asking, [b" "], [0, 1, 2])
            asking.sendall(json.dumps(asked).encode())
            asking.shutdown(socket.SHUT_WR)
            return asking.recv(len(_TAKEN)) == _TAKEN
    except (KeyError, OSError):
        return False


def _begin_worker(given: list[str]) -> None:
    """What Ray calls in place of its own `setup_worker.py`, with the same arguments."""
    named = dict(argument.partition("=")[::2] for argument in given if argument.startswith(("--lang", "--serial")))
    command = [argument for argument in given if argument.partition("=")[0] not in named]
    context = json.loads(named.get("--serialized-runtime-env-context", "{}"))
    if (
        named.get("--language") == "PYTHON"
        and not command[0].startswith("-")  # a flag for Python itself
        and not any(context.values())  # of an environment made for it
        and _ask(command)
    ):
        return
    own = _ray() / "_private" / "workers" / "setup_worker.py"
    os.execv(sys.executable, [sys.executable, str(own), *given])


if __name__ == "__main__":
    _begin_worker(sys.argv[1:])
