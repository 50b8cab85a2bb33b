"""Reading files of a study wherever it lies: on a disk or, as `s3://bucket/prefix`, in an object store."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from trainables.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A folder to read from."""

    filesystem: fs.FileSystem
    path: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    def has(self, name: str) -> bool:
        """Whether there is a file of that name; raises UserError where the store cannot be asked."""
        try:
            return bool(self.filesystem.get_file_info(f"{self.path}/{name}").type == fs.FileType.File)
        except OSError as error:
            raise _unreadable(f"{self.path}/{name}", error) from error

    def read(self, name: str) -> bytes:
        """The content of a file; raises UserError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content: bytes = stream.read()
        except OSError as error:
            raise _unreadable(f"{self.path}/{name}", error) from error
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file; raises UserError."""
        try:
            content = json.loads(self.read(name))
        except ValueError as error:
            raise UserError(
                f"{self.path}/{name} must be JSON, but is not ({error}). Restore it from a copy."
            ) from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path}/{name} must hold one JSON object, but does not. Restore it from a copy.")
        return content

    def folders(self) -> list[str]:
        """The names of the folders in it, sorted; none where there is no such folder."""
        try:
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def open_folder(location: str | Path) -> Folder:
    """The folder at a path, or at an address such as `s3://bucket/prefix`; raises UserError.

    Credentials and the like are those that Amazon's own tools use, the address of another server stands in
    `AWS_ENDPOINT_URL`.
    """
    text = str(location)
    if "://" not in text:
        return Folder(fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
    try:
        filesystem, path = _own_server(text) or fs.FileSystem.from_uri(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"A study must be a folder or an address such as s3://bucket/prefix, but {text} is neither ({error})."
        ) from error
    return Folder(filesystem, path)


def _own_server(address: str) -> tuple[fs.FileSystem, str] | None:
    """The store behind an `s3://` address on a server of one's own; Arrow itself does not know the variable."""
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not server or not address.startswith("s3://"):
        return None
    return fs.S3FileSystem(endpoint_override=server), address.removeprefix("s3://").rstrip("/")


def _unreadable(place: str, error: OSError) -> UserError:
    return UserError(
        f"A study's files must be readable, but {place} is not ({error}). Check the path and the connection."
    )
