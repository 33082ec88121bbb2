"""The page of a benchmark: what stands in which cell, and what hostile names can do."""

import base64
import csv
import io
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from napari_addm.benchmark.report import write_csv, write_report
from napari_addm.errors import AddmError, InputError

HOSTILE = '<script>alert("1")</script>'
VOID = {"br", "img", "meta", "link", "input", "hr", "path", "circle", "use"}


@dataclass
class Page(HTMLParser):
    """The tags of a page, and its tables as texts: head, body and foot together, row by row."""

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags:
            self.texts.setdefault(self.open_tags[-1], []).append(data)
        if {"td", "th"} & set(self.open_tags) and data.strip():
            cell = self.tables[-1][-1]
            cell[-1] = f"{cell[-1]} {data.strip()}".strip()

    def table(self, *head: str) -> list[list[str]]:
        """The rows under the first head that begins with these texts."""
        for table in self.tables:
            for number, row in enumerate(table):
                if tuple(row[: len(head)]) == head:
                    return table[number + 1 :]
        raise AssertionError(f"no table with the head {head}")

    def headings(self) -> list[str]:
        return [text for tag in ("h2", "h3") for text in self.texts.get(tag, [])]


def entry(method: str, metric: str, mean: float | None, **more: Any) -> dict[str, Any]:
    base = {"protocol": "strict", "group": "tumour/test", "score": "ssim", "n": 5, "undefined": 0}
    return {**base, "method": method, "metric": metric, "mean": mean, **more}


WHERE = {"protocol": "strict", "group": "tumour/test", "score": "ssim"}
ADDM = "ADDM T=1000"


def interval(
    method: str, metric: str, mean: float | None, low: float, high: float, **more: Any
) -> dict[str, Any]:
    return entry(method, metric, mean, low=low, high=high, **more)


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    """Two methods on five subjects, with something in every part but the curves."""
    for name in ("scan", "map"):
        Image.new("L", (6, 8), 100).save(tmp_path / f"{name}.png")
    alarms = [("a", 0, 2.0, 1), ("a", 1, 4.0, 2), ("b", 0, 0.0, 0)]
    return {
        "title": "A benchmark",
        "created": "2025-01-02T03:04:05+00:00",
        "command": "napari-addm benchmark DATA -o results",
        "package_version": "1.2.3",
        "versions": {"torch": "2.13.0"},
        "hardware": "two cores",
        "seeds": [0, 1],
        "budget": {"minutes": 90.0, "iterations": None},
        "data": {"name": "scans", "sha256": "ab" * 32, "groups": {"tumour/test": 5}},
        "methods": [
            {
                "name": "anoddpm",
                "label": "AnoDDPM",
                "title": "Simplex noise",
                "source": "Wyatt et al. 2022",
                "parameters": 3_456_789,
                "iterations": 12_000,
                "seconds": 5400.0,
                "checkpoint": "models/anoddpm.safetensors",
                "sha256": "cd" * 32,
                "score": "ssim",
                "sampling": "1 DDIM step",
                "threshold": 0.25,
                "threshold_source": "tumour/validation",
            },
            {"name": "addm", "label": ADDM, "score": "ssim", "parameters": None},
        ],
        "summary": [
            # not in the order of the methods
            interval(ADDM, "dice", 0.4031, 0.2, 0.6),
            interval("AnoDDPM", "dice", 0.3829, 0.1, 0.5),
            interval(ADDM, "auroc", 0.9168, 0.8, 0.95),
            interval("AnoDDPM", "auroc", 0.8631, 0.7, 0.9),
            interval(ADDM, "precision", 0.5, 0.4, 0.6, n=4, undefined=1),
            entry("AnoDDPM", "precision", None, low=None, high=None, n=0, undefined=5),
            interval(ADDM, "auprc", 0.3004, 0.2, 0.4),
            interval("AnoDDPM", "auprc", 0.2996, 0.1, 0.4),
            entry(ADDM, "prevalence", 0.079),
            entry("AnoDDPM", "prevalence", 0.079),
            entry(ADDM, "best_dice", 0.47),
            entry("AnoDDPM", "best_dice", 0.46),
            entry(ADDM, "surface_mm", 4.5),
        ],
        "comparisons": [
            WHERE
            | {"metric": "dice", "first": ADDM, "second": "AnoDDPM", "difference": -0.0202}
            | {"low": -0.1, "high": -0.01, "p": 0.0625, "p_holm": 0.25, "tests": 4, "n": 5}
        ],
        "cases": [
            WHERE
            | {"case": "case-1", "method": "AnoDDPM", "seed": seed}
            | {"dice": 0.1234 + seed, "precision": None}
            for seed in (0, 1)
        ],
        "healthy": [
            {"method": "AnoDDPM", "score": "ssim", "case": case, "seed": seed}
            | {"false_positive_ml": ml, "findings": findings}
            for case, seed, ml, findings in alarms
        ],
        "pictures": [
            {
                "group": "ms_lesion",
                "case": "patient07",
                "slice": 61,
                "columns": [
                    {"method": "", "caption": "scan", "path": "scan.png"},
                    {"method": "AnoDDPM", "caption": "map", "path": "map.png"},
                ],
            }
        ],
    }


