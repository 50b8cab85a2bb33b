"""Whether Ray is still there. It falls silent when its head or this machine's own node ends.

Calls then block, for ever or until the process ends without a word. So another thread looks, by means of its own.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import ray

_EVERY_SECONDS, _CONNECT_SECONDS = 1.0, 5.0
# A head that is restarted with its memory comes back within that; Ray itself ends the process after a minute.
_HEAD_SECONDS, _NODE_SECONDS = 30.0, 5.0


@contextlib.contextmanager
def watched(lost: Callable[[str], object]) -> Iterator[None]:
    """Calls `lost`, in another thread and once, with a sentence on what of the running Ray no longer answers."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    places = (
        ("The cluster's head", host.strip("[]"), int(port), _HEAD_SECONDS),
        ("Ray on this machine", node["NodeManagerAddress"], node["NodeManagerPort"], _NODE_SECONDS),
    )
    over = threading.Event()
    for place in places:
        threading.Thread(target=_look, args=(over, lost, *place), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _look(over: threading.Event, lost: Callable[[str], object], what: str, host: str, port: int, limit: float) -> None:
    answered = time.monotonic()
    while not over.wait(_EVERY_SECONDS):
        if _answers(host, port):
            answered = time.monotonic()
        elif time.monotonic() - answered > limit and not over.is_set():
            over.set()
            lost(f"{what}, at {host}:{port}, must answer for the search to go on, but did not for {limit:.0f} s.")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
