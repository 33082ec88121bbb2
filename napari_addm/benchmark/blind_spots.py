"""Blind spots: which simulated lesions a model finds in healthy brains, and which it misses."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_addm.benchmark.simulated_lesions import HealthyBrain, LesionKind, simulate
from napari_addm.checkpoint.file import Checkpoint
from napari_addm.detection.brain_mask import choose_brain_mask
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.findings.labelling import label_anomalies
from napari_addm.io.arrays import Mask
from napari_addm.io.reading import read_volume
from napari_addm.io.text import csv_cell
from napari_addm.io.volume import Volume
from napari_addm.metrics.lesionwise import OUTSIDE, OVERLAP
from napari_addm.metrics.sorted_scores import SortedScores

UNALTERED = "none"
"""The kind of a brain without a lesion, whose findings are all false."""


@dataclass(frozen=True)
class Spot:
    """What was found in one brain with one simulated lesion.

    Attributes
    ----------
    kind : str
        A name in `napari_addm.benchmark.simulated_lesions.KINDS`, or `UNALTERED`.
    brain : str
        The scan's name.
    lesion_ml : float
        Volume of the lesion, mL.
    share : float or None
        Share of the lesion that findings cover, 0 to 1; None without a lesion. Findings that are
        false by the rule of `napari_addm.metrics.lesionwise.lesion_recall` do not count.
    findings : int
    findings_ml : float
        Volume of all findings, mL.
    auprc, auroc : float or None
        Inside the brain; None without a lesion.
    """

    kind: str
    brain: str
    lesion_ml: float
    share: float | None
    findings: int
    findings_ml: float
    auprc: float | None
    auroc: float | None

    @property
    def found(self) -> bool:
        """Whether findings cover enough of the lesion, by the rule of `lesion_recall`."""
        return self.share is not None and self.share >= OVERLAP


def measure_spots(
    scans: Sequence[Path],
    kinds: Mapping[str, LesionKind],
    checkpoint: Checkpoint,
    settings: DetectionSettings,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Spot]:
    """Detect in every healthy brain, as it is and with one lesion of each kind.

    Parameters
    ----------
    scans : sequence of Path
        Healthy scans that the model was not trained on.
    kinds : mapping of str to LesionKind
    settings : DetectionSettings
        Regions are not named.
    seed : int
        Of the places and shapes of the lesions.
    report : callable
        Called with a line of text whenever something begins.

    Raises
    ------
    AddmError
        If a scan cannot be used.
    """
    settings = settings.replace(regions=False)
    for number, path in enumerate(scans, 1):
        scan = read_volume(path)
        brain = HealthyBrain(scan, choose_brain_mask(scan, None)[0])
        report(f"{number} of {len(scans)}: {scan.name}")
        nothing = np.zeros_like(brain.mask)
        stripped = scan.with_data(brain.values)
        yield _measure(UNALTERED, stripped, brain.mask, nothing, checkpoint, settings)
        for name, kind in kinds.items():
            report(f"{number} of {len(scans)}: {scan.name}, {kind.title}")
            made = simulate(kind, brain, seed)
            yield _measure(name, made.scan, made.brain, made.lesion, checkpoint, settings)


def _measure(
    kind: str,
    scan: Volume,
    brain: Mask,
    lesion: Mask,
    checkpoint: Checkpoint,
    settings: DetectionSettings,
) -> Spot:
    anomaly = run(scan, checkpoint, settings, brain).highest
    defaults = checkpoint.specification.detection
    labels = label_anomalies(
        anomaly,
        defaults.threshold,
        spacing=scan.spacing,
        minimum_ml=defaults.minimum_ml,
        mask=brain,
    )
    there = bool(lesion.any())
    scores = SortedScores.of(anomaly[brain], lesion[brain]) if there else None
    return Spot(
        kind=kind,
        brain=scan.name,
        lesion_ml=float(lesion.sum()) * scan.voxel_ml,
        share=_share_found(labels, lesion) if there else None,
        findings=int(labels.max()),
        findings_ml=float((labels > 0).sum()) * scan.voxel_ml,
        auprc=None if scores is None else scores.auprc,
        auroc=None if scores is None else scores.auroc,
    )


def _share_found(labels: NDArray[np.integer], lesion: Mask) -> float:
    """Return the share of a lesion in findings that lie mostly in it."""
    sizes = np.bincount(labels.ravel())
    inside = np.bincount(labels[lesion], minlength=len(sizes))
    true = inside >= (1 - OUTSIDE) * sizes
    return float(inside[1:][true[1:]].sum() / lesion.sum())


@dataclass(frozen=True)
class SpotSummary:
    """One line of the table of blind spots.

    Attributes
    ----------
    title : str
        The kind of lesion.
    brains, found : int
        In how many brains it was drawn, and found; without a lesion, those with a finding.
    lesion_ml, share, findings_ml, auprc, auroc : float or None
        Medians over the brains.
    """

    title: str
    brains: int
    found: int
    lesion_ml: float | None
    share: float | None
    findings_ml: float | None
    auprc: float | None
    auroc: float | None


def summarize_spots(spots: Sequence[Spot], kinds: Mapping[str, LesionKind]) -> list[SpotSummary]:
    """Count for every kind of lesion in how many brains it was found."""
    summaries = []
    for kind in dict.fromkeys(spot.kind for spot in spots):
        rows = [asdict(spot) | {"found": spot.found} for spot in spots if spot.kind == kind]
        unaltered = kind == UNALTERED
        medians = {
            name: _median([row[name] for row in rows])
            for name in ("lesion_ml", "share", "findings_ml", "auprc", "auroc")
        }
        summaries.append(
            SpotSummary(
                title="No lesion" if unaltered else kinds[kind].title,
                brains=len(rows),
                found=sum(row["findings"] > 0 if unaltered else row["found"] for row in rows),
                **medians,
            )
        )
    return summaries


def spots_markdown(summaries: Sequence[SpotSummary]) -> list[str]:
    """Return the lines of the table of blind spots, in Markdown."""
    lines = [
        "| simulated lesion | found in | share marked | findings, mL | AUPRC | AUROC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in summaries:
        cells = [
            each.title,
            f"{each.found} of {each.brains}",
            "–" if each.share is None else f"{each.share:.0%}",
            "–" if each.findings_ml is None else f"{each.findings_ml:.1f}",
            "–" if each.auprc is None else f"{each.auprc:.2f}",
            "–" if each.auroc is None else f"{each.auroc:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spots_csv(spots: Sequence[Spot]) -> str:
    """Write one row for each spot."""
    text = io.StringIO()
    columns = [*(field.name for field in fields(Spot)), "found"]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for spot in spots:
        row = asdict(spot) | {"found": spot.found}
        table.writerow({name: csv_cell(value) for name, value in row.items()})
    return text.getvalue()


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None
