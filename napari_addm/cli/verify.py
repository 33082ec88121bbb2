"""``napari-addm verify``: a recorded run, once more."""

from __future__ import annotations

from pathlib import Path

from napari_addm.cli._common import FAILED, JsonFlag, detection_bar, print_json, print_result
from napari_addm.detection.settings import Device


def verify(
    record: Path,
    /,
    *,
    scan: Path | None = None,
    checkpoint: Path | None = None,
    mask: Path | None = None,
    ground_truth: Path | None = None,
    device: Device | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Repeat a recorded run, and say whether it gives the same.

    Maps, findings, metrics and every other field of the record are computed again, and
    compared. Exit code 0 only if the result is the same, voxel for voxel or within the
    stated tolerance. A person's decisions and notes cannot be verified.

    Parameters
    ----------
    record
        The run record, ..._record.json.
    scan
        The scan, unless it lies beside the record.
    checkpoint
        The model (.safetensors), unless it lies beside the record.
    mask
        The brain mask, if the run had one.
    ground_truth
        The ground truth, if the run had one. The metrics are not verified without it.
    device
        Another device than the recorded one.
    as_json
        Print one JSON object and nothing else on stdout.
    """
    from napari_addm.outputs.verification import verify as verify_record

    with detection_bar(record.name) as show:
        result = verify_record(
            record,
            scan=scan,
            model=checkpoint,
            mask=mask,
            truth=ground_truth,
            device=device,
            on_progress=show,
        )
    if as_json:
        print_json(result.summary())
    else:
        for line in result.lines():
            print_result(line)
    return FAILED if result.verdict == "different" else 0
