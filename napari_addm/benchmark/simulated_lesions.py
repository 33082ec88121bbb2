"""Simulated lesions in healthy brains: which kinds a model finds, and which it misses.

A lesion is drawn on the scan's own grid: its tissue replaces the brain's, or fluid pushes the brain
aside. They are pictures of lesions, not models of diseases; their places and volumes are known.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.detection.atlas import find_regions
from napari_addm.errors import InputError
from napari_addm.io.arrays import Grid, Mask
from napari_addm.io.volume import Volume

EDGE_MM = 0.7
"""Softness of a lesion's edge, as the standard deviation of a Gaussian."""
DEEP_MM = 14.0
"""Least distance of a lesion's middle from the surface of the brain."""
HULL_MM = 8.0
"""Radius of the closing that bridges the furrows of a brain mask."""
REACH_MM = 30.0
"""How far from fluid the tissue gives way."""
WIDER_MM = 5.0
"""How much wider one ventricle becomes on all sides."""
SPOTS = 8
"""Number of small spots, as of multiple sclerosis."""
# The brain in MNI space: lowest and highest x, y and z, mm.
MNI_BRAIN = np.array([(-71.0, 71.0), (-106.0, 73.0), (-66.0, 80.0)])

Tone = Literal["fluid", "dark", "gray", "bright"]


class HealthyBrain:
    """A healthy scan, and what drawing a lesion needs to know of it.

    Parameters
    ----------
    scan : Volume
    mask : ndarray of bool, shape (S, A, R)
        The brain.

    Attributes
    ----------
    values : ndarray of float32, shape (S, A, R)
        The scan inside the brain, 0 outside.
    """

    def __init__(self, scan: Volume, mask: Mask) -> None:
        self.scan = scan
        self.mask: Mask = ndimage.binary_fill_holes(mask)
        self.values: Grid = np.where(self.mask, scan.data, 0).astype(np.float32)
        self.spacing = np.array(scan.spacing)

    @cached_property
    def depth_mm(self) -> Grid:
        """Distance from the surface of the brain."""
        return _distance_mm(self.mask, self.spacing)

    @cached_property
    def tones(self) -> dict[Tone, float]:
        """Intensities of fluid, dark (between fluid and gray matter), gray and brighter matter."""
        fluid, gray, white = np.percentile(self.values[self.depth_mm > 8], (2, 40, 90)).tolist()
        return {
            "fluid": fluid,
            "dark": (fluid + gray) / 2,
            "gray": gray,
            "bright": white + 0.25 * (white - fluid),
        }

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise, from the fine texture of white matter."""
        fine = self.values - ndimage.median_filter(self.values, 3)
        white = np.percentile(self.values[self.depth_mm > 8], 80)
        return float(fine[(self.depth_mm > 4) & (self.values > white)].std())

    def millilitres(self, mask: Mask) -> float:
        """Volume of a mask, mL."""
        return float(mask.sum()) * self.scan.voxel_ml

    def ventricle(self, side: int) -> Mask:
        """Return the lateral ventricle of one side, left (-1) or right (1), shape (S, A, R).

        Raises
        ------
        InputError
            If the scan does not fit the atlas.
        """
        found = find_regions(self.scan, self.mask)
        if found.labels is None:
            raise InputError(
                f"{self.scan.name} does not fit the atlas, so its ventricles are unknown: check "
                "that it is a healthy adult's brain."
            )
        name = "right" if side > 0 else "left"
        numbers = [
            number
            for number, region in enumerate(found.regions, 1)
            if region.side == name and region.area == "lateral ventricle"
        ]
        fluid = self.values < (self.tones["fluid"] + self.tones["gray"]) / 2
        near = ndimage.binary_dilation(fluid, iterations=1)
        return np.isin(found.labels, numbers) & near & self.mask

    def box(self) -> NDArray[np.float64]:
        """Return the first and last index of the brain along each axis, shape (2, 3)."""
        return np.percentile(np.argwhere(self.mask), (0.02, 99.98), axis=0)

    def deep_place(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw a voxel deep in one half of the cerebrum, shape (3,)."""
        first, last = self.box()
        up, across = np.arange(self.mask.shape[0]), np.arange(self.mask.shape[2])
        height = (up - first[0]) / (last[0] - first[0])
        beside = abs(across - (first[2] + last[2]) / 2) * self.spacing[2]
        there = (self.depth_mm > DEEP_MM) & (beside > 18.0)
        there[(height < 0.45) | (height > 0.85)] = False
        places = np.argwhere(there)
        if not len(places):
            raise InputError(
                f"{self.scan.name} is too small for a simulated lesion: check that it is a whole "
                "brain, and its mask."
            )
        return places[rng.integers(len(places))]


