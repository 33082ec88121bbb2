"""The findings that a threshold gives, and how far a person's labels differ from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_addm.findings.findings import Findings, measure_findings
from napari_addm.findings.labelling import FindingLabeller

if TYPE_CHECKING:
    from napari_addm.detection.pipeline import Detection
    from napari_addm.io.volume import Volume


def computed_labels(
    detection: Detection, threshold: float, minimum_ml: float
) -> NDArray[np.integer]:
    """Label the findings that the threshold alone gives, in the brain's finished slices.

    Returns
    -------
    ndarray of int, shape (S, A, R)
        0 = no finding.
    """
    return labeller_of(detection).label(threshold, minimum_ml)


def computed_findings(
    detection: Detection, threshold: float, minimum_ml: float
) -> tuple[NDArray[np.integer], Findings]:
    """Label the findings as `computed_labels` does, and measure them."""
    return find_in(detection, labeller_of(detection), threshold, minimum_ml)


def find_in(
    detection: Detection, labeller: FindingLabeller, threshold: float, minimum_ml: float
) -> tuple[NDArray[np.integer], Findings]:
    """Label and measure the findings of a detection with a labeller of its map."""
    return labeller.find(
        threshold,
        minimum_ml,
        detection.anomaly,
        _voxels(detection.uncertainty),
        detection.midline,
        detection.regions,
        _voxels(detection.brightness),
    )


def measured_findings(detection: Detection, labels: NDArray[np.integer]) -> Findings:
    """Measure labels (S, A, R) that exist already, such as those that a person edited."""
    return measure_findings(
        labels,
        detection.highest,
        detection.anomaly,
        _voxels(detection.uncertainty),
        detection.midline,
        detection.regions,
        _voxels(detection.brightness),
    )


def _voxels(map_: Volume | None) -> NDArray[np.float32] | None:
    return None if map_ is None else map_.data


def labeller_of(detection: Detection) -> FindingLabeller:
    """Return a labeller of the map that findings lie in, as far as it is done."""
    # Compact labels: new memory for int32 at every threshold would take too long.
    return FindingLabeller(
        detection.highest,
        spacing=detection.anomaly.spacing,
        mask=detection.region,
        compact=True,
    )


def edited_voxels(computed: NDArray[np.integer], labels: NDArray[np.integer]) -> int:
    """Count the voxels that differ between two label images, whatever numbers the findings have.

    The panel keeps a finding's number while the threshold moves, so numbers alone say nothing.
    """
    either = (computed != 0) | (labels != 0)
    if not either.any():
        return 0
    # Each pair of numbers becomes one code: sorting codes is ten times faster than sorting rows.
    ours, our_codes = np.unique(computed[either], return_inverse=True)
    theirs, their_codes = np.unique(labels[either], return_inverse=True)
    pairs, counts = np.unique(our_codes * len(theirs) + their_codes, return_counts=True)
    ours, theirs = ours[pairs // len(theirs)], theirs[pairs % len(theirs)]
    matched_ours: set[int] = set()
    matched_theirs: set[int] = set()
    same = 0
    for pair in np.argsort(-counts, kind="stable"):  # the largest overlaps are matched first
        one, other = int(ours[pair]), int(theirs[pair])
        if one and other and one not in matched_ours and other not in matched_theirs:
            matched_ours.add(one)
            matched_theirs.add(other)
            same += int(counts[pair])
    return int(counts.sum()) - same
