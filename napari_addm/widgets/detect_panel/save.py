"""Section 'Save': the files of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from qtpy.QtCore import QUrl, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QCheckBox, QFileDialog, QWidget

from napari_addm.errors import AddmError, InputError
from napari_addm.io.volume import Volume
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.case_page import CaseSources, write_case_page
from napari_addm.outputs.colors import map_limits
from napari_addm.outputs.contents import CaseInputs, CaseOutputs, GivenRegion
from napari_addm.outputs.dicom_seg import check_seg
from napari_addm.outputs.folder import check_outputs
from napari_addm.outputs.two_dates import (
    TwoDates,
    check_comparison,
    compare_dates,
    result_of,
    write_comparison,
)
from napari_addm.review.marking import measure_labels
from napari_addm.review.saved_review import SavedReview, read_review
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import button, column, may_replace
from napari_addm.widgets.jobs import Job


class Saving(QWidget):
    """Write the files of the result that is shown, or go on with a saved review of it.

    Parameters
    ----------
    controller : DetectController
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    begun : Signal()
        Files are about to be written or read.
    said : Signal(str)
        Words for the status line.
    failed : Signal(object)
        An exception, for the panel to show.
    folder_chosen : Signal(str, str)
        A person chose a folder: its name in the preferences, and the folder.
    folder : Path or None
        Where the dialog starts.
    """

    begun = Signal()
    said = Signal(str)
    failed = Signal(object)
    folder_chosen = Signal(str, str)

    def __init__(self, controller: DetectController, start: Callable[..., Job]) -> None:
        super().__init__()
        self._controller = controller
        self._start = start
        self._saved: Path | None = None
        self.folder: Path | None = None
        self.save_button = button(texts.SAVE, self._on_save)
        self.page_button = button(texts.CASE_PAGE, self._on_page)
        self.seg = QCheckBox(texts.SEG.label)
        self.seg.setToolTip(texts.SEG.tip)
        self.seg.clicked.connect(self._on_seg)
        self.open_button = button(texts.OPEN_FOLDER, self._on_open)
        self.open_button.hide()
        self.resume_button = button(texts.RESUME, self._on_resume)
        layout = column(self)
        for widget in (
            self.seg,
            self.save_button,
            self.page_button,
            self.open_button,
            self.resume_button,
        ):
            layout.addWidget(widget)
        controller.changed.connect(self._show_allowed)
        self._show_allowed()

    def _show_allowed(self) -> None:
        """Let the buttons say what may be pressed, and why not."""
        why_not, outcome = self._controller.why_not_save, self._controller.outcome
        for made in (self.save_button, self.page_button, self.resume_button):
            made.setEnabled(not why_not)
        self.save_button.setToolTip(texts.as_written(why_not or texts.SAVE.tip))
        self.page_button.setToolTip(texts.as_written(why_not or texts.CASE_PAGE.tip))
        self.seg.setVisible(outcome is not None and bool(outcome.scan.source.series))

    @property
    def _outcome(self) -> Outcome | None:
        """The outcome if it may be saved; otherwise the panel shows why not."""
        outcome, why_not = self._controller.outcome, self._controller.why_not_save
        if not why_not:
            return outcome
        if outcome is not None:
            self.begun.emit()
            self._on_failed(InputError(why_not))
        return None

    # --- a DICOM segmentation --------------------------------------------------------------------

    def _on_seg(self, wanted: bool) -> None:
        """Check at once whether the series allows it."""
        outcome = self._outcome
        if wanted and outcome is not None:
            self.begun.emit()
            self._start("Check the series", _check, outcome.scan, errored=self._on_no_seg)

    def _on_no_seg(self, error: Exception) -> None:
        self.seg.setChecked(False)
        self._on_failed(error)

    # --- save ------------------------------------------------------------------------------------

    def _on_open(self) -> None:
        if self._saved is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._saved)))

    def _on_save(self) -> None:
        self._ask_and_save(page=False)

    def _on_page(self) -> None:
        self._ask_and_save(page=True)

    def save_comparison(self, found: TwoDates) -> None:
        """Ask for a folder, and save the result with its comparison with an earlier one."""
        self._ask_and_save(page=False, found=found)

    def _ask_and_save(self, page: bool, found: TwoDates | None = None) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        folder = QFileDialog.getExistingDirectory(
            self, "Save into which folder?", str(self.folder or "")
        )
        if not folder:
            return
        self.folder = Path(folder)
        self.folder_chosen.emit("output_folder", folder)
        try:
            inputs = CaseInputs(outcome.scan).files
            if found is not None and found.before.path is not None:
                inputs = (*inputs, found.before.path)
            paths = check_outputs(folder, outcome.stem, True, inputs)
            if found is not None:
                paths |= check_comparison(Path(folder), overwrite=True)
        except AddmError as error:
            self.failed.emit(error)
            return
        there = [path.name for path in paths.values() if path.exists()]
        if not there or may_replace(self, there, folder):
            self.save(Path(folder), overwrite=bool(there), page=page, found=found)

    def save(
        self,
        folder: Path,
        overwrite: bool = False,
        page: bool = False,
        found: TwoDates | None = None,
    ) -> None:
        """Write all files of the result into a folder, in the background.

        The labels are written as the layer shows them, with a person's edits. The `page` of the
        case is made from the files, with the colors of the map as they are on the screen. What
        was `found` of an earlier result is matched again with what is saved.
        """
        outcome = self._outcome
        if outcome is None:
            return
        self.begun.emit()
        self.said.emit(f"Saving into {folder} ...")
        labels, shown_map = outcome.layers.labels(), outcome.layers.layer("anomaly")
        limits = map_limits(None if outcome.marked is None else outcome.marked.threshold)
        if shown_map is not None:
            limits = tuple(shown_map.contrast_limits)
        self._start(
            "Save the results",
            _save,
            replace(outcome, findings=copy(outcome.findings)),  # as they are now
            None if labels is None else labels.copy(),
            folder,
            overwrite,
            self.seg.isChecked() and bool(outcome.scan.source.series),
            limits if page else None,
            found,
            yielded=self._on_saved,
            errored=self._on_failed,
        )

    def _on_saved(self, saved: tuple[dict[str, Path], bool]) -> None:
        paths, seg = saved
        folder = next(iter(paths.values())).parent
        self._saved = folder
        self.open_button.show()
        words = f"{len(paths)} files saved in {folder}"
        if seg and "seg" not in paths:
            words += f"; {texts.NO_SEG}"
        if page := paths.get("page"):
            opened = QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))
            words += f"; the page is {page.name}" + ("" if opened else texts.NO_BROWSER)
        self.said.emit(words)

    def _on_failed(self, error: Exception) -> None:
        self.said.emit("")
        self.failed.emit(error)

    # --- go on with a saved review ---------------------------------------------------------------

    def _on_resume(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Go on with which review?", str(self.folder or ""), "Run records (*_record.json)"
        )
        if name:
            self.resume(Path(name))

    def resume(self, record: Path) -> None:
        """Read the review that a record of the outcome's scan holds, in the background."""
        outcome = self._outcome
        if outcome is None:
            return
        self.begun.emit()
        self.said.emit(f"Reading {record.name} ...")
        self._start(
            "Read a review",
            _resume,
            outcome,
            record,
            yielded=self._on_read,
            errored=self._on_failed,
        )

    def _on_read(self, read: tuple[Outcome, SavedReview]) -> None:
        outcome, review = read
        if outcome is self._controller.outcome:
            self._controller.resume(review)
        else:
            self.said.emit("")  # another scan was chosen meanwhile


