"""Seeded changes to files, for tests that feed damage to readers.

``NAPARI_ADDM_FUZZ=5000 pytest tests/fuzz --timeout 0`` tries so many changes per test in place of
a few. A try's number is its seed: ``change_bytes(np.random.default_rng(7), content)`` is always the
same file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from napari_addm.errors import AddmError

Random = np.random.Generator
T = TypeVar("T")

EDGES = (0, 1, 0x7F, 0x80, 0xFF)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "NaN",
        "-1",
        "0",
        "1e999",
        "4000000000",
        "9" * 40,
        "1,5",
        "nan nan nan",
        "..",
        "/",
    ),
    *(
        "../../x",
        "\x1b[31m",
        "<b>",
        "=1+1",
        "x" * 5000,
        "ä\u202e",
        "None",
        "true",
        "[]",
        "(1,2)",
    ),
)
VALUES = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**40, 1e308, float("nan"), float("inf"), [], {}, [[]]),
    *("\ud800", *TEXTS),
)


def tries(default: int = 100) -> range:
    """The seeds to try: ``NAPARI_ADDM_FUZZ`` of them, or a default."""
    return range(int(os.environ.get("NAPARI_ADDM_FUZZ", default)))


def or_words(action: Callable[[], T]) -> T | None:
    """Do something that may be refused: its result, or None after an error in one sentence."""
    try:
        return action()
    except AddmError as error:
        words = str(error)
        assert words, "an error without words"
        assert words.isprintable(), f"control characters in {words!r}"
        return None


def change_bytes(random: Random, content: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Change one to four places of a file, between two offsets."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 5)):
        end = min(len(changed), len(content) if last is None else last)
        start = int(random.integers(min(first, end), end + 1))
        length = int(2 ** random.uniform(0, 6))
        match random.integers(8):
            case 0 | 1:  # one bit
                for place in range(start, min(start + 1, len(changed))):
                    changed[place] ^= 1 << int(random.integers(8))
            case 2 | 3:  # one number of 1, 2, 4 or 8 bytes
                width = 2 ** int(random.integers(4))
                changed[start : start + width] = bytes([EDGES[random.integers(len(EDGES))]]) * width
            case 4:
                changed[start : start + length] = random.bytes(length)
            case 5:
                del changed[start : start + length]
            case 6:
                changed[start:start] = changed[start : start + length] or b"\0" * length
            case _:  # cut short, or something behind it
                if random.random() < 0.5:
                    del changed[start:]
                else:
                    changed += random.bytes(length)
    return bytes(changed)


def change_lines(random: Random, text: str) -> str:
    """Change one to three lines of a text: doubled, gone, moved, cut, or with another value."""
    lines = text.split("\n")
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(len(lines)))
        line = lines[place]
        match random.integers(6):
            case 0:
                lines.insert(place, line)
            case 1 if len(lines) > 1:
                del lines[place]
            case 2:
                lines[place] = line[: random.integers(len(line) + 1)]
            case 3:
                lines.insert(int(random.integers(len(lines))), lines.pop(place))
            case _:  # one word becomes a hostile one
                words = line.split(" ")
                words[random.integers(len(words))] = TEXTS[random.integers(len(TEXTS))]
                lines[place] = " ".join(words)
    return "\n".join(lines)


def change_tree(random: Random, tree: Any) -> Any:
    """Change one to three places of what a JSON file holds: another value, gone, or deeper."""
    changed = [copy.deepcopy(tree)]
    for _ in range(random.integers(1, 4)):
        node: Any = changed
        keys = [0]
        while True:
            key = keys[random.integers(len(keys))]
            inside = node[key]
            keys = list(_keys(inside))
            if not keys or random.random() < 0.2:
                break
            node = inside
        match random.integers(4):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1:
                node[key] = [inside]
            case _:
                node[key] = VALUES[random.integers(len(VALUES))]
    return changed[0]


def _keys(node: Any) -> Any:
    if isinstance(node, dict):
        return node
    return range(len(node)) if isinstance(node, list) else ()
