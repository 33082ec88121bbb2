"""Checks that all metrics share."""

from __future__ import annotations

import numpy as np

from napari_addm.errors import InputError


def check_shapes(
    reference: np.ndarray, name: str = "anomaly map", **others: np.ndarray | None
) -> None:
    """Refuse arrays of another shape than the first."""
    words = {"truth": "ground truth"}
    for other, array in others.items():
        if array is not None and np.shape(array) != reference.shape:
            raise InputError(
                f"The {words.get(other, other)} has shape {np.shape(array)} and the {name} "
                f"{reference.shape}: resample it to the scan's grid first."
            )


def check_scores(scores: np.ndarray) -> None:
    """Refuse scores that cannot be ranked: none at all, NaN or infinite ones."""
    if scores.size == 0:
        raise InputError("The mask is empty, so nothing can be measured: choose another mask.")
    if not np.isfinite(scores).all():
        raise InputError("The anomaly map has NaN or infinite voxels, so it cannot be ranked.")
