"""``napari-addm blind-spots``: which simulated lesions a model finds, and which it misses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cyclopts.types import NonNegativeInt

from napari_addm import __version__
from napari_addm.cli._common import CheckpointFile, OutputFolder, print_line, print_result
from napari_addm.detection.settings import Device
from napari_addm.errors import InputError
from napari_addm.io.demo import DEMO_CHECKPOINT


def blind_spots(
    scans: tuple[Path, ...] = (),
    /,
    *,
    output: OutputFolder,
    checkpoint: CheckpointFile = DEMO_CHECKPOINT,
    shapes: Path | None = None,
    kinds: str = "all",
    seed: NonNegativeInt = 0,
    device: Device = "auto",
) -> None:
    """Draw lesions into healthy scans, and say which kinds the model finds.

    Every scan is used as it is and with one lesion of each kind, at the model's own
    settings. Needs the extra: `pip install "napari-addm[regions]"`.

    Parameters
    ----------
    scans
        Healthy scans that the model was not trained on: files, or folders of them.
    output
        Folder for blind_spots.csv, one row a scan and lesion, and blind_spots.json.
    checkpoint
        The trained model.
    shapes
        File with masks of real strokes in MNI space, for a further kind.
    kinds
        Kinds of lesion to draw, separated by commas, or all.
    seed
        Of the places and shapes of the lesions.
    device
        Where the network runs.
    """
    from napari_addm.benchmark.blind_spots import (
        measure_spots,
        spots_csv,
        spots_markdown,
        summarize_spots,
    )
    from napari_addm.benchmark.simulated_lesions import kinds_with
    from napari_addm.checkpoint.file import load_checkpoint
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.io.files import check_is_file, write_atomic
    from napari_addm.outputs.folder import check_folder
    from napari_addm.training.data import find_scans

    check_folder(output)
    if shapes is not None:
        check_is_file(shapes)
    there = kinds_with(shapes)
    names = list(there) if kinds == "all" else [name.strip() for name in kinds.split(",")]
    for name in names:
        if name not in there:
            raise InputError(f"--kinds {name}: choose some of {', '.join(there)}.")
    chosen = {name: there[name] for name in names}
    files = [file for path in scans for file in (find_scans(path) if path.is_dir() else [path])]
    if not files:
        raise InputError("Name some healthy scans, or folders that hold them.")
    model = load_checkpoint(checkpoint)
    spots = list(
        measure_spots(files, chosen, model, DetectionSettings(device=device), seed, print_line)
    )
    summaries = summarize_spots(spots, chosen)
    result = {
        "package_version": __version__,
        "model": model.specification.name,
        "checkpoint_sha256": model.sha256,
        "threshold": model.specification.detection.threshold,
        "minimum_ml": model.specification.detection.minimum_ml,
        "seed": seed,
        "summary": [asdict(each) for each in summaries],
    }
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "blind_spots.csv", spots_csv(spots))
    write_atomic(output / "blind_spots.json", json.dumps(result, indent=1) + "\n")
    for line in spots_markdown(summaries):
        print_result(line)
    print_result(output / "blind_spots.csv")
