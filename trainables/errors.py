"""The one kind of error a user is meant to read."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: one or two sentences with the rule, what came and what to do."""


def guess(given: str, known: Iterable[str]) -> str:
    """A sentence, after a space, with the name that was probably meant; nothing where none is close."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    return f" Did you mean {close[0]}?" if close else ""
