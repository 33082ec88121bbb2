"""The page of a benchmark: the results as one self-contained HTML file, as Markdown and as CSV.

The results are a plain mapping, as `json` reads it. Each part may be missing or empty, and each
number may be None. The names in it come from files and folders, so they are never markup here.

==============  =================================================================================
key             holds
==============  =================================================================================
`title`, `created`, `command`, `package_version`, `hardware`
                str each; `created` in ISO 8601
`versions`      library: version
`seeds`         list of int
`budget`        `minutes`, `iterations` that each method had for training
`data`          `name`, `sha256`, `groups` (group: number of cases)
`methods`       in the order of the tables: `label`, `title`, `source`, `parameters`,
                `iterations`, `seconds` (of training), `checkpoint`, `sha256`, `seed`, `score`,
                `sampling`, `threshold`, `threshold_source`
`summary`       `protocol`, `group`, `method` (a label), `score`, `metric`, `mean`, `low`, `high`
                (95 % interval), `n` (subjects averaged), `undefined` (left out)
`comparisons`   `protocol`, `group`, `metric`, `first`, `second` (labels), `score`, `difference`,
                `low`, `high`, `p` (Wilcoxon, two-sided), `n`
`cases`         `protocol`, `group`, `case`, `method`, `score`, `seed`; every other number is a
                metric
`healthy`       `group`, `method`, `score`, `case`, `seed`, `false_positive_ml`, `findings`: the
                strict protocol on healthy brains
`curves`        `method`, `kind` ("steps" or "level"), `x`, `metric`, `mean`, `low`, `high`, `n`
`pictures`      `group`, `case`, `slice`, `columns`: list of `label` and `path` (PNG, relative to
                the folder of the pictures)
==============  =================================================================================

The metric `auroc` is inside the brain, `auroc_full` over the whole field with its air; the protocol
`anoddpm` knows only the second, under either name. In `summary`, `false_positive_ml` of a group
whose name begins with "healthy" gives the interval of the false alarms.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import replacing
from napari_addm.io.text import csv_cell
from napari_addm.metrics.metric import Metric, metrics_in_order
from napari_addm.outputs.pages import (
    finite_number,
    format_figure,
    missing_extra,
    page_environment,
)

if TYPE_CHECKING:
    pass


# Table 1 of the paper, and what it lacks.
MEASURES = metrics_in_order()
PAPER = ("dice", "auroc", "iou", "precision", "recall")
BEYOND = ("auroc_full", "auprc", "aupro", "best_dice", "lesion_recall", "healthy_ml")

PROTOCOLS = {
    "strict": (
        "Strict protocol: whole volumes",
        "Each brain counts as a whole, and no threshold was chosen with the labels of a test case.",
    ),
    "anoddpm": (
        "AnoDDPM's protocol: four slices of each volume",
        "Four slices of each volume inside the known extent of the lesion; the squared error of "
        "intensities from −1 to 1 counts as lesion above 0.5. This is easier than the strict "
        "protocol: a slice without a lesion never counts. AnoDDPM's published code has precision "
        "and recall exchanged; here they are not.",
    ),
}
CURVES = {"steps": "sampling steps", "level": "noise level"}

# Stand-ins in the drawing for the page's own colours, which follow its light or dark scheme.
INK = {"#0a0001": "var(--muted)", "#0a0002": "var(--rule)"}
SERIES = {f"#0b00{n:02x}": f"var(--series-{n})" for n in range(1, 9)}
DASHES = ("", "6 2", "2 2")

CASE_KEYS = ("protocol", "group", "case", "method", "score", "seed")

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A figure of a table: the mean, its interval, and what else has to be known."""

    value: float | None
    text: str
    interval: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One method with one of its scores."""

    method: str
    score: str
    n: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The methods on one group of cases under one protocol.

    `paper` and `beyond` are the columns, in this order; `chance` has a text for
    each. `others` holds the metrics that have no column there.
    """

    protocol: str
    group: str
    paper: tuple[Metric, ...]
    beyond: tuple[Metric, ...]
    rows: tuple[Row, ...]
    chance: tuple[str, ...]
    other_measures: tuple[Metric, ...]
    other_rows: tuple[Row, ...]

    @property
    def measures(self) -> tuple[Metric, ...]:
        return self.paper + self.beyond

    @property
    def few(self) -> bool:
        """Whether its subjects are too few for the intervals to be as wide as they should."""
        return any(row.n is not None and row.n < 10 for row in self.rows)


