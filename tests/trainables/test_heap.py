"""Memory that is freed and wanted again."""

import os
import subprocess
import sys

import pytest

from search.forks import jemalloc
from trainables import heap

STEPS = """
import resource, sys
from pathlib import Path
from trainables import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

_, kept, size = sys.argv
if kept == "kept":
    heap.keep_freed()
for step in range(11):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * int(size) for _ in range(3)]
    del blocks
pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
heap.tidy()
tidied = resident()
heap.give_back()
print(pages * resource.getpagesize(), held - tidied, held - resident())
"""
_OWN = ("LD_PRELOAD", "MALLOC_CONF")
glibc_only = pytest.mark.skipif(heap._function("mallopt") is None, reason="only glibc can be told")
jemalloc_only = pytest.mark.skipif(not jemalloc({}), reason="Ray brings jemalloc for Linux alone")


def taken_again(how: str, size: int = 20_000_000, **environment: str) -> tuple[int, int, int]:
    """What ten steps of three blocks had from the system anew; what tidying up, and all in all, is given back then."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how, str(size)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in _OWN} | environment,
    )
    again, tidied, given_back = map(int, done.stdout.split())
    return again, tidied, given_back


@glibc_only
def test_what_a_step_freed_serves_the_next_until_it_is_given_back() -> None:
    again, tidied, given_back = taken_again("kept")
    assert again < 60_000_000
    assert tidied < 5_000_000
    assert given_back > 50_000_000
    assert taken_again("as ever")[0] > 300_000_000


@glibc_only
def test_the_c_library_keeps_no_large_blocks() -> None:
    assert taken_again("kept", 40_000_000)[0] > 1_000_000_000


@jemalloc_only
@pytest.mark.parametrize("size", [20_000_000, 40_000_000])
def test_jemalloc_keeps_blocks_of_any_size(size: int) -> None:
    again, _, given_back = taken_again("kept", size, **jemalloc({}))
    assert again < 60_000_000
    assert given_back > 2.5 * size


@jemalloc_only
def test_tidying_up_returns_what_is_much() -> None:
    assert taken_again("kept", 20_000_000, **jemalloc({}))[1] < 5_000_000
    _, tidied, given_back = taken_again("kept", 60_000_000, **jemalloc({}))
    assert tidied > 150_000_000
    assert given_back < tidied + 5_000_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed()
    heap.tidy()
    heap.give_back()
