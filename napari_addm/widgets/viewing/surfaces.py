"""Surfaces of a brain and of its findings, for the view in 3D. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import block_reduce, marching_cubes

# Fine enough for gyri, coarse enough for a software renderer.
BRAIN_MM = 2.0
# Tissue is brighter than this share of the brightest voxels; fluid between gyri is not.
TISSUE = 0.4
# A finding is made coarser until it has no more voxels than this.
MOST_VOXELS = 60**3
SMOOTHED = 0.8  # voxels


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface.

    Attributes
    ----------
    vertices : ndarray of float32, shape (n, 3)
        In the world, mm.
    faces : ndarray of int, shape (m, 3)
    number : int
        Of the finding; 0 for the brain.
    """

    vertices: np.ndarray
    faces: np.ndarray
    number: int = 0

    @property
    def middle(self) -> np.ndarray:
        """The middle of its vertices, mm."""
        middle: np.ndarray = self.vertices.mean(axis=0)
        return middle


@dataclass(frozen=True, eq=False)
class Solid:
    """What surfaces are made of, in the voxels of a layer.

    Attributes
    ----------
    scan : ndarray, shape (z, y, x)
    brain : ndarray, shape (z, y, x), or None
        What is not 0 is brain; None: what is bright is taken.
    labels : ndarray of int, shape (z, y, x), or None
        Numbers of findings.
    matrix, origin : ndarray, shapes (3, 3) and (3,)
        A voxel ``v`` lies at ``v @ matrix + origin`` in the world, mm.
    """

    scan: np.ndarray
    brain: np.ndarray | None
    labels: np.ndarray | None
    matrix: np.ndarray
    origin: np.ndarray


def finding_surfaces(solid: Solid) -> Iterator[Surface]:
    """Make the surface of each finding."""
    if solid.labels is None:
        return
    for number, box in enumerate(ndimage.find_objects(np.asarray(solid.labels)), start=1):
        if box is None:
            continue
        inside = np.pad(np.asarray(solid.labels[box]) == number, 2)
        step = 1
        while inside.size > MOST_VOXELS * step**3:
            step += 1
        start = np.array([side.start for side in box]) - 2.0
        made = _surface(_coarser(inside, (step,) * 3), np.full(3, step), start, solid, number)
        if made is not None:
            yield made


def brain_surface(solid: Solid) -> Surface | None:
    """Make the surface of the brain, with its gyri; None if nothing is there."""
    spacing = np.linalg.norm(solid.matrix, axis=1)
    steps = np.maximum(np.round(BRAIN_MM / spacing), 1).astype(int)
    tissue = _coarser(np.asarray(solid.scan, np.float32), tuple(steps))
    bright = tissue > TISSUE * np.percentile(tissue, 99)
    if solid.brain is not None:
        bright &= _coarser(np.asarray(solid.brain) != 0, tuple(steps)) > 0.5
    parts, count = ndimage.label(bright)
    if not count:
        return None
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    whole = np.pad(ndimage.binary_fill_holes(largest), 2)
    return _surface(whole.astype(np.float32), steps, -2.0 * steps, solid, 0)


def _coarser(data: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Average blocks of voxels."""
    made: np.ndarray = block_reduce(data.astype(np.float32), steps, np.mean)
    return made


def _surface(
    inside: np.ndarray, steps: np.ndarray, start: np.ndarray, solid: Solid, number: int
) -> Surface | None:
    """Make a surface around the voxels of a grid that begins at a voxel of the layer."""
    smooth = ndimage.gaussian_filter(inside, SMOOTHED)
    level = min(0.5, 0.5 * float(smooth.max()))
    if smooth.max() <= 0 or smooth.min() >= level or min(smooth.shape) < 2:
        return None
    vertices, faces, _, _ = marching_cubes(smooth, level)
    voxels = start + vertices * steps + (steps - 1) / 2
    world = voxels @ solid.matrix + solid.origin
    return Surface(world.astype(np.float32), faces, number)
