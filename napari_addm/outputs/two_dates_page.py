"""The page about two results of one patient: changes, pictures, cautions and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.findings.matching import Change, count_kinds
from napari_addm.outputs.captions import describe_slice
from napari_addm.outputs.drawing import (
    EARLIER_FINDING_COLOR,
    FINDING_COLOR,
    Canvas,
    Overlay,
    SliceView,
    brain_region,
    choose_slices,
    crop_box,
    gray_window,
)
from napari_addm.outputs.pages import as_jpeg, page_environment

if TYPE_CHECKING:
    from napari_addm.outputs.two_dates import TwoDates

HEIGHT = 300
"""Height of a large picture, in pixels."""
SMALL_HEIGHT = 200
QUALITY = 88
EDGE_COLOR = (1.0, 0.6, 0.2)
MOST_PICTURED = 12
"""How many changes have pictures: those that changed come first, the largest ones first."""


def comparison_page(found: TwoDates, content: Mapping[str, Any]) -> str:
    """Make the page, which needs no other file; `content` is that of the JSON record."""
    changes = found.changes or []
    places = [
        {each.id: each.location for each in result.record.findings}
        for result in (found.before, found.after)
    ]
    rows: list[dict[str, Any]] = [
        {
            "number": number,
            "change": each,
            "place": places[not each.before].get((each.before or each.after)[0], ""),
        }
        for number, each in enumerate(changes, 1)
    ]
    first = sorted(rows, key=lambda row: row["change"].kind == "unchanged")
    pictured = list(_draw_changes(found, first[:MOST_PICTURED]))
    return (
        page_environment()
        .get_template("two_dates.html")
        .render(
            found=found,
            content=content,
            rows=rows,
            counts=count_kinds(changes),
            pictured=pictured,
            left_out=max(len(rows) - MOST_PICTURED, 0),
            overview=list(_draw_overview(found)),
        )
    )


def _views(found: TwoDates, height: int) -> list[SliceView]:
    """How axial slices of both dates are shown: the same part, each scan with its own grays."""
    grid, brain = found.before.scan, found.before.brain
    box = crop_box(brain, grid.spacing)
    tall, wide = (
        (part.stop - part.start) * mm for part, mm in zip(box, grid.spacing[1:], strict=True)
    )
    width = max(1, round(height * wide / tall))
    later = found.moved["scan"].data
    return [
        SliceView(0, box, height, width, *gray_window(data[region]))
        for data, region in ((grid.data, brain), (later, brain & brain_region(later)))
    ]


def _draw_changes(found: TwoDates, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Draw each change where it is widest: scan and map, before and after."""
    views = _views(found, HEIGHT)
    grid, moved = found.before.scan, found.moved
    overlays = [
        Overlay(anomaly.data, labels.data, result.record.threshold, color=color)
        for anomaly, labels, result, color in (
            (found.before.anomaly, found.before.labels, found.before, EARLIER_FINDING_COLOR),
            (moved["anomaly"], moved["labels"], found.after, FINDING_COLOR),
        )
    ]
    for row in rows:
        change: Change = row["change"]
        region = np.isin(overlays[0].labels, change.before)
        region |= np.isin(overlays[1].labels, change.after)
        if not region.any():  # beyond the earlier scan's grid
            continue
        index = int(region.sum(axis=(1, 2)).argmax())
        scans = (grid.data, moved["scan"].data)
        pictures = []
        for scan, view, overlay in zip(scans, views, overlays, strict=True):
            canvas = Canvas(2 * view.width + 4, view.height)
            canvas.draw_slice((0, 0), view, scan, overlay, index, colored=False)
            canvas.draw_slice((view.width + 4, 0), view, scan, overlay, index)
            if grid.sides_known:
                canvas.letters((0, 0), view)
            pictures.append(as_jpeg(canvas.image, QUALITY))
        caption = describe_slice(grid, "Axial", index)
        yield {**row, "pictures": pictures, "caption": caption}


def _draw_overview(found: TwoDates) -> Iterator[dict[str, str]]:
    """Draw slices of both scans with the edge of the earlier brain, to judge the registration."""
    views = _views(found, SMALL_HEIGHT)
    brain: NDArray[np.bool_] = found.before.brain
    for index in choose_slices(brain, np.zeros_like(brain)):
        scans = (found.before.scan.data, found.moved["scan"].data)
        pictures = []
        for scan, view in zip(scans, views, strict=True):
            canvas = Canvas(view.width, view.height)
            picture = view.gray(scan, index)
            view.outline(picture, brain, index, EDGE_COLOR)
            canvas.paste(picture, (0, 0))
            pictures.append(as_jpeg(canvas.image, QUALITY))
        caption = describe_slice(found.before.scan, "Axial", index)
        yield {"before": pictures[0], "after": pictures[1], "caption": caption}