# --- in another thread ---------------------------------------------------------------------------


def case_outputs(outcome: Outcome, labels: np.ndarray | None) -> CaseOutputs:
    """Give all that the files of an outcome hold, with `labels` (S, A, R) as they are shown."""
    detection, marked, agreement = outcome.detection, outcome.marked, outcome.agreement
    assert detection is not None
    assert marked is not None
    if labels is not None:
        marked = measure_labels(detection, labels, marked.threshold, marked.minimum_ml)
    if agreement is not None:
        detection = replace(detection, warnings=(*detection.warnings, *outcome.truth_notes))
    mask = GivenRegion(detection.brain_mask.data, outcome.mask_path) if outcome.mask_given else None
    truth = None if agreement is None else GivenRegion(agreement.truth, outcome.truth_path)
    return CaseOutputs(
        inputs=CaseInputs(outcome.scan, mask, truth),
        detection=detection,
        labels=marked.labels,
        findings=marked.findings,
        checkpoint=outcome.checkpoint,
        threshold=marked.threshold,
        minimum_ml=marked.minimum_ml,
        decisions=outcome.decisions,
        metrics=None if agreement is None else agreement.at(marked),
        quality=outcome.quality,
        name=outcome.stem,
    )


def _resume(outcome: Outcome, record: Path) -> Iterator[tuple[Outcome, SavedReview]]:
    detection = outcome.detection
    assert detection is not None
    yield outcome, read_review(record, outcome.scan, detection, outcome.checkpoint.sha256)


def _check(scan: Volume) -> Iterator[None]:
    check_seg(scan)
    yield


def _save(
    outcome: Outcome,
    labels: np.ndarray | None,
    folder: Path,
    overwrite: bool,
    seg: bool,
    page_limits: tuple[float, float] | None,
    found: TwoDates | None,
) -> Iterator[tuple[dict[str, Path], bool]]:
    """Write the files, a page with these limits of the map, and a comparison; see `Saving.save`.

    Yields the files, and whether a segmentation was wanted.
    """
    outputs = case_outputs(outcome, labels)
    # The panel asks before it replaces files, but some may have come since.
    paths = check_outputs(folder, outcome.stem, True)
    there = [path for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise AddmError(
            f"{there[0]} exists already: press Save again and agree to replace it, or choose "
            "another folder."
        )
    written = write_case(outputs, folder, WriteOptions(dicom_seg=seg, overwrite=overwrite))
    if page_limits is not None:
        truth = outputs.inputs.truth
        voxels = None if truth is None else truth.voxels
        sources = CaseSources(outcome.scan, voxels, page_limits)
        written["page"] = write_case_page(written["record"], sources)
    if found is not None:
        later = result_of(outputs, written["record"])
        again = compare_dates(found.before, later, found.registration)
        written |= write_comparison(again, folder, overwrite=overwrite)
    yield written, seg
