"""Colors of anomaly maps, findings and their agreement with a ground truth."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import Colormap, CyclicLabelColormap, DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_addm.outputs.colors import (
    DARKER_BRIGHTER,
    DARKER_BRIGHTER_AT,
    FALSE_ALARM_COLOR,
    FINDING_COLORS,
    GLOW,
    HIT_COLOR,
    MISSED_COLOR,
    TRUTH_COLOR,
)
from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED

MAP_COLORS = Colormap(GLOW, name="anomaly", display_name="anomaly")
BRIGHTNESS_COLORS = Colormap(
    DARKER_BRIGHTER, controls=DARKER_BRIGHTER_AT, name="brightness", display_name="brightness"
)
AGREEMENT_COLORS = {HIT: HIT_COLOR, FALSE_ALARM: FALSE_ALARM_COLOR, MISSED: MISSED_COLOR}
SELECTED_COLOR = "#ffffff"
DIMMED = 0.25
TRUTH_CONTOUR = 2
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


def outline_truth(layer: Labels) -> None:
    """Give a ground truth one color and a thick outline, unless a person gave it colors.

    Findings have a thin one: who cannot tell red from green can tell them apart.
    """
    if isinstance(layer.colormap, CyclicLabelColormap):
        layer.colormap = DirectLabelColormap(color_dict={None: TRUTH_COLOR, 0: "transparent"})
        layer.contour = layer.contour or TRUTH_CONTOUR  # an outline hides nothing below
        layer.opacity = 1.0
