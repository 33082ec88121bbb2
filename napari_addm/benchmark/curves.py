"""Curves of a benchmark: quality against steps and noise level, drawn as SVG for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from napari_addm.outputs.pages import missing_extra
from napari_addm.registry import METRICS

AXES = {"steps": "sampling steps", "level": "noise level"}
# Stand-ins in the drawing for the page's own colors, which follow its light or dark scheme.
MUTED, RULE = "#0a0001", "#0a0002"
SERIES = {f"#0b00{n:02x}": f"var(--series-{n})" for n in range(1, 9)}
PAGE_COLORS = {MUTED: "var(--muted)", RULE: "var(--rule)"} | SERIES
DASHES = ("", "6 2", "2 2")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "napari-addm",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Line = tuple[str, str]
"""Color and dashes."""


def draw_curves(
    points: pd.DataFrame, methods: Sequence[str]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Draw the curves of each metric against steps and against the noise level.

    Parameters
    ----------
    points : DataFrame
        Columns ``method, kind, metric, x, mean, low, high``.
    methods : sequence of str
        In the order of the legend.

    Returns
    -------
    tuple of two lists of dict
        The legend (``method, color, dash``) and the drawings (``metric, against, svg``).

    Raises
    ------
    MissingExtraError
        Without matplotlib (the extra ``benchmark``).
    """
    points = points.dropna(subset=["x", "mean"])
    points = points[(points["kind"] != "steps") | (points["x"] > 0)]
    methods = [method for method in methods if method in set(points["method"])]
    style = {
        method: (list(SERIES)[n % len(SERIES)], DASHES[n // len(SERIES) % len(DASHES)])
        for n, method in enumerate(methods)
    }
    # without an interval the band has no width
    known = points[["low", "high"]].notna().all(axis=1)
    points = points.assign(
        low=points["low"].where(known, points["mean"]),
        high=points["high"].where(known, points["mean"]),
    )
    figures = [
        {
            "metric": METRICS[str(metric)].title if metric in METRICS else str(metric),
            "against": AXES.get(str(kind), str(kind)),
            "svg": _for_page(_draw(str(kind), rows, style), number),
        }
        for number, ((kind, metric), rows) in enumerate(
            points.groupby(["kind", "metric"], sort=False)
        )
    ]
    legend = [
        {"method": method, "color": SERIES[color], "dash": dash}
        for method, (color, dash) in style.items()
    ]
    return legend, figures


def _draw(kind: str, points: pd.DataFrame, style: Mapping[str, Line]) -> str:
    """One drawing as SVG, with letters as text."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
    except ImportError as error:
        raise missing_extra("matplotlib") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the person's own settings are
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for method, (color, dash) in style.items():
            line = points[points["method"] == method].sort_values(["x", "mean"])
            if line.empty:
                continue
            pattern = (0, tuple(float(part) for part in dash.split())) if dash else "solid"
            axes.fill_between(
                line["x"], line["low"], line["high"], color=color, alpha=0.1, linewidth=0
            )
            axes.plot(
                line["x"], line["mean"], c=color, ls=pattern, linewidth=1.6, marker="o", ms=3.5
            )
        if kind == "steps":
            axes.set_xscale("log")
        ticks = sorted(set(points["x"]))
        if len(ticks) <= 12:
            axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False, useMathText=False))
        axes.grid(axis="y")
        axes.tick_params(length=3, width=0.6)
        axes.set_xlabel(AXES.get(kind, ""))
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None})
    return drawing.getvalue()


def _for_page(svg: str, number: int) -> str:
    """A drawing for a page: namespaces are known there, ids its own, colors those of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>curve{number}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for stand_in, color in PAGE_COLORS.items():
        svg = svg.replace(stand_in, color)
    return svg
