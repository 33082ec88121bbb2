"""Files that keep what a benchmark has computed; each has a key of all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.io.files import open_atomic, write_atomic
from napari_addm.io.hashing import json_sha256, sha256


@dataclass(frozen=True)
class Maps:
    """The anomaly maps of one case by one system.

    Attributes
    ----------
    scores : dict of str to ndarray of float32, shape (voxels of the brain,)
        In the order of ``volume[brain]``.
    pictures : dict of str to ndarray of float32, shape (A, R)
        Reconstruction and maps in the slice that is shown.
    """

    scores: dict[str, NDArray[np.float32]]
    pictures: dict[str, NDArray[np.float32]]

    @property
    def sha256(self) -> str:
        """Hash of the scores."""
        return sha256(*(name.encode() + scores.tobytes() for name, scores in self.scores.items()))


def cached_value(path: Path, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """Read a JSON value from its file, or compute it and write the file.

    Parameters
    ----------
    path : Path
    key : tuple
        All that the value depends on, as plain JSON; another key's value is replaced.
    compute : callable
        Returns the value, as plain JSON.
    """
    digest = json_sha256(key)
    if path.is_file():
        found = json.loads(path.read_text())
        if found["key"] == digest:
            return found["value"]
    text = json.dumps({"key": digest, "value": compute()}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return json.loads(text)["value"]  # equal to what the next run reads


def cached_maps(path: Path, key: tuple[Any, ...], compute: Callable[[], Maps]) -> Maps:
    """Read maps from their file, or compute them and write the file; see `cached_value`.

    Scores are kept in half precision, which halves the folder. Fresh maps are read back, so that
    a resumed benchmark gives the same figures.
    """
    digest = json_sha256(key)
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == digest:
                return _maps_from(stored)
    maps = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {
        f"score {name}": scores.astype(np.float16) for name, scores in maps.scores.items()
    }
    arrays |= {f"picture {name}": image for name, image in maps.pictures.items()}
    with open_atomic(path) as file:
        np.savez_compressed(file, key=np.array(digest), **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        return _maps_from(stored)


def _maps_from(stored: Any) -> Maps:
    def part(prefix: str) -> dict[str, NDArray[np.float32]]:
        return {
            name.removeprefix(prefix): stored[name].astype(np.float32)
            for name in stored.files
            if name.startswith(prefix)
        }

    return Maps(part("score "), part("picture "))
