"""Words in pictures: the settings behind a map, its findings, and where a slice lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.detection.midline import Midline, Side, describe_side
from napari_addm.findings.decisions import NO_DECISIONS, UNDECIDED, Decisions
from napari_addm.findings.findings import Finding
from napari_addm.io.volume import Volume
from napari_addm.outputs.drawing import CUTS, Plane, printable

if TYPE_CHECKING:
    from napari_addm.detection.pipeline import Detection

MOST_NAMED = 5
"""How many findings a caption names."""


def caption_lines(
    detection: Detection,
    sha256: str,
    threshold: float,
    scan: str | None = None,
    findings: Sequence[Finding] = (),
    decisions: Decisions = NO_DECISIONS,
) -> tuple[str, ...]:
    """Describe the findings of a picture and the settings behind it, one sentence each.

    Parameters
    ----------
    sha256 : str
        Hash of the checkpoint's file; its beginning is shown.
    threshold : float
        Scores above it are findings.
    scan : str, optional
        Name of the scan. It may name a patient, so it is left out unless given.
    findings : sequence of Finding
        Named with their sides; the first `MOST_NAMED` of them.
    decisions : mapping of int to Decision
        By their ids; rejected findings are called so.
    """
    settings, specification = detection.settings, detection.specification
    words = [f"threshold {threshold:.3g}"]
    if specification.diffusion is not None and settings.level is not None:
        sampler = (settings.sampler or "").upper()
        words.append(f"noise level {settings.level} of {specification.diffusion.timesteps}")
        words.append(f"{settings.steps} {sampler} step{'' if settings.steps == 1 else 's'}")
    draws = settings.draws or 1
    words += [
        "1 draw" if draws == 1 else f"{draws} draws",
        f"seed {settings.seed}",
        f"score {settings.score}" + (", left compared with right" if settings.symmetry else ""),
    ]
    model = f"Model {specification.name} ({sha256[:12]}); {', '.join(words)}."
    lines = [f"Scan {scan}.", model] if scan else [model]
    if findings:
        lines.insert(0, _describe_findings(findings, decisions))
    if not detection.done.all():
        done, count = int(detection.done.sum()), len(detection.done)
        lines.append(f"{done} of {count} axial slices were run; in the others the map is empty.")
    return tuple(map(printable, lines))


def _describe_findings(findings: Sequence[Finding], decisions: Decisions) -> str:
    named = []
    for finding in findings[:MOST_NAMED]:
        words = f"{finding.id}: {finding.volume_ml:.1f} mL, {finding.location}"
        if finding.change_in_words:
            words += f", {finding.change_in_words}"
        if decisions.get(finding.id, UNDECIDED).verdict == "rejected":
            words += ", rejected"
        named.append(words)
    if len(findings) > MOST_NAMED:
        named.append(f"{len(findings) - MOST_NAMED} more")
    return f"{'Finding' if len(findings) == 1 else 'Findings'} {'; '.join(named)}."


def describe_slice(
    volume: Volume,
    plane: Plane,
    index: int,
    midline: Midline | None = None,
    middle: Sequence[float] | None = None,
) -> str:
    """Describe where a slice lies.

    Parameters
    ----------
    index : int
        Along the axis that the plane cuts across.
    midline : Midline, optional
        Between the halves of the brain.
    middle : sequence of float, optional
        The voxel (s, a, r) where the slice's place is measured; the grid's middle by default.

    Returns
    -------
    str
        ``"Sagittal, right, 31 mm from the midline"``. Without a midline, and in the other planes,
        the scanner's coordinate (RAS+): ``"Axial, z 25 mm"``. The slice's number where the file
        does not say how it lies.
    """
    cut = CUTS[plane]
    if not volume.sides_known:
        return f"slice {index} of {volume.shape[cut]}"
    place = np.array((np.asarray(volume.shape) - 1) / 2 if middle is None else middle, float)
    place[cut] = index
    world = volume.affine[:3, :3] @ place + volume.affine[:3, 3]
    if midline is not None and plane == "Sagittal":
        right = float(midline.distance_to_right(world))
        side: Side = "right" if right > 0 else "left"
        if abs(right) < 0.5:
            side = "midline"
        return f"{plane}, {describe_side(side, abs(right), midline.source)}"
    return f"{plane}, {'zyx'[cut]} {round(float(world[2 - cut]))} mm"
