"""Symmetry: the plane between the halves of a brain, and scores without what both halves share.

A network that knows one scanner gives high scores for other scanners in the same places: the
cerebellum, the temporal poles, the cortex at the skull. These errors are about as large on the left
as on the right; most lesions are not. So the score of the mirrored place is subtracted, up to a
value that is common in this scan. A lesion that crosses the midline, or has a twin, stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from napari_addm.detection.midline import Midline, MidlineSource
from napari_addm.detection.parallel import one_blas_thread, parallel_map
from napari_addm.io.arrays import Box, Grid, Mask, Spacing, voxel_spacing

# chosen on the validation cases, in the middle of a plateau; see docs/benchmark.md
SHARE = 0.75
"""Share of the mirrored score that is subtracted."""
COMMON = 75.0
"""Percentile of the scan's scores above which no more is subtracted."""
LEAST_CORRELATION = 0.92
"""Least correlation of a scan with its mirror image. Whole brains have 0.94 and more (with a cyst
of 113 mL 0.92 to 0.93), halves 0.90 and less."""

LEAST_WIDTH = 0.65
"""Least width of a mask with both halves, as a share of its length or height. 34 whole brains of
three sources have 0.71 to 0.92, halves of them 0.42 to 0.63."""
LEAST_WIDTH_MM = 82.0
"""Least width of a mask that is cut in length and height as well. Whole brains have 106 to 132 mm
between the first and the last percent of their voxels, halves at most 80."""
SURE_CORRELATION = 0.96
"""Correlation of a scan with its mirror image from which the mask is not consulted. Brains that are
turned by 90 degrees in their file have up to 0.95 across the wrong axis."""
LEAST_MASK_CORRELATION = 0.97
"""Least correlation of a brain mask with its mirror image. Whole brains have 0.976 and more, across
the wrong axis at most 0.963, with a hole of 110 mL on one side 0.87."""
LARGEST_TILT = 0.58
"""Largest sine of the angle between midline and grid. The search ends at 0.6, so a plane close to
that is no optimum."""

SEARCH_MM = 5.5  # fast, and exact to a degree
BLUR_MM = 4.0
FIRST_STEP = np.array([0.1, 0.1, 5.0])  # sines of two angles, and mm
MOST_TURNED = 0.6  # sine of an angle


@dataclass(frozen=True)
class MirrorPlane:
    """The plane between the halves of a brain.

    Attributes
    ----------
    normal : tuple of float
        Unit vector (z, y, x), in mm.
    offset_mm : float
        Distance of the plane from the middle of the grid, along the normal.
    spacing_mm : tuple of float
        Voxel size (z, y, x) of its grid.
    correlation : float
        Correlation of the scan with its mirror image.
    """

    normal: tuple[float, float, float]
    offset_mm: float
    spacing_mm: Spacing
    correlation: float = 1.0

    def reflect(self, values: Grid, box: Box | None = None) -> Grid:
        """Return the mirror image of a map, linearly interpolated; 0 beyond the grid.

        Parameters
        ----------
        values : ndarray of float32, shape (D, H, W)
        box : tuple of slice, optional
            Part of the mirror image; all of it by default.

        Returns
        -------
        ndarray of float32, the box's shape
        """
        spacing = np.array(self.spacing_mm)
        normal = np.array(self.normal)
        householder = np.eye(3) - 2 * np.outer(normal, normal)
        matrix = householder * spacing / spacing[:, None]
        middle = (np.array(values.shape) - 1) / 2
        shift = 2 * self.offset_mm * normal / spacing
        box = box or (slice(None), slice(None), slice(None))
        ranges = [part.indices(size) for part, size in zip(box, values.shape, strict=True)]
        start = np.array([first for first, *_ in ranges])
        reflected = ndimage.affine_transform(
            values,
            matrix,
            offset=middle + shift + matrix @ (start - middle),
            output_shape=tuple(last - first for first, last, _ in ranges),
            order=1,
        )
        return np.asarray(reflected, np.float32)


def find_mirror_plane(scan: Grid, mask: Mask, spacing_mm: Spacing) -> MirrorPlane | None:
    """Find the plane in which a brain is most similar to its mirror image.

    Parameters
    ----------
    scan : ndarray of float32, shape (D, H, W)
        W runs from one side of the head to the other; the head may be tilted.
    mask : ndarray of bool, shape (D, H, W)
        The brain.
    spacing_mm : (z, y, x)

    Returns
    -------
    MirrorPlane or None
        None where left and right are too different, as in a part of a brain.
    """
    plane = best_mirror_plane(scan, mask, spacing_mm)
    return plane if plane is not None and plane.correlation >= LEAST_CORRELATION else None