def write_report(results: Results, output: Path, folder: Path) -> Path:
    """Write the results as one HTML page that needs nothing else, not even a network.

    Parameters
    ----------
    results : mapping
        See the module.
    output : Path
        The page; replaced if it is there, and its folder made if it is not.
    folder : Path
        What the paths of the pictures are relative to.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    InputError
        When a picture is missing, lies outside `folder` or is no PNG.
    MissingExtraError
        Without jinja2 or matplotlib (the extra ``benchmark``).
    AddmError
        When the page cannot be written. One that was there before stays.

    Notes
    -----
    Equal results give equal bytes, with the same versions of jinja2 and
    matplotlib.
    """
    output = Path(output)
    environment = page_environment()
    sections = _sections(_part(results, "summary"))
    tables = [_table(results, *section) for section in sections if not _is_healthy(section[1])]
    legend, figures = _curves(results)
    cases = _cases(results)
    shown = {measure.key for table in tables for measure in table.measures + table.other_measures}
    shown |= {measure.key for part in cases for measure in part["measures"]}
    page = environment.get_template("benchmark.html").render(
        results=results,
        protocols=PROTOCOLS,
        tables=tables,
        measures=[measure for key, measure in MEASURES.items() if key in shown],
        comparisons=_comparisons(results),
        healthy=_healthy(results),
        legend=legend,
        figures=figures,
        pictures=_pictures(results, Path(folder)),
        cases=cases,
    )
    _write(output, page)
    return output


