"""Training data: finding and splitting scans, preparing their slices, drawing batches."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from pydantic_core import from_json
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from napari_addm.checkpoint.specification import PreparationSpecification
from napari_addm.detection.brain_mask import find_brain, strip_skull
from napari_addm.detection.preparation import prepare
from napari_addm.errors import InputError
from napari_addm.io.files import open_atomic
from napari_addm.io.hashing import file_sha256, sha256
from napari_addm.io.kinds import looks_like_labels
from napari_addm.io.names import is_second_half, names_labels, readable_suffixes, readable_titles
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.methods.base import Report
from napari_addm.methods.settings import TrainingSettings

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
LANDMARK_ENDS = (0.05, 0.95)


def find_scans(folder: str | Path) -> list[Path]:
    """Find all scans in a folder and below it, sorted.

    Raises
    ------
    InputError
        If there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give the folder that holds the healthy scans.")
    suffixes = readable_suffixes()
    scans = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(suffixes)
        and (path.is_file() or path.is_symlink())  # reading says what is not fetched
        and not is_second_half(path)
        and not _holds_labels(path)
    )
    if not scans:
        raise InputError(f"{folder}: holds no {readable_titles()} scan; check the folder.")
    return scans


def _holds_labels(path: Path) -> bool:
    """Whether a file is a mask by its name, and no scan by its voxels, if they can be read."""
    if not names_labels(path):
        return False
    try:
        return looks_like_labels(read_volume(path, constant=True).data, path)
    except InputError:
        return True


