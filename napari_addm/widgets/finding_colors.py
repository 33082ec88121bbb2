"""Colors of anomaly maps, findings and their agreement with a ground truth."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from napari.utils.colormaps import Colormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED

# Clear where nothing is, so that the scan shows through; half of it lies below the threshold.
GLOW = Colormap(
    [[0.8, 0.0, 0.2, 0.0], [0.95, 0.25, 0.1, 0.35], [1.0, 0.65, 0.1, 0.7], [1.0, 0.95, 0.5, 0.8]],
    name="anomaly",
    display_name="anomaly",
)
# Okabe and Ito's colors, which people with red-green blindness can tell apart.
AGREEMENT_COLORS = {HIT: "#009e73", FALSE_ALARM: "#d55e00", MISSED: "#56b4e9"}
# Far from gray and from the glow, and from one to the next.
FINDING_COLORS = ("#35e0ff", "#7dff5c", "#ff7bf2", "#9d9bff", "#ffe14d", "#4dffc3")
SELECTED_COLOR = "#ffffff"
DIMMED = 0.25
# napari's texture of colors holds no more.
MOST_COLORS = 2**16 - 1


def finding_colors(selected: int | None, rejected: Collection[int], highest: int) -> np.ndarray:
    """Color findings by number, as napari's cyclic colormap takes it.

    Parameters
    ----------
    selected : int or None
        Stands out.
    rejected : collection of int
        Dimmed.
    highest : int
        The highest number that occurs.

    Returns
    -------
    ndarray of float32, shape (n, 4)
        RGBA; row 0 is the background's. After the last row napari goes on with row 1.
    """
    palette = transform_color(FINDING_COLORS)
    cycle = len(palette)
    special = [id for id in (selected, *rejected) if id is not None and 0 < id <= highest]
    rounds = 1
    if special and highest < MOST_COLORS - cycle:
        # One row for each number; rounded up, so that it seldom changes under a moving threshold.
        rounds = 2 ** math.ceil(math.log2(max(highest, cycle) / cycle))
        rounds = min(rounds, MOST_COLORS // cycle)
    else:
        special = []
    colors = np.concatenate([np.zeros((1, 4)), np.tile(palette, (rounds, 1))]).astype(np.float32)
    for id in special:
        if id == selected:
            colors[id] = transform_color(SELECTED_COLOR)[0]
    for id in special:
        if id in rejected:
            colors[id, 3] *= 2 * DIMMED if id == selected else DIMMED
    return colors
