"""From scan and reconstruction to an anomaly map, on the model grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.detection.banded import multiply_along
from napari_addm.detection.parallel import beside, one_blas_thread
from napari_addm.io.arrays import Grid, Mask, Spacing

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ScoreKind

# Windows of a gyrus to a lobe: finer ones see texture that no reconstruction keeps.
SSIM_SCALES_MM = (4.0, 8.0, 16.0)
STRUCTURE_SCALES_MM = (4.0, 8.0)

SCORE_MEANINGS: dict[ScoreKind, str] = {
    "signed": "reconstruction - scan, smoothed: high where the scan is darker than expected",
    "darker": "reconstruction - scan where positive, smoothed",
    "brighter": "scan - reconstruction where positive, smoothed",
    "absolute": "|scan - reconstruction|, smoothed",
    "squared": "(scan - reconstruction)², smoothed",
    "ssim": "1 - structural similarity over three scales: high where expected structure is lost",
    "structure": "1 - local correlation over two scales (the structure term of the structural "
    "similarity): as ssim, but whatever the brightness and the contrast",
}
"""What each score shows, in words for a person."""


def erode(mask: Mask, millimetres: float, spacing_mm: Spacing) -> Mask:
    """Voxels of a mask that lie at least so far inside it.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
    millimetres : float
        0 keeps the mask.
    spacing_mm : (z, y, x)
    """
    if millimetres <= 0:
        return mask
    return depth_inside(mask, spacing_mm) > millimetres


def depth_inside(mask: Mask, spacing_mm: Spacing) -> NDArray[np.float64]:
    """How far from the nearest voxel outside a mask each of its voxels lies, mm.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
    spacing_mm : (z, y, x)

    Returns
    -------
    ndarray of float64, shape (D, H, W)
        0 outside. What lies outside the grid is outside the mask.
    """
    box = _in_plane_box(mask)
    padded = np.pad(mask[box], 1)
    depth = np.zeros(mask.shape)
    depth[box] = ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    return depth


class MaskedMean:
    """Gaussian average over the voxels inside a mask (normalised convolution).

    Each axis is a product with a banded matrix: many times faster than a direct
    convolution where the Gaussian is tens of voxels wide.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
        Voxels outside take no part.
    millimetres : float
        Standard deviation of the Gaussian, cut at three of them; 0 averages nothing.
    spacing_mm : (z, y, x)
    rows : slice, optional
        Work out only these slices along z, from all of them; D' of D.
    """

    def __init__(
        self,
        mask: Mask,
        millimetres: float,
        spacing_mm: Spacing,
        rows: slice | None = None,
    ) -> None:
        self.mask = mask
        self.bands = [
            _gaussian_band(size, millimetres / spacing)
            for size, spacing in zip(mask.shape, spacing_mm, strict=True)
        ]
        if rows is not None:
            self.bands[0] = self.bands[0][rows]
            mask = mask[rows]
        share = self._filter(self.mask.astype(np.float32))
        self.gain = np.where(mask, 1.0 / np.maximum(share, 1e-6), 0).astype(np.float32)

    def _filter(self, values: Grid) -> Grid:
        with one_blas_thread():
            for axis, band in enumerate(self.bands):
                values = multiply_along(axis, band, values)
        return values

    def __call__(self, values: Grid) -> Grid:
        """The average at every voxel of the mask, 0 outside; float32, shape (D', H, W)."""
        return self.of_masked(np.where(self.mask, values, np.float32(0)))

    def of_masked(self, values: Grid) -> Grid:
        """The same of values that are 0 outside the mask."""
        means = self._filter(values)
        means *= self.gain
        return means


def _gaussian_band(size: int, sigma: float) -> Grid:
    """A Gaussian convolution of one axis as a matrix, shape (size, size)."""
    if sigma <= 0:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    band = np.exp(-0.5 * (distance / sigma) ** 2)
    band[np.abs(distance) > 3.0 * sigma] = 0
    return band.astype(np.float32)


def smooth(values: Grid, mask: Mask, millimetres: float, spacing_mm: Spacing) -> Grid:
    """One :class:`MaskedMean` of one map."""
    return MaskedMean(mask, millimetres, spacing_mm)(values)


def residuals(
    kind: ScoreKind,
    scan: Grid,
    reconstructions: Grid,
    mask: Mask,
    spacing_mm: Spacing,
    weights: Grid | None = None,
    rows: slice | None = None,
) -> Grid:
    """The voxel-wise scores of some reconstructions, before smoothing.

    Parameters
    ----------
    kind : str
        See :data:`SCORE_MEANINGS`.
    scan : ndarray of float32, shape (D, H, W)
        Model values, 0..1.
    reconstructions : ndarray of float32, shape (draws, D, H, W)
    mask : ndarray of bool, shape (D, H, W)
        Where scan and reconstruction hold values.
    spacing_mm : (z, y, x)
    weights : ndarray of float32, shape (draws, D, H, W), optional
        What each draw's score is multiplied by, for methods that also tell where a
        lesion can be.
    rows : slice, optional
        Work out only these slices along z, from all of them; D' of D.

    Returns
    -------
    ndarray of float32, shape (draws, D', H, W)
    """
    rows = rows or slice(None)
    if kind in ("ssim", "structure"):
        box = _in_plane_box(mask)
        alone = kind == "structure"
        scales = STRUCTURE_SCALES_MM if alone else SSIM_SCALES_MM
        similarity = Similarity(
            scan[box], mask[box], scales, spacing_mm, rows, structure_alone=alone
        )
        # beyond the box all are alike
        values = np.zeros_like(reconstructions[:, rows])
        for value, similar in zip(
            values, beside(similarity, (drawn[box] for drawn in reconstructions)), strict=True
        ):
            np.subtract(1.0, similar, out=value[box])
    else:
        difference = reconstructions[:, rows] - scan[rows]
        if kind == "signed":
            values = difference
        elif kind == "darker":
            values = np.maximum(difference, 0)
        elif kind == "brighter":
            values = np.maximum(-difference, 0)
        elif kind == "absolute":
            values = np.abs(difference)
        else:
            values = difference**2
    return values if weights is None else values * weights[:, rows]


class Similarity:
    """SSIM [1]_ with one scan within a mask, averaged over scales.

    scikit-image's takes no mask, so that air would count as similar. What depends on
    the scan alone is worked out once.

    Parameters
    ----------
    scan : ndarray of float32, shape (D, H, W)
        Values in 0..1.
    mask : ndarray of bool, shape (D, H, W)
    scales_mm : tuple of float
        Standard deviations of the Gaussian windows.
    spacing_mm : (z, y, x)
    rows : slice, optional
        Work out only these slices along z, from all of them; D' of D.
    structure_alone : bool
        Leave out the terms of luminance and contrast: a local correlation remains.

    References
    ----------
    .. [1] Wang et al. Image quality assessment: from error visibility to structural
       similarity. IEEE Transactions on Image Processing, 2004.
    """

    def __init__(
        self,
        scan: Grid,
        mask: Mask,
        scales_mm: tuple[float, ...],
        spacing_mm: Spacing,
        rows: slice | None = None,
        *,
        structure_alone: bool = False,
    ) -> None:
        self.mask = mask
        self.scan = np.where(mask, scan, np.float32(0))
        self.structure_alone = structure_alone
        squared = self.scan * self.scan if structure_alone else None

        def of_scale(scale: float) -> tuple[MaskedMean, Grid, Grid | None]:
            mean = MaskedMean(mask, scale, spacing_mm, rows)
            of_scan = mean.of_masked(self.scan)
            if squared is None:
                return mean, of_scan, None
            return mean, of_scan, _deviation(mean.of_masked(squared), of_scan)

        self.of_scales = beside(of_scale, scales_mm)

    def __call__(self, other: Grid) -> Grid:
        """The similarity of another image, (D, H, W); float32, shape (D', H, W)."""
        c1, c2 = 0.01**2, 0.03**2
        other = np.where(self.mask, other, np.float32(0))
        powers = other * other
        if not self.structure_alone:
            powers += self.scan * self.scan
        products = self.scan * other
        total = np.zeros_like(self.of_scales[0][1])
        for mean, mean_a, deviation_a in self.of_scales:
            mean_b = mean.of_masked(other)
            product = mean_a * mean_b
            if deviation_a is not None:
                covariance = mean.of_masked(products)
                covariance -= product
                deviations = _deviation(mean.of_masked(powers), mean_b)
                deviations *= deviation_a
                covariance += c2 / 2
                deviations += c2 / 2
                covariance /= deviations
                total += covariance
                continue
            squares = mean_a**2 + mean_b**2
            variances = mean.of_masked(powers)
            covariance = mean.of_masked(products)
            # (2 product + c1) (2 covariance + c2) / ((squares + c1) (variances + c2)), in place:
            # to get memory for so many volumes takes as long as to compute them
            variances -= squares
            covariance -= product
            for term, factor, small in (
                (product, 2, c1),
                (covariance, 2, c2),
                (squares, 1, c1),
                (variances, 1, c2),
            ):
                if factor != 1:
                    term *= factor
                term += small
            product *= covariance
            squares *= variances
            product /= squares
            total += product
        total /= np.float32(len(self.of_scales))
        return total


def _deviation(mean_of_squares: Grid, mean: Grid) -> Grid:
    return np.sqrt(np.maximum(mean_of_squares - mean**2, 0))


def smoothed_mean(
    values: Grid,
    inner: Mask,
    millimetres: float,
    spacing_mm: Spacing,
    rows: slice | None = None,
) -> tuple[Grid, Grid | None]:
    """Smooth the :func:`residuals` of some draws, and average them: the anomaly map.

    Parameters
    ----------
    values : ndarray of float32, shape (draws, D, H, W)
    inner : ndarray of bool, shape (D, H, W)
        Where the map is wanted: the brain mask after :func:`erode`. It is eroded
        before slices are left out, or a slice alone would have no inside.
    millimetres : float
        Standard deviation of the Gaussian.
    spacing_mm : (z, y, x)
    rows : slice, optional
        Work out only these slices along z, from all of them; D' of D.

    Returns
    -------
    anomaly : ndarray of float32, shape (D', H, W)
        0 outside ``inner``.
    uncertainty : ndarray of float32, shape (D', H, W), or None
        Standard deviation over the draws; None for a single draw.
    """
    box = _in_plane_box(inner)
    mean = MaskedMean(inner[box], millimetres, spacing_mm, rows)
    maps = np.stack(list(beside(mean, (drawn[box] for drawn in values))))
    shape = (len(maps[0]), *inner.shape[1:])
    anomaly = np.zeros(shape, np.float32)
    anomaly[box] = maps[0] if len(maps) == 1 else maps.mean(axis=0)
    if len(maps) == 1:
        return anomaly, None
    uncertainty = np.zeros(shape, np.float32)
    uncertainty[box] = maps.std(axis=0, ddof=1)
    return anomaly, uncertainty


def _in_plane_box(mask: Mask) -> tuple[slice, slice, slice]:
    """All slices along z, and what the mask needs of each."""
    ranges = [slice(None)]
    for axis in (1, 2):
        there = np.flatnonzero(mask.any(axis=(0, 3 - axis)))
        ranges.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 1))
    z, y, x = ranges
    return z, y, x
