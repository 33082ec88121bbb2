"""DICOM series opened in napari, and segmentations saved from the panel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_series import LPS, NAME, PLANES, hd, pydicom, segmented_labels, write_series
from napari.components import ViewerModel

from napari_addm.findings.decisions import Decision
from napari_addm.widgets import texts
from napari_addm.widgets.contributions import get_dicom_reader
from napari_addm.widgets.detect_panel.panel import DetectWidget


@pytest.mark.parametrize("plane", ["sagittal", "oblique"])
def test_segmentation_saved_from_the_panel(
    tmp_path: Path, make_brain: Any, tiny_checkpoint: Path, qtbot: Any, plane: str
) -> None:
    """A folder opened in napari, run, saved: every finding lies on the patient, read by others."""
    shape, spacing = (42, 50, 50), (4.0, 4.0, 4.0)
    row, column = (np.array(v, float) for v in PLANES[plane])
    linear = np.stack([np.cross(row, column), column, row], axis=1) * spacing
    origin = -linear @ ((np.array(shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    brain = make_brain(LPS @ affine, shape, ((25.0, 0.0, 5.0, 14.0),)).to_native()
    folder = tmp_path / "series"
    _, written = write_series(folder, plane, shape, spacing, brain, origin=tuple(origin))
    np.testing.assert_allclose(written, affine)

    viewer = ViewerModel()
    panel = DetectWidget(viewer)
    qtbot.addWidget(panel)
    assert panel.saving.seg.isHidden()
    reader = get_dicom_reader(str(folder))
    assert reader is not None
    ((voxels, arguments, _),) = reader(str(folder))
    viewer.add_image(voxels, **arguments)
    words = "dicom_series4: the only series; contrast agent: unknown"
    assert panel.inputs.about.text().startswith(words)
    panel.model.checkpoint_chooser.choose(tiny_checkpoint)
    panel.findings.threshold.setValue(0.01)
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    assert panel.notices.error.text() == ""
    assert len(panel.outcome.marked.findings) > 0
    assert not panel.saving.seg.isHidden()
    image = folder / "IM0003"
    content = image.read_bytes()
    image.unlink()
    panel.saving.seg.click()  # a series that does not allow it is said at once
    qtbot.waitUntil(lambda: panel.notices.error.text() != "", timeout=60_000)
    assert "IM0003 cannot be read" in panel.notices.error.text()
    assert not panel.saving.seg.isChecked()
    image.write_bytes(content)
    panel.saving.seg.click()
    assert panel.saving.seg.isChecked()
    out = tmp_path / "out"
    panel.saving.save(out)
    qtbot.waitUntil(lambda: "files saved" in panel.notices.status.text(), timeout=120_000)
    assert panel.notices.error.text() == ""
    assert panel.notices.status.text().startswith(f"{len(list(out.iterdir()))} files saved")

    labels = panel.outcome.layers.labels()
    volume = panel.outcome.scan
    seg = hd.seg.segread(out / "dicom_series4_seg.dcm")
    assert seg.PatientID == NAME
    source = pydicom.dcmread(folder / "IM0000")
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.number_of_segments == len(panel.outcome.marked.findings)
    numbers = [int(each.SegmentLabel.split()[-1]) for each in seg.SegmentSequence]
    np.testing.assert_array_equal(numbers, np.unique(labels)[1:])
    np.testing.assert_array_equal(segmented_labels(out / "dicom_series4_seg.dcm", volume), labels)

    # and when a person has rejected them all, the panel says why there is none
    for finding in panel.outcome.marked.findings:
        panel.findings.table.decide(finding.id, Decision("rejected"))
    panel.saving.save(out, overwrite=True)
    qtbot.waitUntil(lambda: panel.notices.status.text().endswith(texts.NO_SEG), timeout=120_000)
    assert not (out / "dicom_series4_seg.dcm").exists()


def test_reader_of_folders(tmp_path: Path) -> None:
    write_series(tmp_path / "a", SeriesNumber=2)
    data, _ = write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="T2")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("no DICOM")
    assert get_dicom_reader(str(tmp_path / "none")) is None
    assert get_dicom_reader(str(tmp_path / "none" / "a.txt")) is None
    for place, name in (
        ("", "t1_mprage_sag"),
        ("b", "T2"),
        ("b/IM0002", "T2"),
    ):
        read = get_dicom_reader(str(tmp_path / place))
        assert read is not None
        ((voxels, arguments, kind),) = read(str(tmp_path / place))
        assert (kind, arguments["name"]) == ("image", name)
        assert sorted(voxels.shape) == sorted(data.shape)
