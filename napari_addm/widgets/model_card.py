"""The model card of a checkpoint in a few plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.registry import METHODS

SHOWN = {
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "best_dice": "best Dice",
    "false_positive_ml_mean": "false alarm mL",
}
"""Titles of the figures of an evaluation that the card has room for."""


def card_lines(specification: ModelSpecification) -> list[str]:
    """Return what a person must know before using a checkpoint, one or two facts a line."""
    diffusion, detection = specification.diffusion, specification.detection
    chain = f", T = {diffusion.timesteps}, {diffusion.noise} noise" if diffusion else ""
    lines = [
        f"{specification.name}: {METHODS[specification.method].title}{chain}",
        _training(specification.training),
    ]
    alarms = detection.false_alarms
    lines += list(_figures(specification.evaluation))
    if alarms is None and not lines[2:]:
        lines.append("No figures measured.")
    promise = f"; {alarms.in_words(detection.threshold)} in {alarms.brains}" if alarms else ""
    if promise[2:] in detection.threshold_source:  # a calibrated threshold comes from its promise
        promise = ""
    lines.append(f"Threshold {detection.threshold:g}: {detection.threshold_source}{promise}")
    lines.append(f"Licence: {specification.licence}")
    return [line for line in lines if line]


def _training(training: Mapping[str, Any]) -> str:
    parts = []
    if volumes := training.get("train_volumes"):
        parts.append(f"{volumes} volumes")
    before = training.get("started_from")
    before = before if isinstance(before, Mapping) else {}
    if isinstance(iterations := training.get("iterations"), int):
        earlier = before.get("iterations")
        words = f"{earlier:,} + {iterations:,}" if isinstance(earlier, int) else f"{iterations:,}"
        parts.append(f"{words} iterations")
    if isinstance(seconds := training.get("seconds"), int | float):
        if isinstance(earlier_seconds := before.get("seconds"), int | float):
            seconds += earlier_seconds
        parts.append(f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min")
    data = training.get("data")
    words = "Trained on " + ", ".join(parts) if parts else ""
    return f"{words} ({data})" if words and isinstance(data, str) else words


def _figures(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each data set that the checkpoint was measured on."""
    for data, figures in evaluation.items():
        if not isinstance(figures, Mapping):
            continue
        count = next((f" ({figures[key]})" for key in ("cases", "subjects") if key in figures), "")
        shown = [f"{words} {figures[key]:.3g}" for key, words in SHOWN.items() if key in figures]
        if shown:
            yield f"{data.replace('_', ' ').capitalize()}{count}: {', '.join(shown)}"
