"""Preparation: from a volume to the slices that a network knows, and back.

`prepare` finds the brain mask, resamples to the checkpoint's axial model grid and applies its
intensity rule. `ModelSlices` holds the exact inverse of that geometry, so that no caller
resamples anything.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_addm.detection.brain_mask import choose_brain_mask
from napari_addm.detection.erosion import depth_inside
from napari_addm.detection.parallel import parallel_map
from napari_addm.detection.resampling import Affine, resample
from napari_addm.errors import InputError
from napari_addm.io.arrays import Box, bounding_box, voxel_spacing
from napari_addm.io.remarks import Remark, alarm, caution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_addm.checkpoint.specification import PreparationSpecification
    from napari_addm.io.volume import Volume

Scalar = TypeVar("Scalar", bound=np.generic)

SMALLEST_SLICE_CM2 = 1.0
"""Least brain of a model slice; others are skipped."""

LEAST_DEPTH_CONTRAST = 0.05
"""Least contrast of a T1 scan, as a share of the intensity range. In T1 scans the brain 10 to 25 mm
deep is brighter than its outer 6 mm by 0.14 to 0.31; with inverted contrast it is darker."""

BYTES_PER_VOXEL = 4 * 8
"""Peak memory of a detection: maps, masks and their copies."""

NOT_T1 = alarm(
    "The scan does not look like a T1-weighted brain.",
    "the model knows only T1, in which the deep brain is brighter than its surface",
)


@dataclass(frozen=True)
class HistogramStandardization:
    """Rising, piecewise-linear map of a scan's intensities to model values [1]_.

    Attributes
    ----------
    source : ndarray, shape (K,)
        The scan's percentiles inside the brain mask, in the scan's units.
    target : ndarray, shape (K,)
        The checkpoint's landmarks, in 0..1.

    References
    ----------
    .. [1] Nyul and Udupa. On standardizing the MR image intensity scale. Magnetic Resonance in
       Medicine, 1999.
    """

    source: NDArray[np.float64]
    target: NDArray[np.float64]

    def forward(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map scan intensities to model values, clipped to 0..1."""
        return np.clip(_interpolate(values, self.source, self.target), 0.0, 1.0)

    def inverse(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map model values in 0..1 to scan intensities."""
        return _interpolate(values, self.target, self.source)


def _interpolate(
    values: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate linearly, with straight lines beyond the first and last knot."""
    first = (y[1] - y[0]) / (x[1] - x[0])
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    wide = max(abs(float(x[0])), abs(float(x[-1]))) * 1e4
    knots_x = np.concatenate([[x[0] - wide], x, [x[-1] + wide]])
    knots_y = np.concatenate([[y[0] - first * wide], y, [y[-1] + last * wide]])
    return np.interp(values, knots_x, knots_y).astype(np.float32)


@dataclass(frozen=True)
class ModelSlices:
    """Axial slices on the model grid, with the way back to the scan's own grid.

    Attributes
    ----------
    images : ndarray of float32, shape (N, H, W)
        Model values in -1..1, air -1. Rows grow to anterior, columns to right.
    masks : ndarray of bool, shape (N, H, W)
        The brain.
    slice_index : ndarray of int, shape (N,)
        Position of each slice in the depth of the model grid; slices without brain are left out.
    depth : int
        Number of slices of the model grid.
    affine : ndarray, shape (4, 4)
        Model grid index (z, y, x) to world mm (RAS+).
    volume : Volume
        The scan that was prepared.
    brain_mask : ndarray of bool, shape (S, A, R)
        The brain on the scan's own grid.
    notes : tuple of str
        Warnings of the preparation; see `warnings`.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    slice_index: NDArray[np.int64]
    depth: int
    affine: Affine
    volume: Volume
    brain_mask: NDArray[np.bool_]
    intensity: HistogramStandardization
    notes: tuple[str, ...] = ()
    _box: Box = field(repr=False, default=(slice(None), slice(None), slice(None)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the model grid, (z, y, x)."""
        return voxel_spacing(self.affine)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for a reader of the results."""
        contrast = self.depth_contrast
        if contrast is not None and contrast < LEAST_DEPTH_CONTRAST:
            return (*self.notes, NOT_T1)
        return self.notes

    @cached_property
    def depth_mm(self) -> NDArray[np.float64]:
        """Depth of each voxel below the brain's surface, mm, shape (depth, H, W)."""
        return depth_inside(self.to_model_volume(self.masks), self.spacing_mm)

    @cached_property
    def depth_contrast(self) -> float | None:
        """Median model value (0..1) 10 to 25 mm deep minus that at most 6 mm deep; positive in T1.

        None if there is too little of either.
        """
        depth = self.depth_mm[self.slice_index]
        deep = self.images[(depth > 10.0) & (depth <= 25.0)]
        outer = self.images[(depth > 0.0) & (depth <= 6.0)]
        if min(deep.size, outer.size) < 1000:
            return None
        return float(np.median(deep) - np.median(outer)) / 2.0  # of a range from -1 to 1

    def to_model_volume(self, slices: NDArray[Scalar], fill: float = 0.0) -> NDArray[Scalar]:
        """Put N slices into the model grid, shape (depth, H, W)."""
        grid = np.full((self.depth, *slices.shape[1:]), fill, slices.dtype)
        grid[self.slice_index] = slices
        return grid

    def model_slices_for(self, native_slices: Sequence[int]) -> NDArray[np.int64]:
        """Return the positions in ``images`` on which the brain of some native slices depends.

        Parameters
        ----------
        native_slices : sequence of int
            Indices along the scan's S axis.
        """
        wanted = np.zeros(self.depth, bool)
        for index in native_slices:
            first, last = self._reach[index]
            wanted[first : last + 1] = True
        return np.flatnonzero(wanted[self.slice_index])

    def finished_native_slices(self, finished: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which native slices have all the model slices on which they depend.

        Parameters
        ----------
        finished : ndarray of bool, shape (N,)
            Which of ``images`` have been reconstructed.

        Returns
        -------
        ndarray of bool, shape (S,)
            Native slices without brain count as complete.
        """
        missing = np.zeros(self.depth + 1, int)
        missing[self.slice_index + 1] = ~finished
        missing = np.cumsum(missing)
        first, last = self._reach.T
        return missing[last + 1] - missing[first] == 0

    @property
    def reconstructed(self) -> NDArray[np.bool_]:
        """Which native slices show any of ``images``, shape (S,)."""
        return ~self.finished_native_slices(np.zeros(len(self.images), bool))

    @cached_property
    def _reach(self) -> NDArray[np.int64]:
        """First and last model slice that each native slice touches, shape (S, 2).

        A native slice without brain has last < first.
        """
        to_model = np.linalg.inv(self.affine) @ self.volume.affine
        rows, columns = np.meshgrid(
            *(np.arange(n) for n in self.brain_mask.shape[1:]), indexing="ij"
        )
        in_plane = to_model[0, 1] * rows + to_model[0, 2] * columns + to_model[0, 3]
        reach = np.zeros((self.brain_mask.shape[0], 2), np.int64)
        reach[:, 1] = -1
        for index in range(self._box[0].start, self._box[0].stop):
            brain = self.brain_mask[index]
            if brain.any():
                z = in_plane[brain] + to_model[0, 0] * index
                # rounding: a native plane that lies on a model plane needs only that one
                low = np.floor(np.round(z.min(), 6))
                high = np.ceil(np.round(z.max(), 6))
                reach[index] = np.clip([low, high], 0, self.depth - 1)
        return reach

    def to_native(
        self,
        *grids: NDArray[np.float32],
        native_slices: tuple[int, int] | None = None,
        valid: NDArray[np.bool_] | None = None,
        out: Sequence[NDArray[np.float32]] | None = None,
    ) -> Sequence[NDArray[np.float32]]:
        """Resample maps from the model grid to the scan's own grid.

        Trilinear, and normalized by the model's brain mask so that air does not count at the
        brain's edge; 0 outside the native brain mask.

        Parameters
        ----------
        *grids : ndarray of float32, shape (depth, H, W)
        native_slices : (start, stop), optional
            Only this range of the scan's slices; all of them by default.
        valid : ndarray of bool, shape (N,), optional
            Which of ``images`` hold a value; all by default.
        out : sequence of ndarray, optional
            Arrays to write to, 0 outside the brain.

        Returns
        -------
        sequence of ndarray of float32, shape (stop - start, A, R)
            One for each map.
        """
        first, last = native_slices or (0, self.brain_mask.shape[0])
        shape = last - first, *self.brain_mask.shape[1:]
        maps = out or [np.zeros(shape, np.float32) for _ in grids]
        start, stop = max(first, self._box[0].start), min(last, self._box[0].stop)
        if start >= stop:
            return maps
        box = (slice(start, stop), *self._box[1:])
        place = (slice(start - first, stop - first), *self._box[1:])
        if valid is None or valid.all():
            weight = self.to_model_volume(self.masks.astype(np.float32))
            gain = self.native_gain[start - self._box[0].start : stop - self._box[0].start]
        else:
            weight = self.to_model_volume((self.masks & valid[:, None, None]).astype(np.float32))
            gain = self._gain(weight, box)
        to_model = np.linalg.inv(self.affine) @ self.volume.affine

        def fill(map_: NDArray[np.float32], grid: NDArray[np.float32]) -> None:
            np.multiply(resample(grid * weight, to_model, box), gain, out=map_[place])

        parallel_map(fill, maps, grids)
        return maps

    @cached_property
    def native_gain(self) -> NDArray[np.float32]:
        """Factor of `to_native` in the box of the brain, once all slices hold a value."""
        return self._gain(self.to_model_volume(self.masks.astype(np.float32)), self._box)

    def _gain(self, weight: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
        """Return 1 / the share of each sample in the model's brain mask; 0 outside either mask."""
        weights = resample(weight, np.linalg.inv(self.affine) @ self.volume.affine, box)
        inside = self.brain_mask[box] & (weights > 1e-3)
        return np.divide(np.float32(1), weights, out=np.zeros_like(weights), where=inside)


def prepare(
    volume: Volume,
    specification: PreparationSpecification,
    brain_mask: NDArray[np.bool_] | None = None,
) -> ModelSlices:
    """Resample a scan to the model grid, with the model's intensities.

    Parameters
    ----------
    specification : PreparationSpecification
        Part of the checkpoint.
    brain_mask : ndarray of bool, shape (S, A, R), optional
        On the scan's own grid. By default the part that is not background if the scan is
        skull-stripped already, else deepbet's.

    Raises
    ------
    InputError
        If there is no brain to work on, or too little memory.
    MissingExtraError
        If skull stripping is needed and deepbet is not installed.
    """
    _check_memory(volume, "a scan", volume.shape, "crop or resample it")
    brain_mask, mask_warnings = choose_brain_mask(volume, brain_mask)
    warnings = [*volume.warnings, *mask_warnings]
    box = bounding_box(brain_mask)
    values = volume.data[box][brain_mask[box]]
    if np.ptp(values) == 0:
        raise InputError(
            f"{volume.name}: all voxels of the brain mask have the same value; check the scan and "
            "the mask."
        )
    affine, depth = _model_grid(volume, brain_mask, box, specification)
    shape = depth, *specification.size
    _check_memory(volume, "a model grid", shape, "use a model with larger voxels")
    to_volume = np.linalg.inv(volume.affine) @ affine
    with ThreadPoolExecutor(1) as beside:
        standardizing = beside.submit(_standardize, values, specification)
        images, masks = _to_model(volume.data, brain_mask, box, to_volume, shape)
        intensity = standardizing.result()
    warnings += _warn_outside(masks, brain_mask, volume, specification)
    pixel_cm2 = specification.spacing_mm[1] * specification.spacing_mm[2] / 100.0
    slice_index = np.flatnonzero(masks.sum(axis=(1, 2)) * pixel_cm2 >= SMALLEST_SLICE_CM2)
    if not len(slice_index):
        raise InputError(
            f"{volume.name}: no slice holds {SMALLEST_SLICE_CM2:g} cm² of brain; check the "
            "voxel size in the header and the brain mask."
        )
    masks = masks[slice_index]
    model_values = intensity.forward(images[slice_index])
    return ModelSlices(
        images=np.where(masks, 2.0 * model_values - 1.0, -1.0).astype(np.float32),
        masks=masks,
        slice_index=slice_index,
        depth=depth,
        affine=affine,
        volume=volume,
        brain_mask=brain_mask,
        intensity=intensity,
        notes=tuple(warnings),
        _box=box,
    )


def _check_memory(volume: Volume, what: str, shape: tuple[int, ...], fix: str) -> None:
    needed = math.prod(shape) * BYTES_PER_VOXEL
    if needed > psutil.virtual_memory().available:
        raise InputError(
            f"{volume.name}: {what} of {shape} voxels needs about {needed / 1e9:.0f} GB of "
            f"memory, more than is free; {fix}."
        )


def _standardize(
    values: NDArray[np.float32], specification: PreparationSpecification
) -> HistogramStandardization:
    """Map the percentiles of the brain's intensities to the model's landmarks."""
    percentiles: Any = np.percentile(values, specification.percentiles)
    # equal percentiles, as few gray levels give, would have several model values
    percentiles += np.arange(len(percentiles)) * 1e-6 * (float(np.ptp(percentiles)) or 1.0)
    return HistogramStandardization(percentiles, np.asarray(specification.landmarks, float))


def _warn_outside(
    masks: NDArray[np.bool_],
    brain_mask: NDArray[np.bool_],
    volume: Volume,
    specification: PreparationSpecification,
) -> list[Remark]:
    """Warn of brain beyond the model's field of view."""
    brain_ml = float(brain_mask.sum()) * volume.voxel_ml
    outside = 1.0 - masks.sum() * np.prod(specification.spacing_mm) / 1000.0 / brain_ml
    if outside <= 0.05:
        return []
    height, width = np.multiply(specification.size, specification.spacing_mm[1:])
    return [
        caution(
            f"{outside:.0%} of the brain lies outside the model's field and has no map.",
            f"the field is {height:.0f} x {width:.0f} mm",
        )
    ]


def _model_grid(
    volume: Volume, mask: NDArray[np.bool_], box: Box, specification: PreparationSpecification
) -> tuple[Affine, int]:
    """Return a world-aligned axial grid around the brain: its affine and depth."""
    # the outermost voxel in any direction is at an end of its row
    inside = mask[box]
    rows = np.argwhere(inside.any(axis=2))
    s, a = rows.T
    ends = inside.argmax(axis=2)[s, a], inside.shape[2] - 1 - inside[..., ::-1].argmax(axis=2)[s, a]
    points = np.concatenate([np.column_stack([rows, end]) for end in ends])
    points += [axis.start for axis in box]
    world = points @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    z, y, x = specification.spacing_mm
    height, width = specification.size
    # rounding: the same scan stored otherwise has the same slices
    depth = int(np.ceil(np.round((high[2] - low[2]) / z, 3))) + 1
    center = (low + high) / 2.0
    affine = np.eye(4)
    # index (z, y, x) -> world (x, y, z)
    affine[:3, :3] = [[0, 0, x], [0, y, 0], [z, 0, 0]]
    affine[:3, 3] = center - affine[:3, :3] @ [(depth - 1) / 2, (height - 1) / 2, (width - 1) / 2]
    return affine, depth


def _to_model(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    box: Box,
    to_volume: Affine,
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Average the brain's voxels onto the model grid, and resample the mask."""
    # size of a model voxel in native voxels, along each native axis
    ratio = np.linalg.norm(to_volume[:3, :3], axis=1)
    # a Gaussian as wide as the difference between the two voxel sizes
    sigma = np.sqrt(np.maximum(ratio**2 - 1.0, 0.0)) / 2.355
    shift = np.eye(4)
    shift[:3, 3] = [-s.start for s in box]
    depth, height, width = (slice(0, n) for n in shape)

    def average(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return resample(values, shift @ to_volume, (depth, height, width), sigma)

    brain = np.where(mask[box], data[box], 0).astype(np.float32)
    total, share = parallel_map(average, (brain, mask[box].astype(np.float32)))
    inside = share > 0.5 + 1e-3  # a hair more, so that rounding decides about no half voxel
    return np.asarray(total / np.maximum(share, 1e-3), np.float32), inside