Drawn = tuple[Grid, Mask]
"""The values of a brain with a lesion, and the lesion."""

Draw = Callable[[HealthyBrain, np.random.Generator], Drawn]


@dataclass(frozen=True)
class LesionKind:
    """A kind of simulated lesion.

    Attributes
    ----------
    title : str
        For a table.
    draw : callable
        ``draw(brain, rng)`` returns values (float32) and lesion (bool), both of shape (S, A, R).
    """

    title: str
    draw: Draw


@dataclass(frozen=True, eq=False)
class SimulatedScan:
    """A healthy scan with a lesion.

    Attributes
    ----------
    scan : Volume of float32
        0 outside the brain.
    brain, lesion : ndarray of bool, shape (S, A, R)
        The lesion belongs to the brain.
    """

    scan: Volume
    brain: Mask
    lesion: Mask


def simulate(kind: LesionKind, brain: HealthyBrain, seed: int = 0) -> SimulatedScan:
    """Draw a lesion into a healthy brain.

    Parameters
    ----------
    seed : int
        With the scan's name and the kind, it decides place and shape.

    Raises
    ------
    InputError
        If the scan is no whole brain.
    MissingExtraError
        If the kind needs the atlas, and SimpleITK is not installed.
    """
    text = f"{seed} {brain.scan.name} {kind.title}"
    values, lesion = kind.draw(brain, np.random.default_rng(zlib.crc32(text.encode())))
    mask = brain.mask | lesion
    inside = np.where(mask, np.maximum(values, 0), 0).astype(np.float32)
    return SimulatedScan(brain.scan.with_data(inside), mask, lesion)


def ball(brain: HealthyBrain, rng: np.random.Generator, ml: float, tone: Tone) -> Drawn:
    """Replace a rough ball of deep tissue."""
    lesion = _rough_ball(brain, brain.deep_place(rng), ml, rng)
    return _paint(brain, brain.values, lesion, brain.tones[tone], rng), lesion


def spots(brain: HealthyBrain, rng: np.random.Generator, ml: float) -> Drawn:
    """Replace several small balls of deep tissue, `ml` each, by dark tissue."""
    lesion = np.zeros_like(brain.mask)
    for _ in range(SPOTS):
        lesion |= _rough_ball(brain, brain.deep_place(rng), ml, rng)
    return _paint(brain, brain.values, lesion, brain.tones["dark"], rng), lesion


