"""Means, intervals and paired differences over the cases of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from napari_addm.metrics.metric import metrics_in_order
from napari_addm.metrics.statistics import (
    MeanInterval,
    correct_by_holm,
    mean_interval,
    paired_difference,
)

Rows = Sequence[Mapping[str, Any]]

COMPARED = {"strict": ("auprc", "dice", "auroc"), "anoddpm": ("dice", "auroc_full")}
"""Metrics of the paired comparisons, by protocol."""
RENAMED = {"oracle_best_dice": "best_dice", "auroc_field": "auroc_full"}
"""Names of metrics in the tables, where a case has another name."""


def best_score(rows: Rows) -> str:
    """Return the score with the best mean AUPRC over the validation cases."""
    frame = pd.DataFrame(rows)
    validation = frame[frame["group"].str.endswith("/validation")]
    auprc = pd.to_numeric(validation["auprc"])
    return str(auprc.groupby(validation["score"], sort=False).mean().idxmax())


def summarize(cases: Rows, healthy: Rows, chosen: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Average over subjects, with bootstrap intervals, for each method, group and metric.

    Parameters
    ----------
    cases, healthy : sequence of mapping
        The labelled cases and the healthy brains, as `napari_addm.benchmark.report` takes them.
    chosen : mapping of str to str
        The score of each method in the strict protocol.
    """
    for protocol, frame in _protocols(cases, chosen):
        metrics = [name for name in _summarized_metrics() if name in frame]
        yield from _mean_rows(protocol, frame, metrics)
    for protocol, frame in _protocols([{"protocol": "strict", **row} for row in healthy], chosen):
        yield from _mean_rows(protocol, frame, ["false_positive_ml"])


def compare(
    cases: Rows, chosen: Mapping[str, str], baseline: str, reference: str
) -> list[dict[str, Any]]:
    """Compare every method with a baseline, and a reference method with every other.

    The p values are corrected over all tests on the same group of cases.

    Parameters
    ----------
    cases, chosen
        As for `summarize`.
    baseline, reference : str
        Titles of methods.
    """
    found: list[dict[str, Any]] = []
    for protocol, frame in _protocols(cases, chosen):
        for group, rows in frame.groupby("group", sort=False):
            methods = {str(name): part for name, part in rows.groupby("method", sort=False)}
            pairs = [(name, baseline) for name in methods if name != baseline]
            pairs += [(reference, name) for name in methods if name not in (baseline, reference)]
            where = {"protocol": protocol, "group": group}
            for first, second in pairs:
                if first in methods and second in methods:
                    found += [
                        where | _difference(methods, first, second, metric)
                        for metric in COMPARED[protocol]
                    ]
    for family in dict.fromkeys(row["group"] for row in found):
        tested = [row for row in found if row["group"] == family]
        corrected = correct_by_holm([row["p"] for row in tested])
        tests = sum(p is not None for p in corrected)
        for row, p in zip(tested, corrected, strict=True):
            row.update(p_holm=p, tests=tests)
    return found


def _difference(
    methods: Mapping[str, pd.DataFrame], first: str, second: str, metric: str
) -> dict[str, Any]:
    """One method minus another, in one metric."""
    found = paired_difference(_runs(methods[first], metric), _runs(methods[second], metric))
    interval = _interval(found.difference)
    del interval["undefined"]
    return {
        "metric": metric,
        "first": first,
        "second": second,
        "score": methods[first]["score"].iloc[0],
        "difference": interval.pop("mean"),
        "p": found.p,
        "smallest_p": found.smallest_p,
        **interval,
    }


def average_curve(method: str, points: Rows) -> Iterator[dict[str, Any]]:
    """Average the points of a method's curves over subjects, with bootstrap intervals."""
    if points:
        frame = pd.DataFrame(points, dtype=object)
        for (kind, x), rows in frame.groupby(["kind", "x"], sort=False):
            interval = _interval(mean_interval(_runs(rows, "auprc")))
            yield {"method": method, "kind": kind, "x": x, "metric": "auprc", **interval}


def _summarized_metrics() -> list[str]:
    """The metrics of a labelled case that have an end that is best, and the AUPRC of chance."""
    return [
        name
        for name, metric in metrics_in_order().items()
        if name == "prevalence" or (metric.better and name != "false_positive_ml")
    ]


def _protocols(cases: Rows, chosen: Mapping[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each protocol, and of the strict one those under the chosen scores."""
    for protocol in dict.fromkeys(row["protocol"] for row in cases):
        rows = [row for row in cases if row["protocol"] == protocol]
        frame = pd.DataFrame(rows, dtype=object).rename(columns=RENAMED)
        if protocol == "strict":
            frame = frame[frame["score"] == frame["method"].map(chosen)]
        yield protocol, frame


def _mean_rows(
    protocol: str, frame: pd.DataFrame, metrics: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for (group, method), rows in frame.groupby(["group", "method"], sort=False):
        for metric in metrics:
            yield {
                "protocol": protocol,
                "group": group,
                "method": method,
                "score": rows["score"].iloc[0],
                "metric": metric,
                **_interval(mean_interval(_runs(rows, metric))),
            }


def _runs(rows: pd.DataFrame, metric: str) -> dict[str, list[float | None]]:
    """The values of a metric by case, one for each seed."""
    values = rows[metric].astype(object).where(rows[metric].notna(), None)
    return {str(case): list(runs) for case, runs in values.groupby(rows["case"], sort=False)}


def _interval(interval: MeanInterval) -> dict[str, Any]:
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "least": interval.least,
        "most": interval.most,
        "n": interval.subjects,
        "undefined": interval.excluded,
    }
