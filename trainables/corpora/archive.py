"""The members of a `.tar.gz`, streamed: nothing is extracted to disk and no link is followed."""

import contextlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from trainables.errors import UserError

CHUNK = 2**18
GZIP_WINDOW = 31  # zlib's name for: expect a gzip header, and check its checksum
TYPICAL_RATIO = 1.6  # how far recorded notes shrink under gzip


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `refusal` says why it must not be used, or is empty.

    `reached` counts the bytes of the archive file read so far. `file` can be read until the next member.
    """

    path: PurePosixPath
    size: int
    refusal: str
    reached: int
    file: IO[bytes]


class Gunzip:
    """A readable stream of what a gzip file holds, with `reached`, the compressed bytes read so far.

    Unlike `gzip.open` it takes large pieces, so that decompression runs outside the interpreter lock.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.reached = 0
        self._decoder = zlib.decompressobj(GZIP_WINDOW)
        self._pending = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none only at the end; raises EOFError if the file was cut short."""
        while True:
            if not self._pending:
                self._pending = self.file.read(CHUNK)
                self.reached += len(self._pending)
                if not self._pending:
                    if not self._decoder.eof:
                        raise EOFError("the file ends in the middle")
                    return b""
            if self._decoder.eof:  # a further gzip file may follow the first, or zeros that fill a block
                self._pending = self._pending.lstrip(b"\0")
                if not self._pending:
                    continue
                self._decoder = zlib.decompressobj(GZIP_WINDOW)
            data = self._decoder.decompress(self._pending, size)
            self._pending = self._decoder.unused_data or self._decoder.unconsumed_tail
            if data:
                return data


def members(archive: Path) -> Iterator[Member]:
    """Yield the files of `archive`, and whatever else than a folder stands there, in its order.

    Raises UserError if the archive is damaged or cut short.
    """
    with readable(archive), archive.open("rb") as file:
        stream = Gunzip(file)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]
            while (entry := tar.next()) is not None:
                tar.members.clear()  # tarfile keeps every entry for ever
                if not entry.isdir():
                    content = tar.extractfile(entry) if entry.isreg() else None
                    path = PurePosixPath(_printable(entry.name))
                    refusal = _refusal(entry)
                    yield Member(path, entry.size, refusal, stream.reached, content or io.BytesIO())
        while stream.read(CHUNK):  # the checksum stands at the very end
            pass


@contextlib.contextmanager
def readable(archive: Path) -> Iterator[None]:
    """Turns what a damaged archive raises, also while a member's content is read, into UserError."""
    try:
        yield
    except (EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(
            f"{archive} is damaged ({error}). Fetch it again and compare its size with the original's."
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}). Check the file and the disk.") from error


def _refusal(entry: tarfile.TarInfo) -> str:
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts:
        return "unsafe path: the archive's entry leads out of the corpus, and is never followed"
    if entry.issym() or entry.islnk():
        return "link: links in an archive are never followed"
    if not entry.isreg():
        return "not a file: the archive's entry is a device or pipe"
    return ""


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def content_bytes(archive: Path) -> int:
    """Estimate the bytes that `archive` decompresses to, from its last four bytes and its size.

    They hold the true size modulo 4 GiB; of the sizes possible, the likeliest is taken.
    """
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(0, size - 4))
        remainder = int.from_bytes(file.read(4), "little")
    wraps = max(0, round((TYPICAL_RATIO * size - remainder) / 2**32))
    return remainder + wraps * 2**32