def subdural(brain: HealthyBrain, rng: np.random.Generator, ml: float) -> Drawn:
    """Lay a crescent of fluid over one half of the brain, which gives way."""
    radius = np.ceil(HULL_MM / brain.spacing).astype(int)
    padded = np.pad(brain.mask, [(r, r) for r in radius])
    far = _distance_mm(~padded, brain.spacing) > HULL_MM
    hull = _distance_mm(~far, brain.spacing) > HULL_MM
    hull = hull[tuple(slice(r, -r) for r in radius)] | brain.mask
    depth = _distance_mm(hull, brain.spacing)
    first, last = brain.box()
    side = rng.choice((-1, 1))
    middle = first + np.array((0.72, 0.55, 0.0 if side < 0 else 1.0)) * (last - first)
    index = np.indices(hull.shape, dtype=np.float32)
    away = np.sqrt(np.tensordot(brain.spacing**2, _squares(index, middle), 1))
    beside = np.sign(index[2] - (first[2] + last[2]) / 2) == side
    profile = np.clip(1 - (away / 62.0) ** 2, 0, 1) * beside

    def crescent(thickness: float) -> Mask:
        return np.asarray(hull & (depth < thickness * profile))

    thickness = _bisect(lambda mm: brain.millilitres(crescent(mm)), ml, 20.0)
    lesion = crescent(thickness)
    # a place behind the crescent takes its tissue from nearer to the surface
    width = thickness * ndimage.gaussian_filter(profile, 3.0 / brain.spacing)
    shift = np.where(depth >= width, width * np.clip(1 - (depth - width) / REACH_MM, 0, 1), 0)
    inward = np.stack(np.gradient(ndimage.gaussian_filter(depth, 2.0 / brain.spacing)))
    inward /= brain.spacing[:, None, None, None]
    inward /= np.linalg.norm(inward, axis=0) + 1e-6
    source = index - shift * inward / brain.spacing[:, None, None, None]
    pushed = ndimage.map_coordinates(brain.values, source, order=1)
    fluid = brain.tones["fluid"] + 0.25 * (brain.tones["gray"] - brain.tones["fluid"])
    return _paint(brain, pushed, lesion, fluid, rng), lesion


def wide_ventricle(brain: HealthyBrain, rng: np.random.Generator) -> Drawn:
    """Widen one lateral ventricle; the tissue around it gives way."""
    ventricle = brain.ventricle(int(rng.choice((-1, 1))))
    distance, nearest = ndimage.distance_transform_edt(
        ~ventricle, sampling=brain.spacing, return_indices=True
    )
    squeezed = (distance - WIDER_MM) * REACH_MM / (REACH_MM - WIDER_MM)
    before = np.where(distance < REACH_MM, np.maximum(squeezed, 0), distance)
    index = np.indices(brain.mask.shape, dtype=np.float32)
    source = nearest + (index - nearest) * (before / np.maximum(distance, 1e-3))
    pushed = ndimage.map_coordinates(brain.values, source, order=1)
    wide = (distance < WIDER_MM) & brain.mask
    return _paint(brain, pushed, wide, brain.tones["fluid"], rng), wide & ~ventricle


def stroke(brain: HealthyBrain, rng: np.random.Generator, shapes: Path) -> Drawn:
    """Darken the tissue in the shape of a real stroke, at its place in the brain."""
    mask, affine = _read_shape(shapes, rng)
    first, last = brain.box()
    low, high = MNI_BRAIN[::-1].T  # z, y, x, as the brain's own axes
    step = (high - low) / (last - first)
    to_mni = np.diag([*step, 1.0])
    to_mni[:3, 3] = low - step * first
    matrix = np.linalg.inv(affine) @ np.eye(4)[[2, 1, 0, 3]] @ to_mni
    there = ndimage.affine_transform(
        mask, matrix[:3, :3], matrix[:3, 3], output_shape=brain.mask.shape, order=1
    )
    lesion = (there > 0.5) & brain.mask
    return _paint(brain, brain.values, lesion, brain.tones["dark"], rng), lesion


KINDS: dict[str, LesionKind] = {
    "cyst_7": LesionKind("Cyst, 7 mL", partial(ball, ml=7.0, tone="fluid")),
    "cyst_21": LesionKind("Cyst, 21 mL", partial(ball, ml=21.0, tone="fluid")),
    "bleed_5": LesionKind("Bright bleed, 5 mL", partial(ball, ml=5.0, tone="bright")),
    "mass_7": LesionKind("Mass as gray as cortex, 7 mL", partial(ball, ml=7.0, tone="gray")),
    "mass_21": LesionKind("Mass as gray as cortex, 21 mL", partial(ball, ml=21.0, tone="gray")),
    "spots": LesionKind(f"{SPOTS} dark spots, 0.3 mL each", partial(spots, ml=0.3)),
    "subdural_20": LesionKind("Subdural crescent, 20 mL", partial(subdural, ml=20.0)),
    "ventricle": LesionKind(f"One ventricle wider by {WIDER_MM:g} mm", wide_ventricle),
}
"""The kinds that need no further file."""


