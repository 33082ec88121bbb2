"""Measurements of findings as a DICOM structured report; needs the extra ``dicom``.

The report follows TID 1500, refers to the segments of a segmentation that
`napari_addm.outputs.dicom_seg` wrote, and names its patient and study.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.findings.findings import Finding
from napari_addm.io.dicom_header import import_extra

if TYPE_CHECKING:
    from pydicom import Dataset


def write_sr(path: Path, seg: Path, findings: Iterable[Finding], alarm: str = "") -> Path:
    """Write the volumes and sides of the findings that a segmentation shows.

    A side is given where the brain's midline was found by symmetry, and not where it is estimated
    from the mask; on the midline, it is both sides.

    Parameters
    ----------
    path : Path
        To write; not overwritten.
    seg : Path
        The segmentation.
    findings : iterable of Finding
        At least those of the segments.
    alarm : str
        Why the findings are not to be trusted; the report says so in a comment and in the name of
        its series. Empty if they are.

    Raises
    ------
    AddmError
        When the series does not allow a report.
    """
    by_label = {f"Finding {finding.id}": finding for finding in findings}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of highdicom quote the patient's name
            _report(import_extra("highdicom").seg.segread(seg), by_label, alarm).save_as(path)
    except AddmError:
        raise
    except Exception as error:  # pydicom and highdicom raise many kinds for odd images
        raise AddmError(
            f"The images of the series do not allow a DICOM report ({type(error).__name__}): "
            "leave the segmentation out."
        ) from error
    return path


def _report(seg: Any, findings: dict[str, Finding], alarm: str) -> Dataset:
    from pydicom.sr.codedict import codes

    hd = import_extra("highdicom")
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), name="napari-addm", manufacturer_name="napari-addm", model_name=__version__
    )
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("24590-2", "LN", "MR Brain"),
        imaging_measurements=_groups(seg, findings),
        title=codes.DCM.ImagingMeasurementReport,
    )
    if alarm:
        comment = hd.sr.TextContentItem(
            codes.DCM.Comment, alarm, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
        report[0].ContentSequence.append(comment)
    doubt = "DO NOT TRUST, " if alarm else ""
    written: Dataset = hd.sr.Comprehensive3DSR(
        evidence=[seg],
        content=report,
        series_instance_uid=hd.UID(),
        series_number=int(seg.SeriesNumber) + 1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-addm",
        series_description=f"napari-addm measurements, {doubt}research only",
    )
    return written


def _groups(seg: Any, findings: dict[str, Finding]) -> Sequence[Any]:
    """The measurements of each segment."""
    from pydicom.sr.codedict import codes

    hd = import_extra("highdicom")
    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right, "midline": codes.SCT.Bilateral}
    algorithm = hd.sr.AlgorithmIdentification("ADDM", __version__)
    series = hd.sr.SourceSeriesForSegmentation(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
    groups = []
    for segment in seg.SegmentSequence:
        finding = findings[segment.SegmentLabel]
        side = sides.get(finding.side or "") if finding.midline_source == "symmetry" else None
        size = round(1000 * finding.volume_ml, 3), codes.UCUM.CubicMillimeter
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=segment.SegmentLabel),
                referenced_segment=hd.sr.ReferencedSegment(
                    seg.SOPClassUID,
                    seg.SOPInstanceUID,
                    segment.SegmentNumber,
                    source_series=series,
                ),
                finding_type=codes.SCT.Lesion,
                algorithm_id=algorithm,
                finding_sites=[hd.sr.FindingSite(codes.SCT.Brain, side)],
                measurements=[hd.sr.Measurement(codes.SCT.Volume, *size)],
            )
        )
    return groups
