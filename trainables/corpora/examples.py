"""A stream of rows from an NSynth `examples.json`, which for the real corpus is larger than 100 MB.

The file is one JSON object, `{"NAME": {row}, ...}`. It is read piece by piece, so memory does not grow
with it, and a row that is not valid JSON costs that row only: reading goes on at the next.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from trainables.errors import UserError

CHUNK = 2**20
ROW_LIMIT = 2**16  # characters; a real row has about 600
MARK = "note_str"  # a field that every row has

SEPARATORS = re.compile(r"[\s,]*")
KEY = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*', re.DOTALL)
ROW_START = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*\{', re.DOTALL)
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Example:
    """One member of the object: its key and whatever JSON value stands there."""

    name: str
    fields: object


@dataclass(frozen=True)
class Broken:
    """A place that is not valid JSON; `name` is the key that stood there, or empty."""

    name: str
    reason: str


def parse_examples(stream: IO[bytes], where: str) -> Iterator[Example | Broken]:
    """Yield the rows of `stream` in order; `where` names the file in messages.

    Raises UserError if the file does not hold a JSON object at all.
    """
    pieces = iter(lambda: stream.read(CHUNK), b"")
    text = _Window(codecs.iterdecode(pieces, "utf-8-sig", errors="replace"))
    text.skip(SEPARATORS)
    if text.peek() != "{":
        raise UserError(
            f"{where} must hold one JSON object with a row for every note, but begins with "
            f"{text.ahead(20)!r}. Is it the file that came with the corpus?"
        )
    text.position += 1
    while True:
        text.skip(SEPARATORS)
        if text.at_end():
            yield Broken("", "broken row: the file ends before its closing brace, so rows may be missing")
            return
        if text.peek() == "}" and text.only_space_after(1):
            return
        yield _next_row(text)


def _next_row(text: "_Window") -> Example | Broken:
    name = ""
    try:
        key = KEY.match(text.buffer, text.position)
        if key is None:
            raise ValueError("a name in double quotes and a colon must come first")
        start, text.position = text.position, key.end()
        name = str(json.loads(key.group().rstrip().removesuffix(":")))
        fields, end = DECODER.raw_decode(text.buffer, text.position)
        if end - start > ROW_LIMIT:
            raise ValueError(f"the row is longer than {ROW_LIMIT:,} characters")
        if isinstance(fields, dict) and any(isinstance(it, dict) and MARK in it for it in fields.values()):
            raise ValueError("it is not closed, and the rows behind it lie in it")
        text.position = end
        return Example(name, fields)
    except (ValueError, RecursionError) as error:
        text.find(ROW_START)
        return Broken(name, f"broken row: {_plain(error)}")


def _plain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


class _Window:
    """A text seen through a buffer that always reaches at least ROW_LIMIT characters ahead."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces = pieces
        self.buffer = ""
        self.position = 0
        self.fill()

    def fill(self) -> bool:
        """Read on where less than a row is left; False when that met the end of the file."""
        while len(self.buffer) - self.position <= ROW_LIMIT:
            more = next(self.pieces, "")
            self.buffer = self.buffer[self.position :] + more
            self.position = 0
            if not more:
                return False
        return True

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Move past whatever `pattern`, which can match nothing, matches here."""
        while (match := pattern.match(self.buffer, self.position)) and match.end() > match.start():
            self.position = match.end()
            self.fill()

    def peek(self) -> str:
        return self.ahead(1)

    def ahead(self, count: int) -> str:
        return self.buffer[self.position : self.position + count]

    def at_end(self) -> bool:
        return not self.fill() and self.position >= len(self.buffer)

    def only_space_after(self, count: int) -> bool:
        """Whether nothing but white space follows the next `count` characters."""
        if self.buffer[self.position + count :].strip():
            return False
        for more in self.pieces:
            self.buffer += more
            if more.strip():
                return False
        return True

    def find(self, pattern: re.Pattern[str]) -> None:
        """Move to where `pattern` matches next, or to the end of the file."""
        while True:
            more = self.fill()
            if match := pattern.search(self.buffer, self.position):
                self.position = match.start()
                return
            if not more:
                self.position = len(self.buffer)
                return
            self.position = max(self.position, len(self.buffer) - ROW_LIMIT)
