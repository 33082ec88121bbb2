"""Make the pictures of "Read a map in two minutes": a hit, a miss and a false alarm.

The hit is a simulated lesion in a healthy brain, the miss a patient with multiple sclerosis, the
false alarm a finding of the demo case beside its lesion. Scans may be shown here if their license
allows it::

    python docs/make_map_pictures.py HEALTHY.nii.gz PATIENT_FOLDER
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from napari_addm.benchmark.simulated_lesions import KINDS, HealthyBrain, simulate
from napari_addm.detection.brain_mask import choose_brain_mask
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.demo import DEMO_SCAN, DEMO_TRUTH
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.contents import CaseOutputs
from napari_addm.outputs.drawing import (
    FINDING_COLOR,
    GAP,
    TRUTH_COLOR,
    Canvas,
    Overlay,
    SliceView,
    brain_region,
    crop_box,
    gray_window,
    largest,
    write_png,
)
from napari_addm.outputs.run_case import CaseRequest, finish, run_case

HEIGHT = 330
HEADING = 30
FOOT = 30


def main() -> None:
    """Run the three cases, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("healthy", type=Path, help="a healthy brain for the simulated lesion")
    parser.add_argument("patient", type=Path, help="folder with t1.nii.gz and mask.nii.gz")
    parser.add_argument("--kind", default="cyst_21", choices=KINDS, help="of simulated lesion")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_lesion(arguments.healthy, arguments.kind, folder)
        patient = arguments.patient
        cases = {
            "hit": (folder / "scan.nii.gz", folder / "lesion.nii.gz"),
            "miss": (patient / "t1.nii.gz", patient / "mask.nii.gz"),
            "false_alarm": (DEMO_SCAN, DEMO_TRUTH),
        }
        said = {}
        for title, (scan, truth) in cases.items():
            request = CaseRequest(
                scan, folder / title, truth=truth, settings=DetectionSettings(regions=False)
            )
            outputs = finish(run_case(request)).outputs
            draw(outputs, arguments.output / f"map_{title}.png", title == "false_alarm")
            said[title] = volumes(outputs)
    print(json.dumps(said, indent=1))


def draw_lesion(path: Path, kind: str, folder: Path) -> None:
    """Write a scan with a simulated lesion, and the lesion."""
    scan = read_volume(path)
    made = simulate(KINDS[kind], HealthyBrain(scan, choose_brain_mask(scan, None)[0]))
    write_volume(folder / "scan.nii.gz", made.scan)
    write_volume(folder / "lesion.nii.gz", made.scan.with_data(made.lesion.astype(np.uint8)))


def volumes(outputs: CaseOutputs) -> dict[str, Any]:
    """Return the volumes of lesion and findings, mL."""
    ml = outputs.scan.voxel_ml
    found = outputs.labels > 0
    said: dict[str, Any] = {"findings_ml": [round(each.volume_ml, 1) for each in outputs.findings]}
    if outputs.inputs.truth is not None:
        lesion = outputs.inputs.truth.voxels != 0
        said |= {"lesion_ml": round(lesion.sum() * ml, 1)}
        said |= {"of_it_marked_ml": round((lesion & found).sum() * ml, 1)}
    return said


def draw(outputs: CaseOutputs, path: Path, beside: bool) -> None:
    """Draw scan, reconstruction and map side by side, where the lesion is widest.

    Or, with `beside`, where the largest finding beside it is.
    """
    scan = outputs.scan
    assert outputs.inputs.truth is not None
    truth = outputs.inputs.truth.voxels
    target = truth != 0
    if beside:
        others = np.where(np.isin(outputs.labels, outputs.labels[target]), 0, outputs.labels)
        target = largest(others)
    index = int(target.sum(axis=(1, 2)).argmax())
    brain = brain_region(outputs.detection.reconstruction.data)
    box = crop_box(brain, scan.spacing)
    tall, wide = (
        (part.stop - part.start) * mm for part, mm in zip(box, scan.spacing[1:], strict=True)
    )
    view = SliceView(0, box, HEIGHT, round(HEIGHT * wide / tall), *gray_window(scan.data[brain]))
    step = view.width + GAP
    canvas = Canvas(3 * step - GAP, HEADING + HEIGHT + FOOT)
    overlay = Overlay(outputs.detection.highest, outputs.labels, outputs.threshold, truth=truth)
    canvas.paste(view.gray(scan.data, index), (0, HEADING))
    canvas.paste(view.gray(outputs.detection.reconstruction.data, index), (step, HEADING))
    canvas.draw_slice((2 * step, HEADING), view, scan.data, overlay, index)
    canvas.letters((0, HEADING), view)
    for column, words in enumerate(("scan", "redrawn by the model", "map over the scan")):
        canvas.text((column * step + view.width / 2, HEADING / 2), words, "mm")
    y = HEADING + HEIGHT + FOOT / 2
    shift = canvas.legend((2 * step, y), FINDING_COLOR, "finding")
    if truth[index].any():
        canvas.legend((2 * step + shift + 20, y), TRUTH_COLOR, "lesion", dashed=True)
    write_png(path, canvas.image)


if __name__ == "__main__":
    main()
