"""Names of files that every file system can hold and tell apart."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

LONGEST_NAME = 255
"""Bytes that a file system takes in the name of a file or folder."""

LONGEST_PATH = 4000
"""Bytes that a system takes in a whole path, less the name of a file while it is written."""

# Windows takes these for devices, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in (*"0123456789", "\xb9", "\xb2", "\xb3")
}

# Unicode's Default_Ignorable_Code_Point: nobody sees them, and some file systems drop them.
_UNSEEN = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)


def same_name_key(name: str) -> str:
    """Return a key that is equal for names that some file system takes for one.

    Names, with ``/`` between their parts, are compared without upper and lower case, in one
    Unicode form (APFS, NTFS and network shares do not tell such names apart), without characters
    that cannot be seen, and without the dots and blanks at the end, which Windows drops.
    """
    return "/".join(map(_part_key, name.split("/")))


def _part_key(part: str) -> str:
    if part.isascii():
        return part.lower().rstrip(". ") or part
    key = _UNSEEN.sub("", part)
    for _ in range(2):  # folding the case may need composing anew, and the other way round
        key = unicodedata.normalize("NFKC", key.casefold())
    key = _UNSEEN.sub("", "".join(c for c in key if unicodedata.category(c) != "Cf"))
    return key.rstrip(". ") or key


def path_problem(paths: Iterable[PurePath]) -> str:
    """Say why files cannot have these relative paths on every system; empty if they can.

    A name may be too long, not in Unicode (as old exports have them), or kept by Windows for a
    device.
    """
    for part in dict.fromkeys(part for path in paths for part in path.parts):
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            return f"its name is not written in UTF-8: rename {readable(part)}"
        if length > LONGEST_NAME:
            return (
                f"its name is too long: {part[:40]}... would have {length} bytes where a file "
                f"system takes {LONGEST_NAME}"
            )
        if part.partition(".")[0].rstrip().casefold() in _DEVICES:
            return f"Windows keeps the name {part} for a device"
    return ""


def longest_path(paths: Iterable[PurePath]) -> int:
    """Count the bytes of the longest path, from the root of the file system."""
    here = os.getcwd()
    return max(len(os.path.join(here, path).encode(errors="surrogatepass")) for path in paths)


def readable(name: str) -> str:
    r"""Write a file's name in UTF-8; bytes that do not fit become ``\xfc``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
