"""What a run gave, as the sections of the panel hand it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.quality import Quality
from napari_addm.findings.decisions import Decisions
from napari_addm.io.volume import Volume
from napari_addm.review.agreement import Agreement
from napari_addm.review.marking import CachedLabeller, LabelledFindings
from napari_addm.widgets import texts
from napari_addm.widgets.result_layers import ResultLayers


@dataclass
class Outcome:
    """What the last run gave, and how it may be saved.

    Attributes
    ----------
    layers : ResultLayers
    checkpoint : Checkpoint
        Without its weights.
    mask_path : Path or None
        File of the brain mask that was chosen.
    name : str
        Of the scan's layer, without its folder: for files and figures.
    detection : Detection or None
        The last result, partial while the run goes on.
    marker : CachedLabeller or None
        Marks `detection`.
    marked : LabelledFindings or None
    decisions : mapping of int to Decision
        What a person thinks of the findings in `marked`, by their ids.
    agreement : Agreement or None
        With the ground truth that is chosen.
    truth_path : Path or None
        File of that ground truth.
    truth_notes : tuple of str
        Its warnings.
    mask_given : bool
        Whether a brain mask was chosen; a layer may have no file.
    quality : Quality or None
        What tells the scan from those of the training; None until all of it is done.
    preview : bool
        Whether it is put together from previews, which no record could repeat.
    title : str
        Of the scan's layer when the run began: for the screen.
    """

    layers: ResultLayers
    checkpoint: Checkpoint
    mask_path: Path | None
    name: str
    detection: Detection | None = None
    marker: CachedLabeller | None = None
    marked: LabelledFindings | None = None
    decisions: Decisions = field(default_factory=dict)
    agreement: Agreement | None = None
    truth_path: Path | None = None
    truth_notes: tuple[str, ...] = ()
    mask_given: bool = False
    quality: Quality | None = None
    preview: bool = False
    title: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person is told about the result."""
        assert self.detection is not None
        return (*self.detection.warnings, *(self.quality.notes if self.quality else ()))

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.layers.volume.volume

    @property
    def misfit(self) -> str:
        """Why places, sizes and voxels of the result no longer hold; empty while they do."""
        misfit, layer = self.layers.misfit, self.layers.scan_layer
        name = self.name if layer is None else layer.name
        return texts.MISFITS[misfit].format(name) if misfit else ""

    def mark(self, threshold: float, minimum_ml: float) -> LabelledFindings:
        """Mark the result, which has to be there, under a threshold."""
        self.marked = self._marker().label(threshold, minimum_ml)
        return self.marked

    def renumber(self, labels: np.ndarray) -> None:
        """Give the findings of the result, which has to be there, the numbers of other labels."""
        self._marker().renumber(labels)

    def _marker(self) -> CachedLabeller:
        assert self.detection is not None
        if self.marker is None or self.marker.detection is not self.detection:
            self.marker = CachedLabeller(self.detection)
        return self.marker

    @property
    def stem(self) -> str:
        """How saved files are named: as the scan's file, or else as its layer."""
        if self.scan.source.path is not None:
            return self.scan.name
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return name.strip(".") or self.scan.name