def split_scans(
    scans: Sequence[Path], split: str | Path | None, seed: int
) -> tuple[list[Path], list[Path]]:
    """Split scans into training and validation, by a split file or one tenth at random.

    Parameters
    ----------
    split : path, optional
        JSON with the lists ``train`` and ``validation`` of subject names, at the
        top or under ``healthy``. A scan belongs to a subject if its name starts
        with the subject's name, followed by no letter or digit.

    Raises
    ------
    InputError
        If the split file cannot be used, or names no scan to train on.
    """
    if split is None:
        order = np.random.default_rng(seed).permutation(len(scans))
        held = set(order[: max(1, len(scans) // 10)].tolist()) if len(scans) > 1 else set()
        train = [s for n, s in enumerate(scans) if n not in held]
        return train, [scans[n] for n in sorted(held)]
    try:
        lists = from_json(Path(split).read_bytes())
        subjects = _Subjects.model_validate(lists.get("healthy", lists))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{split}: not a split file; it needs JSON lists train and validation of subjects' "
            "names."
        ) from error
    chosen = [
        [s for s in scans if any(_belongs(s.name, subject) for subject in part)]
        for part in (subjects.train, subjects.validation)
    ]
    if not chosen[0]:
        raise InputError(f"{split}: none of its train subjects is in the folder; check the names.")
    return chosen[0], chosen[1]


class _Subjects(BaseModel):
    train: list[str]
    validation: list[str]


def _belongs(name: str, subject: str) -> bool:
    return name.startswith(subject) and not name[len(subject) :][:1].isalnum()


# --- slices ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """Prepared slices of many volumes.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, H, W)
        Air 0, brain 1..255 for model values 0..1.
    volumes : ndarray of int, shape (N,)
        Number of the volume of each slice.
    validation : ndarray of bool, shape (N,)
    landmarks : tuple of float
        Landmarks of the intensity rule, from the training volumes.
    digest : str
        SHA-256 over the scans' bytes.
    """

    images: NDArray[np.uint8]
    volumes: NDArray[np.int64]
    validation: NDArray[np.bool_]
    landmarks: tuple[float, ...]
    digest: str


def prepare_training_data(
    train: Sequence[Path],
    validation: Sequence[Path],
    settings: TrainingSettings,
    cache: Path,
    report: Report = lambda stage, done, total: None,
) -> TrainingData:
    """Read, mask, standardize and slice the scans; ``cache`` keeps the result.

    The landmarks are the mean over the training volumes of their percentiles,
    after the first and last percentile were mapped to 0.05 and 0.95.

    Raises
    ------
    InputError
        If a brain has one intensity only.
    """
    scans = [*train, *validation]
    grid = json.dumps([len(train), settings.spacing_mm, settings.size]).encode()
    digest = sha256(*(bytes.fromhex(file_sha256(scan)) for scan in scans), grid)
    stored = cache / f"slices-{digest[:16]}.npz"
    if not stored.is_file():
        masks, landmarks = _find_landmarks(scans, len(train), report)
        specification = PreparationSpecification(
            spacing_mm=settings.spacing_mm,
            size=settings.size,
            percentiles=PERCENTILES,
            landmarks=landmarks,
        )
        images, volumes = _slice_scans(scans, masks, specification, report)
        cache.mkdir(parents=True, exist_ok=True)
        with open_atomic(stored) as file:
            np.savez(
                file,
                images=images,
                volumes=volumes,
                validation=volumes >= len(train),
                landmarks=np.array(landmarks),
            )
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            return TrainingData(
                arrays["images"],
                arrays["volumes"],
                arrays["validation"],
                tuple(arrays["landmarks"].tolist()),
                digest,
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{stored} is damaged: remove it, and run the same command again."
        ) from error


def _find_landmarks(
    scans: Sequence[Path], train: int, report: Report
) -> tuple[list[NDArray[np.uint8]], tuple[float, ...]]:
    """Packed brain masks of all scans, and the landmarks of the first ``train`` ones."""
    masks, standard = [], []
    for n, scan in enumerate(scans):
        report("Brain masks and intensities", n, len(scans))
        volume = read_volume(scan)
        mask = find_brain(volume)
        if mask is None:
            mask = strip_skull(volume)
        masks.append(np.packbits(mask))
        if n < train:
            standard.append(_standard_percentiles(scan, volume, mask))
    return masks, tuple(float(v) for v in np.mean(standard, axis=0))


def _standard_percentiles(
    scan: Path, volume: Volume, mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    found = np.percentile(volume.data[mask], PERCENTILES)
    if found[-1] <= found[0]:
        raise InputError(
            f"{scan}: the brain has one intensity only; take the scan out of the folder."
        )
    low, high = LANDMARK_ENDS
    standard: NDArray[np.float64] = low + (high - low) * (found - found[0]) / (found[-1] - found[0])
    return standard


def _slice_scans(
    scans: Sequence[Path],
    masks: Sequence[NDArray[np.uint8]],
    specification: PreparationSpecification,
    report: Report,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Slices of all scans, uint8 (N, H, W), and the number of each one's scan, (N,)."""
    images, volumes = [], []
    for n, scan in enumerate(scans):
        report("Slices", n, len(scans))
        volume = read_volume(scan)
        mask = np.unpackbits(masks[n], count=volume.data.size).reshape(volume.shape).astype(bool)
        slices = prepare(volume, specification, mask)
        brain = np.round(slices.images * 127.0 + 128.0)
        images.append(np.where(slices.masks, brain, 0).astype(np.uint8))
        volumes.append(np.full(len(slices.images), n))
    return np.concatenate(images), np.concatenate(volumes)


def unpack(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack slices of uint8, (B, 1, H, W), into values of 0..1 and the brain's mask."""
    return (batch.float() - 1.0) / 254.0, batch > 0


def to_model_values(values: Tensor, mask: Tensor) -> Tensor:
    """Map 0..1 inside the mask to -1..1, with air alone at -1; shape (B, 1, H, W)."""
    # half of what a step of uint8 is, so that the darkest brain is no air
    return torch.where(mask, (2.0 * values - 1.0).clamp_min(-1.0 + 0.5 / 127.0), -1.0)


# --- batches --------------------------------------------------------------------------------


class SliceDataset(Dataset[Tensor]):
    """Slices of uint8 (1, H, W), air 0."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images).unsqueeze(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class SliceSampler(Sampler[int]):
    """Random slices of every volume, other ones in each epoch.

    The draw depends on the seed and the epoch alone, so that a resumed training sees the same
    slices as an uninterrupted one.
    """

    def __init__(self, volumes: NDArray[np.int64], per_volume: int, seed: int) -> None:
        self.members = [np.flatnonzero(volumes == v) for v in np.unique(volumes)]
        self.per_volume = per_volume
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the epoch's draw; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.members) * self.per_volume

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = [random.choice(m, self.per_volume) for m in self.members]
        yield from random.permutation(np.concatenate(drawn)).tolist()
