"""Reading and writing checkpoints: one safetensors file with a header that says how to use it.

The header's ``specification`` entry is the JSON of a
`napari_addm.checkpoint.specification.ModelSpecification`. Reading it imports no torch, and
nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from napari_addm.checkpoint.specification import (
    MAP_PARTS,
    SCHEMA_VERSION,
    ModelSpecification,
    parse_specification,
)
from napari_addm.errors import CheckpointError, describe_problem
from napari_addm.io.files import replacing
from napari_addm.io.hashing import sha256
from napari_addm.io.text import printable

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 4 * 2**20
MAX_FILE_BYTES = 4 * 2**30
NORM_PREFIX = "healthy."
"""How the names of healthy norms begin; see `napari_addm.detection.healthy_norm`."""
NORM_SHAPE = (40, 48, 20)
"""Places (z, y, x) in one half of the brain's bounding box: about 4 mm apart."""
LARGEST_NORM = 1000.0
"""Largest mean or deviation of a map; real ones are below 1."""
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}
TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")
# First bytes of files that people mistake for checkpoints, so that the refusal names the kind.
FOREIGN_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, as pickled .pt and .ckpt files are",
    b"\x80": "a Python pickle, as .pt, .ckpt and .pkl files are",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"<": "a web page",
    b"version ": "a Git LFS pointer instead of the file",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint in memory.

    Attributes
    ----------
    weights : dict of str to Tensor
        Those of the network, and the healthy norms.
    sha256 : str
        Hash of the whole file.
    """

    specification: ModelSpecification
    weights: dict[str, Tensor]
    path: Path
    sha256: str

    @property
    def network_weights(self) -> dict[str, Tensor]:
        """The weights of the network alone."""
        return {
            name: tensor
            for name, tensor in self.weights.items()
            if not name.startswith(NORM_PREFIX)
        }


def norm_tensor(name: str, part: str) -> str:
    """Name the tensor that holds the ``mean`` or the ``deviation`` of one of the `MAP_PARTS`."""
    return f"{NORM_PREFIX}{name}.{part}"


def _is_norm(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor holds means of a map, or deviations, which are never negative."""
    return (
        tuple(tensor.shape) == NORM_SHAPE
        and tensor.is_floating_point()
        and bool((tensor.abs() <= LARGEST_NORM).all())
        and (name.endswith(".mean") or bool((tensor >= 0).all()))
    )


def read_specification(path: str | os.PathLike[str]) -> ModelSpecification:
    """Read the header of a checkpoint; imports no torch and allocates no weights.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint or cut short, or its specification is not valid.
    """
    specification, _ = _read(Path(path))
    return specification


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint: specification, weights hash, finite values.

    `napari_addm.methods.loading.load_network` checks whether the weights fit the network.

    Raises
    ------
    CheckpointError
        One sentence that names the file, the problem and the remedy.
    """
    path = Path(path)
    specification, offset = _read(path)

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})", "copy it again") from error
    if sha256(memoryview(content)[offset:]) != specification.weights_sha256:
        raise _refusal(
            path,
            "the weights do not have the hash that the header names",
            "the file is damaged or was changed, copy it again",
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        raise _refusal(
            path,
            f"the tensors cannot be read ({printable(error, 200)})",
            "the file is damaged, copy it again",
        ) from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise _refusal(
                path,
                f"the weights {name} hold NaN or infinity",
                "the training diverged, use an earlier checkpoint",
            )
    _check_norms(path, specification, weights)
    return Checkpoint(specification, weights, path, sha256(content))


def _check_norms(path: Path, specification: ModelSpecification, weights: dict[str, Tensor]) -> None:
    """Refuse norms that the specification does not name, or that do not fit."""
    wanted = set()
    if specification.detection.healthy_norm is not None:
        wanted = {norm_tensor(name, part) for name in MAP_PARTS for part in ("mean", "deviation")}
    found = {name for name in weights if name.startswith(NORM_PREFIX)}
    if found != wanted or not all(_is_norm(name, weights[name]) for name in wanted):
        raise _refusal(
            path,
            "its healthy norms are not those that the specification names",
            "use the checkpoint as it was written",
        )


def save_checkpoint(
    path: str | os.PathLike[str], specification: ModelSpecification, weights: dict[str, Tensor]
) -> Path:
    """Write a checkpoint atomically, with the hash of its weights in the header.

    Raises
    ------
    CheckpointError
        If the file cannot be written. A file that was there before stays.
    """
    from safetensors.torch import save

    path = Path(path)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    plain = save(weights)
    (length,) = struct.unpack("<Q", plain[:8])
    digest = sha256(memoryview(plain)[8 + length :])
    specification = specification.model_copy(update={"weights_sha256": digest})
    content = save(weights, {"specification": specification.model_dump_json()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise _refusal(
            path,
            f"the checkpoint cannot be written ({error.strerror})",
            "choose another place or free some space",
        ) from error
    return path


# --- the specification ----------------------------------------------------------------------


def _read(path: Path) -> tuple[ModelSpecification, int]:
    """The specification, and the offset at which the tensors begin."""
    metadata, offset = _read_header(path)
    text = metadata.get("specification")
    if not isinstance(text, str):
        raise _refusal(
            path,
            "the header has no model specification",
            "only checkpoints written by napari-addm train can be used",
        )
    unknown = sorted(metadata.keys() - {"specification", "format"})
    if unknown:
        names = ", ".join(printable(name, 60) for name in unknown[:5])
        raise _refusal(
            path, f"unknown keys in the header ({names})", "use the checkpoint as it was written"
        )
    try:
        found = _parse_json(text)
    except ValueError as error:
        raise _refusal(
            path,
            f"its model specification is not JSON ({printable(error, 200)})",
            "the file is damaged, copy it again",
        ) from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise _refusal(
            path,
            f"its specification has version {printable(version, 60)}, this program knows "
            f"{SCHEMA_VERSION}",
            "update napari-addm",
        )
    try:
        specification = parse_specification(found)
    except ValidationError as error:
        raise _refusal(
            path,
            f"its model specification is not valid ({_list_problems(error)})",
            "use the checkpoint as it was written, or train it again",
        ) from error
    return specification, offset


def _list_problems(error: ValidationError, most: int = 5) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False)[:most]:
        where = printable(".".join(map(str, problem["loc"])) or "the whole", 60)
        if problem["type"] == "extra_forbidden":
            problems.append(f"{where} is unknown")
        elif problem["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            problems.append(f"{where}: {printable(describe_problem(problem), 120)}")
    if error.error_count() > most:
        problems.append(f"{error.error_count() - most} more")
    return "; ".join(problems)


# --- the safetensors header -----------------------------------------------------------------


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The safetensors metadata, and the offset at which the tensors begin.

    Only the header is read. Its size and its tensors are checked against the file's size before
    anything that it declares is allocated.
    """
    raw, size = _read_header_bytes(path)
    try:
        header = _parse_json(raw.decode("utf-8"))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is not an object")
        declared = _declared_bytes(header)
    except ValueError as error:
        raise _refusal(
            path,
            f"the header is not that of a safetensors file ({printable(error, 200)})",
            "the file is damaged, copy it again",
        ) from error
    offset = 8 + len(raw)
    if declared != size - offset:
        raise _refusal(
            path,
            f"its header declares {declared} bytes of weights, the file holds {size - offset}",
            "the file is cut short or damaged, copy it again",
        )
    return metadata, offset


