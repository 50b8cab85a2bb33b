"""Ray that no longer answers is noticed, though Ray itself says nothing."""

import socket
import threading
from types import SimpleNamespace

import pytest

from search import watch

LIMIT_SECONDS = 30


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=4096)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> tuple[socket.socket, socket.socket]:
    """What stands for the head and for this machine's node."""
    head, node = listening(), listening()
    ports = [place.getsockname()[1] for place in (head, node)]
    context = SimpleNamespace(gcs_address=f"127.0.0.1:{ports[0]}", get_node_id=lambda: "own")
    nodes = [
        {"NodeID": "other", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1},
        {"NodeID": "own", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": ports[1]},
    ]
    ray = SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: nodes)
    monkeypatch.setattr(watch, "ray", ray)
    for name, value in {"_EVERY_SECONDS": 0.01, "_HEAD_SECONDS": 0.2, "_NODE_SECONDS": 0.1}.items():
        monkeypatch.setattr(watch, name, value)
    return head, node


@pytest.mark.parametrize(("which", "word"), [(0, "The cluster's head, at 127"), (1, "Ray on this machine, at 127")])
def test_what_no_longer_answers_is_told_once(
    places: tuple[socket.socket, socket.socket], which: int, word: str
) -> None:
    told: list[str] = []
    noticed = threading.Event()

    def lost(words: str) -> None:
        told.append(words)
        noticed.set()

    with watch.watched(lost):
        assert not noticed.wait(0.5), "while both answer"
        places[which].close()
        assert noticed.wait(LIMIT_SECONDS)
    assert len(told) == 1 and told[0].startswith(word)
    places[1 - which].close()


def test_nothing_is_told_after_the_end(places: tuple[socket.socket, socket.socket]) -> None:
    noticed = threading.Event()
    with watch.watched(lambda words: noticed.set()):
        pass
    for place in places:
        place.close()
    assert not noticed.wait(0.5)
