"""Run all scans of a folder, print what became of each, and plot the slice with the most findings.

    python examples/batch_and_plot.py [SCANS [OUT]]

Without a folder: the demo case. Run it again to go on where it stopped. Needs the extra benchmark.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import napari_addm as addm
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.run import run_batch
from napari_addm.io.demo import DEMO_CHECKPOINT, SAMPLE_DATA


def main(scans: Path, out: Path) -> None:
    """Run and plot."""
    cases = find_cohort(str(scans), out)
    # One noise draw is quick; leave `draws` out for the checkpoint's own number.
    settings = BatchSettings(detection=addm.DetectionSettings(draws=1, seed=0))
    done = set()
    for progress in run_batch(cases, out, addm.load_checkpoint(DEMO_CHECKPOINT), settings):
        if (result := progress.result) is not None:
            print(result.case, result.status, result.reason, result.anomaly_ml, "mL")
            if result.status == "done":
                done.add(result.case)

    plot([case for case in cases if case.name in done], out)


def plot(cases: list[CohortCase], out: Path) -> None:
    """Draw each scan, and its anomaly map over it."""
    figure = Figure(figsize=(6, 3.5 * len(cases)), layout="compressed")
    rows = figure.subplots(len(cases), 2, squeeze=False)
    for case, (left, right) in zip(cases, rows, strict=True):
        paths = case.paths(out)
        scan = addm.read_volume(case.scan)
        anomaly = addm.read_volume(paths["anomaly"]).data
        labels = addm.read_labels(paths["labels"]).data
        # Axes are S, A, R. Turned round, the patient's right is on the left.
        place = (
            (labels > 0).sum(axis=(1, 2)).argmax(),
            slice(None, None, -1),
            slice(None, None, -1),
        )
        aspect = scan.spacing[1] / scan.spacing[2]
        for axes in (left, right):
            axes.imshow(scan.data[place], cmap="gray", aspect=aspect)
            axes.axis("off")
        right.imshow(anomaly[place], cmap="inferno", alpha=0.6, aspect=aspect)
        left.set_title(case.name)
    figure.savefig(out / "cohort.png")


if __name__ == "__main__":
    arguments = [Path(each) for each in sys.argv[1:]]
    main(*arguments, *(SAMPLE_DATA, Path("example_output/cohort"))[len(arguments) :])
