"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path

from napari_addm.errors import AddmError, InputError

PART_NAME = re.compile(r"\.[0-9a-f]{32}\.part")
"""Names of files and folders that are still being written."""
# How git-annex, which DataLad uses, and git-lfs mark a file whose content lies elsewhere.
ANNEX = "annex/objects/"
ANNEX_POINTER = f"/{ANNEX}".encode()
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What Linux and macOS show there is made up as it is read, and may never end; /dev/shm is memory.
SYSTEM_FOLDERS = re.compile(r"/(proc|sys|dev(?!/shm(/|$)))(/|$)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedIOBase]:
    """Open a binary file that takes its name only when the block ends without an error.

    Raises
    ------
    OSError
        When the folder is missing or not writable, or the disk is full. No
        partial file is left, and an earlier file of that name stays.
    """
    temporary = _part_of(path.parent)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be missing
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file as `replacing` does, with its errors in words.

    Raises
    ------
    AddmError
        When `replacing` raises OSError.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise AddmError(
            f"{path} cannot be written ({error.strerror or error}): choose a folder that exists, "
            "is writable and has free space."
        ) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file, text in UTF-8; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def take_names(renames: Mapping[Path, Path], gone: Iterable[Path] = ()) -> None:
    """Give files their names and remove others, all or none of it.

    Parameters
    ----------
    renames : mapping of Path to Path
        From each name to its file, which lies in a folder of unfinished files.
    gone : iterable of Path
        Files to remove.

    Raises
    ------
    OSError
        When a file cannot be replaced, as Windows has it for one that is open. Nothing is
        changed then, nor when the person stops it.
    """
    before = {name: _part_of(new.parent) for name, new in renames.items()}
    before |= {name: _part_of(next(iter(renames.values())).parent) for name in gone}
    try:
        for name, kept in before.items():
            if name.exists():
                _keep(name, kept)
        for name, new in renames.items():
            os.replace(new, name)
        for name in before.keys() - renames.keys():
            name.unlink(missing_ok=True)
    except BaseException:
        for name, kept in before.items():
            if not renames.get(name, name).exists():
                with contextlib.suppress(OSError):
                    if kept.exists():
                        os.replace(kept, name)
                    elif name in renames:
                        name.unlink()
        raise


def _keep(path: Path, kept: Path) -> None:
    """Give a file a second name, so that it is never without one."""
    try:
        os.link(path, kept, follow_symlinks=False)
    except OSError:  # not every file system has links
        shutil.copy2(path, kept, follow_symlinks=False)


@contextlib.contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Make a hidden folder for unfinished files, and remove it when the block ends.

    Raises
    ------
    OSError
        When it cannot be made.
    """
    aside = _part_of(folder)
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def holds_only(folder: Path, names: Collection[str], *, empty: bool = True) -> bool:
    """Return whether a folder is one of `folder_aside` that was left with files of these names.

    Parameters
    ----------
    empty : bool
        What is returned for a folder that holds no file with a name.
    """
    if not PART_NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    files = list(folder.iterdir())
    if any(path.is_symlink() or not path.is_file() for path in files):
        return False
    named = [path.name for path in files if not PART_NAME.fullmatch(path.name)]
    return all(name in names for name in named) and (bool(named) or empty)


def belongs_to_system(path: Path) -> bool:
    """Whether a file or folder is in /proc, /sys or /dev, also through links."""
    return SYSTEM_FOLDERS.match(os.path.realpath(path)) is not None


def check_is_file(path: Path) -> None:
    """Refuse what has no content to read, before it is opened: an empty file, a pipe, a device.

    So are a socket, a file of the system, and a file that is not fetched yet.

    Raises
    ------
    InputError
    OSError
        When it cannot be found or opened.
    """
    if path.is_symlink() and not path.exists():
        target = Path(os.path.realpath(path))
        if ANNEX in target.as_posix():
            raise InputError(f"{path} is not fetched: run `datalad get {path}`.")
        raise InputError(f"{path} is a link to {target}, which does not exist: put it back.")
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode) or belongs_to_system(path):
        raise InputError(
            f"{path} is no file but a pipe, a device or a part of the system: give a regular file."
        )
    if found.st_size == 0:
        raise InputError(f"{path} is empty: copy or download the file again.")
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head.startswith(ANNEX_POINTER):
        raise InputError(f"{path} is not fetched: run `datalad get {path}`.")
    if head == LFS_POINTER:
        raise InputError(f"{path} is not fetched: run `git lfs pull`.")


def _part_of(folder: Path) -> Path:
    return folder / f".{uuid.uuid4().hex}.part"
