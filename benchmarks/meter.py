"""Processor time by part of a program."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any


class Meter:
    """Processor seconds by part. Counted functions that call each other are counted once, inside out."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._part, self._since = "rest", time.process_time()

    def wrap(self, owner: object, *names: str, part: str | Callable[[], str]) -> None:
        """Counts what these functions of an object, a class or a module use as `part`."""
        for name in names:
            setattr(owner, name, self.counted(getattr(owner, name), part))

    def counted(self, function: Callable[..., Any], part: str | Callable[[], str]) -> Callable[..., Any]:
        """The function, whose time counts as `part`, or as what `part` says at the time of a call."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part if isinstance(part, str) else part())
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def switch(self, part: str) -> str:
        """Counts what follows as `part`; the part before."""
        now, before = time.process_time(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before