@one_blas_thread()  # so that rounding does not depend on other work
def best_mirror_plane(image: Grid, mask: Mask, spacing_mm: Spacing) -> MirrorPlane | None:
    """Find the plane with the highest correlation, however low that is.

    Parameters
    ----------
    image : ndarray of float32, shape (D, H, W)
        Values inside the brain, such as the scan's or 1.
    mask, spacing_mm
        As for `find_mirror_plane`.

    Returns
    -------
    MirrorPlane or None
        None without a brain, and for an image of one value.
    """
    if not mask.any():
        return None
    steps = [max(1, round(SEARCH_MM / spacing)) for spacing in spacing_mm]
    coarse_spacing = (spacing_mm[0] * steps[0], spacing_mm[1] * steps[1], spacing_mm[2] * steps[2])
    sigma = [BLUR_MM / spacing for spacing in spacing_mm]
    masked = np.where(mask, image, 0).astype(np.float32)
    blurred = ndimage.gaussian_filter1d(masked, sigma[0], 0)[:: steps[0]]
    blurred = ndimage.gaussian_filter(blurred, sigma[1:], axes=(1, 2))
    coarse = blurred[:, :: steps[1], :: steps[2]]
    # the middle of the coarse grid can differ from the middle of the grid; mm
    fine_middle = (np.array(image.shape) - 1) / 2 * spacing_mm
    shifted = (np.array(coarse.shape) - 1) / 2 * coarse_spacing - fine_middle
    center = np.average(np.arange(mask.shape[2]), weights=mask.sum(axis=(0, 1)))
    start = center * spacing_mm[2] - fine_middle[2] - shifted[2]
    flat = coarse.ravel() - coarse.mean()
    norm = np.linalg.norm(flat)
    if norm == 0:
        return None

    def plane(values: NDArray[np.float64]) -> MirrorPlane:
        roll, yaw = np.clip(values[:2], -MOST_TURNED, MOST_TURNED)
        ahead = float(np.sqrt(1 - roll**2 - yaw**2))
        return MirrorPlane((float(roll), float(yaw), ahead), float(values[2]), coarse_spacing)

    def difference(values: NDArray[np.float64]) -> float:
        mirrored = plane(values).reflect(coarse).ravel()
        mirrored = mirrored - mirrored.mean()
        return -float(flat @ mirrored / max(norm * np.linalg.norm(mirrored), 1e-12))

    first = np.array([0.0, 0.0, start])
    found = optimize.minimize(
        lambda steps: difference(first + steps * FIRST_STEP),
        np.zeros(3),
        method="COBYQA",
        options={"initial_tr_radius": 1.0, "final_tr_radius": 0.01, "maxfev": 150},
    )
    best = plane(first + found.x * FIRST_STEP)
    offset = best.offset_mm + float(np.dot(best.normal, shifted))
    return MirrorPlane(best.normal, offset, spacing_mm, -float(found.fun))


def find_midline(
    plane: MirrorPlane | None, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> Midline | None:
    """Find the plane between the halves of a brain.

    Parameters
    ----------
    plane : MirrorPlane or None
        From `find_mirror_plane`.
    mask : ndarray of bool, shape (D, H, W)
        The brain, on the plane's grid; its axes grow to superior, anterior and right.
    affine : ndarray, shape (4, 4)
        Index (z, y, x) to world RAS+ mm.

    Returns
    -------
    Midline or None
        The plane of symmetry of the mask where the scan has none; None where the mask holds half a
        brain, a part of it, or none.
    """
    spacing = voxel_spacing(affine)
    source: MidlineSource = "symmetry"
    if plane is None or plane.correlation < SURE_CORRELATION:
        of_mask = best_mirror_plane(mask.astype(np.float32), mask, spacing)
        if of_mask is None or of_mask.correlation < LEAST_MASK_CORRELATION:
            return None
        if plane is None:
            plane, source = of_mask, "mask"
    if max(abs(plane.normal[0]), abs(plane.normal[1])) > LARGEST_TILT:
        return None
    if not _holds_both_halves(mask, np.array(plane.normal), np.array(spacing)):
        return None
    middle = affine[:3, :3] @ ((np.array(mask.shape) - 1) / 2) + affine[:3, 3]
    right, anterior, superior = (affine[:3, :3] / spacing @ np.array(plane.normal)).tolist()
    normal = right, anterior, superior
    return Midline(normal, float(np.dot(normal, middle)) + plane.offset_mm, source)


def _holds_both_halves(
    mask: NDArray[np.bool_], normal: NDArray[np.float64], spacing: NDArray[np.float64]
) -> bool:
    """Tell whether a mask is as wide as a brain, apart from single voxels."""
    points = np.argwhere(mask[::2, ::2, ::2]) * (2 * spacing)
    if not len(points):
        return False
    along = np.stack([points @ normal, points[:, 0], points[:, 1]])
    low, high = np.percentile(along, (1.0, 99.0), axis=1)
    width, height, length = (high - low).tolist()
    return width >= max(LEAST_WIDTH_MM, LEAST_WIDTH * max(height, length))


def subtract_mirror_score(
    anomaly: Grid, inside: Mask, plane: MirrorPlane | None, rows: slice | None = None
) -> Grid:
    """Subtract from an anomaly map what the mirrored place shows as well.

    Parameters
    ----------
    anomaly : ndarray of float32, shape (D, H, W)
    inside : ndarray of bool, shape (D, H, W)
        Where the map holds scores. A place with its mirror image elsewhere is compared with the
        median.
    plane : MirrorPlane or None
        None compares every place with the median, which keeps the scale.
    rows : slice, optional
        Compute only these slices; D' of D.

    Returns
    -------
    ndarray of float32, shape (D', H, W)
        Never negative; 0 outside.
    """
    rows = rows or slice(None)
    scores = anomaly[inside]
    beyond = np.zeros_like(anomaly[rows])
    if not len(scores):
        return beyond
    median, common = np.percentile(scores, (50.0, COMMON))
    # the box of the brain in the slices
    y, x = (np.flatnonzero(inside.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    box = rows, slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
    mirrored = np.full_like(anomaly[box], median)
    if plane is not None:
        maps = inside.astype(np.float32), np.where(inside, anomaly, 0).astype(np.float32)
        share, reflected = parallel_map(partial(plane.reflect, box=box), maps)
        known = share > 0.2
        mirrored[known] = reflected[known] / share[known]
    less = anomaly[box] - SHARE * np.clip(mirrored, 0.0, max(common, 0.0))
    beyond[:, box[1], box[2]] = np.where(inside[box], np.maximum(less, 0.0), 0.0)
    return beyond
