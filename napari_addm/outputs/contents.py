"""What the files of one case hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.settings import DetectionSettings, uncalibrated_settings
from napari_addm.findings.decisions import Decisions
from napari_addm.findings.findings import Finding
from napari_addm.io.remarks import Remark, by_weight, caution
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.detection.pipeline import Detection
    from napari_addm.detection.quality import Quality
    from napari_addm.metrics.evaluation import Metrics

StagedFiles = Mapping[str, Path]


@dataclass(frozen=True, eq=False)
class GivenRegion:
    """A brain mask or a ground truth that came with a scan.

    Attributes
    ----------
    voxels : ndarray of bool, shape (S, A, R)
        On the scan's grid.
    path : Path or None
        Its file; None for a layer without one.
    """

    voxels: NDArray[np.bool_]
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class CaseInputs:
    """What goes into a case; without a mask, the brain is found in the scan."""

    scan: Volume
    mask: GivenRegion | None = None
    truth: GivenRegion | None = None
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of scan, mask and truth, where they have one."""
        regions = (region.path for region in (self.mask, self.truth) if region is not None)
        return tuple(path for path in (self.scan.source.path, *regions) if path is not None)


@dataclass(frozen=True, eq=False)
class CaseOutputs:
    """All that the files of a case hold; everything is on the scan's own grid.

    Attributes
    ----------
    labels : ndarray of int, shape (S, A, R)
        The findings' numbers, also as a person edited them; 0 = no finding.
    findings : sequence of Finding
        Measured on `labels`.
    threshold, minimum_ml : float
        The score and the volume in mL that `labels` were made with.
    computed : ndarray of int, shape (S, A, R), optional
        The labels that the threshold alone gives. They are computed for the record where they
        are missing; `labels` itself means that nobody edited it.
    decisions : mapping of int to Decision
        A person's verdicts on the findings, by their ids.
    metrics : Metrics, optional
        Agreement with the ground truth, inside the brain mask.
    quality : Quality, optional
        How the scan differs from those that the model was trained on.
    seconds : mapping of str to float, optional
        Seconds per stage; the detection's own by default.
    name : str
        How the files' names begin; the scan's name by default.
    """

    inputs: CaseInputs
    detection: Detection
    labels: NDArray[np.integer]
    findings: Sequence[Finding]
    checkpoint: Checkpoint
    threshold: float
    minimum_ml: float
    computed: NDArray[np.integer] | None = None
    decisions: Decisions = field(default_factory=dict)
    metrics: Metrics | None = None
    quality: Quality | None = None
    seconds: Mapping[str, float] | None = None
    name: str = ""

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.inputs.scan

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the detection, and whether the threshold was calibrated for its settings."""
        detection, threshold = self.detection, self.threshold
        # Of slices, the detection itself says that the threshold fits whole volumes.
        changed = [
            str(DetectionSettings.model_fields[name].title)
            for name in uncalibrated_settings(detection.settings, detection.specification)
            if name != "slices"
        ]
        if not changed or threshold != detection.specification.detection.threshold:
            return detection.warnings
        words = (
            f"The checkpoint's threshold, {threshold:g}, is used with other settings than it was "
            f"made for ({', '.join(changed)}): choose a threshold that fits them."
        )
        return (*detection.warnings, caution(words))

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The warnings and the quality flags, the heaviest first."""
        return by_weight((*self.warnings, *(self.quality.remarks if self.quality else ())))

    @property
    def maps(self) -> dict[str, Volume]:
        """The volumes that are written, by the keys of `napari_addm.outputs.naming.ENDINGS`."""
        maps = {
            "anomaly": self.detection.anomaly,
            "labels": self.scan.with_data(self.labels),
            "recon": self.detection.reconstruction,
        }
        if self.detection.uncertainty is not None:
            maps["uncertainty"] = self.detection.uncertainty
        if self.detection.brightness is not None:
            maps["brightness"] = self.detection.brightness
        return maps
