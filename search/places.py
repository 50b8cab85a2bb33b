"""Where studies lie: a folder, or an address in an object store with working copies on this machine."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from pyarrow import fs

from search.mirror import LOCK, address_of, mirror_of, working_copies
from search.records import FAMILIES, SPEC
from search.study import StudySpec
from trainables.errors import UserError, guess
from trainables.files import from_home, read_json
from trainables.folder import Folder, open_folder

if TYPE_CHECKING:
    from search.options import Options

_NAME = r"\w[\w.+-]{0,99}"
_NAME_BYTES = 200  # file systems take 255, with what is added to a name while it is written


def storage(given: "Options") -> Path:
    """The folder of all studies, for an address in an object store that of their working copies.

    Raises UserError, also where the study's name would lead out of it.
    """
    if given.name is not None and not (re.fullmatch(_NAME, given.name) and len(os.fsencode(given.name)) <= _NAME_BYTES):
        raise UserError(
            f"--name must be up to 100 letters, digits and . _ + - (fewer where letters take several bytes, "
            f"{_NAME_BYTES} in all) and begin with one of the first two, but is {given.name[:120]!r}."
        )
    if given.storage.lower().startswith("s3://") and set("@?#") & set(given.storage):
        raise UserError(
            "--storage must be a plain address such as s3://bucket/prefix, without @, ? and #: credentials are taken "
            "from where Amazon's own tools have them. Leave them out."
        )
    try:
        url = urlparse(given.storage)
    except ValueError as error:
        raise UserError(
            f"--storage must be a folder or an address such as s3://bucket/prefix, but {given.storage!r} is neither "
            f"({error})."
        ) from error
    if given.storage[:5].lower() == "s3://":
        address = f"s3://{given.storage[len('s3://') :].rstrip('/')}"
        _check_bucket(open_folder(address))
        root = working_copies(address)
    elif url.scheme in ("", "file"):
        root = from_home(url.path if url.scheme else given.storage).absolute()
    else:
        raise UserError(
            f"--storage must be a folder or an address such as s3://bucket/prefix, but is {given.storage!r}. Name a "
            f"folder, such as one on a disk that all nodes mount."
        )
    try:
        (root / FAMILIES).exists()
    except OSError as error:
        raise UserError(
            f"--storage must be a folder that can be looked into, but {root} cannot be ({error.strerror or error}). "
            f"Name another place with --storage."
        ) from error
    _look_into(root, given.name)
    return root


def _check_bucket(place: Folder) -> None:
    """Raises UserError where there is no such bucket, which a listing of it does not tell."""
    try:
        there = place.filesystem.get_file_info(place.path.partition("/")[0]).type != fs.FileType.NotFound
    except OSError as error:
        raise UserError(
            f"--storage must be an address that can be reached, but {place.address} cannot ({error}). Check the "
            f"credentials and the connection."
        ) from error
    if not there:
        raise UserError(
            f"--storage must name a bucket that is there, but that of {place.address} is not. Check its name, or "
            f"make it with `aws s3 mb`."
        )


def _look_into(root: Path, name: str | None) -> None:
    """Learns which studies an object store holds, and what the one of that name is; raises UserError."""
    mirror = mirror_of(root)
    if mirror is None:
        return
    mirror.stubs()
    folder = root / (name or "")
    if name and folder.is_dir():
        study = mirror.inner(name)
        study.fetch(SPEC, FAMILIES)
        if (folder / FAMILIES).exists():
            study.stubs()
            for family in study.remote.folders():
                study.inner(family).fetch(SPEC)


def directory(given: "Options", family: str, data: str) -> Path:
    """Where the study lies or will lie; raises UserError where the name is taken, unknown or unsafe."""
    root = storage(given)
    if given.name is None:
        stem = re.sub(r"[^\w+-]+", "-", f"{given.baseline or family}-{Path(data.partition(':')[2] or data).name}")[:80]
        taken = (root / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 100_000))
        return next(path for path in taken if not path.exists())
    path = root / given.name
    _check_nothing_there(given, path)
    if not given.resume and path.exists() and (not path.is_dir() or any(p.name != ".lock" for p in path.iterdir())):
        held = (path / SPEC).exists() or (path / FAMILIES).exists()
        how = "Go on with it with --resume, or choose" if held else "It holds no study; choose"
        if (mirror := mirror_of(path)) and held and not any(map(mirror.remote.has, (SPEC, FAMILIES))):
            how = f"Only its working copy is left, in {path}: remove that, or choose"
        raise UserError(f"A study's name must be new, but {address_of(path)} exists. {how} another --name.")
    return path


def _check_nothing_there(given: "Options", path: Path) -> None:
    """Raises UserError where a new study's folder in an object store holds something else, such as a corpus."""
    mirror = mirror_of(path)
    if given.resume or mirror is None or (path / SPEC).exists() or (path / FAMILIES).exists():
        return
    if held := [*mirror.remote.folders(), *(name for name in mirror.remote.files() if name != LOCK)]:
        raise UserError(
            f"A study's name must be new, but {mirror.remote.address} holds {held[0]}. It holds no study; choose "
            f"another --name."
        )


def existing(given: "Options") -> StudySpec:
    """The specification of the study to resume; raises UserError where there is none."""
    root = storage(given)
    path = root / (given.name or "") / SPEC
    if given.name is not None and path.with_name(FAMILIES).exists():
        raise UserError(
            f"--resume goes on with a comparison of families as a whole, and {given.name} is one. Leave --space and "
            f"--baseline out."
        )
    if given.name is None or not path.exists():
        # Of a store no more than the names were brought here.
        held = root.glob("*/") if mirror_of(root) else (p.parent for n in (SPEC, FAMILIES) for p in root.glob(f"*/{n}"))
        known = sorted(path.name for path in held)
        came = "no name came" if given.name is None else f"there is no {given.name!r}"
        raise UserError(
            f"--resume needs the --name of a study, but {came}. In {address_of(root)} there are: "
            f"{', '.join(known) or 'none'}.{guess(given.name or '', known)}"
        )
    try:
        found = StudySpec.from_json(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"A study's {SPEC} must be readable, but {path} is not ({type(error).__name__}: {error}). "
            f"Restore it from a copy."
        ) from error
    # Whoever can write a study.json must not decide what is imported.
    if not (network := found.space.network).isidentifier() and network not in sys.modules:
        raise UserError(
            f"A study's network must be one of the project's own, but that of {path} is {network!r}. Restore the study "
            f"from a copy that you trust."
        )
    return found
