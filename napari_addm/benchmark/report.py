"""The page of a benchmark: the results as one self-contained HTML file, and as CSV.

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
                (95 % interval), `least`, `most` (over the subjects), `n` (subjects averaged),
                `undefined` (left out)
`baseline`      label of the method that the others have to beat
`comparisons`   `protocol`, `group`, `metric`, `first`, `second` (labels), `score` (of the first),
                `difference`, `low`, `high`, `least`, `most`, `p` (Wilcoxon, two-sided), `p_holm`
                (corrected over the `tests` of its group), `n`
`cases`         `protocol`, `group`, `case`, `method`, `score`, `seed`; every other number is a
                metric
`healthy`       `group`, `method`, `score`, `case`, `seed`, `false_positive_ml`, `findings`: the
                strict protocol on healthy brains
`curves`        `method`, `kind` ("steps" or "level"), `x`, `metric`, `mean`, `low`, `high`, `n`
`pictures`      `group`, `case`, `slice`, `columns`: list of `method` (a label, or ""), `caption`
                and `path` (PNG, relative to the folder of the pictures)
==============  =================================================================================

The metric `auroc` is inside the brain, `auroc_full` over the whole field with its air; the protocol
`anoddpm` knows only the second, under either name. In `summary`, `false_positive_ml` of a group
whose name begins with "healthy" gives the interval of the false alarms.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_addm.benchmark.curves import draw_curves
from napari_addm.errors import InputError
from napari_addm.io.files import write_atomic
from napari_addm.io.text import csv_cell
from napari_addm.metrics.metric import Metric, metrics_in_order
from napari_addm.metrics.statistics import FEWEST_SUBJECTS
from napari_addm.outputs.pages import finite_number, format_figure, page_environment

Results = Mapping[str, Any]
Key = tuple[str, str]
"""A method and one of its scores."""

PAPER = ("dice", "auroc", "iou", "precision", "recall")
"""Table 1 of the paper."""
BEYOND = ("auroc_full", "auprc", "aupro", "best_dice", "lesion_recall", "healthy_ml")
"""What that table lacks."""
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
CASE_KEYS = ("protocol", "group", "case", "method", "score", "seed")
TEXTS = ("protocol", "group", "case", "method", "score", "metric", "kind", "first", "second")
NUMBERS = {
    "summary": ("mean", "low", "high", "least", "most", "n", "undefined"),
    "comparisons": ("difference", "low", "high", "least", "most", "p", "p_holm", "tests", "n"),
    "healthy": ("false_positive_ml", "findings"),
    "curves": ("x", "mean", "low", "high"),
}
FEW_SUBJECTS = 10


@dataclass(frozen=True)
class Cell:
    """A figure of a table: the mean, its interval, and what else has to be known."""

    value: float | None = None
    text: str = "–"
    interval: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One method with one of its scores; `others` are further metrics, shown apart."""

    method: str
    score: str
    n: int | None
    gains: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    others: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The methods on one group of cases under one protocol.

    `gains` (over the baseline), `paper` and `beyond` are the columns, in this order; `chance` has a
    text for each of the last two.
    """

    protocol: str
    group: str
    gains: tuple[Metric, ...]
    paper: tuple[Metric, ...]
    beyond: tuple[Metric, ...]
    others: tuple[Metric, ...]
    lines: tuple[Line, ...]
    chance: tuple[str, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All columns."""
        return self.paper + self.beyond

    @property
    def has_few(self) -> bool:
        """Whether there are so few subjects that the intervals are too short."""
        return any(FEWEST_SUBJECTS <= (line.n or 0) < FEW_SUBJECTS for line in self.lines)


