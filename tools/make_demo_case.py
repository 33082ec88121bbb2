#!/usr/bin/env python3
"""Make the demo case: the Colin27 brain with a SIMULATED lesion, and the lesion's mask.

    apt-get install mricron-data          # contains the skull-stripped Colin27, 1 mm
    python tools/make_demo_case.py        # writes sample_data/demo_*.nii.gz

The lesion is a picture of a mass, not a model of a disease. It has a T1-dark, irregular core with
soft edges, a moderate, edema-like rim that prefers white matter, and a mass effect: a smooth,
invertible displacement of the tissue around it, which stops at the brain's surface. The seed is
fixed, so the same source gives the same files.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SOURCE = Path("/usr/share/mricron/templates/ch2bet.nii.gz")  # where Debian's package puts it
SOURCE_SHA256 = "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1"
TARGET = Path(__file__).resolve().parents[1] / "sample_data"

SEED = 27
CENTER_MM = (-31.0, -22.0, 31.0)  # world RAS: left parietal white matter, beside the ventricle
SEMI_AXES_MM = (13.0, 18.0, 14.0)  # of the core
RIM = 1.42  # the rim's outer edge, in units of the core's radius
EDGE = 0.10  # half width of the soft edges, same units
PUSH = 0.62  # mass effect: below 1, or the displacement folds
REACH = 1.9  # range of the mass effect, same units as RIM
MARGIN = 3  # empty voxels kept around the brain

Array = NDArray[np.float64]


def random_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    """Smooth Gaussian noise of mean 0 and standard deviation 1; sigma in voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return np.asarray((field - field.mean()) / field.std())


def soft_step(distance: Array) -> Array:
    """Fall from 1 (inside, negative distance) to 0 (outside) over about two edge widths."""
    return np.asarray(0.5 - 0.5 * np.tanh(distance / EDGE))


def push_tissue(brain: Array, offset: Array, radius: Array) -> Array:
    """Displace the tissue away from the lesion's center (mass effect).

    Parameters
    ----------
    brain : ndarray, (i, j, k)
        Intensities at 1 mm.
    offset : ndarray, (3, i, j, k)
        Voxel position minus the lesion's center, mm.
    radius : ndarray, (i, j, k)
        Distance from the center in units of the core's radius.

    Raises
    ------
    ValueError
        If the displacement folds space (a Jacobian determinant that is not positive).
    """
    # Each voxel takes its tissue from a place nearer to the center. u (1 - PUSH exp(-u^2)) grows
    # with u for every PUSH < 1, so no two places take from the same one.
    pull = PUSH * np.exp(-((radius / REACH) ** 2))
    # The skull is rigid: the displacement fades towards the brain's outer surface.
    hull = ndimage.binary_fill_holes(ndimage.binary_closing(brain > 0, iterations=6))
    depth = ndimage.distance_transform_edt(hull)
    pull *= ndimage.gaussian_filter(np.clip(depth / 18.0, 0.0, 1.0), 4.0)
    index = np.indices(brain.shape, dtype=np.float64)
    origin = index - pull * offset
    gradients = np.stack([np.stack(np.gradient(axis)) for axis in origin])
    if np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1))).min() <= 0:
        raise ValueError("the mass effect folds the tissue; lower PUSH or raise REACH")
    return np.asarray(ndimage.map_coordinates(brain, origin, order=1))


