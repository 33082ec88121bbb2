"""Healthy brains that are kept and registered to a scan, in place of a trained network.

The training brains are registered to their own mean. What is kept of them, brought to where a scan
lies, is the scan's reconstruction. SimpleITK registers (the extra ``regions``).
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from napari_addm.checkpoint.specification import ModelSpecification, NetworkSpecification
from napari_addm.errors import InputError
from napari_addm.io.arrays import Grid, Mask, Spacing
from napari_addm.io.files import open_atomic
from napari_addm.io.registration import (
    compare_brains,
    deform,
    load_simpleitk,
    register,
    to_image,
)
from napari_addm.io.remarks import caution
from napari_addm.io.volume import Volume, volume_from_array
from napari_addm.methods.base import Report, VolumeMethod
from napari_addm.methods.network_specifications import BrainsSpecification
from napari_addm.methods.settings import TrainingSettings

ROUNDS = 2
"""Registrations of every training brain: to one of them, then to their mean."""
LEAST_SHARE = 0.5
"""Share of a voxel, or of the brains, from which on it counts as brain."""
LEAST_OVERLAP = 0.9
"""Dice of the two brain masks below which a registration is doubtful. 48 training brains have 0.93
and more, three brains with tumors 0.94."""
DOUBTFUL = "The healthy brain does not fit this scan: check that brain and brain mask are whole."

Packed = NDArray[np.uint8]
"""Brains as training slices are kept: air 0, brain 1..255 for model values 0..1."""


class Brains(nn.Module):
    """Brains on one grid, uint8 (count, depth, H, W); the first is the mean of all."""

    def __init__(self, count: int, depth: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.brains: Tensor
        self.register_buffer("brains", torch.zeros((count, depth, *size), dtype=torch.uint8))


class BrainsMethod(VolumeMethod):
    """Keeps some of the registered training brains, and reconstructs a scan from them."""

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """Room for the brains."""
        assert isinstance(network, BrainsSpecification)
        return Brains(network.count, network.depth, size)

    def fit(
        self,
        settings: TrainingSettings,
        volumes: Sequence[NDArray[np.uint8]],
        cache: Path,
        report: Report,
    ) -> tuple[NetworkSpecification, nn.Module]:
        """Register the training brains, and keep what the method needs of them."""
        assert isinstance(settings.network, BrainsSpecification)
        brains = self.keep(_registered(volumes, settings.spacing_mm, cache, report))
        network = Brains(len(brains), brains.shape[1], settings.size)
        network.brains.copy_(torch.from_numpy(brains))
        return settings.network.replace(count=len(brains), depth=brains.shape[1]), network

    @abstractmethod
    def keep(self, brains: Packed) -> Packed:
        """Choose what is kept of the training brains, with their mean first."""

    def reconstruct_volume(
        self, network: nn.Module, specification: ModelSpecification, scan: Volume, mask: Mask
    ) -> tuple[Grid, tuple[str, ...]]:
        """Bring a healthy brain to where the scan lies."""
        assert isinstance(network, Brains)
        assert isinstance(specification.network, BrainsSpecification)
        brains, spacing = network.brains.cpu().numpy(), specification.preparation.spacing_mm
        mean = _volume(brains[0], spacing)
        fit = register(mean, brains[0] > 0, scan, mask)
        to_brain = np.linalg.inv(mean.affine) @ fit.matrix @ scan.affine
        values, share = self.choose(brains, to_brain, scan, mask)
        if specification.network.deform:
            values, share = _deformed(values, share, scan, mask)
        warnings: tuple[str, ...] = ()
        if fit.overlap < LEAST_OVERLAP:
            warnings = (caution(DOUBTFUL, f"overlap of the brain masks {fit.overlap:.2f}"),)
        return np.where(mask, 2.0 * _filled(values, share) - 1.0, -1.0).astype(np.float32), warnings

    def choose(
        self, brains: Packed, to_brain: NDArray[np.float64], scan: Volume, mask: Mask
    ) -> tuple[Grid, Grid]:
        """Return values and share of the brain that stands for a healthy scan: the mean.

        Parameters
        ----------
        brains : ndarray of uint8, shape (count, depth, H, W)
        to_brain : ndarray, shape (4, 4)
            Index of the scan to index of the brains.

        Returns
        -------
        values, share : ndarray of float32, shape (D, H, W)
            On the scan's grid; values 0..1 where there is a share of brain.
        """
        return _resampled(brains[0], to_brain, scan.shape)


class TemplateMethod(BrainsMethod):
    """The mean brain."""

    def keep(self, brains: Packed) -> Packed:
        """Keep the mean alone."""
        return mean_brain(brains)[None]


class NearestBrainMethod(BrainsMethod):
    """The training brain that is most similar to the scan."""

    def keep(self, brains: Packed) -> Packed:
        """Keep the mean, and every brain."""
        return np.concatenate([mean_brain(brains)[None], brains])

    def choose(
        self, brains: Packed, to_brain: NDArray[np.float64], scan: Volume, mask: Mask
    ) -> tuple[Grid, Grid]:
        """Return the brain with the highest correlation; all are aligned as their mean is."""
        best, highest = None, -np.inf
        for brain in brains[1:]:
            values, share = _resampled(brain, to_brain, scan.shape)
            similarity, _ = compare_brains(scan.data, mask, values, share >= LEAST_SHARE)
            if similarity > highest:
                best, highest = (values, share), similarity
        assert best is not None
        return best


def mean_brain(brains: Packed) -> Packed:
    """Average brains that are registered to each other, shape (depth, H, W)."""
    inside = (brains > 0).sum(axis=0)
    total = np.where(brains > 0, brains - 1.0, 0.0).sum(axis=0)
    mean = np.rint(total / np.maximum(inside, 1)) + 1
    return np.where(inside >= LEAST_SHARE * len(brains), mean, 0).astype(np.uint8)


def _registered(
    volumes: Sequence[NDArray[np.uint8]], spacing: Spacing, cache: Path, report: Report
) -> Packed:
    """Register brains to their mean, uint8 (count, depth, H, W); ``cache`` keeps the result."""
    if not cache.is_file():
        depth = max(len(volume) for volume in volumes)
        sizes = [np.count_nonzero(volume) for volume in volumes]
        usual = volumes[int(np.argsort(sizes)[len(sizes) // 2])]
        reference, brains = _centered(usual, depth), np.empty(0, np.uint8)
        for round_ in range(ROUNDS):
            found = []
            for n, volume in enumerate(volumes):
                report("Registration", round_ * len(volumes) + n, ROUNDS * len(volumes))
                found.append(_aligned(volume, reference, spacing))
            brains = np.stack(found)
            reference = mean_brain(brains)
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(cache) as file:
            np.savez_compressed(file, brains=brains)
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            return np.asarray(arrays["brains"], np.uint8)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{cache} is damaged: remove it, and run the same command again."
        ) from error


def _centered(volume: Packed, depth: int) -> Packed:
    """Put slices into the middle of a grid."""
    before = (depth - len(volume)) // 2
    return np.pad(volume, ((before, depth - len(volume) - before), (0, 0), (0, 0)))


def _aligned(volume: Packed, reference: Packed, spacing: Spacing) -> Packed:
    """Bring a brain to where a reference lies."""
    moving, fixed = _volume(volume, spacing), _volume(reference, spacing)
    fit = register(moving, volume > 0, fixed, reference > 0)
    to_brain = np.linalg.inv(moving.affine) @ fit.matrix @ fixed.affine
    values, share = _resampled(volume, to_brain, reference.shape)
    packed = np.rint(254.0 * values.clip(0.0, 1.0)) + 1
    return np.where(share >= LEAST_SHARE, packed, 0).astype(np.uint8)


def _volume(brain: Packed, spacing: Spacing) -> Volume:
    values = np.where(brain > 0, (brain - 1.0) / 254.0, 0.0)
    return volume_from_array(values.astype(np.float32), spacing=spacing)


def _resampled(
    brain: Packed, to_brain: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[Grid, Grid]:
    """Return values, and the share of brain, on another grid; its index times a matrix is here."""

    def on_grid(values: NDArray[np.float64]) -> Grid:
        moved = ndimage.affine_transform(
            values, to_brain[:3, :3], to_brain[:3, 3], output_shape=shape, order=1
        )
        return np.asarray(moved, np.float32)

    share = on_grid((brain > 0).astype(np.float64))
    total = on_grid(np.where(brain > 0, (brain - 1.0) / 254.0, 0.0))
    return total / share.clip(1e-3), share


def _deformed(values: Grid, share: Grid, scan: Volume, mask: Mask) -> tuple[Grid, Grid]:
    """Bend a brain on the scan's grid until it fits the scan."""
    itk = load_simpleitk()
    inside = share >= LEAST_SHARE
    here = to_image(np.where(mask, scan.data, 0.0).astype(np.float32), scan.affine)
    there = to_image(np.where(inside, values, 0.0).astype(np.float32), scan.affine)
    bend = deform(here, there)

    def bent(array: Grid) -> Grid:
        image = itk.Resample(to_image(array, scan.affine), here, bend, itk.sitkLinear, 0.0)
        return np.asarray(itk.GetArrayFromImage(image), np.float32)

    share = bent(share)
    return bent(np.where(inside, values, 0.0).astype(np.float32)) / share.clip(1e-3), share


def _filled(values: Grid, share: Grid) -> Grid:
    """Return the values, and where there is no brain those of the nearest."""
    missing = share < LEAST_SHARE
    places = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(places)], np.float32)