def write_report(results: Results, output: Path, folder: Path) -> Path:
    """Write the results as one HTML page that needs nothing else, not even a network.

    Parameters
    ----------
    results : mapping
        See the module.
    output : Path
        The page; replaced if it is there. It is returned.
    folder : Path
        What the paths of the pictures are relative to.

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
    environment = page_environment("napari_addm.benchmark")
    healthy = _healthy(results)
    tables = [
        _table(results, protocol, group, part, healthy)
        for protocol, group, part in _sections(_frame(results, "summary"))
        if not _is_healthy(group)
    ]
    cases = _cases(results)
    curves = _frame(results, "curves")
    methods = [method for method, _ in _in_order(results, ((m, "") for m in set(curves["method"])))]
    legend, figures = draw_curves(curves, methods)
    shown = [metric for table in tables for metric in table.metrics + table.others]
    shown += [metric for part in cases for metric in part["metrics"]]
    page = environment.get_template("benchmark.html").render(
        results=results,
        protocols=PROTOCOLS,
        tables=tables,
        metrics=[metric for metric in metrics_in_order().values() if metric in shown],
        comparisons=[
            _comparisons(*section) for section in _sections(_frame(results, "comparisons"))
        ],
        healthy=healthy,
        legend=legend,
        figures=figures,
        pictures=_pictures(results, folder),
        cases=cases,
    )
    write_atomic(output, page)
    return output


def write_csv(results: Results, path: Path) -> Path:
    """Write the figures of all cases, healthy ones included, with one figure in a line.

    An undefined figure is an empty cell. Texts are quoted, and one that a spreadsheet would take
    for a formula begins with an apostrophe.

    Parameters
    ----------
    results : mapping
        See the module.
    path : Path
        The file, UTF-8; replaced if it is there. It is returned.

    Raises
    ------
    AddmError
        When it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow((*CASE_KEYS, "metric", "value"))
    healthy = [
        {"protocol": "strict", "group": "healthy", **row} for row in results.get("healthy") or ()
    ]
    for case in [*(results.get("cases") or ()), *healthy]:
        identity = [csv_cell(case.get(key)) for key in CASE_KEYS]
        for metric, value in _figures(case):
            writer.writerow((*identity, csv_cell(metric), finite_number(value)))
    write_atomic(path, text.getvalue())
    return path


def _frame(results: Results, part: str) -> pd.DataFrame:
    """A part of the results: its texts, and its numbers, NaN where one is absent."""
    given = pd.DataFrame(results.get(part) or [], dtype=object)
    texts = _filled(given.reindex(columns=list(TEXTS)), "").astype(str)
    numbers = given.reindex(columns=list(NUMBERS[part])).map(finite_number).astype(float)
    frame = texts.join(numbers)
    # AnoDDPM's AUC is over all pixels, whatever it is called
    full = (frame["protocol"] == "anoddpm") & (frame["metric"] == "auroc")
    frame.loc[full, "metric"] = "auroc_full"
    return frame


