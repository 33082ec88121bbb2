"""'Calibrate for my scanner...': a dialog that asks for healthy scans, and the progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QWidget,
)

from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.training.settings import LEAST_HEALTHY, PROMISED_ML
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.calibration import (
    Calibrated,
    CalibrationRequest,
    CalibrationStep,
    calibrate_steps,
    describe_found,
    find_healthy_scans,
    suggest_output,
)
from napari_addm.widgets.forms import (
    ElidedButton,
    ProgressLine,
    answers,
    button,
    column,
    form,
    may_replace,
    message,
    row,
    say,
)
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.model_settings import ModelSettings
from napari_addm.widgets.tones import ERROR

if TYPE_CHECKING:
    from napari_addm.training.labelled_scans import LabelledScan

WIDTH = 480
PARTS = 100  # of a scan, on the bar


class CalibrationDialog(QDialog):
    """Asks for healthy scans, and where the new checkpoint goes.

    Parameters
    ----------
    checkpoint : Path
        The chosen one.
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.
    parent : QWidget, optional

    Attributes
    ----------
    wanted : Signal(object, object)
        A person wants to calibrate: the scans, and the new file.
    folder_button, output_button, start_button : QPushButton
    found : QLabel
        How many scans there are.
    """

    wanted = Signal(object, object)

    def __init__(
        self, checkpoint: Path, start: Callable[..., Job], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._checkpoint, self._start = checkpoint, start
        self._folder: Path | None = None
        self._output: Path | None = None
        self._scans: tuple[LabelledScan, ...] = ()
        self._job: Job | None = None
        self.setWindowTitle(texts.CALIBRATE_TITLE)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._build()
        self._show()

    def _build(self) -> None:
        words = QLabel(texts.CALIBRATE_HINT.format(PROMISED_ML))
        words.setWordWrap(True)
        self.folder_button = _chooser(texts.CHOOSE_FOLDER.label, self._on_folder)
        self.output_button = _chooser(texts.CALIBRATE_SAVE_AS.label, self._on_output)
        self.found = message()
        fields = form()
        row(fields, texts.HEALTHY_SCANS, self.folder_button)
        fields.addRow(self.found)
        row(fields, texts.CALIBRATE_OUTPUT, self.output_button)
        buttons, self.start_button = answers(self, texts.CALIBRATE_START)
        body = column(self)
        body.setContentsMargins(12, 12, 12, 12)
        body.setSpacing(10)
        body.addWidget(words)
        body.addLayout(fields)
        body.addStretch(1)
        body.addWidget(buttons)
        self.setMinimumWidth(WIDTH)

    def _on_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Where are the healthy scans?")
        if name:
            self.choose_folder(Path(name))

    def choose_folder(self, folder: Path) -> None:
        """Look for the scans of a folder, in the background."""
        self._folder, self._scans = folder, ()
        self._output = suggest_output(self._checkpoint, folder)
        if self._job is not None:
            self._job.quit()
        self._job = self._start(
            "Look for healthy scans",
            find_healthy_scans,
            folder,
            yielded=self._on_found,
            errored=self._on_error,
        )
        self._show()
        self._say(texts.CALIBRATE_LOOKING)

    def _on_output(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save the new checkpoint as", str(self._output or ""), "Model (*.safetensors)"
        )
        if not name:
            return
        path = Path(name)
        if path.suffix != ".safetensors":
            # the dialog has asked about another name
            path = path.with_name(f"{path.name}.safetensors")
            if path.exists() and not may_replace(self, [path.name], path.parent):
                return
        self._output = path
        self._show()

    def _on_found(self, scans: tuple[LabelledScan, ...]) -> None:
        if scans[0].scan.is_relative_to(self._folder or ""):
            self._scans = scans
            self._say(describe_found(len(scans)), ERROR if len(scans) < LEAST_HEALTHY else "")
            self._show()

    def _on_error(self, error: Exception) -> None:
        if not isinstance(error, AddmError):
            error = AddmError(f"{type(error).__name__}: {error}")
        self._say(str(error), ERROR)

    def _say(self, words: str, tone: str = "") -> None:
        self.found.set_tone(tone)
        say(self.found, words)

    def _show(self) -> None:
        """Show what is chosen, and whether it is enough."""
        for made, path, title in (
            (self.folder_button, self._folder, texts.CHOOSE_FOLDER.label),
            (self.output_button, self._output, texts.CALIBRATE_SAVE_AS.label),
        ):
            made.say(title if path is None else str(path))
            made.setToolTip(texts.as_written("" if path is None else str(path)))
        self.output_button.setEnabled(self._output is not None)
        self.start_button.setEnabled(len(self._scans) >= LEAST_HEALTHY)

    def accept(self) -> None:
        """Calibrate."""
        scans, output = self._scans, self._output
        super().accept()
        self.wanted.emit(scans, output)


class Calibrating(QWidget):
    """The button, and below it how far a calibration is.

    Parameters
    ----------
    model : ModelSettings
        Says which checkpoint is chosen, and gets the new one.
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    begun : Signal()
        A calibration is about to begin.
    said : Signal(str)
        Words for the status line.
    failed : Signal(object)
        An exception, for the panel to show.
    button, cancel_button : QPushButton
    status : QLabel
    progress : ProgressLine
    dialog : CalibrationDialog or None
        While it is open.
    """

    begun = Signal()
    said = Signal(str)
    failed = Signal(object)

    def __init__(self, model: ModelSettings, start: Callable[..., Job]) -> None:
        super().__init__()
        self._model, self._start = model, start
        self._job: Job | None = None
        self._done = False  # the new checkpoint is saved
        self.dialog: CalibrationDialog | None = None
        self.button = button(texts.CALIBRATE, self.ask)
        self.cancel_button = button(texts.CALIBRATE_CANCEL, self.cancel)
        self.status, self.progress = message(), ProgressLine()
        going = QHBoxLayout()
        going.addWidget(self.status, 1)
        going.addWidget(self.cancel_button)
        body = column(self)
        body.addWidget(self.button)
        body.addLayout(going)
        body.addWidget(self.progress)
        policy = self.progress.sizePolicy()
        policy.setRetainSizeWhenHidden(False)
        self.progress.setSizePolicy(policy)
        model.checkpoint_changed.connect(self._show)
        self._show()

    def ask(self) -> None:
        """Open the dialog."""
        self.dialog = CalibrationDialog(self._model.checkpoint, self._start, self)
        self.dialog.wanted.connect(self.calibrate)
        self.dialog.finished.connect(self._on_closed)
        self.dialog.open()

    def _on_closed(self) -> None:
        self.dialog = None

    def calibrate(self, scans: tuple[LabelledScan, ...], output: Path) -> None:
        """Calibrate the chosen checkpoint, in the background.

        Parameters
        ----------
        scans : tuple of LabelledScan
            The healthy ones.
        output : Path
            The checkpoint to write.
        """
        settings = self._model.settings
        request = CalibrationRequest(
            self._model.checkpoint,
            scans,
            output,
            DetectionSettings(regions=False, device=settings.device, precision=settings.precision),
        )
        self.begun.emit()
        self._done = False
        self.progress.tell(0, 1)
        self._job = self._start(
            "Calibrate for my scanner",
            calibrate_steps,
            request,
            yielded=self._on_yielded,
            errored=self._on_error,
            finished=self._on_finished,
        )
        self._show()

    def cancel(self) -> None:
        """Stop within one step of the network."""
        if self._job is not None:
            self._job.quit()
            self._show()
            say(self.status, texts.CANCELLING)

    def _on_yielded(self, item: CalibrationStep | Calibrated) -> None:
        if isinstance(item, Calibrated):
            self._done = True
            self._model.checkpoint_chooser.choose(item.output)
            self.said.emit(item.words)
        elif self._job is not None and not self._job.abort_requested:
            say(self.status, item.words)
            self.progress.tell(round(PARTS * item.done), PARTS * item.total)

    def _on_error(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        cancelled = self._job is not None and self._job.abort_requested and not self._done
        self._job = None
        self._show()
        if cancelled:
            self.said.emit(texts.CALIBRATE_CANCELLED)

    def _show(self) -> None:
        """Show what may be pressed."""
        going = self._job is not None
        self.button.setEnabled(not going and self._model.specification is not None)
        for part in (self.cancel_button, self.progress):
            part.setVisible(going)
        self.cancel_button.setEnabled(self._job is not None and not self._job.abort_requested)
        if not going:
            say(self.status, "")


def _chooser(words: str, pressed: Callable[[], object]) -> ElidedButton:
    """Make a button that shows the path that was chosen with it."""
    made = ElidedButton(words)
    made.setAutoDefault(False)
    made.clicked.connect(lambda _=False: pressed())
    return made
