"""Where the regions of an atlas lie in a scan.

The scan is registered to the mean brain of the atlas. An affine transform brings both together; a
smooth displacement then fits lobes and ventricles, whose sizes differ between people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_addm.errors import AddmError
from napari_addm.io.arrays import Mask, bounding_box
from napari_addm.io.demo import ATLAS
from napari_addm.io.registration import (
    Registration,
    brain_image,
    compare_brains,
    deform,
    load_simpleitk,
    register,
    to_image,
)
from napari_addm.io.remarks import caution, note
from napari_addm.io.volume import Volume, volume_from_array

# 18 whole brains of six sources have a similarity of 0.57 (tumors, poor contrast)
# to 0.94 and an overlap of 0.96 and more. Upside down they have 0.49, with other contrast less;
# halves, and brains without their front, have an overlap of 0.87 to 0.91.
LEAST_SIMILARITY, LEAST_OVERLAP = 0.53, 0.95
LEAST_ALIGNED = 0.2  # similarity before the displacement, whose time is saved below that
MOST_ZOOM = 1.35
BRAIN_ML = (700.0, 2200.0)

if TYPE_CHECKING:
    import SimpleITK as sitk

NO_SIMPLEITK = note(
    "The regions of findings are not named, because SimpleITK is not installed: run pip install "
    '"napari-addm[regions]".'
)
NO_REGIONS = caution(
    "The scan does not fit the brain of the atlas: the regions of findings are unknown. Check the "
    "brain mask, and that this is a T1-weighted scan of an adult's whole brain."
)


@dataclass(frozen=True)
class Region:
    """A region of the atlas: part of an area, which is a lobe or another large part of the brain.

    Attributes
    ----------
    side : str
        ``"left"`` or ``"right"``; empty in the middle.
    area : str
        Such as ``"temporal lobe"``.
    structure : str
        Such as ``"hippocampus"``; empty for the rest of the area.
    """

    side: str
    area: str
    structure: str


@dataclass(frozen=True, eq=False)
class Atlas:
    """A mean brain, and its regions.

    Attributes
    ----------
    brain : Volume
    mask : ndarray of bool, shape (S, A, R)
    labels : ndarray of uint8, shape (S, A, R)
        Number of the region, from 1; voxels around the brain have that of the nearest.
    regions : tuple of Region
        By their numbers, from 1.
    """

    brain: Volume
    mask: Mask
    labels: NDArray[np.uint8]
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class ScanRegions:
    """Regions in a scan.

    Attributes
    ----------
    labels : ndarray of uint8, shape (S, A, R), or None
        Numbers of the regions; None where the scan does not fit the atlas.
    regions : tuple of Region
        By their numbers, from 1.
    similarity, overlap : float
        How well the scan fits; see `napari_addm.io.registration.Registration`. Both are 0
        where that could not be measured.
    """

    labels: NDArray[np.uint8] | None
    regions: tuple[Region, ...]
    similarity: float
    overlap: float

    @property
    def is_other_anatomy(self) -> bool:
        """Whether the scan was registered and still looks unlike the atlas."""
        return self.overlap > 0 and self.similarity < LEAST_SIMILARITY


@cache
def load_atlas(path: Path = ATLAS) -> Atlas:
    """Read an atlas, as `tools/make_atlas.py` writes it."""
    with np.load(path) as file:
        brain = volume_from_array(file["brain"], spacing=tuple(file["spacing_mm"].tolist()))
        regions = tuple(Region(*name.split("|")) for name in file["regions"].tolist())
        return Atlas(brain, brain.data > 0, file["labels"], regions)


def find_regions(scan: Volume, mask: Mask, atlas: Atlas | None = None) -> ScanRegions:
    """Find the regions of an atlas in a brain.

    Parameters
    ----------
    scan : Volume
        T1-weighted; its file says which side is left.
    mask : ndarray of bool, shape (S, A, R)
        The brain.
    atlas : Atlas, optional
        The bundled one by default.

    Raises
    ------
    MissingExtraError
        When SimpleITK is not installed.
    """
    itk = load_simpleitk()
    atlas = atlas or load_atlas()
    unknown = ScanRegions(None, atlas.regions, 0.0, 0.0)
    if not BRAIN_ML[0] <= np.count_nonzero(mask) * scan.voxel_ml <= BRAIN_ML[1]:
        return unknown
    try:
        fit = register(atlas.brain, atlas.mask, scan, mask)
    except AddmError:
        return unknown
    zooms = np.linalg.svd(fit.matrix[:3, :3], compute_uv=False)
    upright = fit.matrix[0, 0] > 0.5  # or left and right may be exchanged
    if (
        fit.similarity < LEAST_ALIGNED
        or not upright
        or zooms.max() > MOST_ZOOM
        or zooms.min() < 1 / MOST_ZOOM
    ):
        return ScanRegions(None, atlas.regions, fit.similarity, fit.overlap)
    template = to_image(atlas.brain.data.astype(np.float32), atlas.brain.affine)
    back = itk.AffineTransform(3)
    back.SetMatrix(np.linalg.inv(fit.matrix)[:3, :3].ravel().tolist())
    back.SetTranslation(np.linalg.inv(fit.matrix)[:3, 3].tolist())
    here, here_mask = (
        itk.Resample(each, template, back, itk.sitkLinear, 0.0) for each in brain_image(scan, mask)
    )
    to_atlas = deform(here, template)
    there, there_mask = (
        itk.GetArrayFromImage(
            itk.Resample(to_image(each, atlas.brain.affine), template, to_atlas, interpolator)
        )
        for each, interpolator in (
            (atlas.brain.data.astype(np.float32), itk.sitkLinear),
            (atlas.mask.astype(np.uint8), itk.sitkNearestNeighbor),
        )
    )
    inside = itk.GetArrayFromImage(here_mask) >= 0.5
    quality = compare_brains(itk.GetArrayFromImage(here), inside, there, there_mask > 0)
    if quality[0] < LEAST_SIMILARITY or quality[1] < LEAST_OVERLAP:
        return ScanRegions(None, atlas.regions, *quality)
    return ScanRegions(_on_scan(atlas, fit, to_atlas, scan, mask), atlas.regions, *quality)


def _on_scan(
    atlas: Atlas, fit: Registration, to_atlas: sitk.Transform, scan: Volume, mask: Mask
) -> NDArray[np.uint8]:
    """Bring the labels of an atlas to the grid of a scan, inside the brain.

    In one step, and between the atlas's voxels: the scan's are smaller.
    """
    itk, box = load_simpleitk(), bounding_box(mask)
    aligned = itk.AffineTransform(3)
    aligned.SetMatrix(fit.matrix[:3, :3].ravel().tolist())
    aligned.SetTranslation(fit.matrix[:3, 3].tolist())
    affine = scan.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, [part.start for part in box])
    found = np.zeros(scan.shape, np.uint8)
    found[box] = itk.GetArrayFromImage(
        itk.Resample(
            to_image(atlas.labels, atlas.brain.affine),
            to_image(np.zeros(found[box].shape, np.uint8), affine),
            itk.CompositeTransform([to_atlas, aligned]),  # the last comes first
            itk.sitkLabelLinear,
            0.0,
            itk.sitkUInt8,
            True,  # what lies beyond the atlas has the region of its edge
        )
    )
    found[~mask] = 0
    return found