@pytest.fixture
def results_with_curves(results: dict[str, Any]) -> dict[str, Any]:
    curves = [
        {"method": method, "kind": kind, "x": x, "metric": "auprc", "mean": 0.3 - x / 1000}
        | {"low": 0.2, "high": None if x == 5 else 0.4, "n": 3}
        for method in ("AnoDDPM", ADDM)
        for kind in ("steps", "level")
        for x in (1, 5, 250)
    ]
    return results | {"curves": curves}


def page_of(results: dict[str, Any], folder: Path) -> Page:
    path = write_report(results, folder / "benchmark.html", folder)
    return Page(path.read_text(encoding="utf-8"))


def test_table_has_the_figures_in_their_cells(results: dict[str, Any], tmp_path: Path) -> None:
    rows = page_of(results, tmp_path).table("Method", "n", "Dice")
    columns = ["method", "n", "dice", "auc", "precision", "auprc", "best", "alarm"]
    first, second, chance = (dict(zip(columns, row, strict=True)) for row in rows)
    assert first["method"] == "AnoDDPM ssim"
    assert first["dice"] == "0.383 0.100–0.500"
    assert first["auc"] == "0.863 0.700–0.900"
    assert first["precision"] == "– 5 undefined"
    # mean over the two brains of the mean over their seeds, and the largest brain
    assert first["alarm"] == "1.5 up to 3.0"
    assert second["method"] == "ADDM T=1000 ssim"
    assert second["n"] == "5"
    assert second["precision"] == "0.500 0.400–0.600 1 undefined"
    assert second["alarm"] == "–"
    assert chance == dict.fromkeys(columns, "") | {
        "method": "chance",
        "auc": "0.500",
        "auprc": "0.079",
    }


def test_best_of_a_column_is_bold_and_equals_share_it(
    results: dict[str, Any], tmp_path: Path
) -> None:
    page = page_of(results, tmp_path)
    # row by row: AUPRC, equal to the eye; Dice, AUC, AUPRC, best Dice; then the comparison.
    # A precision that only one method has is no best.
    assert page.texts["b"] == ["0.300", "0.403", "0.917", "0.300", "0.470", "−0.020"]


def test_columns_are_those_of_the_paper_first(results: dict[str, Any], tmp_path: Path) -> None:
    metrics = ("lesion_recall", "aupro", "recall", "iou", "auroc_full", "auroc", "dice")
    results["summary"] = [
        entry("AnoDDPM", metric, 0.5, protocol=protocol)
        for protocol in ("strict", "anoddpm")
        for metric in metrics
    ]
    page = page_of(results, tmp_path)
    heads = [table[1] for table in page.tables if table[0][1:] != table[0][:1]][:2]
    strict, anoddpm = (head[2:] for head in heads)
    beyond = ["AUPRO FPR ≤ 0.3", "Lesions share found"]
    inside, full = "AUROC in the brain", "AUROC full field"
    assert strict == ["Dice", inside, "IoU", "Recall", full, *beyond, "False alarm mL, healthy"]
    # AnoDDPM's AUC is over all pixels, and its threshold is not that of the healthy brains
    assert anoddpm == ["Dice", full, "IoU", "Recall", *beyond]


