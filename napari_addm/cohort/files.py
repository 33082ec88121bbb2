"""Files of a batch's folder, which may be damaged, or belong to another person."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic_core import from_json

from napari_addm.errors import AddmError, InputError
from napari_addm.io.images import open_atomic

HIDDEN = ".batch"
MANIFEST = "manifest.csv"
# A batch and its report write these beside the cases.
REPORTS = ("report.html", "report.csv", "report.json")
OWN_TABLES = re.compile(r"manifest(_shard-\d+-of-\d+)?\.csv|report\.(html|csv|json)|\.batch")
LARGEST_JSON = 64 << 20


def inside(folder: Path, name: str) -> Path | None:
    """The path of a file or folder in a folder; None if it leads out, or over a link."""
    if name == ".":
        return folder
    parts = PurePosixPath(name).parts
    relative = Path(name)
    if not parts or "\0" in name or relative.drive or relative.root:
        return None
    if "/".join(parts) != name or any(part in (".", "..") for part in relative.parts):
        return None
    path = folder
    for part in relative.parts:
        path = path / part
        if path.is_symlink():
            return None
    return path


def check_is_file(path: Path) -> None:
    """Refuse a pipe or a device, which would be read without end.

    Raises
    ------
    InputError
    OSError
        When it cannot even be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path} is no file but a pipe or a device: give the file of a scan.")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, and of its other half for a .hdr/.img pair.

    Raises
    ------
    OSError
        When it cannot be read.
    InputError
        When it is not a file, but a pipe or a device.
    """
    hashed = hashlib.sha256()
    for part in (path, *_other_halves(path)):
        check_is_file(part)
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def _other_halves(path: Path) -> list[Path]:
    name = path.name.lower()
    for one, other in ((".hdr", ".img"), (".img", ".hdr")):
        for ending in (one, f"{one}.gz"):
            if name.endswith(ending):
                base = path.name[: -len(ending)]
                halves = [path.with_name(base + other + gz) for gz in ("", ".gz")]
                return [half for half in halves if half.exists()]
    return []


def value_hash(value: Any) -> str:
    """SHA-256 of a value's JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value under a temporary name, then rename it."""
    with open_atomic(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a small file; None for a link, and for a file that is not sound JSON.

    Raises
    ------
    OSError
        When the file is there and cannot be read.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_JSON:
            return None
        content = from_json(path.read_bytes())  # refuses deep nesting and lone surrogates, too
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def file_beginning(path: Path, size: int = 1 << 16) -> str:
    """The first bytes of a file as text; empty for a link, a folder, or an unreadable file."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def not_ours(path: Path) -> AddmError:
    """The error for a file of another person under a name that a batch would write."""
    return AddmError(
        f"{path} exists already and was not written by a batch: move or rename it, or choose "
        "another output folder."
    )
