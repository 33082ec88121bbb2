"""Where a scan is darker or brighter than its reconstruction.

The structure score does not see brightness, so it misses fluid and fresh blood. Here scan and
reconstruction are compared as they are, after a smooth field has been taken off that scanners add.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.smoothing import NormalizedConvolution, in_plane_box
from napari_addm.io.arrays import Grid, Mask, Spacing

ORDER = 2
"""Highest power of the polynomial that stands for the scanner's field."""
ROUNDS = 10
"""Number of fits with new weights; the field changes little after five."""
OUTLIER = 3.0
"""Differences of this many robust standard deviations do not count for the field."""
MOST_POINTS = 50_000
"""Voxels that the field is fitted to."""


def higher_of(anomaly: NDArray[Any], brightness: NDArray[Any] | None) -> NDArray[Any]:
    """Return the map that findings lie in: the higher of anomaly map and brightness.

    Parameters
    ----------
    anomaly : ndarray, shape (S, A, R)
    brightness : ndarray, shape (S, A, R), or None
        Positive where brighter, negative where darker; in the units of the anomaly map.
    """
    return anomaly if brightness is None else np.maximum(anomaly, np.abs(brightness))


def without_field(scan: Grid, reconstruction: Grid, mask: Mask) -> Grid:
    """Give a reconstruction the scanner's field, so that only the rest differs from the scan.

    The field is one plus a polynomial of the place; the reconstruction times the field is fitted to
    the scan. Tukey's weights leave out what differs strongly, such as a lesion.

    Parameters
    ----------
    scan, reconstruction : ndarray of float32, shape (D, H, W)
        Model values, 0 to 1.
    mask : ndarray of bool, shape (D, H, W)

    Returns
    -------
    ndarray of float32, shape (D, H, W)
        0 outside the mask.

    References
    ----------
    Beaton and Tukey. The fitting of power series, meaning polynomials. Technometrics, 1974.
    """
    fitted = np.zeros_like(reconstruction)
    places = np.argwhere(mask)
    if not len(places):
        return fitted
    low, high = places.min(axis=0), places.max(axis=0)
    at = (places - (low + high) / 2) / np.maximum((high - low) / 2, 1.0)
    expected, found = reconstruction[mask], scan[mask]
    few = slice(None, None, -(-len(places) // MOST_POINTS))
    design = _polynomials(at[few]) * expected[few, None]
    difference = (found - expected)[few].astype(np.float64)
    weights = np.ones(len(difference))
    field: NDArray[np.floating] = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        weighted = design * weights[:, None]
        normal = weighted.T @ weighted + 1e-3 * np.eye(len(field))
        field = np.linalg.solve(normal, weighted.T @ (difference * weights))
        error = difference - design @ field
        scale = 1.4826 * np.median(np.abs(error)) + 1e-6
        weights = 1 - np.clip(error / (OUTLIER * scale), -1, 1) ** 2
    fitted[mask] = expected * (1 + _polynomials(at) @ field)
    return fitted


def _polynomials(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The monomials up to `ORDER` at some places (n, 3) in -1..1; shape (n, terms)."""
    powers = [p for p in product(range(ORDER + 1), repeat=3) if sum(p) <= ORDER]
    return np.stack([np.prod(at**power, axis=1) for power in powers], axis=1)


def darker_and_brighter(
    scan: Grid, reconstruction: Grid, mask: Mask, inner: Mask, sigma_mm: float, spacing_mm: Spacing
) -> tuple[Grid, Grid]:
    """Return how much darker, and how much brighter, a scan is than its reconstruction.

    Parameters
    ----------
    scan, reconstruction : ndarray of float32, shape (D, H, W)
        Model values, 0 to 1.
    mask : ndarray of bool, shape (D, H, W)
        Where both have values.
    inner : ndarray of bool, shape (D, H, W)
        Where the maps are wanted.
    sigma_mm : float
        Standard deviation of the Gaussian that smooths the maps.
    spacing_mm : (z, y, x)

    Returns
    -------
    darker, brighter : ndarray of float32, shape (D, H, W)
        0 outside ``inner``.
    """
    difference = np.where(mask, without_field(scan, reconstruction, mask) - scan, 0)
    box = in_plane_box(inner)
    smooth = NormalizedConvolution(inner[box], sigma_mm, spacing_mm)
    maps = np.zeros((2, *scan.shape), np.float32)
    maps[0][box] = smooth(np.maximum(difference[box], 0).astype(np.float32))
    maps[1][box] = smooth(np.maximum(-difference[box], 0).astype(np.float32))
    return maps[0], maps[1]