def test_auc_of_the_anoddpm_protocol_is_over_the_full_field(tmp_path: Path) -> None:
    """Also where it is simply called AUROC."""
    where = {"protocol": "anoddpm", "group": "tumour/test"}
    results = {
        "summary": [entry("AnoDDPM", "auroc", 0.8, **where)],
        "comparisons": [{**where, "metric": "auroc", "first": "a", "second": "b"}],
        "cases": [{**where, "case": "one", "method": "AnoDDPM", "auroc": 0.7}],
    }
    page = page_of(results, tmp_path)
    assert page.table("Method", "n", "AUROC full field")[0] == ["AnoDDPM ssim", "5", "0.800"]
    assert page.table("Measure", "First")[0][0] == "AUROC full field"
    assert page.table("Group", "Case", "Method", "Score", "Seed", "AUROC full field")


def test_summary_of_healthy_brains_gives_the_interval(
    results: dict[str, Any], tmp_path: Path
) -> None:
    group = "healthy/calibration"
    for brain in results["healthy"]:
        brain["group"] = group
    results["summary"].append(
        entry("AnoDDPM", "false_positive_ml", 1.5, low=0, high=3, group=group)
    )
    page = page_of(results, tmp_path)
    assert page.table("Method", "n", "Dice")[0][-1] == "1.5 0.0–3.0"
    assert page.table("Method", "Brains")[0][2] == "1.5 0.0–3.0"
    # it has its own section, and no table among those of the lesions
    assert page.headings().count(group) == 1


def test_oracle_is_marked_and_an_unknown_metric_shown_apart(
    results: dict[str, Any], tmp_path: Path
) -> None:
    page = page_of(results, tmp_path)
    oracle = [
        attrs for tag, attrs in page.tags if tag == "td" and "oracle" in str(attrs.get("class"))
    ]
    assert [attrs["data-value"] for attrs in oracle] == ["0.46", "0.47"]
    rows = page.table("Method", "surface_mm")
    assert rows == [["AnoDDPM ssim", "–"], [f"{ADDM} ssim", "4.500"]]


