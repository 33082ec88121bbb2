"""One case: what went into it, what came out of it, and the files that hold it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from napari_addm.errors import AddmError
from napari_addm.findings.table import findings_csv
from napari_addm.io.files import take_names, write_atomic
from napari_addm.io.hashing import file_sha256, voxels_sha256
from napari_addm.io.remarks import in_alarm
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.contents import CaseOutputs
from napari_addm.outputs.dicom_seg import check_comes_from_dicom, write_seg
from napari_addm.outputs.dicom_sr import write_sr
from napari_addm.outputs.folder import check_outputs, claim_outputs, staging_folder
from napari_addm.outputs.naming import dataset_files
from napari_addm.outputs.record import FileEntry, RunRecord

StagedFiles = Mapping[str, Path]


@dataclass(frozen=True)
class WriteOptions:
    """Which files of a case are written, and how.

    Attributes
    ----------
    montage : bool
        Also write a picture of the map over the scan.
    dicom_seg : bool
        Also write the labels, without rejected findings, as a DICOM segmentation, and their
        measurements as a structured report.
    dated : bool
        Whether the record holds the date and the seconds. Without them, equal runs give equal
        bytes.
    overwrite : bool
        Replace the files of an earlier run.
    """

    montage: bool = False
    dicom_seg: bool = False
    dated: bool = True
    overwrite: bool = False


def write_case(
    outputs: CaseOutputs,
    folder: str | os.PathLike[str],
    options: WriteOptions | None = None,
    *,
    before_renaming: Callable[[StagedFiles], object] | None = None,
) -> dict[str, Path]:
    """Write the maps, the labels, the findings and the run record of one case.

    The files are written into a hidden folder and take their names together at the end, so that
    a failure leaves none of them. Only a DICOM segmentation that fails does not keep the others
    from being written. For a BIDS scan, the dataset is described as well.

    Parameters
    ----------
    folder : path
        Created if missing.
    before_renaming : callable, optional
        Called with the staged files, by their keys, once all of them are written. If it raises,
        no file takes its name.

    Returns
    -------
    dict of str to Path
        The written files, by the keys of `napari_addm.outputs.naming.ENDINGS`.

    Raises
    ------
    AddmError
        When a file cannot or must not be written, or another run has the case; also when all
        files but the DICOM segmentation were written.
    """
    folder, options = Path(folder), options or WriteOptions()
    if options.dicom_seg:
        check_comes_from_dicom(outputs.scan)
    name = outputs.name or outputs.scan.name
    with claim_outputs(folder, name):
        paths = check_outputs(folder, name, options.overwrite, outputs.inputs.files)
        with staging_folder(paths["record"].parent) as staging:
            place = {key: staging / path.name for key, path in paths.items()}
            written, failure = _stage(outputs, place, options)
            for path, text in dataset_files(folder, name).items():
                if not os.path.lexists(path):
                    write_atomic(path, text)
            if before_renaming is not None:
                before_renaming({key: place[key] for key in written})
            renames = {paths[key]: place[key] for key in written}
            # Files of an earlier run that this run did not write must not lie beside its own.
            gone = [paths[key] for key in paths.keys() - set(written)]
            take_names(renames, gone)
    if failure is not None:
        raise AddmError(f"{failure} All other files of the case are in {folder}.") from failure
    return {key: paths[key] for key in written}


def _stage(
    outputs: CaseOutputs, place: Mapping[str, Path], options: WriteOptions
) -> tuple[list[str], AddmError | None]:
    """Write all files of a case; returns their keys, and why there is no DICOM segmentation.

    The record comes after the files that it names.
    """
    # zlib and hashlib release the interpreter's lock, so these threads run side by side.
    with ThreadPoolExecutor() as pool:
        unfinished = pool.submit(RunRecord.of, outputs, dated=options.dated)
        writing = {
            key: pool.submit(_write_map, place[key], volume) for key, volume in outputs.maps.items()
        }
        files = {key: future.result() for key, future in writing.items()}
        record = unfinished.result()
    write_atomic(place["findings"], findings_csv(outputs.findings, outputs.decisions))
    others, failure = ["findings"], None
    if options.dicom_seg:
        try:
            if _write_dicom_seg(place["seg"], outputs, edited=record.labels.edited_voxels > 0):
                write_sr(place["sr"], place["seg"], outputs.findings, in_alarm(outputs.remarks))
                others += ["seg", "sr"]
        except AddmError as error:
            failure = error
            for key in ("seg", "sr"):
                place[key].unlink(missing_ok=True)
    for key in others:
        files[key] = FileEntry(name=place[key].name, sha256=file_sha256(place[key]))
    write_atomic(place["record"], record.model_copy(update={"outputs": files}).to_json())
    if not options.montage:
        return [*files, "record"], failure
    _write_montage(place["overlay"], outputs)
    return [*files, "record", "overlay"], failure


def _write_map(path: Path, volume: Volume) -> FileEntry:
    write_volume(path, volume)
    return FileEntry(name=path.name, voxels_sha256=voxels_sha256(volume.data))


def _write_dicom_seg(path: Path, outputs: CaseOutputs, edited: bool) -> bool:
    """Write the DICOM segmentation; returns whether there was a finding to write."""
    decided = {id: decision.verdict for id, decision in outputs.decisions.items()}
    written = write_seg(
        path,
        outputs.maps["labels"],
        outputs.scan.source.series,
        edited=edited,
        locations={finding.id: finding.location for finding in outputs.findings},
        accepted={id for id, verdict in decided.items() if verdict == "accepted"},
        rejected={id for id, verdict in decided.items() if verdict == "rejected"},
        alarm=in_alarm(outputs.remarks),
    )
    return written is not None


def _write_montage(path: Path, outputs: CaseOutputs) -> None:
    from napari_addm.outputs.captions import caption_lines
    from napari_addm.outputs.drawing import Overlay, write_png
    from napari_addm.outputs.montage import montage

    detection, truth = outputs.detection, outputs.inputs.truth
    picture = montage(
        outputs.scan,
        Overlay(
            detection.highest,
            outputs.labels,
            outputs.threshold,
            outputs.decisions,
            None if truth is None else truth.voxels,
            alarm=in_alarm(outputs.remarks),
        ),
        detection.reconstruction.data,
        caption=caption_lines(
            detection,
            outputs.checkpoint.sha256,
            outputs.threshold,
            findings=outputs.findings,
            decisions=outputs.decisions,
        ),
    )
    write_png(path, picture)
