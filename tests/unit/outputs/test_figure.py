"""The figure of a case: drawn without a display, measured in its pixels."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from napari_addm.detection.midline import Midline
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import Finding
from napari_addm.io.volume import UNKNOWN_SIDES
from napari_addm.outputs.captions import caption_lines, describe_slice
from napari_addm.outputs.drawing import (
    FINDING_COLOR,
    TRUTH_COLOR,
    Overlay,
    Plane,
    as_ink,
    slices_through,
)
from napari_addm.outputs.figure import BAR_WIDTH, BORDER, figure
from napari_addm.outputs.montage import montage

SHAPE = (60, 90, 80)
SPACING = (2.0, 1.0, 1.25)
PLANES: tuple[Plane, ...] = ("Axial", "Coronal", "Sagittal")


@pytest.fixture(scope="module")
def scan(picture_scan):
    return picture_scan


def cube(at: tuple[int, int, int], half: tuple[int, int, int] = (4, 8, 6)) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[tuple(slice(a - h, a + h) for a, h in zip(at, half, strict=True))] = 1
    return labels


def places(picture: Image.Image, color: tuple[int, ...]) -> np.ndarray:
    """Columns and rows (x, y) of the pixels of one color."""
    y, x = np.nonzero((np.asarray(picture) == np.asarray(color)).all(axis=-1))
    return np.stack([x, y], axis=-1)


def scale_bar(picture: Image.Image) -> tuple[int, int]:
    """Row and length in pixels of the scale bar: the lowest white line from the left border."""
    pixels = (np.asarray(picture) == 255).all(axis=-1)
    row = int(np.flatnonzero(pixels[:, BORDER]).max())
    return row, int(np.argmin(pixels[row, BORDER:]))


def outline(picture: Image.Image) -> np.ndarray:
    """Where a finding is outlined: its color, but not the color bar's mark or the legend."""
    blue = (np.asarray(picture) == as_ink(FINDING_COLOR)).all(axis=-1)
    blue[scale_bar(picture)[0] - 5 :] = blue[:, picture.width - BAR_WIDTH :] = False
    parts, _ = ndimage.label(blue, np.ones((3, 3)))  # the finding's number stands apart
    y, x = np.nonzero(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    return np.stack([x, y], axis=-1)


@pytest.mark.parametrize("others", [0, 7])
@pytest.mark.parametrize("plane", PLANES)
def test_the_scale_bar_is_as_long_as_it_says(scan, plane, others) -> None:
    """Against the outline of a finding whose size in mm is known, in either direction."""
    half = (8, 16, 13)
    labels = cube((30, 45, 40), half)
    cut = PLANES.index(plane)
    picture = figure(
        scan, Overlay(0 * scan.data, labels), [(30, 45, 40)[cut], *range(others)], plane
    )
    rows, columns = (2 * half[axis] * SPACING[axis] for axis in range(3) if axis != cut)
    _, length = scale_bar(picture)
    wide, tall = np.ptp(outline(picture), axis=0) + 1 - 2  # the line lies outside
    # it says 20 mm; what it measures against the width and the height of the finding
    for pixels, mm in ((wide, columns), (tall, rows)):
        assert length * mm / pixels == pytest.approx(20, rel=0.05)


def test_patients_left_is_on_the_right(scan) -> None:
    """And anterior or superior is up, in every plane."""
    labels = cube((45, 70, 20))  # superior, anterior, and a low R index: left
    for plane, index in {"Axial": 45, "Coronal": 70, "Sagittal": 20}.items():
        picture = figure(scan, Overlay(0 * scan.data, labels), [index], plane)
        edge = outline(picture).mean(axis=0)
        air = np.asarray(picture.convert("L"))[
            40 : picture.height - 110, : picture.width - BAR_WIDTH
        ]
        ys, xs = np.nonzero(air > 60)
        x, y = np.median(xs), np.median(ys) + 40
        assert edge[1] < y, plane
        # sagittal: anterior on the left, as in the viewer
        assert (edge[0] > x) if plane != "Sagittal" else (edge[0] < x), plane


def test_letters_need_known_sides(scan) -> None:
    labels = cube((30, 45, 40))
    known = figure(scan, Overlay(scan.data, labels), [30])
    sideless = replace(scan, warnings=(UNKNOWN_SIDES,))
    unknown = figure(sideless, Overlay(scan.data, labels), [30])
    assert known.size == unknown.size
    edge = slice(300, 380), slice(14, 34)  # where R stands
    assert (np.asarray(known)[edge] != np.asarray(unknown)[edge]).any()
    assert describe_slice(sideless, "Axial", 30) == "slice 30 of 60"


def test_a_sagittal_slice_is_named_by_its_side_of_the_brain(scan) -> None:
    """The other planes, and without a midline all, by the scanner's coordinate."""
    assert describe_slice(scan, "Axial", 30) == "Axial, z 1 mm"
    assert describe_slice(scan, "Sagittal", 0) == "Sagittal, x -49 mm"
    # of a brain whose middle lies 60 mm left of the origin, all of the grid is on the right
    midline = Midline((1.0, 0.0, 0.0), -60.0, "symmetry")
    assert describe_slice(scan, "Sagittal", 0, midline) == (
        "Sagittal, right, 11 mm from the midline"
    )
    assert describe_slice(scan, "Axial", 30, midline) == "Axial, z 1 mm"
    tilted = Midline((0.8, 0.0, 0.6), 0.0, "mask")
    words = describe_slice(scan, "Sagittal", 0, tilted, (30.0, 45.0, 0.0))
    assert words == "Sagittal, left (estimated), 39 mm from the midline"
    across = Midline((1.0, 0.0, 0.0), -49.2, "symmetry")
    assert describe_slice(scan, "Sagittal", 0, across) == "Sagittal, on the midline"


def test_the_caption_names_findings_and_their_sides(scan, make_detection) -> None:
    detection = make_detection(scan)
    side = {"side": "right", "from_midline_mm": 30.6, "midline_source": "symmetry"}
    findings = [
        Finding(n, 10.0 / n, (0.0, 0.0, 0.0), 1.0, 0.5, None, 0, 10, **side) for n in range(1, 8)
    ]
    first, *_ = caption_lines(detection, "0" * 64, 0.1, findings=findings[:1])
    assert first == "Finding 1: 10.0 mL, right, 31 mm from the midline."
    dark = [replace(findings[0], found_by="darker + structure + brighter")]
    first, *_ = caption_lines(detection, "0" * 64, 0.1, findings=dark)
    assert first.endswith("midline, darker and brighter than healthy, changed structure.")
    decisions = {2: Decision("rejected")}
    first, *_ = caption_lines(detection, "0" * 64, 0.1, findings=findings, decisions=decisions)
    assert "2: 5.0 mL, right, 31 mm from the midline, rejected; 3:" in first
    assert first.endswith("; 2 more.")


def test_the_threshold_stands_on_the_color_bar(scan) -> None:
    labels = np.zeros(SHAPE, np.int32)
    anomaly = np.clip(scan.data / 200, 0, 1).astype(np.float32)
    blue = as_ink(FINDING_COLOR)
    heights = []
    for threshold in (0.1, 0.3):
        overlay = Overlay(anomaly, labels, threshold, limits=(0.05, 0.6))
        picture = figure(scan, overlay, [30])
        marks = places(picture, blue)
        marks = marks[marks[:, 0] > picture.width - BAR_WIDTH]
        heights.append(marks[:, 1].mean())
    assert heights[1] < heights[0]
    without = figure(scan, Overlay(anomaly, labels), [30])
    assert not (places(without, blue)[:, 0] > without.width - BAR_WIDTH).any()


def test_slices_are_spread_and_meet_the_finding(scan) -> None:
    labels = cube((41, 45, 40), (1, 8, 6))
    slices = slices_through(scan, labels, 9)
    assert len(slices) == 9
    assert slices == sorted(slices)
    assert {40, 41} & set(slices)
    assert {69, 70} & set(slices_through(scan, cube((30, 70, 40), (4, 1, 6)), 5, "Coronal"))


def test_slices_that_are_not_there(scan) -> None:
    for slices in ([], [60], [-1]):
        with pytest.raises(ValueError, match="slices"):
            figure(scan, Overlay(scan.data, np.zeros(SHAPE, np.int32)), slices)


def test_an_alarm_stands_above_the_picture(scan) -> None:
    overlay = Overlay(scan.data, np.zeros(SHAPE, np.int32))
    alarmed = replace(overlay, alarm="Do not trust this map. " * 9)
    for draw in (partial(figure, slices=[30]), montage):
        plain, picture = np.asarray(draw(scan, overlay)), np.asarray(draw(scan, alarmed))
        strip = len(picture) - len(plain)
        assert strip > 20
        np.testing.assert_array_equal(picture[strip:], plain)
        assert (picture[:strip, 0] == (168, 15, 30)).all()
        assert not (picture[:strip] == (168, 15, 30)).all()


def test_a_long_caption_is_wrapped(scan) -> None:
    labels = np.zeros(SHAPE, np.int32)
    short = figure(scan, Overlay(scan.data, labels), [30], caption=["short"])
    long = figure(scan, Overlay(scan.data, labels), [30], caption=["settings and more " * 20])
    assert long.width == short.width
    assert long.height > short.height
    # nothing is cut off at the right
    assert not np.asarray(long)[short.height - 40 :, -8:].any()


def test_the_caption_names_the_settings_and_no_scan(scan, make_detection, checkpoint) -> None:
    done = np.arange(SHAPE[0]) == 30
    detection = replace(make_detection(scan), done=done)
    words, partial = caption_lines(detection, checkpoint.sha256, 0.1234)
    assert partial == "1 of 60 axial slices were run; in the others the map is empty."
    assert words == (
        f"Model tiny ({checkpoint.sha256[:12]}); threshold 0.123, noise level 200 of 1000, "
        "3 DDIM steps, 1 draw, seed 0, score signed."
    )
    named = caption_lines(detection, checkpoint.sha256, 0.1, scan="Doe\nJohn")
    assert named[0] == "Scan Doe?John."


def test_a_score_has_one_color_whatever_else_is_in_the_map(scan) -> None:
    anomaly, none = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int32)
    anomaly[10] = 0.3
    alone = np.asarray(figure(scan, Overlay(anomaly.copy(), none, 0.2), [10]))
    anomaly[40] = 0.9
    np.testing.assert_array_equal(alone, figure(scan, Overlay(anomaly, none, 0.2), [10]))
    by_viewer = figure(scan, Overlay(anomaly, none, 0.2, limits=(0.1, 0.4)), [10])
    np.testing.assert_array_equal(alone, by_viewer)  # the limits of a new layer
    assert (np.asarray(figure(scan, Overlay(anomaly, none, 0.4), [10])) != alone).any()


def test_rejected_findings_are_not_drawn(scan) -> None:
    """An accepted one has a check mark, and the ground truth a color of its own."""
    labels = cube((30, 30, 20)) + 2 * cube((30, 60, 60))
    zeros = 0 * scan.data
    both = figure(scan, Overlay(zeros, labels), [30])
    rejected = figure(scan, Overlay(zeros, labels, decisions={2: Decision("rejected")}), [30])
    np.testing.assert_array_equal(figure(scan, Overlay(zeros, labels % 2), [30]), rejected)
    assert (np.asarray(both) != np.asarray(rejected)).any()
    accepted = figure(scan, Overlay(zeros, labels, decisions={1: Decision("accepted")}), [30])
    blue, green = as_ink(FINDING_COLOR), as_ink(TRUTH_COLOR)
    assert len(places(accepted, blue)) > len(places(both, blue))
    assert not len(places(both, green))
    # a truth that is the finding hides no outline
    truth = figure(scan, Overlay(zeros, labels, truth=labels), [30])
    assert len(places(truth, blue)) >= len(places(both, blue))
    assert len(places(truth, green)) > 1000