def kinds_with(shapes: Path | None) -> dict[str, LesionKind]:
    """Return all kinds: `KINDS`, and with a file of shapes also ``"stroke"``.

    Parameters
    ----------
    shapes : Path, optional
        Masks of strokes in MNI space, packed as an ``.npz`` with ``bits``, ``pos``, ``shape``,
        ``offset``, ``affine`` and ``volume_mL``.
    """
    if shapes is None:
        return KINDS
    stroke_kind = LesionKind("Dark stroke of real shape", partial(stroke, shapes=shapes))
    return KINDS | {"stroke": stroke_kind}


def _read_shape(shapes: Path, rng: np.random.Generator) -> tuple[Grid, NDArray[np.float64]]:
    """Draw one of the shapes of 2 to 100 mL, and its affine to MNI space."""
    try:
        with np.load(shapes) as file:
            volumes = file["volume_mL"]
            chosen = rng.choice(np.flatnonzero((volumes >= 2) & (volumes <= 100)))
            shape, start = file["shape"][chosen].astype(int), file["offset"][chosen]
            bits = file["bits"][slice(*file["pos"][chosen : chosen + 2])]
            mask = np.unpackbits(bits)[: shape.prod()].reshape(shape).astype(np.float32)
            affine = file["affine"].astype(np.float64)
    except (OSError, ValueError, KeyError, IndexError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{shapes} cannot be read as masks of strokes ({error}): see Blind spots in the page "
            "'Calibrate for your scanner' for their form."
        ) from error
    affine[:3, 3] += affine[:3, :3] @ start
    return mask, affine


def _distance_mm(mask: Mask, spacing: NDArray[np.float64]) -> Grid:
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), np.float32)


def _squares(index: Grid, middle: NDArray[np.float64]) -> Grid:
    return (index - middle[:, None, None, None].astype(np.float32)) ** 2


def _bisect(volume_ml: Callable[[float], float], wanted_ml: float, highest: float) -> float:
    """Find where a rising volume reaches the one that is wanted."""
    low, high = 0.0, highest
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if volume_ml(middle) < wanted_ml else (low, middle)
    return (low + high) / 2


def _rough_ball(
    brain: HealthyBrain, middle: NDArray[np.int64], ml: float, rng: np.random.Generator
) -> Mask:
    """Return the `ml` that lie nearest to a place, by a distance that varies smoothly."""
    radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    around = np.ceil(2 * radius / brain.spacing).astype(int) + 1
    box = tuple(slice(max(0, at - r), at + r + 1) for at, r in zip(middle, around, strict=True))
    depth = brain.depth_mm[box]
    index = np.indices(depth.shape, dtype=np.float32)
    here = middle - [part.start for part in box]
    distance = np.sqrt(np.tensordot(brain.spacing**2, _squares(index, here), 1))
    rough = ndimage.gaussian_filter(rng.standard_normal(depth.shape), radius / 2 / brain.spacing)
    distance *= 1 + 0.15 * np.clip(rough / rough.std(), -1.5, 1.5)
    distance[depth < 3] = np.inf
    count = max(1, round(ml / brain.scan.voxel_ml))
    lesion = np.zeros_like(brain.mask)
    lesion[box] = distance <= np.partition(distance.ravel(), count - 1)[count - 1]
    return lesion


def _paint(
    brain: HealthyBrain, values: Grid, lesion: Mask, tone: float, rng: np.random.Generator
) -> Grid:
    """Replace the values of a lesion by a tone with the scan's own noise, softly at the edge."""
    soft = ndimage.gaussian_filter(lesion.astype(np.float32), EDGE_MM / brain.spacing)
    weight = np.clip((soft - 0.5) * 1.6 + 0.5, 0, 1)
    noise = ndimage.gaussian_filter(rng.standard_normal(lesion.shape).astype(np.float32), 0.6)
    return values * (1 - weight) + (tone + noise * (brain.noise / noise.std())) * weight