def markdown_table(results: Results, protocol: str, group: str) -> str:
    """The page's table of one protocol and group, as Markdown.

    Parameters
    ----------
    results : mapping
        See the module.
    protocol, group : str
        As in `summary`.

    Returns
    -------
    str
        With a line end after each row; empty when `summary` has nothing of it.
    """
    table = _table(results, protocol, group)
    if not table.rows:
        return ""
    heads = [f"{m.title} ({m.note})" if m.note else m.title for m in table.measures]
    lines = [["method", "n", *heads], ["---", *["---:"] * (1 + len(heads))]]
    for row in table.rows:
        name = " · ".join(_markdown(part) for part in (row.method, row.score) if part)
        lines.append([name, format_figure(row.n, 0), *map(_markdown_cell, row.cells)])
    if any(table.chance):
        lines.append(["*chance*", "", *table.chance])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_csv(results: Results, path: Path) -> Path:
    """Write the figures of all cases, healthy ones included, with one figure in a line.

    Parameters
    ----------
    results : mapping
        See the module.
    path : Path
        The file, UTF-8; replaced if it is there.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    AddmError
        When it cannot be written.

    Notes
    -----
    An undefined figure is an empty cell. Texts are quoted, and one that a
    spreadsheet would take for a formula begins with an apostrophe.
    """
    path = Path(path)
    healthy = [
        {"protocol": "strict", "group": "healthy", **case} for case in _part(results, "healthy")
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow((*CASE_KEYS, "metric", "value"))
    for case in [*_part(results, "cases"), *healthy]:
        identity = [csv_cell(case.get(key)) for key in CASE_KEYS]
        for metric, value in _metrics(case):
            writer.writerow((*identity, csv_cell(metric), finite_number(value)))
    _write(path, text.getvalue())
    return path


def _table(results: Results, protocol: str, group: str) -> Table:
    """The figures of one protocol and group, laid out."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for entry in _part(results, "summary"):
        if (_text(entry, "protocol"), _text(entry, "group")) == (protocol, group):
            metrics = found.setdefault((_text(entry, "method"), _text(entry, "score")), {})
            metrics[_metric(protocol, _text(entry, "metric"))] = entry
    if protocol == "strict":
        for row in _healthy(results):
            if row["key"] in found and row["mean"] is not None:
                found[row["key"]].setdefault("healthy_ml", row)

    present = {
        metric
        for metrics in found.values()
        for metric, entry in metrics.items()
        if finite_number(entry.get("mean")) is not None or entry.get("undefined")
    }
    paper_keys = list(PAPER)
    if protocol == "anoddpm":
        paper_keys[paper_keys.index("auroc")] = "auroc_full"
    paper = tuple(MEASURES[key] for key in paper_keys if key in present)
    beyond = tuple(MEASURES[key] for key in BEYOND if key in present and key not in paper_keys)
    placed = {measure.key for measure in paper + beyond} | {"prevalence"}
    others = tuple(_measure(key) for key in _known_first(present - placed))

    order = _order(results, found)
    return Table(
        protocol=protocol,
        group=group,
        paper=paper,
        beyond=beyond,
        rows=_rows(found, order, paper + beyond),
        chance=tuple(_chance(measure, found.values()) for measure in paper + beyond),
        other_measures=others,
        other_rows=_rows(found, order, others) if others else (),
    )


def _rows(
    found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]],
    order: Sequence[tuple[str, str]],
    measures: Sequence[Metric],
) -> tuple[Row, ...]:
    """A row for each method and score; the best figure of each column is marked."""
    best = {}
    for measure in measures:
        # As shown: a difference that the eye cannot see makes nobody the best.
        shown = [
            round(value, measure.digits)
            for metrics in found.values()
            if (value := finite_number(metrics.get(measure.key, {}).get("mean"))) is not None
        ]
        if measure.better and len(shown) > 1:
            best[measure.key] = max(shown) if measure.better == "more" else min(shown)
    rows = []
    for key in order:
        metrics = found[key]
        counts = [
            n for entry in metrics.values() if (n := finite_number(entry.get("n"))) is not None
        ]
        n = int(max(counts)) if counts else None
        cells = tuple(
            _cell(metrics.get(measure.key, {}), measure, n, best.get(measure.key))
            for measure in measures
        )
        rows.append(Row(*key, n, cells))
    return tuple(rows)


def _cell(entry: Mapping[str, Any], measure: Metric, n: int | None, best: float | None) -> Cell:
    mean, low, high, largest = (
        finite_number(entry.get(key)) for key in ("mean", "low", "high", "largest")
    )
    interval = note = ""
    if low is not None and high is not None:
        joint = "–" if min(low, high) >= 0 else " to "
        interval = (
            f"{format_figure(low, measure.digits)}{joint}{format_figure(high, measure.digits)}"
        )
    elif largest is not None:
        interval = f"up to {format_figure(largest, measure.digits)}"
    undefined, count = finite_number(entry.get("undefined")), finite_number(entry.get("n"))
    if undefined:
        note = f"{int(undefined)} undefined"
    elif mean is not None and count is not None and count != n:
        note = f"n = {int(count)}"
    return Cell(
        value=mean,
        text=format_figure(mean, measure.digits),
        interval=interval,
        note=note,
        best=mean is not None and best == round(mean, measure.digits),
    )


def _chance(measure: Metric, found: Iterable[Mapping[str, Mapping[str, Any]]]) -> str:
    """What no information gives; for the AUPRC the prevalence, a range if methods differ in it."""
    if measure.key != "auprc":
        return format_figure(measure.chance, measure.digits) if measure.chance is not None else ""
    prevalences = (finite_number(metrics.get("prevalence", {}).get("mean")) for metrics in found)
    shown = sorted({format_figure(value, 3) for value in prevalences if value is not None})
    return "–".join(dict.fromkeys((shown[0], shown[-1]))) if shown else ""


def _healthy(results: Results) -> list[dict[str, Any]]:
    """False alarms by group, method and score: over the brains, each a mean over its seeds."""
    found: dict[str, dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]]] = {}
    for entry in _part(results, "healthy"):
        methods = found.setdefault(_text(entry, "group"), {})
        brains = methods.setdefault((_text(entry, "method"), _text(entry, "score")), {})
        brains.setdefault(_text(entry, "case"), []).append(entry)
    intervals = {
        (_text(entry, "group"), _text(entry, "method"), _text(entry, "score")): entry
        for entry in _part(results, "summary")
        if _text(entry, "metric") == "false_positive_ml" and _is_healthy(_text(entry, "group"))
    }

    def means(brains: Mapping[str, list[Mapping[str, Any]]], key: str) -> list[float]:
        runs_of_each = ([finite_number(run.get(key)) for run in runs] for runs in brains.values())
        defined = ([value for value in runs if value is not None] for runs in runs_of_each)
        return [_mean(values) for values in defined if values]

    rows = []
    for group, methods in found.items():
        for key in _order(results, methods):
            ml = means(methods[key], "false_positive_ml")
            findings = means(methods[key], "findings")
            interval = intervals.get((group, *key), {})
            rows.append(
                {
                    "group": group,
                    "key": key,
                    "brains": len(methods[key]),
                    "mean": _mean(ml) if ml else None,
                    "low": finite_number(interval.get("low")),
                    "high": finite_number(interval.get("high")),
                    "largest": max(ml, default=None),
                    "findings": _mean(findings) if findings else None,
                    "unmarked": sum(value == 0 for value in ml) if ml else None,
                }
            )
    return rows


def _comparisons(results: Results) -> list[dict[str, Any]]:
    """The comparisons by protocol and group, each with its place on the scale of its metric."""
    entries = _part(results, "comparisons")
    parts = []
    for protocol, group in _sections(entries):
        rows = [
            entry
            for entry in entries
            if (_text(entry, "protocol"), _text(entry, "group")) == (protocol, group)
        ]
        reach: dict[str, float] = {}
        for row in rows:
            metric = _metric(protocol, _text(row, "metric"))
            for key in ("difference", "low", "high"):
                reach[metric] = max(reach.get(metric, 0.0), abs(finite_number(row.get(key)) or 0.0))
        parts.append(
            {
                "protocol": protocol,
                "group": group,
                "rows": [_comparison(row, reach) for row in rows],
                "limits": [
                    (n, format_figure(2.0 ** (1 - n), 4).rstrip("0"))
                    for n in sorted({int(finite_number(row.get("n")) or 0) for row in rows})
                    if 1 <= n <= 5  # from six pairs on, p can fall below .05
                ],
            }
        )
    return parts


def _comparison(entry: Mapping[str, Any], reaches: Mapping[str, float]) -> dict[str, Any]:
    metric = _metric(_text(entry, "protocol"), _text(entry, "metric"))
    measure, reach = _measure(metric), reaches[metric]
    difference, low, high, p = (
        finite_number(entry.get(key)) for key in ("difference", "low", "high", "p")
    )
    ends = [difference if end is None else end for end in (low, difference, high)]
    return {
        "measure": measure,
        "first": _text(entry, "first"),
        "second": _text(entry, "second"),
        "score": _text(entry, "score"),
        "difference": difference,
        "low": low,
        "high": high,
        "beyond_zero": low is not None and high is not None and (low > 0 or high < 0),
        "bar": [f"{50 + 46 * (end or 0.0) / (reach or 1.0):.1f}" for end in ends],
        "p": p,
        "p_text": "–" if p is None else "< 0.0001" if p < 0.0001 else format_figure(p, 4),
        "n": finite_number(entry.get("n")),
    }


def _curves(results: Results) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The legend, and a drawing for each metric and kind of curve."""
    parts: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    for entry in _part(results, "curves"):
        x, mean, low, high = (finite_number(entry.get(key)) for key in ("x", "mean", "low", "high"))
        kind = _text(entry, "kind")
        if x is None or mean is None or (kind == "steps" and x <= 0):
            continue
        lines = parts.setdefault((kind, _text(entry, "metric")), {})
        band = (mean, mean) if low is None or high is None else (low, high)
        lines.setdefault(_text(entry, "method"), []).append((x, mean, *band))
    drawn = {(method, "") for lines in parts.values() for method in lines}
    methods = [method for method, _ in _order(results, drawn)]
    style = {
        method: (list(SERIES)[n % len(SERIES)], DASHES[n // len(SERIES) % len(DASHES)])
        for n, method in enumerate(methods)
    }
    figures = [
        {
            "measure": _measure(metric).title,
            "against": CURVES.get(kind, kind),
            "svg": _draw(kind, {m: sorted(lines[m]) for m in methods if m in lines}, style, n),
        }
        for n, ((kind, metric), lines) in enumerate(parts.items())
    ]
    legend = [
        {"method": method, "colour": SERIES[colour], "dash": dash}
        for method, (colour, dash) in style.items()
    ]
    return legend, figures


def _draw(
    kind: str,
    lines: Mapping[str, Sequence[tuple[float, ...]]],
    style: Mapping[str, tuple[str, str]],
    number: int,
) -> str:
    """One drawing as SVG for a page: the numbers are text, and the page gives the colours."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
    except ImportError as error:
        raise missing_extra("matplotlib") from error
    muted, rule = INK
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the person's own settings are
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "napari-addm",
                "font.size": 9,
                "axes.edgecolor": rule,
                "axes.labelcolor": muted,
                "xtick.color": rule,
                "ytick.color": rule,
                "xtick.labelcolor": muted,
                "ytick.labelcolor": muted,
                "grid.color": rule,
                "grid.linewidth": 0.5,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for method, points in lines.items():
            colour, dash = style[method]
            x, mean, low, high = zip(*points, strict=True)
            pattern = (0, tuple(float(part) for part in dash.split())) if dash else "solid"
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
            axes.plot(x, mean, color=colour, linestyle=pattern, linewidth=1.6, marker="o", ms=3.5)
        if kind == "steps":
            axes.set_xscale("log")
        ticks = sorted({point[0] for points in lines.values() for point in points})
        if len(ticks) <= 12:
            axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False, useMathText=False))
        axes.grid(axis="y")
        axes.tick_params(length=3, width=0.6)
        axes.set_xlabel(CURVES.get(kind, ""))
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None})
    svg = drawing.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    # Inside HTML the namespaces are known, and an id has to be the only one on the page.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>curve{number}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for stand_in, colour in (INK | SERIES).items():
        svg = svg.replace(stand_in, colour)
    return svg


def _pictures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """The rows of pictures, inlined, with those of one method side by side."""
    labels = {_text(method, "label") for method in _part(results, "methods")}
    labels |= {_text(entry, "method") for entry in _part(results, "summary")}
    by_length = sorted(labels - {""}, key=lambda label: (-len(label), label))
    rows = []
    for entry in _part(results, "pictures"):
        blocks: list[dict[str, Any]] = []
        for column in _part(entry, "columns"):
            label = _text(column, "label")
            method = next(
                (
                    known
                    for known in by_length
                    if label.startswith(known) and not label[len(known) :][:1].isalnum()
                ),
                "",
            )
            caption = label[len(method) :].strip(" :,·–-")
            if not blocks or blocks[-1]["method"] != method:
                blocks.append({"method": method, "images": []})
            image = {"caption": caption, "data": _png(folder, _text(column, "path"))}
            blocks[-1]["images"].append({**image, "alt": label})
        if blocks:
            rows.append(
                {
                    "group": _text(entry, "group"),
                    "case": _text(entry, "case"),
                    "slice": finite_number(entry.get("slice")),
                    "blocks": blocks,
                }
            )
    return rows


def _png(folder: Path, name: str) -> str:
    """A picture in base64; it has to be a PNG inside the folder, so that no other file leaks."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{name} lies outside the folder of the pictures, {folder}: "
            "name pictures inside of it, or run the benchmark again."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): run the benchmark again to draw it."
        ) from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{path} is no PNG picture: run the benchmark again to draw it.")
    return base64.b64encode(content).decode("ascii")


def _cases(results: Results) -> list[dict[str, Any]]:
    """Every case, one table for each protocol, with the columns that have a figure."""
    entries = _part(results, "cases")
    parts = []
    for protocol in dict.fromkeys(_text(entry, "protocol") for entry in entries):
        rows = [entry for entry in entries if _text(entry, "protocol") == protocol]
        figures = [
            {
                _metric(protocol, metric): number
                for metric, value in _metrics(row)
                if (number := finite_number(value)) is not None
            }
            for row in rows
        ]
        present = {metric for metrics in figures for metric in metrics}
        measures = [_measure(key) for key in _known_first(present)]
        parts.append(
            {
                "protocol": protocol,
                "measures": measures,
                "rows": [
                    {
                        "names": [_text(row, key) for key in CASE_KEYS[1:]],
                        "figures": [metrics.get(measure.key) for measure in measures],
                    }
                    for row, metrics in zip(rows, figures, strict=True)
                ],
            }
        )
    return parts


def _part(results: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    part: Sequence[Mapping[str, Any]] = results.get(key) or ()
    return part


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return "" if value is None else str(value)


def _metrics(case: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a case has measured: its numbers, and what is undefined."""
    for key, value in case.items():
        if key not in CASE_KEYS and (value is None or isinstance(value, int | float)):
            yield key, value


def _metric(protocol: str, metric: str) -> str:
    """The metric's key in `MEASURES`; AnoDDPM's AUC is over all pixels, whatever it is called."""
    return "auroc_full" if (protocol, metric) == ("anoddpm", "auroc") else metric


def _is_healthy(group: str) -> bool:
    return group.startswith("healthy")


def _measure(key: str) -> Metric:
    return MEASURES.get(key) or Metric(key, key)


def _known_first(keys: Iterable[str]) -> list[str]:
    """Metrics in the order of `MEASURES`, and the unknown ones by name."""
    known = list(MEASURES)
    return sorted(keys, key=lambda key: (known.index(key) if key in MEASURES else len(known), key))


def _sections(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The protocols and groups, in order of appearance, the groups of a protocol together."""
    pairs = dict.fromkeys((_text(entry, "protocol"), _text(entry, "group")) for entry in entries)
    protocols = list(dict.fromkeys(protocol for protocol, _ in pairs))
    return sorted(pairs, key=lambda pair: protocols.index(pair[0]))


def _order(results: Results, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Methods and scores in the order of `methods`; what is not there follows by name."""
    methods = _part(results, "methods")
    labels = [_text(method, "label") for method in methods]
    scores = [(_text(method, "label"), _text(method, "score")) for method in methods]

    def place(key: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        label = labels.index(key[0]) if key[0] in labels else len(labels)
        return label, scores.index(key) if key in scores else len(scores), key

    return sorted(keys, key=place)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _markdown(text: str) -> str:
    """A name as plain text inside a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    details = "; ".join(part for part in (cell.interval, _markdown(cell.note)) if part)
    return f"{text} ({details})" if details else text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise AddmError(
            f"{path} cannot be written ({error.strerror}): choose another place or free some space."
        ) from error
