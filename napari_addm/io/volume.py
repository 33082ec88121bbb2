"""Scans in memory: voxels in S, A, R order, and where they lie in the world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from napari_addm.io.arrays import ALIGNED, Spacing, affine_is_sheared, displacement, voxel_spacing
from napari_addm.io.contrast import Contrast, contrast_of_name
from napari_addm.io.names import stem
from napari_addm.io.remarks import caution

# Warnings of a volume of which left and right are not certain.
UNKNOWN_SIDES = caution("The file does not say how it lies in the world: left/right unknown.")
UNKNOWN_DIRECTIONS = caution(
    "The file does not say how it lies in the world: left/right unknown, and up and front as well; "
    "check that it stands upright."
)
GRID_OF_LAYER = caution(
    "The grid was taken from the layer's scale and translation, with its axes as superior, "
    "anterior, right: check left and right."
)


# eq=False: arrays have no single truth value, so comparison and hash go by identity.
@dataclass(frozen=True, eq=False)
class Source:
    """How a file stored a volume: what is needed to write voxels back onto its own grid.

    Attributes
    ----------
    path : Path or None
        The file; None for voxels that came from none.
    shape : tuple of int
        Native shape (i, j, k).
    affine : ndarray, shape (4, 4), float64
        Native index (i, j, k, 1) to world RAS+ (x, y, z, 1), mm.
    header : nibabel SpatialHeader or None
        The file's own header (NIfTI-1, NIfTI-2 or MGH).
    axes : tuple of int
        ``Volume.data`` axis n is native axis ``axes[n]`` ...
    flips : tuple of bool
        ... and runs the other way where ``flips[n]``.
    name : str
        Its name where there is no file.
    series : tuple of Path
        The DICOM images that it was converted from.
    frame : int or None
        Which frame of the file it is, where that has several.
    contrast : Contrast or None
        What the tags of a series say about contrast agent.
    why : str
        Why this series was chosen.
    """

    path: Path | None
    shape: tuple[int, int, int]
    affine: np.ndarray
    header: nib.spatialimages.SpatialHeader | None
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    name: str = ""
    series: tuple[Path, ...] = ()
    frame: int | None = None
    contrast: Contrast | None = None
    why: str = ""


ROUNDING_MM = 0.05
"""Places that differ by less are equal: 32-bit headers and quaternions are rounded."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels that grow to Superior, Anterior, Right, with their place in the world.

    Voxels are only reordered on the way in, never resampled: an oblique scan
    keeps its grid, and its axes are the closest ones to S, A and R.

    Attributes
    ----------
    data : ndarray, shape (S, A, R)
        The voxels.
    affine : ndarray, shape (4, 4), float64
        Index (s, a, r, 1) to world RAS+ (x, y, z, 1), mm.
    source : Source
        How the file stored them.
    warnings : tuple of str
        What a reader of the results must know, one sentence each; see `napari_addm.io.remarks`.
    """

    data: np.ndarray
    affine: np.ndarray
    source: Source
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along S, A, R."""
        s, a, r = self.data.shape
        return s, a, r

    @property
    def spacing(self) -> Spacing:
        """Distance between neighboring voxel centers along S, A, R, in mm."""
        return voxel_spacing(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL (a sheared voxel is a parallelepiped)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def is_oblique(self) -> bool:
        """Whether the grid is turned against the world axes by more than 0.1 degrees."""
        return bool(np.max(nib.affines.obliquity(self.affine)) > ALIGNED)

    @property
    def is_sheared(self) -> bool:
        """Whether the grid axes are not at right angles (by more than 0.1 degrees)."""
        return affine_is_sheared(self.affine)

    @property
    def sides_known(self) -> bool:
        """Whether the file says which side is left; otherwise a warning says why not."""
        unknown = {UNKNOWN_SIDES, UNKNOWN_DIRECTIONS, GRID_OF_LAYER}
        return unknown.isdisjoint(self.warnings)

    @property
    def name(self) -> str:
        """File name without folder and suffix; without a file the source's, or ``"volume"``."""
        if self.source.path is not None:
            return stem(self.source.path)
        return self.source.name or "volume"

    @property
    def contrast(self) -> Contrast:
        """Whether it was made with contrast agent, by the tags of its series or by its name."""
        return self.source.contrast or contrast_of_name(self.name)

    @property
    def about(self) -> str:
        """Which series it is, why that was chosen, and what is known about contrast agent."""
        chosen = f"{self.source.why}; " if self.source.why else ""
        return f"{chosen}contrast agent: {self.contrast}"

    def with_data(self, data: np.ndarray, warnings: tuple[str, ...] | None = None) -> Volume:
        """Other voxels on the same grid.

        Parameters
        ----------
        data : ndarray, shape (S, A, R)
            The voxels, any dtype.
        warnings : tuple of str, optional
            Warnings of the new volume; this one's when not given.

        Raises
        ------
        ValueError
            When the shape is not this volume's.
        """
        if data.shape != self.data.shape:
            raise ValueError(f"shape {data.shape} is not the grid's {self.data.shape}")
        return replace(self, data=data, warnings=self.warnings if warnings is None else warnings)

    def same_grid(self, other: Volume, atol: float = ROUNDING_MM) -> bool:
        """Whether both have the same shape and no voxel is further than `atol` mm from its twin."""
        return self.shape == other.shape and (
            displacement(self.affine, other.affine, self.shape) <= atol
        )

    def to_native(self) -> np.ndarray:
        """The voxels in the file's own (i, j, k) order: the exact inverse of reading.

        Returns
        -------
        ndarray, shape ``source.shape``
            A view where numpy can give one.
        """
        flipped = self.data[_flip_index(self.source.flips)]
        return flipped.transpose(np.argsort(self.source.axes))


def volume_from_native(
    data: np.ndarray,
    affine: np.ndarray,
    *,
    header: nib.spatialimages.SpatialHeader | None = None,
    path: Path | None = None,
    name: str = "",
    warnings: tuple[str, ...] = (),
) -> Volume:
    """Reorder voxels in any native order to the closest S, A, R order.

    Parameters
    ----------
    data : ndarray, shape (i, j, k)
        Voxels as the file has them.
    affine : ndarray, shape (4, 4)
        Index (i, j, k, 1) to world RAS+ mm; invertible.
    header, path, name
        Kept in `Volume.source`.
    warnings : tuple of str
        Kept in `Volume.warnings`.
    """
    affine = np.asarray(affine, dtype=np.float64)
    i, j, k = data.shape
    orientation = nib.orientations.io_orientation(affine)
    world_axis = orientation[:, 0].astype(int).tolist()
    s, a, r = (world_axis.index(axis) for axis in (2, 1, 0))
    axes = (s, a, r)
    up, front, right = (bool(orientation[axis, 1] < 0) for axis in axes)
    flips = (up, front, right)

    to_native = np.zeros((4, 4))
    to_native[3, 3] = 1.0
    for n, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        to_native[axis, n] = -1.0 if flip else 1.0
        to_native[axis, 3] = data.shape[axis] - 1 if flip else 0.0
    turned = data.transpose(axes)[_flip_index(flips)]
    return Volume(
        # a grid without voxels repeats one value, which is not to be multiplied
        data=np.ascontiguousarray(turned) if any(turned.strides) else turned,
        affine=affine @ to_native,
        source=Source(path, (i, j, k), affine, header, axes, flips, name),
        warnings=warnings,
    )


def volume_from_array(
    data: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    warnings: tuple[str, ...] = (),
) -> Volume:
    """A volume from S, A, R voxels that came from no file; written, it is a plain RAS NIfTI.

    Parameters
    ----------
    data : ndarray, shape (S, A, R)
        Voxels; axis 0 grows to Superior, 1 to Anterior, 2 to Right.
    affine : ndarray, shape (4, 4), optional
        Index (s, a, r, 1) to world RAS+ mm. Without it the grid is aligned
        with the world, has `spacing`, and its center is the origin.
    spacing : tuple of float
        Along S, A, R in mm; used without `affine`.
    warnings : tuple of str
        Kept in `Volume.warnings`.
    """
    if affine is None:
        linear = np.diag(spacing)[::-1]
        center = (np.asarray(data.shape) - 1) / 2
        affine = nib.affines.from_matvec(linear, -linear @ center)
    affine = np.asarray(affine, dtype=np.float64)
    s, a, r = data.shape
    source = Source(None, (r, a, s), affine[:, [2, 1, 0, 3]], None, (2, 1, 0), (False,) * 3)
    return Volume(data, affine, source, warnings)


def _flip_index(flips: tuple[bool, bool, bool]) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
