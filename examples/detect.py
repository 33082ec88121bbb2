"""Detect anomalies in one scan, list the findings, and save the map and the labels.

    python examples/detect.py [SCAN [OUT]]

Without a scan: the demo case, a healthy brain with a simulated lesion.
"""

import sys
from pathlib import Path

import napari_addm as addm
from napari_addm.findings.computed import computed_findings
from napari_addm.io.demo import DEMO_CHECKPOINT, DEMO_SCAN


def main(scan: Path, out: Path) -> None:
    """Detect and save."""
    volume = addm.read_volume(scan)
    checkpoint = addm.load_checkpoint(DEMO_CHECKPOINT)
    # One noise draw is quick; leave `draws` out for the checkpoint's own number.
    detection = addm.run(volume, checkpoint, addm.DetectionSettings(draws=1, seed=0))

    default = checkpoint.specification.detection
    labels, findings = computed_findings(detection, default.threshold, default.minimum_ml)
    for finding in findings:
        print(f"{finding.volume_ml:.1f} mL, peak {finding.peak:.2f}, {finding.location}")

    out.mkdir(parents=True, exist_ok=True)
    addm.write_volume(out / "anomaly.nii.gz", detection.anomaly, overwrite=True)
    addm.write_volume(out / "labels.nii.gz", volume.with_data(labels), overwrite=True)


if __name__ == "__main__":
    arguments = [Path(each) for each in sys.argv[1:]]
    main(*arguments, *(DEMO_SCAN, Path("example_output"))[len(arguments) :])