def _sections(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Protocol, group and rows, in order of appearance, the groups of a protocol together."""
    for protocol, rows in frame.groupby("protocol", sort=False):
        for group, part in rows.groupby("group", sort=False):
            yield str(protocol), str(group), part.copy()


def _filled(frame: pd.DataFrame, value: str | None) -> pd.DataFrame:
    """The same rows with a value for what is absent."""
    return frame.astype(object).where(frame.notna(), value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings, with None for what is absent."""
    rows = _filled(frame, None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _in_order(results: Results, keys: Iterable[Key]) -> list[Key]:
    """Methods and scores in the order of `methods`; the others follow by name."""
    models = pd.DataFrame(results.get("methods") or []).reindex(columns=["label", "score"])
    labels = list(models["label"])
    scores = list(zip(models["label"], models["score"], strict=True))

    def place(key: Key) -> tuple[int, int, Key]:
        label = labels.index(key[0]) if key[0] in labels else len(labels)
        return label, scores.index(key) if key in scores else len(scores), key

    return sorted(keys, key=place)


def _metrics(keys: Iterable[str]) -> tuple[Metric, ...]:
    """Metrics in the order of tables; unknown ones follow by name."""
    present = set(keys)
    known = metrics_in_order()
    unknown = sorted(present - known.keys())
    return (
        *(metric for key, metric in known.items() if key in present),
        *(Metric(key, key) for key in unknown),
    )


# --- the tables -----------------------------------------------------------------------------


def _table(
    results: Results,
    protocol: str,
    group: str,
    rows: pd.DataFrame,
    healthy: Sequence[dict[str, Any]],
) -> Table:
    """The figures of one protocol and group, laid out."""
    if protocol == "strict":
        rows = pd.concat([_alarms(healthy, rows), rows])
    rows = rows.drop_duplicates(["method", "score", "metric"], keep="last", ignore_index=True)
    keys = _in_order(results, set(zip(rows["method"], rows["score"], strict=True)))
    gains = _gains(results, protocol, group)
    gained = tuple(_metrics([key])[0] for key in dict.fromkeys(key for _, key in gains))
    present = set(rows.loc[rows["mean"].notna() | (rows["undefined"] > 0), "metric"])
    paper_keys = ["auroc_full" if (protocol, key) == ("anoddpm", "auroc") else key for key in PAPER]
    known = metrics_in_order()
    paper = tuple(known[key] for key in paper_keys if key in present)
    beyond = tuple(known[key] for key in BEYOND if key in present - set(paper_keys))
    others = _metrics(present.difference(paper_keys, BEYOND, ["prevalence"]))
    cells = _cells(rows, paper + beyond + others)
    counts = rows.groupby(["method", "score"])["n"].max().dropna()
    return Table(
        protocol=protocol,
        group=group,
        gains=gained,
        paper=paper,
        beyond=beyond,
        others=others,
        lines=tuple(
            Line(
                *key,
                int(counts[key]) if key in counts else None,
                tuple(gains.get((key[0], metric.key), Cell()) for metric in gained),
                tuple(cells.get((*key, metric.key), Cell()) for metric in paper + beyond),
                tuple(cells.get((*key, metric.key), Cell()) for metric in others),
            )
            for key in keys
        ),
        chance=tuple(_chance(metric, rows) for metric in paper + beyond),
    )


def _gains(results: Results, protocol: str, group: str) -> dict[Key, Cell]:
    """What each method gains over the baseline, by method and metric."""
    frame = _frame(results, "comparisons")
    frame = frame[(frame["protocol"] == protocol) & (frame["group"] == group)]
    gains = {}
    for row in _records(frame[frame["second"] == results.get("baseline")]):
        digits = _metrics([row["metric"]])[0].digits
        note = "" if row["p_holm"] is None else f"p = {format_figure(row['p_holm'], 2)}"
        gains[row["first"], row["metric"]] = Cell(
            row["difference"], _signed(row["difference"], digits), _spread(row, digits), note
        )
    return gains


def _signed(value: float | None, digits: int) -> str:
    text = format_figure(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def _spread(row: Mapping[str, Any], digits: int) -> str:
    """The interval in words, or the range where there are too few subjects for one."""
    name, low, high = "", row["low"], row["high"]
    if low is None or high is None:
        name, low, high = "range ", row.get("least"), row.get("most")
    if low is None or high is None or (name and low == high):
        return ""
    joint = "–" if min(low, high) >= 0 else " to "
    return f"{name}{format_figure(low, digits)}{joint}{format_figure(high, digits)}"


def _alarms(healthy: Sequence[dict[str, Any]], rows: pd.DataFrame) -> pd.DataFrame:
    """The false alarms in healthy brains, for the methods and scores of these rows."""
    keys = set(zip(rows["method"], rows["score"], strict=True))
    alarms = [
        row | {"metric": "healthy_ml"}
        for row in healthy
        if (row["method"], row["score"]) in keys and row["mean"] is not None
    ]
    columns = [*rows.columns, "largest"]
    frame = pd.DataFrame(alarms, columns=columns).drop_duplicates(["method", "score"])
    return frame.astype(dict.fromkeys((*NUMBERS["summary"], "largest"), float))


def _cells(rows: pd.DataFrame, metrics: Iterable[Metric]) -> dict[tuple[str, str, str], Cell]:
    """The cells by method, score and metric; the best figures of each metric are marked."""
    usual = rows.groupby(["method", "score"])["n"].transform("max")
    cells = {}
    for metric in metrics:
        part = rows[rows["metric"] == metric.key].assign(usual_n=usual)
        # as shown: nobody is best by a difference that cannot be seen
        shown = part["mean"].map(lambda mean, digits=metric.digits: round(mean, digits))
        best = None
        if metric.better and shown.count() > 1:
            best = shown.max() if metric.better == "more" else shown.min()
        for row, figure in zip(_records(part), shown, strict=True):
            cells[row["method"], row["score"], metric.key] = _cell(row, metric, figure == best)
    return cells


def _cell(row: Mapping[str, Any], metric: Metric, best: bool) -> Cell:
    mean, n = row["mean"], row["n"]
    interval, note = _spread(row, metric.digits), ""
    if not interval and row.get("largest") is not None:
        interval = f"up to {format_figure(row['largest'], metric.digits)}"
    if row["undefined"]:
        note = f"{int(row['undefined'])} undefined"
    elif mean is not None and n is not None and n != row["usual_n"]:
        note = f"n = {int(n)}"
    return Cell(mean, format_figure(mean, metric.digits), interval, note, best)


def _chance(metric: Metric, rows: pd.DataFrame) -> str:
    """What no information gives; for the AUPRC the prevalence, a range if methods differ in it."""
    if metric.key != "auprc":
        return "" if metric.chance is None else format_figure(metric.chance, metric.digits)
    prevalences = rows.loc[rows["metric"] == "prevalence", "mean"].dropna()
    shown = sorted({format_figure(value, metric.digits) for value in prevalences})
    return "–".join(dict.fromkeys((shown[0], shown[-1]))) if shown else ""


def _is_healthy(group: str) -> bool:
    return group.startswith("healthy")


def _healthy(results: Results) -> list[dict[str, Any]]:
    """False alarms by group, method and score: over the brains, each a mean over its seeds."""
    frame = _frame(results, "healthy")
    keys = ["group", "method", "score"]
    brains = frame.groupby([*keys, "case"], sort=False)[list(NUMBERS["healthy"])].mean()
    by_method = brains.groupby(keys, sort=False)
    ml = by_method["false_positive_ml"]
    rows = pd.DataFrame(
        {
            "brains": by_method.size(),
            "mean": ml.mean(),
            "largest": ml.max(),
            "findings": by_method["findings"].mean(),
            "unmarked": ml.agg(lambda values: (values == 0).sum() if values.count() else np.nan),
        }
    )
    summary = _frame(results, "summary")
    intervals = summary[
        (summary["metric"] == "false_positive_ml") & summary["group"].map(_is_healthy).astype(bool)
    ].drop_duplicates(keys, keep="last")
    rows = rows.join(intervals.set_index(keys)[["low", "high"]])
    order = [
        (group, *key)
        for group in dict.fromkeys(rows.index.get_level_values("group"))
        for key in _in_order(results, rows.loc[group].index)
    ]
    return _records(rows.loc[order].reset_index())


# --- the other sections ---------------------------------------------------------------------


def _comparisons(protocol: str, group: str, rows: pd.DataFrame) -> dict[str, Any]:
    """The comparisons of a protocol and group, each with its place on the scale of its metric."""
    ends = ["low", "difference", "high"]
    reach = rows[ends].abs().max(axis=1).groupby(rows["metric"]).transform("max")
    # 50 is zero; an absent end lies on the difference
    bars = rows[ends].apply(lambda end: end.fillna(rows["difference"])).fillna(0)
    bars = 50 + 46 * bars.div(reach.where(reach > 0, 1), axis=0)
    counts = sorted({int(n) for n in rows["n"].dropna()})
    return {
        "protocol": protocol,
        "group": group,
        "rows": [
            row
            | {
                "metric": _metrics([row["metric"]])[0],
                "beyond_zero": bool((row["low"] or 0) > 0 or (row["high"] or 0) < 0)
                and None not in (row["low"], row["high"]),
                "spread": _spread(row, _metrics([row["metric"]])[0].digits),
                "bar": [f"{place:.1f}" for place in bar],
                "p_text": _p(row["p"]),
                "p_holm_text": _p(row["p_holm"]),
            }
            for row, bar in zip(_records(rows), bars.to_numpy(), strict=True)
        ],
        "tests": int(rows["tests"].max()) if rows["tests"].notna().any() else None,
        "limits": [
            (n, format_figure(2.0 ** (1 - n), 4).rstrip("0"))
            for n in counts
            if 1 <= n <= 5  # from six pairs on, p can fall below 0.05
        ],
    }


def _p(p: float | None) -> str:
    return "< 0.0001" if p is not None and p < 0.0001 else format_figure(p, 4)


def _pictures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """The rows of pictures, inlined, with those of one method side by side."""
    rows = []
    for entry in results.get("pictures") or ():
        blocks: dict[str, list[dict[str, str]]] = {}
        for column in entry["columns"]:
            alt = ": ".join(part for part in (column["method"], column["caption"]) if part)
            image = {"caption": column["caption"], "alt": alt, "data": _png(folder, column["path"])}
            blocks.setdefault(column["method"], []).append(image)
        rows.append({**entry, "slice": finite_number(entry.get("slice")), "blocks": blocks})
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


def _figures(case: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a case has measured: its numbers, and what is undefined."""
    for key, value in case.items():
        if key not in CASE_KEYS and (value is None or isinstance(value, int | float)):
            yield key, value


def _cases(results: Results) -> list[dict[str, Any]]:
    """Every case, one table for each protocol, with the columns that have a figure."""
    by_protocol: dict[str, list[Mapping[str, Any]]] = {}
    for case in results.get("cases") or ():
        by_protocol.setdefault(str(case.get("protocol") or ""), []).append(case)
    return [_case_table(protocol, cases) for protocol, cases in by_protocol.items()]


def _case_table(protocol: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    renamed = {"auroc": "auroc_full"} if protocol == "anoddpm" else {}
    figures = pd.DataFrame([dict(_figures(case)) for case in cases], dtype=object)
    figures = figures.map(finite_number).rename(columns=renamed).dropna(axis=1, how="all")
    metrics = _metrics(figures.columns)
    names = _filled(pd.DataFrame(cases, dtype=object).reindex(columns=list(CASE_KEYS[1:])), "")
    rows = _records(figures.reindex(columns=[metric.key for metric in metrics]))
    return {
        "protocol": protocol,
        "metrics": metrics,
        "rows": [
            {"names": name, "figures": list(row.values())}
            for name, row in zip(names.to_numpy().tolist(), rows, strict=True)
        ],
    }
