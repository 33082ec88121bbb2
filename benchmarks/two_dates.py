#!/usr/bin/env python3
"""How well `napari-addm compare` finds changes of known size after a known motion.

    python benchmarks/two_dates.py                 # writes a table to stdout
    python benchmarks/two_dates.py --seed 1 -n 20

Balls of 1 to 20 mL are put into the demo brain, darker than the tissue. At the second date they
have grown, shrunk, appeared, vanished or stayed; the head is turned by up to 10 degrees and shifted
by 15 mm; noise and gain differ. The maps are simulated, so this measures the registration, the
matching and the volumes, and no model. Both results are written and compared as those of a run.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.brain_mask import find_brain
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.findings.computed import computed_findings
from napari_addm.io.demo import DEMO_CHECKPOINT, DEMO_SCAN
from napari_addm.io.reading import read_volume
from napari_addm.io.resampling import resample_like
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.two_dates import TwoDates, write_two_dates

# mL before and after
PAIRS = ((1, 2), (5, 10), (20, 10), (10, 20), (2, 1), (10, 10), (2, 2), (0, 5), (0, 1), (5, 0))
TURNS = (0.0, 2.5, 5.0, 10.0)
SHIFT_MM = 15.0
APART_MM = 5.0
THRESHOLD = 0.5
EDGE_MM = 2.0
NOISE = 0.02  # of the brain's median


@dataclass(frozen=True)
class Lesion:
    """A ball in the brain: its center in world mm, and its mL at both dates."""

    center: NDArray[np.float64]
    ml: tuple[float, float]

    def radius(self, date: int) -> float:
        """In mm."""
        return float((3000 * self.ml[date] / (4 * np.pi)) ** (1 / 3))


def place_lesions(brain: Volume, rng: np.random.Generator) -> list[Lesion]:
    """Put a ball for each of `PAIRS` into a brain, none of which touches another or the edge."""
    depth = ndimage.distance_transform_edt(brain.data != 0, sampling=brain.spacing)
    lesions: list[Lesion] = []
    for pair in sorted(PAIRS, key=max, reverse=True):
        lesion = Lesion(np.zeros(3), pair)
        reach = max(lesion.radius(0), lesion.radius(1)) + APART_MM
        for index in rng.permutation(np.argwhere(depth > reach)):
            center = nib.affines.apply_affine(brain.affine, index)
            if all(
                np.linalg.norm(center - each.center)
                > reach + max(each.radius(0), each.radius(1)) + APART_MM
                for each in lesions
            ):
                lesions.append(replace(lesion, center=center))
                break
        else:
            raise SystemExit("The lesions do not fit into the brain: use another seed.")
    return lesions


def write_date(
    folder: Path,
    brain: Volume,
    lesions: list[Lesion],
    date: int,
    pose: NDArray[np.float64],
    seed: int,
) -> Path:
    """Write the scan and the result of one date; returns the record.

    `pose` takes places of the patient to the scanner.
    """
    rng = np.random.default_rng(seed)
    places = nib.affines.apply_affine(
        np.linalg.inv(pose) @ brain.affine, np.moveaxis(np.indices(brain.shape), 0, -1)
    )
    turned = resample_like(replace(brain, affine=pose @ brain.affine), brain).data
    depth = np.full(brain.shape, -50.0)
    for lesion in lesions:
        if lesion.ml[date]:
            reach = lesion.radius(date) - np.linalg.norm(places - lesion.center, axis=-1)
            depth = np.maximum(depth, reach)
    inside = 1 / (1 + np.exp(-depth / EDGE_MM * 2))
    mask = turned > 0
    noise = rng.normal(0, NOISE * np.median(turned[mask]), brain.shape)
    values = np.where(mask, np.maximum(turned * (1 - 0.3 * inside) + noise, 1), 0)
    folder.mkdir()
    path = write_volume(
        folder / "scan.nii.gz", brain.with_data((values * (1 + 0.3 * date)).astype(np.float32))
    )
    scan, checkpoint = read_volume(path), load_checkpoint(DEMO_CHECKPOINT)
    detection = Detection(
        anomaly=scan.with_data(np.where(mask, inside, 0).astype(np.float32)),
        reconstruction=scan,
        uncertainty=None,
        brain_mask=scan.with_data(mask),
        done=np.ones(scan.shape[0], bool),
        seconds={},
        settings=resolve(DetectionSettings(), checkpoint.specification),
        specification=checkpoint.specification,
        device="cpu",
        precision="float32",
        threads=1,
    )
    labels, findings = computed_findings(detection, THRESHOLD, 0.2)
    outputs = CaseOutputs(CaseInputs(scan), detection, labels, findings, checkpoint, THRESHOLD, 0.2)
    return write_case(outputs, folder)["record"]


def expected_kind(before: float, after: float) -> str:
    """What a pair of volumes is called."""
    if not before or not after:
        return "gone" if before else "new"
    return "unchanged" if before == after else "grown" if after > before else "shrunk"


def judge(found: TwoDates, lesions: list[Lesion], pose: NDArray[np.float64]) -> list[float]:
    """Return the error of the rotation in degrees, then those of the changes in %.

    Raises
    ------
    SystemExit
        When a change is missing or is called otherwise.
    """
    off = (np.linalg.inv(pose) @ found.registration.matrix)[:3, :3]
    errors = [float(np.degrees(Rotation.from_matrix(off).magnitude()))]
    changes = found.changes or []
    if len(changes) != len(lesions):
        raise SystemExit(f"{len(changes)} changes were found, {len(lesions)} were made.")
    for lesion in lesions:
        nearest = min(changes, key=lambda c: np.linalg.norm(c.center_mm - lesion.center))
        kind = expected_kind(*lesion.ml)
        if nearest.kind != kind:
            raise SystemExit(f"{lesion.ml[0]} to {lesion.ml[1]} mL is called {nearest.kind}.")
        if kind != "unchanged":
            change = lesion.ml[1] - lesion.ml[0]
            errors.append(100 * abs((nearest.change_ml or 0) - change) / abs(change))
    return errors


def main() -> None:
    """Print a line for each turn of the head."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=5, help="patients for each turn")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    brain = read_volume(DEMO_SCAN)
    mask = find_brain(brain)
    assert mask is not None, "the demo scan is skull-stripped"
    brain = brain.with_data(np.where(mask, brain.data, 0))
    print(
        "turned by (degrees) | largest error of the rotation (degrees) | error of a change (%): ",
        end="",
    )
    print("median, largest")
    for degrees in TURNS:
        rotation, errors = [], []
        for _ in range(options.n):
            axis, way = (each / np.linalg.norm(each) for each in rng.normal(size=(2, 3)))
            turn = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
            pose = nib.affines.from_matvec(turn, SHIFT_MM * way)
            lesions = place_lesions(brain, rng)
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                records = [
                    write_date(
                        folder / str(date), brain, lesions, date, place, int(rng.integers(2**31))
                    )
                    for date, place in enumerate((np.eye(4), pose))
                ]
                found, _ = write_two_dates(records[0], records[1], folder / "out")
            first, *others = judge(found, lesions, pose)
            rotation.append(first)
            errors += others
        print(
            f"{degrees:g} | {max(rotation):.3f} | {np.median(errors):.1f}, {max(errors):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
