"""From an anomaly map to a list of findings: threshold, connected components, mL, places."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_addm.volume import Volume

# Voxels that share a face, an edge or a corner belong together.
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)

CSV_COLUMNS = (
    "id",
    "volume_ml",
    "x_mm",
    "y_mm",
    "z_mm",
    "position",
    "peak",
    "mean",
    "uncertainty",
    "slice",
    "voxels",
    "decision",
    "note",
)

Verdict = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Decision:
    """What a person thinks of a finding.

    Attributes
    ----------
    verdict : {"accepted", "rejected"} or None
        None while it is open.
    note : str
        Plain text in one line.
    """

    verdict: Verdict | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # A line break would tear the table's row and the CSV's line apart.
        object.__setattr__(self, "note", " ".join(self.note.split()))

    def __bool__(self) -> bool:
        return self.verdict is not None or bool(self.note)


UNDECIDED = Decision()
# By the finding's id; a finding that is missing is undecided.
Decisions = Mapping[int, Decision]
NO_DECISIONS: Decisions = MappingProxyType({})


@dataclass(frozen=True)
class Finding:
    """One connected component of an anomaly map above the threshold.

    Attributes
    ----------
    id : int
        Its value in the labels; 1 is the largest.
    volume_ml : float
        Volume, mL.
    centroid_mm : tuple of float
        Centre of its voxels, world RAS+ (x, y, z), mm.
    peak, mean : float
        Largest and mean anomaly score in it, in the map's units.
    uncertainty : float or None
        Mean of the uncertainty map in it, in that map's units; None without one.
    slice : int
        Index along S (axis 0, from 0) of the voxel with the largest score.
    voxels : int
        Number of voxels.
    sides_known : bool
        Whether the file says which side is left.
    """

    id: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    peak: float
    mean: float
    uncertainty: float | None
    slice: int
    voxels: int
    sides_known: bool = True

    @property
    def position(self) -> str:
        """Its centroid in words; see `describe_position`."""
        return describe_position(self.centroid_mm, sides_known=self.sides_known)


def label_anomalies(
    anomaly: np.ndarray,
    threshold: float,
    *,
    spacing: tuple[float, float, float],
    minimum_ml: float = 0.1,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Label the connected components of the voxels above a threshold.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores; NaN counts as not anomalous.
    threshold : float
        A voxel belongs to a finding where its score is strictly greater.
    spacing : tuple of float
        Along S, A, R, mm.
    minimum_ml : float
        Components smaller than this are dropped, mL.
    mask : ndarray, (S, A, R), optional
        Findings lie where it is nonzero; everywhere when not given.

    Returns
    -------
    ndarray of int32, (S, A, R)
        0 = no finding, 1..n by falling volume (26-connectivity). int32 names
        more components than a volume that fits in memory can have.
    """
    labels = np.zeros(anomaly.shape, dtype=np.int32)
    above = anomaly > threshold
    if mask is not None:
        above &= np.asarray(mask) != 0
    box = _bounding_box(above)
    if box is None:
        return labels

    # A threshold slider is dragged: work in the box, and on the voxels above alone.
    above = above[box]
    components, count = ndimage.label(above, structure=NEIGHBOURS)
    component = components[above]
    sizes = np.bincount(component, minlength=count + 1)[1:]
    # A hair below, so that 100 voxels of 0.001 mL are 0.1 mL whatever the rounding.
    fewest = math.ceil(minimum_ml / (math.prod(spacing) / 1000.0) - 1e-6)
    kept = np.flatnonzero(sizes >= fewest)
    kept = kept[np.argsort(-sizes[kept], kind="stable")]
    new_id = np.zeros(count + 1, dtype=np.int32)
    new_id[kept + 1] = np.arange(1, kept.size + 1)
    labels[box][above] = new_id[component]
    return labels


