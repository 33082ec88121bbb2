"""From a volume to the slices that a network knows, and back.

:func:`prepare` finds the brain mask, resamples to the checkpoint's axial model
grid and applies its intensity rule. :class:`Slices` carries the exact inverse
of that geometry, so no caller ever resamples anything.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import cc3d
import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.detection.erosion import depth_inside
from napari_addm.detection.parallel import beside, one_blas_thread
from napari_addm.detection.smoothing import multiply_along
from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.arrays import Box, bounding_box, voxel_spacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_addm.checkpoint.specification import PreparationSpecification
    from napari_addm.io.volume import Volume

Affine = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

PLAUSIBLE_BRAIN_ML = (500.0, 2200.0)
"""Smallest and largest brain mask that passes without a warning, in mL."""

SMALLEST_SLICE_CM2 = 1.0
"""Model slices with less brain than this are skipped."""

LEAST_DEPTH_CONTRAST = 0.05
"""Brain 10 to 25 mm deep is brighter than its outer 6 mm by .14 to .31 of the intensity range in
the T1 scans that this was measured on, and darker by as much once their contrast is inverted."""

BYTES_PER_VOXEL = 4 * 8
"""What a detection holds at its peak: maps, masks and their copies."""

NOT_T1 = (
    "the deep brain is not brighter than its surface, as it is in a T1-weighted scan: the model "
    "knows only T1, so do not trust the map"
)

_BACKGROUND_SHARE = 0.9


@dataclass(frozen=True)
class IntensityMap:
    """Monotone, piecewise-linear map between a scan's intensities and model values.

    Attributes
    ----------
    source : ndarray, shape (K,)
        The scan's percentiles inside the brain mask, in the scan's units.
    target : ndarray, shape (K,)
        The checkpoint's landmarks, in 0..1.
    """

    source: NDArray[np.float64]
    target: NDArray[np.float64]

    def forward(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scan intensities to model values in 0..1 (clipped)."""
        return np.clip(_interpolate(values, self.source, self.target), 0.0, 1.0)

    def inverse(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Model values in 0..1 to scan intensities."""
        return _interpolate(values, self.target, self.source)


def _interpolate(
    values: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Linear interpolation that goes on straight beyond the first and last knot."""
    first = (y[1] - y[0]) / (x[1] - x[0])
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    wide = max(abs(float(x[0])), abs(float(x[-1])), 1.0) * 1e4
    knots_x = np.concatenate([[x[0] - wide], x, [x[-1] + wide]])
    knots_y = np.concatenate([[y[0] - first * wide], y, [y[-1] + last * wide]])
    return np.interp(values, knots_x, knots_y).astype(np.float32)


@dataclass(frozen=True)
class Slices:
    """Axial slices on the model grid, with the way back to native space.

    Attributes
    ----------
    images : ndarray of float32, shape (N, H, W)
        Model values in -1..1, air -1. Rows grow to anterior, columns to right.
    masks : ndarray of bool, shape (N, H, W)
        The brain.
    indices : ndarray of int, shape (N,)
        Each slice's place in the model grid's depth; slices without brain are left out.
    depth : int
        Number of slices of the model grid.
    affine : ndarray, shape (4, 4)
        Model grid index (z, y, x) to world mm (RAS+).
    volume : Volume
        The scan that was prepared.
    brain_mask : ndarray of bool, shape (S, A, R)
        The brain on the scan's own grid.
    intensity : IntensityMap
    notes : tuple of str
        The warnings that were there at once; see `warnings`.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    indices: NDArray[np.int64]
    depth: int
    affine: Affine
    volume: Volume
    brain_mask: NDArray[np.bool_]
    intensity: IntensityMap
    notes: tuple[str, ...] = ()
    _box: Box = field(repr=False, default=(slice(None), slice(None), slice(None)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the model grid, (z, y, x)."""
        return voxel_spacing(self.affine)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results must know; worked out when it is asked for first."""
        contrast = self.depth_contrast
        if contrast is not None and contrast < LEAST_DEPTH_CONTRAST:
            return (*self.notes, NOT_T1)
        return self.notes

    @cached_property
    def depth_mm(self) -> NDArray[np.float64]:
        """How deep in the brain each voxel of the model grid lies, shape (depth, H, W)."""
        return depth_inside(self.on_grid(self.masks), self.spacing_mm)

    @cached_property
    def depth_contrast(self) -> float | None:
        """How much brighter the deep brain is than its surface; positive in T1.

        Difference of the median model values (0..1) 10 to 25 mm deep and at most 6 mm deep;
        None if there is too little of either.
        """
        depth = self.depth_mm[self.indices]
        deep = self.images[(depth > 10.0) & (depth <= 25.0)]
        outer = self.images[(depth > 0.0) & (depth <= 6.0)]
        if min(deep.size, outer.size) < 1000:
            return None
        return float(np.median(deep) - np.median(outer)) / 2.0  # of a range from -1 to 1

    def on_grid(self, slices: NDArray[Scalar], fill: float = 0.0) -> NDArray[Scalar]:
        """Put N slices into the whole model grid, shape (depth, H, W)."""
        grid = np.full((self.depth, *slices.shape[1:]), fill, slices.dtype)
        grid[self.indices] = slices
        return grid

    def needed_for(self, native_slices: Sequence[int]) -> NDArray[np.int64]:
        """Positions in ``images`` that the brain of some native slices depends on.

        Parameters
        ----------
        native_slices : sequence of int
            Indices along the scan's S axis.
        """
        wanted = np.zeros(self.depth, bool)
        for index in native_slices:
            first, last = self._reach[index]
            wanted[first : last + 1] = True
        return np.flatnonzero(wanted[self.indices])

    def complete_native(self, finished: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which native slices have all the model slices that they depend on.

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
        missing[self.indices + 1] = ~finished
        missing = np.cumsum(missing)
        first, last = self._reach.T
        return missing[last + 1] - missing[first] == 0

    @property
    def reconstructed(self) -> NDArray[np.bool_]:
        """Which native slices show any of ``images``, shape (S,)."""
        return ~self.complete_native(np.zeros(len(self.images), bool))

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
        """Bring maps from the model grid to the scan's own grid.

        Trilinear, normalised by the model's brain mask so that air does not
        bleed in at the brain's edge; 0 outside the native brain mask.

        Parameters
        ----------
        *grids : ndarray of float32, shape (depth, H, W)
        native_slices : (start, stop), optional
            Only this range of the scan's slices; all of them by default.
        valid : ndarray of bool, shape (N,), optional
            Slices of ``images`` that hold a value yet; all by default.
        out : sequence of ndarray, optional
            Where to write: arrays of what is returned, 0 outside the brain.

        Returns
        -------
        sequence of ndarray of float32, shape (stop - start, A, R)
            One for each of ``grids``.
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
            weight = self.on_grid(self.masks.astype(np.float32))
            gain = self.native_gain[start - self._box[0].start : stop - self._box[0].start]
        else:
            weight = self.on_grid((self.masks & valid[:, None, None]).astype(np.float32))
            gain = self._gain(weight, box)
        to_model = np.linalg.inv(self.affine) @ self.volume.affine

        def fill(map_: NDArray[np.float32], grid: NDArray[np.float32]) -> None:
            np.multiply(_resample(grid * weight, to_model, box), gain, out=map_[place])

        beside(fill, maps, grids)
        return maps

    @cached_property
    def native_gain(self) -> NDArray[np.float32]:
        """What `to_native` divides by once all slices hold a value; around the scan's brain."""
        return self._gain(self.on_grid(self.masks.astype(np.float32)), self._box)

    def _gain(self, weight: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
        """1 / the share of each sample that lies in the model's brain mask, 0 outside either."""
        weights = _resample(weight, np.linalg.inv(self.affine) @ self.volume.affine, box)
        inside = self.brain_mask[box] & (weights > 1e-3)
        return np.divide(np.float32(1), weights, out=np.zeros_like(weights), where=inside)


def _resample(
    data: NDArray[np.float32], matrix: Affine, box: Box, sigma: Sequence[float] = (0.0, 0.0, 0.0)
) -> NDArray[np.float32]:
    """Trilinear samples of ``data`` at ``matrix @ index`` for every index of ``box``.

    Before, ``data`` is smoothed by a Gaussian, with a standard deviation for each of its axes in
    voxels; .2 and less leave it alone.
    """
    start = np.array([s.start for s in box], float)
    shape = tuple(s.stop - s.start for s in box)
    offset = matrix[:3, :3] @ start + matrix[:3, 3]
    linear = matrix[:3, :3]
    diagonal = np.diag(linear)
    values = np.asarray(data, np.float32)
    if not np.allclose(linear, np.diag(diagonal), atol=1e-6):
        for axis in range(3):
            values = _blur(values, sigma[axis], axis)
        samples: NDArray[np.float32] = ndimage.affine_transform(
            values, linear, offset, output_shape=shape, order=1, mode="grid-constant"
        )
        return samples
    # Parallel grids: one product with a banded matrix along each axis, many times faster than
    # scipy, and first along those that get shorter.
    with one_blas_thread():
        for axis in sorted(range(3), key=lambda a: shape[a] / values.shape[a]):
            weights = _linear(values.shape[axis], shape[axis], diagonal[axis], offset[axis])
            weights = _blur(weights, sigma[axis], 1)  # as good as the values, and smaller
            values = multiply_along(axis, weights, values)
    return values


def _blur(values: NDArray[np.float32], sigma: float, axis: int) -> NDArray[np.float32]:
    """Smooth along one axis, with nothing beyond its ends."""
    if sigma <= 0.2:
        return values
    blurred: NDArray[np.float32] = ndimage.gaussian_filter1d(
        values, sigma, axis, mode="constant", truncate=3.0
    )
    return blurred


def _linear(size: int, count: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Linear interpolation at ``scale * n + offset`` as a matrix, shape (count, size).

    Beyond the ends it goes to 0 within one sample.
    """
    place = scale * np.arange(count) + offset
    lower = np.floor(place).astype(int)
    matrix = np.zeros((count, size), np.float32)
    for sample, weight in ((lower, 1.0 - (place - lower)), (lower + 1, place - lower)):
        there = np.flatnonzero((sample >= 0) & (sample < size))
        matrix[there, sample[there]] = weight[there]
    return matrix


def find_brain(volume: Volume) -> NDArray[np.bool_] | None:
    """The brain mask of an already skull-stripped scan, else None.

    A scan counts as stripped when nine tenths of its border have one and the
    same value and what differs from that value is no larger than a brain.

    Returns
    -------
    ndarray of bool, shape (S, A, R), or None
    """
    data = volume.data
    border = np.concatenate(
        [np.take(data, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    )
    values, counts = np.unique(border, return_counts=True)
    # A brain that was cropped tightly touches the border, so a share suffices.
    background = values[counts.argmax()]
    if counts.max() < _BACKGROUND_SHARE * border.size:
        return None
    head = data != background
    if np.count_nonzero(head) * volume.voxel_ml > PLAUSIBLE_BRAIN_ML[1]:
        return None
    return _largest_solid(head)


def _largest_solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask, its holes filled."""
    if not mask.any():
        return mask
    box = bounding_box(mask)
    # cc3d is several times as fast as scipy; as uint8 as in napari_addm.findings.findings
    inside = np.ascontiguousarray(mask[box]).view(np.uint8)
    parts, count = cc3d.connected_components(inside, connectivity=6, return_N=True)
    if count > 1:
        inside = (parts == 1 + np.bincount(parts.ravel())[1:].argmax()).view(np.uint8)
    outside = np.pad(1 - inside, 1, constant_values=1)
    parts = cc3d.connected_components(outside, connectivity=6)
    solid = np.zeros_like(mask)
    solid[box] = (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return solid


def strip_skull(volume: Volume) -> NDArray[np.bool_]:
    """The brain mask of a whole-head scan, by deepbet (the extra ``strip``).

    Returns
    -------
    ndarray of bool, shape (S, A, R)

    Raises
    ------
    MissingExtraError
        If deepbet is not installed.

    References
    ----------
    .. [1] Fisch et al. deepbet: Fast brain extraction of T1-weighted MRI. 2024.
    """
    try:
        import nibabel as nib
        from deepbet.bet import BrainExtraction
    except ImportError as error:
        raise MissingExtraError(
            f"{volume.name}: this scan shows the whole head, and skull stripping needs the "
            'package deepbet; install it with pip install "napari-addm[strip]", or give a '
            "brain mask."
        ) from error
    # deepbet reorients to R,A,S, which this order already is
    image = nib.Nifti1Image(np.transpose(volume.data, (2, 1, 0)), volume.affine[:, [2, 1, 0, 3]])
    try:
        _, found, _ = BrainExtraction(no_gpu=True).run(image)
    except AssertionError as error:  # its way to say that there is no brain
        raise InputError(
            f"{volume.name}: deepbet finds no brain; check that this is a T1-weighted scan of a "
            "head, or give a brain mask."
        ) from error
    mask = np.asarray(found.dataobj) > 0
    return np.transpose(mask, (2, 1, 0))


def prepare(
    volume: Volume,
    specification: PreparationSpecification,
    brain_mask: NDArray[np.bool_] | None = None,
) -> Slices:
    """Bring a scan to the model grid and the model's intensities.

    Parameters
    ----------
    volume : Volume
    specification : PreparationSpecification
        From the checkpoint.
    brain_mask : ndarray of bool, shape (S, A, R), optional
        On the scan's own grid. Without it the mask is the part that is not
        background if the scan is already stripped, else deepbet's.

    Raises
    ------
    InputError
        If there is no brain to work on.
    MissingExtraError
        If skull stripping is needed and deepbet is not installed.
    """
    warnings = list(volume.warnings)
    needed = volume.data.size * BYTES_PER_VOXEL
    if needed > psutil.virtual_memory().available:
        raise InputError(
            f"{volume.name}: a scan of {volume.shape} voxels needs about {needed / 1e9:.0f} GB of "
            "memory, more than is free; crop or resample it."
        )
    given = brain_mask is not None
    if brain_mask is None:
        brain_mask = find_brain(volume)
        if brain_mask is None:
            brain_mask = strip_skull(volume)
            warnings.append("skull stripped with deepbet")
        else:
            warnings.append("taken as already skull-stripped, because its background is one value")
    elif brain_mask.shape != volume.shape:
        raise InputError(
            f"{volume.name}: the brain mask has {brain_mask.shape} voxels, the scan "
            f"{volume.shape}; resample the mask to the scan."
        )
    brain_mask = np.asarray(brain_mask, bool)
    if not brain_mask.any():
        fault = (
            "that was given is empty; give another, or none"
            if given
            else "that was found is empty; check the scan, or give a brain mask"
        )
        raise InputError(f"{volume.name}: the brain mask {fault}.")
    brain_ml = float(brain_mask.sum()) * volume.voxel_ml
    low, high = PLAUSIBLE_BRAIN_ML
    if not low <= brain_ml <= high:
        warnings.append(
            f"the brain mask holds {brain_ml:.0f} mL, a brain {low:.0f} to {high:.0f}: "
            "check the mask before you trust the map"
        )

    box = bounding_box(brain_mask)
    values = volume.data[box][brain_mask[box]]
    if np.ptp(values) == 0:
        raise InputError(
            f"{volume.name}: all voxels of the brain mask have the same value; check the scan and "
            "the mask."
        )
    affine, depth = _model_grid(volume, brain_mask, box, specification)
    height, width = specification.size
    to_volume = np.linalg.inv(volume.affine) @ affine
    with ThreadPoolExecutor(1) as aside:
        sorting = aside.submit(np.percentile, values, specification.percentiles)
        images, masks = _to_model(volume.data, brain_mask, box, to_volume, (depth, height, width))
        percentiles = sorting.result()
    # Equal percentiles (few grey levels) would make the map many-valued.
    percentiles += np.arange(len(percentiles)) * 1e-6 * max(float(np.ptp(percentiles)), 1e-6)
    intensity = IntensityMap(percentiles, np.asarray(specification.landmarks, float))
    outside = 1.0 - masks.sum() * np.prod(specification.spacing_mm) / 1000.0 / brain_ml
    if outside > 0.05:
        warnings.append(
            f"{outside:.0%} of the brain mask lies outside the model's field of "
            f"{height * specification.spacing_mm[1]:.0f} x "
            f"{width * specification.spacing_mm[2]:.0f} mm and has no map"
        )
    pixel_cm2 = specification.spacing_mm[1] * specification.spacing_mm[2] / 100.0
    indices = np.flatnonzero(masks.sum(axis=(1, 2)) * pixel_cm2 >= SMALLEST_SLICE_CM2)
    if not len(indices):
        raise InputError(
            f"{volume.name}: no slice holds {SMALLEST_SLICE_CM2:g} cm² of brain; check the "
            "voxel size in the header and the brain mask."
        )
    images, masks = intensity.forward(images[indices]), masks[indices]
    images = np.where(masks, 2.0 * images - 1.0, -1.0).astype(np.float32)
    return Slices(
        images, masks, indices, depth, affine, volume, brain_mask, intensity, tuple(warnings), box
    )


def _model_grid(
    volume: Volume, mask: NDArray[np.bool_], box: Box, specification: PreparationSpecification
) -> tuple[Affine, int]:
    """World-aligned axial grid centred on the brain: its affine and its depth."""
    # What lies farthest out along any direction is an end of its row.
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
    depth = int(np.ceil((high[2] - low[2]) / z)) + 1
    centre = (low + high) / 2.0
    affine = np.eye(4)
    # index (z, y, x) -> world (x, y, z)
    affine[:3, :3] = [[0, 0, x], [0, y, 0], [z, 0, 0]]
    affine[:3, 3] = centre - affine[:3, :3] @ [(depth - 1) / 2, (height - 1) / 2, (width - 1) / 2]
    return affine, depth


def _to_model(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    box: Box,
    to_volume: Affine,
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Average the brain's voxels onto the model grid; also the resampled mask."""
    # One model voxel in native voxels, along each native axis.
    ratio = np.linalg.norm(to_volume[:3, :3], axis=1)
    # A Gaussian whose width makes up the difference between the two voxel sizes.
    sigma = np.sqrt(np.maximum(ratio**2 - 1.0, 0.0)) / 2.355
    shift = np.eye(4)
    shift[:3, 3] = [-s.start for s in box]
    depth, height, width = (slice(0, n) for n in shape)

    def average(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return _resample(values, shift @ to_volume, (depth, height, width), sigma)

    brain = np.where(mask[box], data[box], 0).astype(np.float32)
    total, share = beside(average, (brain, mask[box].astype(np.float32)))
    return np.asarray(total / np.maximum(share, 1e-3), np.float32), share > 0.5
