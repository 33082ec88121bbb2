"""A checkpoint's model card in a few plain lines, from its header alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from napari_addm.checkpoint import ModelSpecification

MOST_FIGURES = 4


def card_lines(specification: ModelSpecification) -> list[str]:
    """What a person must know before using a checkpoint, one fact or two per line."""
    diffusion, detection = specification.diffusion, specification.detection
    lines = [
        f"{specification.name}: {specification.method.upper()}, T = {diffusion.length}, "
        f"{diffusion.noise} noise",
        _training(specification.training),
    ]
    figures = list(_figures(specification.evaluation))[:MOST_FIGURES]
    lines.append("Measured: " + ", ".join(figures) if figures else "No figures measured.")
    lines.append(f"Threshold {detection.threshold:g}: {detection.threshold_source}")
    lines.append(f"Licence: {specification.licence}")
    return [line for line in lines if line]


def _training(training: Mapping[str, Any]) -> str:
    parts = []
    if volumes := training.get("train_volumes"):
        parts.append(f"{volumes} volumes")
    if isinstance(iterations := training.get("iterations"), int):
        parts.append(f"{iterations:,} iterations")
    if isinstance(seconds := training.get("seconds"), int | float):
        parts.append(f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min")
    data = training.get("data")
    words = "Trained on " + ", ".join(parts) if parts else ""
    return f"{words} ({data})" if words and isinstance(data, str) else words


def _figures(evaluation: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Numbers of the evaluation with their names, whatever its nesting."""
    for key, value in evaluation.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _figures(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{name} {value:.3g}"
