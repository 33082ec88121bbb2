"""``napari-addm info``: a model's card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm.cli._common import (
    CheckpointFile,
    Flag,
    JsonFlag,
    console,
    print_json,
    print_result,
)
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.text import format_duration

if TYPE_CHECKING:
    from rich.table import Table

    from napari_addm.checkpoint.specification import ModelSpecification


def info(
    model: CheckpointFile = DEMO_CHECKPOINT, /, *, as_json: JsonFlag = False, check: Flag = False
) -> None:
    """Show a model's card: what it is, what it was trained on, how it is used.

    Parameters
    ----------
    model
        The model (.safetensors).
    as_json
        Print the whole specification as JSON.
    check
        Also check the weights, which takes a few seconds.
    """
    from napari_addm.checkpoint.file import load_checkpoint, read_specification

    specification = read_specification(model)
    if check:
        from napari_addm.methods.loading import load_network

        load_network(load_checkpoint(model))
    if as_json:
        print_json(specification.model_dump(mode="json"))
        return
    console().print(_card(model, specification))
    if check:
        print_result("The weights have their hash, are finite and fit the network.")


def _card(path: Path, specification: ModelSpecification) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(specification.name), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in _rows(path, specification).items():
        if value:
            table.add_row(key, Text(value))
    if promised := list(promise_lines(specification)):
        table.add_section()
        table.add_row("promise", Text("\n".join(promised)))
    evaluation = specification.evaluation
    if promised:
        evaluation = {key: value for key, value in evaluation.items() if key != "promise"}
    for title, entries in (("training", specification.training), ("evaluation", evaluation)):
        table.add_section()
        if not entries:
            table.add_row(title, "nothing recorded")
        for key, text in _records(entries):
            table.add_row(f"{title}: {key}", Text(text))
    return table


def _rows(path: Path, specification: ModelSpecification) -> dict[str, str]:
    preparation, detection = specification.preparation, specification.detection
    height, width = preparation.size
    z, y, x = preparation.spacing_mm
    method, sampling = str(specification.method), "one pass"
    if specification.diffusion is not None and detection.level is not None:
        length = specification.diffusion.timesteps
        method = f"{method}, T = {length}, {specification.diffusion.noise} noise"
        sampling = (
            f"noise level {detection.level} ({detection.level / length:.0%}), {detection.steps} "
            f"{detection.sampler.upper()} step(s), eta {detection.eta:g}"
        )
    network = specification.network.model_dump().items()
    return {
        "file": f"{path.name}, {path.stat().st_size / 1e6:.1f} MB",
        "description": specification.description,
        "licence": specification.licence,
        "method": method,
        "network": ", ".join(f"{key} {_in_a_line(value)}" for key, value in network),
        "model grid": f"{preparation.orientation}, {height} x {width} pixels of "
        f"{y:g} x {x:g} mm, slices {z:g} mm apart",
        "detection": f"{sampling}, {detection.draws} draw(s)",
        "score": f"{detection.score.kind}, smoothed by {detection.score.smoothing_mm:g} mm, "
        f"{detection.score.erosion_mm:g} mm inside the brain"
        + (", left compared with right" if detection.score.symmetry else ""),
        "threshold": f"{detection.threshold:g} ({detection.threshold_source}), findings from "
        f"{detection.minimum_ml:g} mL",
    }


def promise_lines(specification: ModelSpecification) -> Iterator[str]:
    """Say what the default threshold promises, of whom, and how it held on each scanner."""
    detection = specification.detection
    alarms = detection.false_alarms
    if alarms is None:
        return
    yield (
        f"{alarms.in_words(detection.threshold)} of false alarm in {alarms.brains}, with the "
        "default threshold and settings"
    )
    scanners = ", ".join(f"{count} of {name}" for name, count in alarms.scanners.items())
    yield f"measured in {alarms.subjects} brains" + (f": {scanners}" if scanners else "")
    table = specification.evaluation.get("promise")
    if not isinstance(table, dict):
        return
    for scanner, row in table.items():
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            yield f"{scanner}: {_kept(row)}"  # what another program wrote may have another form


def _kept(row: dict[str, float]) -> str:
    """Say how often the promise held in brains that had no part in it."""
    words = (
        f"{row['kept']:g} of {row['subjects']:g} brains within {row['promised_ml']:g} mL by the "
        f"threshold of all other brains (at most {row['largest_ml']:g} mL)"
    )
    if "kept_as_new_scanner" in row:
        words += (
            f", {row['kept_as_new_scanner']:g} by that of the other scanners (at most "
            f"{row['largest_ml_as_new_scanner']:g} mL)"
        )
    return words


def _records(entries: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if key == "seconds" and isinstance(value, int | float):
            text = f"{value:.0f} ({format_duration(value)})"
        yield key, text


def _in_a_line(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_in_a_line(v)}" for k, v in value.items()) + ")"
    if isinstance(value, tuple | list):
        return " ".join(_in_a_line(v) for v in value)
    return str(value)
