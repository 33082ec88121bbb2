"""Previews of single slices, put together. Free of Qt and napari."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.io.volume import Volume


def add_preview(
    shown: Detection | None, preview: Detection, here: int, *, in_place: bool
) -> tuple[Detection, tuple[int, ...]]:
    """Add a preview to what is shown.

    Parameters
    ----------
    shown : Detection or None
        Earlier previews or a run, made with the same settings.
    preview : Detection
        Of the slice that is looked at, and of some neighbors.
    here : int
        That slice of the scan. It is replaced even if it was done, as it has more neighbors now.
    in_place : bool
        Whether the maps of `shown` may be written into; else they are copied.

    Returns
    -------
    Detection
        What is shown from now on.
    tuple of int
        The slices of it that changed, in rising order.
    """
    base = preview if shown is None else shown
    done = np.zeros_like(preview.done) if shown is None else shown.done
    new = preview.done & ~done
    new[here] = preview.done[here]
    rows = np.flatnonzero(new)

    def patched(mine: Volume, theirs: Volume) -> Volume:
        whole = mine if in_place and shown is not None else _copy(mine, done)
        whole.data[rows] = theirs.data[rows]
        return whole

    together = replace(
        preview,
        anomaly=patched(base.anomaly, preview.anomaly),
        reconstruction=patched(base.reconstruction, preview.reconstruction),
        done=done | new,
    )
    if base.uncertainty is not None and preview.uncertainty is not None:
        uncertainty = patched(base.uncertainty, preview.uncertainty)
        together = replace(together, uncertainty=uncertainty)
    if base.brightness is not None and preview.brightness is not None:
        together = replace(together, brightness=patched(base.brightness, preview.brightness))
    return together, tuple(rows.tolist())


def _copy(map_: Volume, done: np.ndarray) -> Volume:
    """Copy the slices that are done; the others are 0, and take no memory yet."""
    data = np.zeros(map_.shape, map_.data.dtype)
    data[done] = map_.data[done]
    return map_.with_data(data)
