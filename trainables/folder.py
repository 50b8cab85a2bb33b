"""Folders wherever they lie: on a disk or, as `s3://bucket/prefix`, in an object store."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from trainables.errors import UserError
from trainables.files import from_home

_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 30.0
_PATIENCE_SECONDS = 1800.0
# What time does not mend; a minute, since a credential may be on its way.
_FINAL = re.compile("ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN")
_FINAL_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 30.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Folder:
    """A folder to read from and write to. `address` is how a person names it."""

    filesystem: fs.FileSystem
    path: str
    address: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def identity(self) -> str:
        """Equal for the same folder, by whatever path it was named."""
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        return f"{self.filesystem.type_name}:{os.path.realpath(self.path) if local else self.path.rstrip('/')}"

    def __truediv__(self, name: str) -> "Folder":
        assert name not in ("", ".", "..") and "/" not in name.strip("/"), f"{name!r} would lead elsewhere"
        return Folder(self.filesystem, f"{self.path.rstrip('/')}/{name}", f"{self.address.rstrip('/')}/{name}")

    def has(self, name: str) -> bool:
        """Whether there is a file of that name; raises UserError where the store cannot be asked."""
        try:
            return bool(self.filesystem.get_file_info(self._file(name)).type == fs.FileType.File)
        except OSError as error:
            raise _unreadable(self._file(name), error) from error

    def read(self, name: str) -> bytes:
        """The content of a file; raises UserError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(self._file(name)) as stream:
                content: bytes = stream.read()
        except OSError as error:
            raise _unreadable(self._file(name), error) from error
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file; raises UserError."""
        try:
            content = json.loads(self.read(name))
        except (RecursionError, ValueError) as error:
            raise UserError(
                f"{self._file(name)} must be JSON, but is not ({error}). Restore it from a copy."
            ) from error
        if not isinstance(content, dict):
            raise UserError(f"{self._file(name)} must hold one JSON object, but does not. Restore it from a copy.")
        return content

    def folders(self) -> list[str]:
        """The names of the folders in it, sorted; none where there is no such folder."""
        return self._names(fs.FileType.Directory)

    def files(self) -> list[str]:
        """The names of the files in it, sorted; none where there is no such folder."""
        return self._names(fs.FileType.File)

    def write(self, name: str, content: bytes) -> None:
        """Puts a file there as a whole; raises OSError."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            self.filesystem.create_dir(self.path)
        with self.filesystem.open_output_stream(self._file(name)) as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there; raises OSError."""
        if self.filesystem.get_file_info(self._file(name)).type == fs.FileType.File:
            self.filesystem.delete_file(self._file(name))

    def clear(self) -> None:
        """Removes the folder with all that is in it, if it is there; raises OSError."""
        if self.filesystem.get_file_info(self.path).type != fs.FileType.Directory:
            return
        try:
            self.filesystem.delete_dir(self.path)
        except OSError:
            if isinstance(self.filesystem, fs.LocalFileSystem):
                raise
            # Not every store removes many at once.
            for info in self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True)):
                if info.type == fs.FileType.File:
                    self.filesystem.delete_file(info.path)

    def _file(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _names(self, kind: fs.FileType) -> list[str]:
        try:
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        names = sorted(info.base_name for info in found if info.type == kind)
        # On a disk there are none such; an object may have any name.
        if strange := [name for name in names if name in ("", ".", "..") or "/" in name or "\\" in name]:
            raise UserError(
                f"What lies in {self.path} must have plain names, but one is {strange[0]!r}. Remove it there."
            )
        return names


def open_folder(location: str | Path) -> Folder:
    """The folder at a path, or at an address such as `s3://bucket/prefix`; raises UserError.

    Credentials and the like are those that Amazon's own tools use, the address of another server stands in
    `AWS_ENDPOINT_URL`.
    """
    text = str(location)
    if "://" not in text:
        place = from_home(text)
        # Two dots lead from where a link points to, so that they can only go together with it.
        path = str(place.resolve() if ".." in place.parts else place.absolute())
        return Folder(fs.LocalFileSystem(), path, path)
    if any(part in (".", "..") for part in text.split("/")):
        raise UserError(f"An address must name its folder outright, but {text} has a dot for a part. Write it in full.")
    try:
        filesystem, path = _s3(text) if text.startswith("s3://") else fs.FileSystem.from_uri(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"A study must be a folder or an address such as s3://bucket/prefix, but {text} is neither ({error})."
        ) from error
    return Folder(filesystem, path, text.rstrip("/"))


def patiently(action: Callable[[], Result], say: Callable[[str], None], what: str) -> Result:
    """What `action` returns, tried again with growing pauses while it raises OSError or UserError.

    `say` is told once that there is something to wait for. After half an hour, or a minute where the store refuses, the
    error stands, as a UserError.
    """
    pause, began, said = 1.0, time.monotonic(), False
    while True:
        try:
            return action()
        except (OSError, UserError) as error:
            patience = _FINAL_SECONDS if _FINAL.search(str(error)) else _PATIENCE_SECONDS
            if time.monotonic() - began >= patience:
                raise UserError(
                    f"The study's storage must be reachable, but {what} failed for {patience / 60:.0f} min ({error}). "
                    f"Put that right and go on with --resume; nothing that was written is lost."
                ) from error
            if not said:
                say(f"Waiting for the study's storage: {what} failed ({str(error).splitlines()[0][:120]}).")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _s3(address: str) -> tuple[fs.FileSystem, str]:
    """The store behind an `s3://` address. Arrow itself does not know the variable for a server of one's own."""
    path = address.removeprefix("s3://").rstrip("/")
    if not path.partition("/")[0]:
        raise ValueError("it names no bucket")
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if server:
        # Amazon's newest checksums are sent in a way that Google's S3 interface and others refuse.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store = fs.S3FileSystem(
        endpoint_override=server or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )
    return store, path


def _unreadable(place: str, error: OSError) -> UserError:
    return UserError(
        f"A study's files must be readable, but {place} is not ({error}). Check the path and the connection."
    )