def simulate_lesion(brain: Array, affine: Array) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Add the simulated lesion.

    Parameters
    ----------
    brain : ndarray, (i, j, k)
        Skull-stripped T1 at 1 mm on axes parallel to the world's; background 0.
    affine : ndarray, (4, 4)
        Index to world RAS+, mm.

    Returns
    -------
    scan, mask : ndarray of uint8, (i, j, k)
        Intensities; 1 where the lesion has more than half its strength (core and rim).
    """
    rng = np.random.default_rng(SEED)
    center = nib.affines.apply_affine(np.linalg.inv(affine), CENTER_MM)
    offset = np.indices(brain.shape) - center[:, None, None, None]
    scaled = offset / np.array(SEMI_AXES_MM)[:, None, None, None]
    radius = np.sqrt((scaled**2).sum(0))

    tissue = push_tissue(brain, offset, radius)
    inside = ndimage.gaussian_filter((tissue > 0).astype(np.float64), 0.6) > 0.5

    # Levels of gray and white matter, from percentiles of this scan.
    white = float(np.percentile(brain[brain > 0], 85))
    gray = float(np.percentile(brain[brain > 0], 35))
    whiteness = np.clip((tissue - gray) / (white - gray), 0.0, 1.0)
    whiteness = ndimage.gaussian_filter(whiteness, 1.5)

    outline = radius + 0.13 * random_field(rng, brain.shape, 6.0)
    outline += 0.05 * random_field(rng, brain.shape, 2.5)
    core = soft_step(outline - 1.0)
    # Edema spreads along white matter and stops short of the cortex.
    rim = soft_step((outline - RIM + 0.45 * (1.0 - whiteness)) / 1.6)

    # Texture: the scan's own fine grain (measured in white matter away from edges) over a
    # coarser unevenness, stronger in the core.
    detail = brain - ndimage.gaussian_filter(brain, 1.5)
    deep = ndimage.binary_erosion(brain > (gray + white) / 2, iterations=4)
    grain = float(detail[deep].std()) * random_field(rng, brain.shape, 0.7)
    uneven = random_field(rng, brain.shape, 3.5)

    scan = tissue
    edema = 0.94 * gray + 0.3 * (tissue - gray) + 0.025 * white * uneven + grain
    scan = scan + 0.85 * rim * np.minimum(edema - scan, 0.0)
    cavity = ndimage.gaussian_filter(soft_step((outline - 0.55) / 1.5), 1.0)
    mass = white * (0.60 - 0.12 * cavity + 0.045 * uneven) + 1.5 * grain
    scan = scan + core * (mass - scan)
    # Partial volume only: the outside stays exactly zero.
    rounded = np.where(inside, np.clip(np.rint(scan), 1, 255), 0).astype(np.uint8)

    strength = np.maximum(core, rim)
    lesion, count = ndimage.label((strength > 0.5) & inside)
    sizes = np.bincount(lesion.ravel())[1 : count + 1]
    mask = (lesion == 1 + int(sizes.argmax())).astype(np.uint8)
    return rounded, mask


def make_demo_case(source: Path = SOURCE) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """The demo scan and its lesion mask as images on one grid (uint8, 1 mm, RAS)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SOURCE_SHA256:
        raise ValueError(f"{source} is not the Colin27 that the demo case was made from")
    image = nib.Nifti1Image.from_filename(source)
    data = np.asarray(image.dataobj)
    first = np.maximum(np.argwhere(data > 0).min(0) - MARGIN, 0)
    last = np.argwhere(data > 0).max(0) + 1 + MARGIN
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    brain = data[box].astype(np.float64)
    affine = image.affine @ nib.affines.from_matvec(np.eye(3), first)

    scan, mask = simulate_lesion(brain, affine)
    images = []
    for voxels, words in (
        (scan, "Colin27 T1w with a SIMULATED lesion"),
        (mask, "mask of the SIMULATED lesion"),
    ):
        made = nib.Nifti1Image(voxels, affine)
        made.header["descrip"] = words.encode()
        made.header.set_xyzt_units("mm")
        made.set_qform(affine, code="mni")
        made.set_sform(affine, code="mni")
        images.append(made)
    return images[0], images[1]


def main() -> None:
    """Write both files; identical bytes on every run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="ch2bet.nii.gz (Colin27)")
    parser.add_argument("-o", "--output", type=Path, default=TARGET, help="folder to write into")
    options = parser.parse_args()
    if not options.source.is_file():
        parser.error(f"{options.source} is not there: install Debian's mricron-data")
    scan, mask = make_demo_case(options.source)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, image in (("demo_T1w.nii.gz", scan), ("demo_lesion.nii.gz", mask)):
        path = options.output / name
        # No time stamp in the gzip header, so that the bytes do not change from run to run.
        path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"lesion: {np.asarray(mask.dataobj).sum() / 1000:.1f} mL")


if __name__ == "__main__":
    main()
