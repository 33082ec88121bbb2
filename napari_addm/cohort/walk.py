"""The files of a folder or a pattern, with a reason for what cannot be searched.

Linked folders are followed once. Generators yield None now and then, so that a search can be
stopped at any time.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from napari_addm.cohort.files import answer
from napari_addm.errors import AddmError
from napari_addm.io.files import belongs_to_system

NO_FILE = "a pipe, a socket or a device, and no file"
NO_FOLDER = "a folder of the system, which holds no scans"
LOST_LINK = "a link that leads nowhere"


class Entry(NamedTuple):
    """A file or folder; `skip` says why it is left out."""

    path: Path
    kind: Literal["file", "folder", "other", "lost"]
    skip: str = ""


Found = Iterator[Entry | None]


def list_folder(folder: Path) -> list[Entry]:
    """List what is in a folder, without hidden names; itself with the reason if that fails."""
    try:
        return answer(partial(_list, folder), folder)
    except (OSError, AddmError) as error:
        return [_unreadable(folder, error)]


def _list(folder: Path) -> list[Entry]:
    with os.scandir(folder) as entries:
        there = sorted((each for each in entries if each.name[:1] != "."), key=lambda e: e.name)
        return [_entry(folder / each.name, each) for each in there]


def _entry(path: Path, there: os.DirEntry[str]) -> Entry:
    try:
        if there.is_dir():
            return Entry(path, "folder")
        if there.is_file():
            return Entry(path, "file")
        there.stat()
    except OSError:
        return Entry(path, "lost", LOST_LINK)
    return Entry(path, "other", NO_FILE)


def _unreadable(folder: Path, error: Exception) -> Entry:
    reason = error.strerror or error if isinstance(error, OSError) else error
    return Entry(folder, "folder", f"the folder cannot be read ({reason})")


def walk(root: Path, leave_out: Callable[[Path], str] = lambda folder: "") -> Found:
    """Find all files and folders under a folder, also those that are not searched.

    Parameters
    ----------
    leave_out : callable
        Says why a folder is not searched; empty if it is.
    """
    top = os.path.realpath(root)
    seen = {top: root}
    folders = [(root, top)]
    while folders:
        folder, real = folders.pop()
        yield None
        for entry in list_folder(folder):
            if entry.kind != "folder" or entry.skip:
                yield entry
                continue
            linked = entry.path.is_symlink()
            place = os.path.realpath(entry.path) if linked else os.path.join(real, entry.path.name)
            skip = _why_not_followed(place, top) if linked else ""
            if not skip and place in seen:
                skip = f"the same folder as {_relative(seen[place], root)}"
            if skip := skip or leave_out(entry.path):
                yield entry._replace(skip=skip)
                continue
            seen[place] = entry.path
            folders.append((entry.path, place))
            yield entry


def _why_not_followed(place: str, top: str) -> str:
    """Why a link is not followed: its folder is searched all the same, or holds no scans."""
    if belongs_to_system(Path(place)):
        return NO_FOLDER
    if _is_within(top, place):
        return "a link to a folder around it"
    if _is_within(place, top):
        inside = os.path.relpath(place, top)
        if not any(part.startswith(".") for part in Path(inside).parts):
            return f"a link to {inside}, which is searched itself"
    return ""


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def match(folder: Path, parts: Sequence[str]) -> Found:
    """Find what matches a pattern, whose parts may be ``**``; a path may come several times."""
    if not parts:
        yield Entry(folder, "file")
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from match(folder, rest or ["*"])
        for entry in walk(folder):
            yield None
            if entry is not None and entry.kind == "folder":
                yield from [entry] if entry.skip else match(entry.path, rest or ["*"])
        return
    yield None
    for entry in _children(folder, part):
        if not rest or (entry.skip and entry.kind != "other"):
            yield entry
        elif entry.kind == "folder":
            yield from match(entry.path, rest)


def _children(folder: Path, part: str) -> Iterator[Entry]:
    """Find the entries of a folder whose names match; the folder itself if it cannot be read."""
    if glob.has_magic(part):
        for entry in list_folder(folder):
            if entry.path == folder or fnmatch.fnmatchcase(entry.path.name, part):
                yield entry
        return
    path = folder / part
    try:
        answer(partial(os.lstat, path), path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, AddmError) as error:
        yield _unreadable(folder, error)
        return
    is_folder = os.path.isdir(path)
    yield Entry(path, "folder" if is_folder else "file")
