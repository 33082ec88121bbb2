"""The montage of a case, measured in its pixels."""

import numpy as np
import pytest
from PIL import Image

from napari_addm.io.volume import volume_from_array
from napari_addm.outputs.drawing import FINDING_COLOR, TRUTH_COLOR, Overlay, write_png
from napari_addm.outputs.montage import montage


def places_of(picture: Image.Image, color: tuple[float, float, float]) -> np.ndarray:
    """Columns and rows (x, y) of the pixels of one color, above the legend."""
    pixels = np.asarray(picture, int)[: picture.height - 40]
    wanted = np.array([round(255 * c) for c in color])
    y, x = np.nonzero((np.abs(pixels - wanted) <= 1).all(axis=-1))
    return np.stack([x, y], axis=-1)


def test_it_is_radiological(tmp_path, picture_scan) -> None:
    labels, truth = np.zeros((2, *picture_scan.shape), np.int32)
    labels[26:30, 60:70, 14:20] = 1  # low R index: the patient's left; anterior
    truth[26:30, 20:30, 60:66] = 1  # the patient's right; posterior
    anomaly = labels.astype(np.float32)
    picture = montage(picture_scan, Overlay(anomaly, labels, truth=truth), picture_scan.data)
    finding, lesion = places_of(picture, FINDING_COLOR), places_of(picture, TRUTH_COLOR)
    assert len(finding)
    assert len(lesion)
    assert lesion[:, 0].max() < finding[:, 0].min()
    assert finding[:, 1].max() < lesion[:, 1].min()
    path = write_png(tmp_path / "a.png", montage(picture_scan, Overlay(anomaly, labels)))
    with Image.open(path) as written:
        assert written.height < picture.height  # no row for the reconstruction
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_map_below_its_threshold_does_not_glow(picture_scan) -> None:
    none = np.zeros(picture_scan.shape, np.int32)
    low = np.where(picture_scan.data > 0, np.float32(0.1), np.float32(0))

    def color(threshold: float | None, score: np.ndarray) -> float:
        """How far from gray the panels are, left of the bar and above the legend."""
        picture = montage(picture_scan, Overlay(score, none, threshold))
        pixels = np.asarray(picture, np.float32)[:-30, : -picture.width // 4]
        return float(np.ptp(pixels, axis=-1).mean())

    assert color(0.5, low) == 0
    assert color(None, low) > 1
    assert color(0.5, 10 * low) > 10


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_proportions(ratio: float) -> None:
    """A cube of brain is square in the picture, whatever the voxels are."""
    shape = (40, round(48 / ratio), 48)
    data = np.full(shape, 100, np.float32)
    data[20:] += 10
    labels = np.zeros(shape, np.int32)
    labels[20, :, :] = 1
    # Air around it, so that the outline lies inside the panel.
    volume = volume_from_array(np.pad(data, 4), spacing=(1.0, ratio, 1.0))
    picture = montage(volume, Overlay(0 * volume.data, np.pad(labels, 4)))
    width, height = np.ptp(places_of(picture, FINDING_COLOR), axis=0) + 1
    assert width / height == pytest.approx(1, abs=0.1)


def test_a_caption_stands_below(picture_scan) -> None:
    labels = np.zeros(picture_scan.shape, np.int32)
    plain = montage(picture_scan, Overlay(picture_scan.data, labels))
    captioned = montage(picture_scan, Overlay(picture_scan.data, labels), caption=("one", "two"))
    assert captioned.height > plain.height
    assert np.asarray(captioned)[plain.height :].any()
