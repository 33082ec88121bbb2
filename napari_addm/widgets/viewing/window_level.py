"""Window and level of images: presets, reset, and the reconstruction in the window of its scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Layer

from napari_addm.widgets.layer_registry import output_of
from napari_addm.widgets.viewing.connections import Connections, unwrapped

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

# The percentiles that each preset shows, and whether of the brain alone.
PRESETS = {
    "full": (0.0, 100.0, False),
    "brain": (0.5, 99.5, True),
    "narrow": (15.0, 95.0, True),
}
# Percentiles are those of about so many voxels.
SAMPLE = 1_000_000
# The window is at most so many times as wide as the voxels need, and at least this part of it.
WIDEST, NARROWEST = 2.0, 1e-3
# Pixels of a drag that double the width, and that move the level by a whole width.
DOUBLES_PX, WIDTH_PX = 150.0, 300.0
# Of an image without a mask, this share of one value is background.
BACKGROUND = 0.2

Limits = tuple[float, float]


class WindowLevel:
    """Sets the contrast of the image that a person looks at.

    That is the selected image, or else the chosen scan; see `image_on`. While this is open, a
    reconstruction has the contrast limits of its scan, whoever sets them.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    scan : callable
        Gives the chosen scan; the panel sets it.
    brain : callable
        Gives the brain of an image, on its voxels, or None; the panel sets it.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self.scan: Callable[[], Image | None] = lambda: None
        self.brain: Callable[[Image], np.ndarray | None] = lambda layer: None
        # Limits and their range, as they were before they were first set here.
        self._before: WeakKeyDictionary[Image, tuple[Limits, Limits]] = WeakKeyDictionary()
        self._of_layers = Connections()
        self._connections = Connections()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._on_layers)
        self._on_layers()

    @property
    def image(self) -> Image | None:
        """The image whose contrast is set: the selected one if it is visible, or the scan."""
        active, chosen = unwrapped(self._viewer.layers.selection.active), unwrapped(self.scan())
        for layer in (active, chosen):
            image = self._meant_by(layer)
            if image in self._layers and image is not None and (image.visible or image is chosen):
                return image
        return None

    def image_on(self, model: napari.viewer.Viewer | ViewerModel) -> Image | None:
        """The image that is meant on a canvas: `image`, or the topmost one if it is not shown."""
        image = self.image
        shown = {layer.name for layer in model.layers if layer.visible}
        if image is not None and image.name in shown:
            return image
        for layer in reversed(self._layers):
            if layer.name in shown and (meant := self._meant_by(layer)) is not None:
                return meant
        return image

    @property
    def _layers(self) -> list[Layer]:
        return [unwrapped(layer) for layer in self._viewer.layers]

    def _meant_by(self, layer: Layer | None) -> Image | None:
        """The scan for its reconstruction; None for maps, whose colors stand for scores."""
        if not isinstance(layer, Image) or layer.rgb:
            return None
        _, role = output_of(layer) or (None, "")
        if role == "reconstruction":
            return self._partner(layer) or layer
        return None if role else layer

    # --- what sets it ----------------------------------------------------------------------------

    def set_limits(self, image: Image, limits: Limits) -> None:
        """Set the contrast limits of an image."""
        self._before.setdefault(image, (limits_of(image), _range(image)))
        image.contrast_limits = limits

    def dragged(self, image: Image, start: Limits, right: float, down: float) -> Limits:
        """Move window and level from those at the start of a drag.

        Parameters
        ----------
        image : Image
        start : (float, float)
            Contrast limits.
        right, down : float
            Pixels from the start: to the right the window widens, down the level rises, so that
            the image gets darker.

        Returns
        -------
        (float, float)
            The new contrast limits.
        """
        low, high = self._before[image][1] if image in self._before else _range(image)
        span, (least, most) = high - low, start
        width = (most - least) * 2 ** (right / DOUBLES_PX)
        width = float(np.clip(width, NARROWEST * span, WIDEST * span))
        level = (least + most) / 2 + down / WIDTH_PX * (most - least)
        level = float(np.clip(level, low, high))
        limits = level - width / 2, level + width / 2
        self.set_limits(image, limits)
        return limits

    def reset(self) -> None:
        """Give the image the contrast that it had at first."""
        image = self.image
        if image is not None and image in self._before:
            limits, whole = self._before[image]
            image.contrast_limits = limits
            image.contrast_limits_range = whole

    def show(self, preset: str) -> None:
        """Show the values that a preset stands for, a key of `PRESETS`."""
        image = self.image
        if image is None:
            return
        low, high, in_brain = PRESETS[preset]
        values = _values(image, self.brain(image), in_brain)
        if values.size:
            least, most = np.percentile(values, (low, high)).tolist()
            if least < most:
                self.set_limits(image, (least, most))

    # --- the reconstruction ----------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        self._of_layers.close()
        for layer in self._viewer.layers:
            if isinstance(layer, Image):
                self._of_layers.add(layer.events.contrast_limits, self._on_limits)
            if (output_of(layer) or (None, ""))[1] == "reconstruction":
                scan = self._partner(unwrapped(layer))
                if scan is not None:
                    _copy_limits(scan, layer)

    def _on_limits(self, event: Any) -> None:
        image = unwrapped(event.source)
        partner = self._partner(image)
        if partner is not None:
            _copy_limits(image, partner)

    def _partner(self, image: Image) -> Image | None:
        """The reconstruction of a scan, or the scan of a reconstruction."""
        scan_id, role = output_of(image) or (image.unique_id, "scan")
        for layer in self._layers:
            if role == "scan" and output_of(layer) == (scan_id, "reconstruction"):
                return layer
            if role == "reconstruction" and layer.unique_id == scan_id:
                return layer
        return None

    def close(self) -> None:
        """Follow the layers no more."""
        self._connections.close()
        self._of_layers.close()


def _values(image: Image, brain: np.ndarray | None, in_brain: bool) -> np.ndarray:
    """Finite voxels of an image; of the brain, if it is known, or else of what is no background."""
    data = image.data[-1] if image.multiscale else image.data
    step = max(1, round((np.prod(np.shape(data)) / SAMPLE) ** (1 / np.ndim(data))))
    part = (slice(None, None, step),) * np.ndim(data)
    values = np.asarray(data[part])
    finite = np.isfinite(values)
    if in_brain and brain is not None and brain.shape == np.shape(data):
        return values[finite & brain[part]]
    values = values[finite]
    if in_brain and values.size:
        lowest = values.min()
        stripped = (values == lowest).mean() > BACKGROUND
        values = values[values > (lowest if stripped else values.mean())]
    return values


def limits_of(image: Image) -> Limits:
    """Contrast limits of an image."""
    low, high = image.contrast_limits
    return float(low), float(high)


def _range(image: Image) -> Limits:
    low, high = image.contrast_limits_range
    return float(low), float(high)


def _copy_limits(source: Image, target: Image) -> None:
    if limits_of(source) != limits_of(target):
        target.contrast_limits = limits_of(source)
