"""Waiting for a store."""

from types import SimpleNamespace

import pytest

from trainables import folder
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("words", "seconds"), [("no route to host", 1800), ("AWS Error ACCESS_DENIED during PutObject", 60)]
)
def test_a_store_that_refuses_is_not_waited_for_as_long_as_one_that_is_silent(
    words: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = 0.0, list[str]()

    def sleep(pause: float) -> None:
        nonlocal now
        now += pause

    def fail() -> None:
        raise OSError(words)

    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    with pytest.raises(UserError, match=f"failed for {seconds // 60} min .{words}"):
        folder.patiently(fail, said.append, "writing")
    assert seconds <= now < seconds + 60
    assert len(said) == 1