def measure_findings(
    labels: np.ndarray,
    anomaly: np.ndarray,
    volume: Volume,
    uncertainty: np.ndarray | None = None,
) -> list[Finding]:
    """Measure every finding of a label image.

    Parameters
    ----------
    labels : ndarray of int, (S, A, R)
        0 = no finding. The ids may have gaps (labels that a person edited).
    anomaly : ndarray, (S, A, R)
        Scores.
    volume : Volume
        Gives the place and size of the voxels; its own voxels are not read.
    uncertainty : ndarray, (S, A, R), optional
        Its mean over the finding is reported.

    Returns
    -------
    list of Finding
        In the order of the ids.

    Raises
    ------
    ValueError
        When a shape is not the volume's.
    """
    for array in (labels, anomaly, uncertainty):
        if array is not None and array.shape != volume.shape:
            raise ValueError(f"shape {array.shape} is not the grid's {volume.shape}")
    where = np.flatnonzero(labels)
    scores = anomaly.ravel()[where].astype(np.float64)
    label = labels.ravel()[where]
    if label.size and (label.min() < 0 or label.max() > labels.size):
        # A person may paint with any number: counting up to it could fill the memory.
        ids, member, voxels = np.unique(label, return_inverse=True, return_counts=True)
    else:
        counts = np.bincount(label, minlength=1)
        ids = np.flatnonzero(counts)
        voxels = counts[ids]
        member = (np.cumsum(counts > 0) - 1)[label]
    index = np.stack(np.unravel_index(where, labels.shape))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(member, weights=values, minlength=ids.size) / voxels

    centroids = nib.affines.apply_affine(
        volume.affine, np.stack([mean(axis) for axis in index], axis=-1)
    )
    means = mean(scores)
    spread = None if uncertainty is None else mean(uncertainty.ravel()[where])
    peaks = np.full(ids.size, -np.inf)
    np.maximum.at(peaks, member, scores)
    # Written backwards, so that of equal peaks the first voxel stays.
    at_peak = np.flatnonzero(scores == peaks[member])[::-1]
    slices = np.zeros(ids.size, dtype=np.int64)
    slices[member[at_peak]] = index[0, at_peak]
    return [
        Finding(
            id=int(ids[n]),
            volume_ml=float(voxels[n] * volume.voxel_ml),
            centroid_mm=(float(centroids[n, 0]), float(centroids[n, 1]), float(centroids[n, 2])),
            peak=float(peaks[n]),
            mean=float(means[n]),
            uncertainty=None if spread is None else float(spread[n]),
            slice=int(slices[n]),
            voxels=int(voxels[n]),
            sides_known=volume.sides_known,
        )
        for n in range(ids.size)
    ]


def describe_position(
    position_mm: tuple[float, float, float], *, sides_known: bool = True, separator: str = "  "
) -> str:
    """Word a place for a person: ``"L 31  P 22  S 31 mm"``.

    Parameters
    ----------
    position_mm : tuple of float
        World RAS+ (x, y, z), mm.
    sides_known : bool
        Without it neither left nor right is claimed: ``"L/R? 31  P 22  S 31 mm"``.
    separator : str
        Between the three.

    Returns
    -------
    str
        Whole millimetres to the patient's Right or Left, Anterior or Posterior,
        Superior or Inferior of the scan's world origin (which is an anatomical
        point only if the scan was registered to an atlas).
    """
    words = []
    for value, plus, minus in zip(position_mm, "RAS", "LPI", strict=True):
        whole = round(value)
        word = minus if whole < 0 else plus
        if plus == "R" and not sides_known:
            word = "L/R?"
        words.append(f"{word} {abs(whole)}")
    return separator.join(words) + " mm"


def findings_csv(findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS) -> str:
    """The findings as CSV text with a header line; what is unknown is an empty cell.

    `x_mm`, `y_mm`, `z_mm` are the centroid in world RAS+; `slice` counts from 0
    along S; `decision` is ``accepted``, ``rejected`` or empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for finding in findings:
        decision = decisions.get(finding.id, UNDECIDED)
        writer.writerow(
            (
                finding.id,
                f"{finding.volume_ml:.3f}",
                *(f"{value:.1f}" for value in finding.centroid_mm),
                finding.position,
                f"{finding.peak:.6g}",
                f"{finding.mean:.6g}",
                "" if finding.uncertainty is None else f"{finding.uncertainty:.6g}",
                finding.slice,
                finding.voxels,
                decision.verdict or "",
                decision.note,
            )
        )
    return text.getvalue()


def findings_record(
    findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS
) -> list[dict[str, Any]]:
    """The findings ready for JSON, each with its ``decision`` (or None) and ``note``."""
    return [
        {
            **asdict(finding),
            "decision": decisions.get(finding.id, UNDECIDED).verdict,
            "note": decisions.get(finding.id, UNDECIDED).note,
        }
        for finding in findings
    ]


def _bounding_box(voxels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Smallest box around the True voxels; None when there are none."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(voxels.any(axis=others))
        if occupied.size == 0:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return box[0], box[1], box[2]
