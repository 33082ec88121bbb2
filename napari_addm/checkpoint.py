"""The checkpoint: one safetensors file whose header says all that is needed to use it.

The header's ``specification`` entry is JSON for :class:`ModelSpecification`.
Reading it imports no torch, and nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_addm.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 4 * 2**20
MAX_WEIGHTS_BYTES = 4 * 2**30
DEMO_CHECKPOINT = Path(__file__).parent / "sample_data" / "demo_addm.safetensors"

ScoreKind = Literal["signed", "darker", "brighter", "absolute", "squared", "ssim"]
SamplerKind = Literal["ddim", "ddpm"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=2**31)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreparationSpecification(_Part):
    """How a scan becomes the slices that the network knows.

    Attributes
    ----------
    spacing_mm : (z, y, x)
        Voxel size of the model grid; its axes are the world's S, A, R.
    size : (height, width)
        Pixels of one axial slice.
    percentiles, landmarks : tuple of float
        The intensity rule: the scan's percentiles inside the brain mask are
        mapped to these landmarks, linearly between them (Nyul and Udupa,
        1999). Landmarks lie in 0..1; the network sees ``2 * value - 1`` and
        air as -1.
    """

    orientation: Literal["axial"] = "axial"
    spacing_mm: tuple[Positive, Positive, Positive]
    size: tuple[Annotated[int, Field(ge=8, le=1024)], Annotated[int, Field(ge=8, le=1024)]]
    percentiles: tuple[float, ...]
    landmarks: tuple[float, ...]

    @model_validator(mode="after")
    def _rising(self) -> PreparationSpecification:
        for name in ("percentiles", "landmarks"):
            values = getattr(self, name)
            if not 2 <= len(values) <= 101:
                raise ValueError(f"{name} needs 2 to 101 values")
            if any(b <= a for a, b in zip(values, values[1:], strict=False)):
                raise ValueError(f"{name} must rise")
        if len(self.percentiles) != len(self.landmarks):
            raise ValueError("percentiles and landmarks differ in number")
        if self.percentiles[0] < 0 or self.percentiles[-1] > 100:
            raise ValueError("percentiles lie between 0 and 100")
        if self.landmarks[0] < 0 or self.landmarks[-1] > 1:
            raise ValueError("landmarks lie between 0 and 1")
        return self


class NetworkSpecification(_Part):
    """The U-Net that predicts the noise (MONAI's ``DiffusionModelUNet``).

    Attributes
    ----------
    pack : int
        The image is folded ``pack x pack`` pixels into channels
        (pixel-unshuffle) before the network and unfolded after it.
    channels, res_blocks, attention : tuple
        One entry per resolution level, finest first.
    """

    kind: Literal["diffusion_unet"] = "diffusion_unet"
    pack: Literal[1, 2, 4]
    channels: tuple[Annotated[int, Field(ge=4, le=2048)], ...] = Field(min_length=1, max_length=8)
    res_blocks: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(min_length=1, max_length=8)
    attention: tuple[bool, ...] = Field(min_length=1, max_length=8)
    head_channels: Count
    norm_groups: Count

    @model_validator(mode="after")
    def _consistent(self) -> NetworkSpecification:
        if not len(self.channels) == len(self.res_blocks) == len(self.attention):
            raise ValueError("channels, res_blocks and attention differ in number")
        if any(c % self.norm_groups for c in self.channels):
            raise ValueError("every entry of channels must be a multiple of norm_groups")
        for channels, attends in zip(self.channels, self.attention, strict=True):
            if attends and channels % self.head_channels:
                raise ValueError("channels with attention must be a multiple of head_channels")
        return self


class DiffusionSpecification(_Part):
    """The chain that the network was trained on.

    Attributes
    ----------
    length : int
        T, the number of noise levels; betas are linear, scaled by 1000/T.
    noise : str
        Kind of noise, of unit variance, in training and sampling.
    """

    length: Annotated[int, Field(ge=21, le=100_000)]
    betas: Literal["linear"] = "linear"
    noise: Literal["gaussian", "coarse", "simplex"]
    prediction: Literal["noise"] = "noise"


class ScoreSpecification(_Part):
    """From residual to anomaly map; see :mod:`napari_addm.scoring`."""

    kind: ScoreKind
    smoothing_mm: Annotated[float, Field(ge=0, le=100)]
    erosion_mm: Annotated[float, Field(ge=0, le=50)]


class DetectionSpecification(_Part):
    """What ``detect`` uses unless it is told otherwise."""

    level: Count
    steps: Count
    sampler: SamplerKind = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    score: ScoreSpecification
    threshold: float
    threshold_source: str
    minimum_ml: Annotated[float, Field(ge=0)] = 0.5


class ModelSpecification(_Part):
    """All that is needed to use a checkpoint, and to know where it comes from.

    Attributes
    ----------
    training : dict
        The record of the training: preset, objective, seed, iterations,
        seconds, hardware, data and its hash, library versions.
    evaluation : dict
        Figures measured with this checkpoint, each with its data set.
    weights_sha256 : str
        Over the bytes of the tensors, in the file's order.
    """

    schema_version: Literal[1] = 1
    method: Literal["addm"] = "addm"
    name: str
    description: str = ""
    licence: str = "unspecified"
    network: NetworkSpecification
    diffusion: DiffusionSpecification
    preparation: PreparationSpecification
    detection: DetectionSpecification
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpecification:
        if self.detection.level > self.diffusion.length:
            raise ValueError("detection.level lies beyond diffusion.length")
        if self.detection.steps > self.detection.level:
            raise ValueError("detection.steps exceeds detection.level")
        divisor = self.network.pack * 2 ** (len(self.network.channels) - 1)
        if any(n % divisor for n in self.preparation.size):
            raise ValueError(f"preparation.size must be multiples of {divisor} for this network")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint in memory; ``sha256`` is the whole file's."""

    specification: ModelSpecification
    weights: dict[str, Tensor]
    path: Path
    sha256: str


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The safetensors header and the offset of the tensor bytes; nothing else is read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise CheckpointError(
                    f"{path}: not a safetensors checkpoint ({size} bytes); "
                    "choose a .safetensors file written by napari-addm train."
                )
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER_BYTES or start[:2] in (b"PK", b"\x80\x02"):
                raise CheckpointError(
                    f"{path}: not a safetensors checkpoint (pickled .pt and .ckpt files are "
                    "not opened, because they can run code); choose a .safetensors file."
                )
            if 8 + length > size:
                raise CheckpointError(
                    f"{path}: the file is cut short within its header; copy it again."
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
    try:
        header = json.loads(raw.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the header is not JSON; the file is damaged or no safetensors checkpoint, "
            "copy it again."
        ) from error
    return header, 8 + length


def read_specification(path: str | os.PathLike[str]) -> ModelSpecification:
    """Read the header of a checkpoint; imports no torch and allocates no weights.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or its specification is not valid.
    """
    path = Path(path)
    header, _ = _read_header(path)
    metadata = header.get("__metadata__")
    text = metadata.get("specification") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path}: the header has no model specification; only checkpoints written by "
            "napari-addm train can be used."
        )
    try:
        found = json.loads(text)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{path}: its specification has version {version}, this program knows "
                f"{SCHEMA_VERSION}; update napari-addm."
            )
        return ModelSpecification.model_validate(found)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, e['loc'])) or 'specification'}: {e['msg']}"
            for e in error.errors()[:5]
        ]
        raise CheckpointError(
            f"{path}: its model specification is not valid ({'; '.join(faults)}); "
            "train or export the checkpoint again."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its model specification is not JSON; the file is damaged, copy it again."
        ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint: specification, weights hash, finite values.

    Raises
    ------
    CheckpointError
        One sentence that names the file, the fault and the mend.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    specification = read_specification(path)
    _, offset = _read_header(path)
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise CheckpointError(f"{path}: larger than 4 GiB; this is no checkpoint of napari-addm.")
    content = path.read_bytes()
    if hashlib.sha256(memoryview(content)[offset:]).hexdigest() != specification.weights_sha256:
        raise CheckpointError(
            f"{path}: the weights do not have the hash that the header names; the file is "
            "damaged or was changed, copy it again."
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: the tensors cannot be read ({error}); the file is damaged, copy it again."
        ) from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: the weights {name} hold NaN or infinity; the training diverged, "
                "use an earlier checkpoint."
            )
    return Checkpoint(specification, weights, path, hashlib.sha256(content).hexdigest())


def save_checkpoint(
    path: str | os.PathLike[str],
    specification: ModelSpecification,
    weights: dict[str, Tensor],
) -> Path:
    """Write a checkpoint atomically; the weights' hash is put into its header."""
    from safetensors.torch import save

    path = Path(path)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    plain = save(weights)
    (length,) = struct.unpack("<Q", plain[:8])
    digest = hashlib.sha256(memoryview(plain)[8 + length :]).hexdigest()
    specification = specification.model_copy(update={"weights_sha256": digest})
    content = save(weights, {"specification": specification.model_dump_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
