"""A glass brain: findings as solid, numbered bodies in a clear brain, in 3D."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QObject

from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.viewing.chosen_scan import fit_brain, scan_in_view
from napari_addm.widgets.viewing.curtain import Curtain
from napari_addm.widgets.viewing.overlays import GlassOverlay
from napari_addm.widgets.viewing.planes import COMES_FROM, GROWS_TO, sides_known
from napari_addm.widgets.viewing.surfaces import (
    Solid,
    Surface,
    brain_surface,
    finding_surfaces,
)

if TYPE_CHECKING:
    import napari

    from napari_addm.widgets.detect_panel.state import Outcome

GLASS = "addm_glass"
# Findings follow a threshold that has rested for so long.
REST_MS = 200
# Beside the selected finding the others are as clear as this.
OTHERS = 0.45
# Letters lie this far from the brain, mm.
LETTERS_MM = 12.0


class GlassBrain(QObject):
    """Shows the scan in view as a glass brain while the viewer is in 3D.

    Its layers are hidden meanwhile; none is added. Surfaces are made in another thread.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.
    parent : QObject

    Attributes
    ----------
    outcome : Outcome or None
        Result whose findings are shown.
    curtain : Curtain
        Hides the layers.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, start: Callable[..., Job], parent: QObject
    ) -> None:
        super().__init__(parent)
        self._viewer, self._start = viewer, start
        self.outcome: Outcome | None = None
        self.curtain = Curtain(viewer, lambda layer: isinstance(layer, (Image, Labels)))
        self._overlay: GlassOverlay | None = None
        self._background: object = None
        self._brain: Surface | None = None
        self._findings: list[Surface] = []
        self._coming: list[Surface] = []
        self._job: Job | None = None
        self._rested = single_shot(self, REST_MS, self._make)

    @property
    def shown(self) -> bool:
        """Whether it is on the screen."""
        return self._overlay is not None

    def show(self) -> bool:
        """Take the place of the layers; False without a scan of three axes."""
        scan = scan_in_view(self._viewer)
        if self.shown or scan is None or scan.ndim != 3 or self._viewer.dims.ndim != 3:
            return self.shown
        self.curtain.draw()
        canvas = self._viewer.canvas
        self._background = canvas.background_color_override
        canvas.background_color_override = "black"
        self._overlay = GlassOverlay(visible=True)
        self._viewer.scene.overlays[GLASS] = self._overlay
        self._make()
        return True

    def fit(self) -> None:
        """Fit the scan to the canvas, whose layers are hidden."""
        scan = scan_in_view(self._viewer)
        if scan is not None:
            fit_brain(self._viewer, scan)

    def hide(self) -> None:
        """Give the layers their place back."""
        self._rested.stop()
        if self._job is not None:
            self._job.quit()
        if self._overlay is not None:
            self._overlay = None
            self._brain, self._findings = None, []
            self._viewer.scene.overlays.pop(GLASS, None)
            self._viewer.canvas.background_color_override = self._background
        self.curtain.draw(False)

    def follow(self) -> None:
        """The findings may be others, or have other decisions."""
        if self.shown:
            self._color()
            self._rested.start()

    # --- surfaces --------------------------------------------------------------------------------

    def _solid(self, scan: Image) -> Solid:
        outcome = self.outcome
        brain: np.ndarray | None = None
        labels: np.ndarray | None = None
        shape = np.shape(scan.data)
        if outcome is not None and outcome.scan_id == scan.unique_id:
            layer = outcome.layers.layer("labels")
            labels = None if layer is None else np.asarray(layer.data)
            if outcome.detection is not None:
                brain = outcome.layers.volume.to_layer(outcome.detection.brain_mask.data)
        origin = np.asarray(scan.data_to_world((0.0,) * 3))
        matrix = np.stack([np.asarray(scan.data_to_world(axis)) - origin for axis in np.eye(3)])
        return Solid(
            np.asarray(scan.data),
            brain if brain is not None and brain.shape == shape else None,
            np.array(labels) if labels is not None and labels.shape == shape else None,
            matrix,
            origin,
        )

    def _make(self) -> None:
        scan = scan_in_view(self._viewer)
        if not self.shown or scan is None:
            return
        if self._job is not None:  # its findings are not the newest
            self._job.quit()
            self._rested.start()
            return
        self._coming = []
        self._job = self._start(
            "Draw in 3D",
            _surfaces,
            self._solid(scan),
            self._brain is None,
            yielded=self._on_surface,
            errored=self._on_failed,
            finished=self._on_finished,
        )

    def _on_surface(self, made: Surface | None) -> None:
        """Take a surface; None: all findings are there."""
        if made is None:
            self._findings = self._coming
        elif made.number:
            self._coming.append(made)
            return
        else:
            self._brain = made
        self._draw()

    def _on_failed(self, error: Exception) -> None:
        raise error

    def _on_finished(self) -> None:
        self._job = None

    # --- on the screen ---------------------------------------------------------------------------

    def _draw(self) -> None:
        if self._overlay is not None:
            self._overlay.findings = tuple(self._findings)
            self._overlay.letters = self._letters()
            self._overlay.brain = self._brain
            self._color()

    def _color(self) -> None:
        if self._overlay is None:
            return
        selected: int | None = None
        rejected: tuple[int, ...] = ()
        colors = {}
        if self.outcome is not None:
            findings = self.outcome.findings
            selected, rejected = findings.selected, tuple(findings.rejected)
        numbers = [each.number for each in self._findings]
        table = finding_colors(None, rejected, max(numbers, default=0))
        for number in numbers:
            color = table[1 + (number - 1) % (len(table) - 1)].copy()
            if selected in numbers and number != selected:
                color[3] *= OTHERS
            colors[number] = color
        self._overlay.colors, self._overlay.selected = colors, selected or 0

    def _letters(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """The patient's sides, around the brain, if all layers say how they lie."""
        bodies = [self._brain] if self._brain is not None else self._findings
        if not bodies or not sides_known(self._viewer.layers):
            return ()
        points = np.concatenate([body.vertices for body in bodies])
        low, high = points.min(axis=0), points.max(axis=0)
        letters = []
        for axis in range(3):
            for letter, end, sign in (
                (GROWS_TO[axis], high, 1.0),
                (COMES_FROM[axis], low, -1.0),
            ):
                at = (low + high) / 2
                at[axis] = end[axis] + sign * LETTERS_MM
                letters.append((letter, tuple(float(n) for n in at)))
        return tuple(letters)


def _surfaces(solid: Solid, with_brain: bool) -> Iterator[Surface | None]:
    yield from finding_surfaces(solid)
    yield None
    if with_brain:
        brain = brain_surface(solid)
        if brain is not None:
            yield brain
