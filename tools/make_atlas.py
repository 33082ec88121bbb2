#!/usr/bin/env python3
"""Make the atlas of brain regions from T1-weighted scans with region maps of DLMUSE.

    python tools/make_atlas.py healthy_ixi     # writes sample_data/brain_regions.npz

The folder holds ID_T1w.nii.gz and ID_dlmuse.nii.gz. Some scans, chosen by a seed, are held out:
they judge the atlas (`--judge`) and take no part in it. All others are registered to
their own mean, affinely (twice) and then with a smooth displacement. A voxel of the atlas
has the region that most of them have there. The mean is of brains alone, without faces. The same
scans give the same file.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_addm.detection.atlas import find_regions
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.registration import brain_image, deform, register, to_image
from napari_addm.io.volume import Volume, volume_from_array

TARGET = Path(__file__).resolve().parents[1] / "sample_data" / "brain_regions.npz"
SEED, HELD_OUT = 0, 8
SHAPE, STEP_MM = (84, 104, 80), 2.0  # of the atlas, along S, A, R
ROUNDS = ("affine", "affine", "smooth")  # the mean becomes sharper in each

# DLMUSE's numbers of the right side; those of the left are larger by 1, but for the listed pairs.
SIDED: dict[tuple[str, str], tuple[int | tuple[int, int], ...]] = {
    ("frontal lobe", ""): (
        *(81, 104, 112, 118, 120, 124, 136, 140, 142, 146),
        *(150, 152, 162, 164, 178, 182, 186, 190, 192, 204),
    ),
    ("frontal lobe", "cingulate gyrus"): (100, 138),
    ("parietal lobe", ""): (85, 106, 148, 168, 174, 176, 194, 198),
    ("parietal lobe", "cingulate gyrus"): (166,),
    ("temporal lobe", ""): (87, 116, 122, 132, 154, 170, 180, 184, 200, 202, 206),
    ("temporal lobe", "hippocampus"): (47,),
    ("temporal lobe", "amygdala"): (31,),
    ("occipital lobe", ""): (83, 108, 114, 128, 134, 144, 156, 160, 196),
    ("insula", ""): (102, 172),
    ("deep structures", "basal ganglia"): (36, 55, 57, (23, 30), (76, 75)),
    ("deep structures", "thalamus"): (59,),
    ("deep structures", "ventral diencephalon"): (61,),
    ("deep structures", "internal capsule"): (91, 93),
    ("deep structures", ""): (89,),  # fornix
    ("lateral ventricle", ""): (49, 51),
    ("cerebellum", ""): (38, 40),
}
MIDDLE = {
    ("cerebellum", "vermis"): (71, 72, 73),
    ("corpus callosum", ""): (95,),
    ("brainstem", ""): (35,),
    ("third ventricle", ""): (4,),
    ("fourth ventricle", ""): (11,),
}

AWAY_MM = 6.0  # closer to the other half, a voxel may be on either side

Scan = tuple[Volume, NDArray[np.bool_], NDArray[np.uint8]]


def numbered_regions() -> tuple[list[str], NDArray[np.uint8]]:
    """Name the regions, and give the number of the region (from 1) for each number of DLMUSE."""
    names, number = [], np.zeros(256, np.uint8)

    def add(side: str, key: tuple[str, str], members: list[int]) -> None:
        names.append("|".join((side, *key)))
        number[members] = len(names)

    for key, pairs in SIDED.items():
        both = [pair if isinstance(pair, tuple) else (pair, pair + 1) for pair in pairs]
        add("right", key, [right for right, _ in both])
        add("left", key, [left for _, left in both])
    for key, members in MIDDLE.items():
        add("", key, list(members))
    return names, number


def split_scans(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the scans that build the atlas, and of those that judge it."""
    names = sorted(path.name.removesuffix("_T1w.nii.gz") for path in folder.glob("*_T1w.nii.gz"))
    held = set(np.random.default_rng(SEED).choice(names, HELD_OUT, replace=False).tolist())
    return [name for name in names if name not in held], sorted(held)


def read_scan(folder: Path, name: str) -> Scan:
    """Read a scan, its brain mask and its regions."""
    labels = read_labels(folder / f"{name}_dlmuse.nii.gz").data
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(labels > 0, iterations=2))
    return read_volume(folder / f"{name}_T1w.nii.gz"), mask, numbered_regions()[1][labels]