def _read_header_bytes(path: Path) -> tuple[bytes, int]:
    """The JSON of the header, and the file's size in bytes."""
    try:
        if path.exists() and not path.is_file():
            raise _refusal(path, "not a file", "choose a .safetensors file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            (length,) = struct.unpack("<Q", start[:8].ljust(8, b"\xff"))
            if length > MAX_HEADER_BYTES or start[8:] != b"{":
                raise _refusal(
                    path,
                    f"this is {_describe_foreign(start)}, and no checkpoint of napari-addm",
                    "choose a .safetensors file (nothing else is opened, because other formats "
                    "can run code)",
                )
            if 8 + length > size:
                raise _refusal(path, "the file is cut short within its header", "copy it again")
            if size > MAX_FILE_BYTES:
                raise _refusal(
                    path,
                    "larger than 4 GiB, so no checkpoint of napari-addm",
                    "choose another file",
                )
            file.seek(8)
            return file.read(length), size
    except OSError as error:
        raise _refusal(
            path, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from error


def _describe_foreign(start: bytes) -> str:
    for beginning, kind in FOREIGN_BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    return "not a safetensors file" if start else "an empty file"


def _declared_bytes(tensors: dict[str, Any]) -> int:
    """How many bytes the tensors of a header fill, end to end.

    Raises
    ------
    ValueError
        If an entry is not what safetensors defines, or contradicts itself.
    """
    spans = []
    for name, entry in tensors.items():
        if not TENSOR_NAME.fullmatch(name):
            raise ValueError(f"a tensor is named {printable(name, 60)}")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name} is not dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise ValueError(f"{name} has no shape or no place")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPE_BYTES:
            raise ValueError(f"{name} has the type {printable(entry['dtype'], 60)}")
        if math.prod(shape) * DTYPE_BYTES[entry["dtype"]] != offsets[1] - offsets[0]:
            raise ValueError(f"shape and place of {name} differ in size")
        spans.append((*offsets, name))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise ValueError(f"{name} does not follow the tensor before it")
        end = last
    return end


def _are_sizes(values: object) -> bool:
    """Whether this is a short list of plain integers from 0 to 2^53."""
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value <= 2**53 for value in values)
    )


def _parse_json(text: str) -> Any:
    """Parse JSON strictly: no key twice, no NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {printable(key, 60)} stands there twice")
            found[key] = value
        return found

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refusal(path: Path, problem: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}; {remedy}.")
