"""Numbers and names in sentences."""

from collections.abc import Sequence

NAMED = 10  # names in one sentence


def counted(count: int, one: str, several: str) -> str:
    """A number with the words that agree with it."""
    return f"{count:,} {one if count == 1 else several}"


def listed(names: Sequence[str]) -> str:
    """Names between quotation marks, the first NAMED of them."""
    return ", ".join(map(repr, names[:NAMED])) + (", …" if len(names) > NAMED else "")