def test_comparison_and_the_smallest_p(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    (row,) = page.table("Measure", "First", "Second")
    assert row[:4] == ["Dice", f"{ADDM} ssim", "AnoDDPM", "−0.020"]
    assert row[4:] == ["−0.100 to −0.010", "", "0.0625", "0.2500", "5"]
    assert "Holm’s correction counts 4 tests on these cases" in page.source
    assert "With n = 5 the smallest possible two-sided Wilcoxon p is 0.0625" in page.source
    dot = next(attrs for tag, attrs in page.tags if tag == "circle")
    assert float(dot["cx"] or "") == pytest.approx(50 - 46 * 0.0202 / 0.1, abs=0.1)

    results["comparisons"][0]["n"] = 12
    assert "smallest possible" not in page_of(results, tmp_path).source


def test_the_gain_over_the_baseline_leads_the_table(
    results: dict[str, Any], tmp_path: Path
) -> None:
    results["baseline"] = "AnoDDPM"
    page = page_of(results, tmp_path)
    baseline, other, chance = page.table("Method", "n", "Δ Dice")
    assert baseline[2] == "–"
    assert other[2] == "−0.020 −0.100 to −0.010 p = 0.25"
    assert chance[2] == ""
    assert "gain over AnoDDPM" in page.source


def test_few_subjects_have_a_range_and_no_interval(tmp_path: Path) -> None:
    few = {"low": None, "high": None, "n": 3}
    results = {
        "baseline": "AnoDDPM",
        "summary": [entry(ADDM, "dice", 0.4, **few, least=0.1, most=0.7)],
        "comparisons": [
            WHERE
            | {"metric": "dice", "first": ADDM, "second": "AnoDDPM", "difference": 0.2}
            | {**few, "least": -0.1, "most": 0.5, "p": 0.5, "p_holm": 1.0, "tests": 2}
        ],
    }
    page = page_of(results, tmp_path)
    (row,) = page.table("Method", "n", "Δ Dice")
    assert row[2:] == ["+0.200 range −0.100 to 0.500 p = 1.00", "0.400 range 0.100–0.700"]
    (row,) = page.table("Measure", "First", "Second")
    assert row[4] == "range −0.100 to 0.500"


def test_cases_healthy_and_models(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    assert page.table("Group", "Case") == [
        # a metric that no case has is left out
        ["tumour/test", "case-1", "AnoDDPM", "ssim", "0", "0.123"],
        ["tumour/test", "case-1", "AnoDDPM", "ssim", "1", "1.123"],
    ]
    assert page.table("Method", "Brains") == [["AnoDDPM ssim", "2", "1.5", "3.0", "0.8", "1"]]
    first, second = page.table("Method", "Parameters millions")
    assert first[:4] == ["AnoDDPM Simplex noise Wyatt et al. 2022", "3.46", "12,000", "1 h 30 min"]
    assert first[5] == "0.25"
    assert first[7] == f"models/anoddpm.safetensors {'cd' * 32}"
    assert second == ["ADDM T=1000", "–", "–", "–", "ssim", "–", "–", "–"]


def test_header_says_how_it_was_made(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    shown = " ".join(page.texts["dd"] + page.texts["code"])
    for part in ("1.2.3", "two cores", "1 h 30 min for each method", "0, 1", "ab" * 32, "2.13.0"):
        assert part in shown
    assert results["command"] in page.texts["code"]
    assert "For research, not for diagnosis" in " ".join(page.texts["p"])


def test_curves(results_with_curves: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results_with_curves, tmp_path)
    captions = [text.strip() for text in page.texts["figcaption"] if text.strip()]
    assert captions[:2] == ["AUPRC", "AUPRC"]
    # text stays text; on the logarithmic axis the ticks are the steps that were tried
    assert {"1", "5", "250", "sampling steps", "noise level"} <= set(page.texts["text"])
    ticks = [
        float(attrs["x"] or "")
        for tag, attrs in page.tags
        if tag == "use" and str(attrs.get("style")).startswith("fill: var(--rule)")
    ][:3]
    spread = math.log(250 / 5) / math.log(5 / 1)
    assert (ticks[2] - ticks[1]) / (ticks[1] - ticks[0]) == pytest.approx(spread, rel=1e-3)
    assert "#0a00" not in page.source
    assert "#0b00" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = {str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "use"}
    assert used <= set(ids)


def test_pictures_are_inside_and_stand_by_method(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["scan", "AnoDDPM: map"]
    kind, data = str(images[0]["src"]).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == (tmp_path / "scan.png").read_bytes()
    assert page.texts["h4"] == ["patient07, slice 61 (ms_lesion)"]
    assert "AnoDDPM" in page.texts["figcaption"]
    assert "map" in page.texts["small"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing.png", "cannot be read"),
        ("../secret.png", "lies outside"),
        ("text.png", "is no PNG picture"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(
    results: dict[str, Any], tmp_path: Path, name: str, fault: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in (tmp_path / "secret.png", folder / "text.png"):
        path.write_text("not a picture")
    results["pictures"][0]["columns"] = [{"method": "", "caption": "scan", "path": name}]
    output = tmp_path / "page.html"
    with pytest.raises(InputError, match=fault) as error:
        write_report(results, output, folder)
    assert name in str(error.value)
    assert not output.exists()


def hostile(value: Any) -> Any:
    """The same results with an attack in every text, but for those that the page looks up."""
    if isinstance(value, dict):
        kept = {"protocol", "metric", "kind", "path"}
        return {key: item if key in kept else hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return f"{HOSTILE}'\" onload=x {{{{ 7*7 }}}} $\\frac" if isinstance(value, str) else value


def test_hostile_names_are_text(results_with_curves: dict[str, Any], tmp_path: Path) -> None:
    plain = page_of(results_with_curves, tmp_path)
    results = hostile(results_with_curves)
    results["versions"] = {HOSTILE: HOSTILE}
    results["data"]["groups"] = {HOSTILE: 1}
    results["summary"].append(entry(HOSTILE, HOSTILE, 1.0, protocol=HOSTILE, group=HOSTILE))
    results["summary"].append(entry(HOSTILE, HOSTILE, 1.0))
    results["comparisons"][0] |= {"protocol": HOSTILE, "metric": HOSTILE}
    results["cases"][0] |= {"protocol": HOSTILE, HOSTILE: 1.0}
    results["curves"] = [{**results["curves"][0], "kind": HOSTILE, "metric": HOSTILE}]
    page = page_of(results, tmp_path)
    assert HOSTILE not in page.source
    assert "{{ 7*7 }}" in page.source
    scripts = [tag for tag, _ in page.tags].count("script")
    assert scripts == [tag for tag, _ in plain.tags].count("script") == 1
    assert page.texts["script"] == plain.texts["script"]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert any(HOSTILE in text for text in page.texts["th"])


def test_nothing_refers_to_the_network(results_with_curves: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results_with_curves, tmp_path)
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,"))
    assert "://" not in page.source
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'")


def test_same_results_same_bytes(results_with_curves: dict[str, Any], tmp_path: Path) -> None:
    import matplotlib

    first = write_report(results_with_curves, tmp_path / "a.html", tmp_path).read_bytes()
    # nor do the person's own settings of matplotlib matter, and they stay as they are
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        second = write_report(results_with_curves, tmp_path / "b.html", tmp_path).read_bytes()
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second


PARTS = {
    "summary": "Strict protocol",
    "comparisons": "Comparisons",
    "cases": "Every case",
    "healthy": "False alarms",
    "curves": "Curves",
    "pictures": "Pictures",
    "methods": "Models",
    "versions": "Versions",
}


def headed(page: Page) -> set[str]:
    titles = page.texts.get("h2", [])
    return {part for part, head in PARTS.items() if any(text.startswith(head) for text in titles)}


def test_an_empty_part_leaves_no_heading(
    results_with_curves: dict[str, Any], tmp_path: Path
) -> None:
    assert headed(page_of(results_with_curves, tmp_path)) == set(PARTS)
    for part in PARTS:
        empty = results_with_curves | {part: type(results_with_curves[part])()}
        assert headed(page_of(empty, tmp_path)) == set(PARTS) - {part}


def test_nothing_at_all_is_a_page(tmp_path: Path) -> None:
    page = page_of({}, tmp_path)
    assert page.headings() == []
    assert page.tables == []
    assert page.texts["h1"] == ["Benchmark"]
    assert "dt" not in page.texts


def nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nulled(item) for item in value]
    return None if isinstance(value, int | float) else value


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_every_number_may_be_absent(
    results: dict[str, Any], tmp_path: Path, absent: float | None
) -> None:
    results = nulled(results)
    results["comparisons"][0]["difference"] = results["comparisons"][0]["p"] = absent
    results["methods"][0]["seconds"] = results["methods"][0]["parameters"] = absent
    page = page_of(results, tmp_path)
    (row,) = page.table("Measure", "First", "Second")
    assert row[3:] == ["–", "–", "", "–", "–", "–"]
    assert not re.search(r">\s*(None|nan|inf)\s*<", page.source)
    assert 'data-value="None"' not in page.source


def test_a_page_that_cannot_be_written_is_named(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AddmError, match="cannot be written"):
        write_report(results, tmp_path / "elsewhere" / "page.html", tmp_path)
    with pytest.raises(AddmError, match="cannot be written"):
        write_csv(results, tmp_path / "elsewhere" / "cases.csv")


def test_csv_is_long_and_exact(results: dict[str, Any], tmp_path: Path) -> None:
    path = write_csv(results, tmp_path / "cases.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert list(rows[0].values()) == [
        *("strict", "tumour/test", "case-1", "AnoDDPM", "ssim", "0", "dice", "0.1234")
    ]
    assert float(rows[2]["value"]) == results["cases"][1]["dice"]
    assert rows[1]["metric"] == "precision"
    assert rows[1]["value"] == ""
    healthy = [row for row in rows if row["group"] == "healthy"]
    assert [row["value"] for row in healthy if row["metric"] == "false_positive_ml"] == [
        *("2.0", "4.0", "0.0")
    ]


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", " =1"])
def test_csv_cells_are_no_formulas(name: str, tmp_path: Path) -> None:
    case = {"case": name, "method": f"a;{name}", name: -0.5, "note": "text", "dice": 0.5}
    text = write_csv({"cases": [case]}, tmp_path / "cases.csv").read_text(encoding="utf-8")
    first, second = csv.DictReader(io.StringIO(text))
    assert first["case"] == first["metric"] == f"'{name}"
    assert first["value"] == "-0.5"  # a number stays one
    assert second["metric"] == "dice"
    assert f'"a;{name}"' in text  # in quotes, or a spreadsheet with semicolons would part it