def build(scans: list[Scan]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the mean brain, 1 on average and 0 around, and the region of every voxel."""
    volumes = [int(mask.sum()) for _, mask, _ in scans]
    brain, mask, _ = scans[int(np.argsort(volumes)[len(scans) // 2])]
    image, _ = brain_image(brain, mask)
    middle = np.array(
        image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()])
    )
    brain = volume_from_array(brain.data, brain.affine - np.outer([*middle, 0], [0, 0, 0, 1]))
    grid = volume_from_array(np.zeros(SHAPE, np.float32), spacing=(STEP_MM,) * 3)
    for kind in ROUNDS:
        warped = []
        if kind == "affine":
            fits = [register(volume, own, brain, mask) for volume, own, _ in scans]
        for fit, (volume, own, labels) in zip(fits, scans, strict=True):
            place = sitk.AffineTransform(
                fit.matrix[:3, :3].ravel().tolist(), fit.matrix[:3, 3].tolist()
            )
            target = to_image(grid.data, grid.affine)
            images: list[Any] = [*brain_image(volume, own), to_image(labels, volume.affine)]
            if kind == "smooth":
                aligned = sitk.Resample(images[0], target, place, sitk.sitkLinear, 0.0)
                place = sitk.CompositeTransform(
                    [place, deform(to_image(brain.data, grid.affine), aligned)]
                )
            interpolators = (sitk.sitkLinear, sitk.sitkLinear, sitk.sitkNearestNeighbor)
            warped.append(
                [
                    sitk.GetArrayFromImage(sitk.Resample(image, target, place, interpolator))
                    for image, interpolator in zip(images, interpolators, strict=True)
                ]
            )
        mask = np.mean([each[1] for each in warped], axis=0) >= 0.5
        mean = np.mean([each[0] for each in warped], axis=0)
        brain = grid.with_data(np.where(mask, mean, 0).astype(np.float32))
        print(f"{kind} round done", flush=True)
    return brain.data, vote([each[2] for each in warped])


def vote(labels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the region that most have; where none has one, that of the nearest voxel."""
    stack = np.stack(labels)
    counts = np.stack([(stack == n).sum(axis=0) for n in range(1, int(stack.max()) + 1)])
    best = np.where(counts.any(axis=0), counts.argmax(axis=0) + 1, 0).astype(np.uint8)
    nearest = ndimage.distance_transform_edt(best == 0, return_distances=False, return_indices=True)
    return best[tuple(nearest)]


def change(way: str, scan: Scan) -> Scan:
    """Return a scan as it is, mirrored, or tilted by 20 degrees about an axis."""
    volume, mask, labels = scan
    if way == "mirrored":
        names, other = numbered_regions()[0], {"right": "left", "left": "right", "": ""}
        parts = [name.partition("|") for name in names]
        swapped = [f"{other[side]}|{rest}" for side, _, rest in parts]
        number = np.array([0, *(names.index(name) + 1 for name in swapped)], np.uint8)
        volume = volume.with_data(volume.data[..., ::-1].copy())
        return volume, mask[..., ::-1].copy(), number[labels[..., ::-1]]
    if way != "as it is":
        turn = Rotation.from_euler(way[-1], 20, degrees=True).as_matrix()
        volume = volume_from_array(volume.data, from_matvec(turn) @ volume.affine)
    return volume, mask, labels


def judge(scans: list[Scan]) -> None:
    """Print how often the bundled atlas names the area of a voxel as DLMUSE does."""
    names = numbered_regions()[0]
    area = np.array(["", *(name.rpartition("|")[0] for name in names)])
    side = np.array(["", *(name.partition("|")[0] for name in names)])
    for way in ("as it is", "mirrored", "tilted about x", "tilted about y", "tilted about z"):
        right: defaultdict[str, list[float]] = defaultdict(list)
        seconds, fits, swapped = [], [], []
        for scan in scans:
            volume, mask, labels = change(way, scan)
            started = time.process_time()
            found = find_regions(volume, mask)
            seconds.append(time.process_time() - started)
            fits.append(found.similarity)
            there = np.zeros_like(labels) if found.labels is None else found.labels
            same = area[there] == area[labels]
            lobes = np.char.endswith(area[labels], "lobe")
            right["all lobes"].append(same[lobes].mean())
            for name in dict.fromkeys(area[1:].tolist()):
                right[name].append(same[area[labels] == name].mean())
            sides = [side[labels] == name for name in ("left", "right")]
            far = np.sum([ndimage.distance_transform_edt(~each) for each in sides], axis=0)
            for each, other in zip(sides, ("right", "left"), strict=True):
                away = each & (far * STEP_MM > AWAY_MM)
                swapped.append((side[there] == other)[away].mean())
        print(f"{way}: {np.mean(seconds):.1f} s of one core; fit {min(fits):.3f} or more")
        print(f"  wrong side, {AWAY_MM:g} mm and more from the other: {np.mean(swapped):.3%}")
        for name, shares in right.items():
            print(f"  {name:24} {np.mean(shares):.1%}, in the worst scan {min(shares):.1%}")


def main() -> None:
    """Build the atlas, or judge it by the scans that are held out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with ID_T1w.nii.gz and ID_dlmuse.nii.gz")
    parser.add_argument("-o", "--output", type=Path, default=TARGET)
    parser.add_argument("--judge", action="store_true", help="judge the atlas instead")
    given = parser.parse_args()
    names, held = split_scans(given.folder)
    if given.judge:
        judge([read_scan(given.folder, name) for name in held])
        return
    brain, regions = build([read_scan(given.folder, name) for name in names])
    np.savez_compressed(
        given.output,
        brain=np.clip(np.rint(brain * 100), 0, 255).astype(np.uint8),
        labels=regions,
        regions=np.array(numbered_regions()[0]),
        spacing_mm=np.full(3, STEP_MM),
    )
    print(f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
