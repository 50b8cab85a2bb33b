"""Memory that is freed and wanted again."""

import subprocess
import sys

import pytest

from trainables import heap

STEPS = """
import resource, sys
from pathlib import Path
from trainables import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "kept":
    heap.keep_freed()
for step in range(11):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 20_000_000 for _ in range(3)]
    del blocks
pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
heap.give_back()
print(pages * resource.getpagesize(), held - resident())
"""


def taken_again(how: str) -> tuple[int, int]:
    """Bytes that ten steps of 60 MB had from the system anew, and what is given back after them."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, timeout=60, check=True)
    again, given_back = map(int, done.stdout.split())
    return again, given_back


@pytest.mark.skipif(heap._function("mallopt") is None, reason="only glibc can be told")
def test_what_a_step_freed_serves_the_next_until_it_is_given_back() -> None:
    again, given_back = taken_again("kept")
    assert again < 60_000_000
    assert given_back > 50_000_000
    assert taken_again("as ever")[0] > 300_000_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed()
    heap.give_back()
