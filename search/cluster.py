"""A running Ray: started on this machine for the time, or joined."""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.node import Node
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from search import agents, forks
from trainables.corpora.importer import cores
from trainables.errors import UserError

_ADDRESS_SECONDS = 5
_OBJECT_STORE_BYTES = 150_000_000
_FOR_CLUSTERS = ("start_monitor", "start_log_monitor", "start_api_server")


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A running Ray: that of the process if there is one, the one at `address`, or a local one for the time."""
    if address is not None:
        forks.dismiss()
        _check_reachable(address)
    if ray.is_initialized():
        yield
        return
    # Nobody but the study reads Tune's result files; the study directory holds everything.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
    # Tune warns at every end that it finds no result files, which it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    try:
        with _alone() if address is None else contextlib.nullcontext(), _own_termination():
            ray.init(
                address=address or "local",
                num_cpus=None if address else cores(),
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                # Nothing goes through the object store: corpora are mapped from the disk, reports are a few numbers.
                object_store_memory=None if address else _OBJECT_STORE_BYTES,
                # A worker is wanted half a second later, while those that Ray starts ahead of need are not yet up.
                _system_config=None if address else {"prestart_worker_first_driver": False},
            )
    except Exception as error:  # that a node did not start in time is told by no narrower class
        words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if address is None and "AF_UNIX" in words:
            raise UserError(
                f"Ray needs a folder for temporary files with a short path, but that of {tempfile.gettempdir()} is too "
                f"long for its sockets. Set TMPDIR to a shorter one, such as /tmp."
            ) from error
        if address is None:
            raise UserError(
                f"Ray must start on this machine within half a minute, but did not ({words}). A machine that is busy "
                f"with other work may be too slow for it: end that, and give the command again."
            ) from error
        raise UserError(
            f"--address must name a running Ray cluster, but {address!r} could not be joined "
            f"({words}). The cluster and this machine must have the same token in "
            f"~/.ray/auth_token; RAY_AUTH_MODE=disabled is for a cluster that has none."
        ) from error
    # Ray makes the token where there is none, readable by all who may look into the folder.
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_termination() -> Iterator[None]:
    """Keeps what is done on a termination: Ray's own handler, which it sets as it starts, leaves without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Has Ray start what a single machine needs, and nothing of what only clusters have use for.

    It needs no more than the loopback, but listens on all addresses, except where it is told that there are no clusters
    (https://github.com/ray-project/ray/issues/18730). Autoscaler, log monitor and API server have no switches; they
    are a Python process each, which take 0.3 GB and two seconds of a start on two cores. Workers are forked where there
    is a server for it, in the environment of the search, of which Ray would have an agent make a copy under `uv run`.
    """
    changes: list[tuple[Any, str, Any]] = [
        (ray_constants, "ENABLE_RAY_CLUSTER", False),
        (ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False),
    ]
    if not _is_told_environment():
        changes.append((services, "start_ray_process", agents.stood_in_for(services.start_ray_process)))
    changes += [(Node, name, lambda *_, **__: None) for name in _FOR_CLUSTERS]
    if forks.ADDRESS in os.environ:
        changes.append((Node, "start_raylet", _forking(Node.start_raylet)))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for change in changes:
            setattr(*change)
        yield
    finally:
        for change in before:
            setattr(*change)


def _is_told_environment() -> bool:
    """Whether a job's configuration or a hook has an environment made for workers."""
    return any(name in os.environ for name in (RAY_JOB_CONFIG_JSON_ENV_VAR, ray_constants.RAY_RUNTIME_ENV_HOOK))


def _forking(start_raylet: Callable[..., None]) -> Callable[..., None]:
    """`start_raylet` of a raylet that has its workers forked."""

    def start(node: Node, *given: Any, **named: Any) -> None:
        node._ray_params.setup_worker_path = forks.__file__
        start_raylet(node, *given, **named)

    return start


def _check_reachable(address: str) -> None:
    """Raises UserError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ADDRESS_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address must name a running Ray cluster, but nothing answers at {address} ({error.strerror or error}). "
            f"Start one with `ray start --head`, or take this machine with --address local."
        ) from error
