"""Agreement with a ground truth, against independent implementations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from napari_addm.detection.pipeline import Detection
from napari_addm.io.volume import volume_from_array
from napari_addm.metrics.evaluation import evaluate
from napari_addm.metrics.lesionwise import lesion_recall
from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED, Agreement
from napari_addm.review.marking import CachedLabeller

SHAPE = (12, 20, 16)


@pytest.fixture(scope="module")
def detection(make_detection) -> Detection:
    """A smooth random map in half of the grid."""
    rng = np.random.default_rng(0)
    anomaly = volume_from_array(ndimage.gaussian_filter(rng.random(SHAPE, np.float32), 2))
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 3:-3, 2:-2] = True
    return make_detection(anomaly, brain_mask=anomaly.with_data(brain))


@pytest.fixture(scope="module")
def truth(detection) -> np.ndarray:
    """Where the map is high, moved a little; and a voxel outside the brain."""
    anomaly, brain = detection.anomaly.data, detection.brain_mask.data
    truth = np.roll((anomaly > np.quantile(anomaly[brain], 0.9)) & brain, 1, axis=1)
    truth[0, 0, 0] = True
    return truth


@pytest.fixture(scope="module")
def agreement(detection, truth) -> Agreement:
    return Agreement(detection, truth)


def thresholds(detection: Detection) -> list[float]:
    anomaly = detection.anomaly.data[detection.brain_mask.data]
    return [-1.0, *(float(q) for q in np.quantile(anomaly, (0.3, 0.9, 0.97, 0.999))), 9.0]


def test_figures_curves_and_overlay_equal_numpy_at_every_threshold(detection, truth, agreement):
    brain = detection.brain_mask.data
    scores, inside = detection.anomaly.data[brain], truth[brain]
    for threshold in thresholds(detection):
        marked = CachedLabeller(detection).label(threshold, 0.0)
        point = agreement.point(threshold)
        expected = evaluate(
            detection.anomaly.data,
            truth,
            threshold=threshold,
            mask=brain,
            voxel_ml=detection.anomaly.voxel_ml,
        )
        assert agreement.at(marked).as_dict() == expected.as_dict()
        assert point.dice[0] == pytest.approx(expected["dice"])
        above = scores > threshold
        assert point.tp[0] == np.count_nonzero(above & inside)
        assert point.fp[0] == np.count_nonzero(above & ~inside)

        overlay = agreement.overlay(marked)
        assert overlay.dtype == np.uint8
        found = (detection.anomaly.data > threshold) & brain
        assert_array_equal(overlay == HIT, found & truth & brain)
        assert_array_equal(overlay == FALSE_ALARM, found & ~truth)
        assert_array_equal(overlay == MISSED, truth & brain & ~found)


def test_the_curves_are_of_the_map_that_findings_lie_in(detection, truth, agreement):
    nothing = detection.anomaly.with_data(np.zeros(SHAPE, np.float32))
    darker = detection.anomaly.with_data(-detection.anomaly.data)
    same = Agreement(replace(detection, anomaly=nothing, brightness=darker), truth)
    assert (same.best_dice, same.best_threshold) == (agreement.best_dice, agreement.best_threshold)


def test_the_smallest_finding_changes_the_overlay_and_not_the_curves(detection, truth, agreement):
    threshold = thresholds(detection)[3]
    everything, large = (
        CachedLabeller(detection).label(threshold, 0.0),
        CachedLabeller(detection).label(threshold, 0.02),
    )
    assert 0 < len(large.findings) < len(everything.findings)
    overlay = agreement.overlay(large)
    assert_array_equal((overlay == HIT) | (overlay == FALSE_ALARM), large.labels > 0)
    assert agreement.at(large)["predicted_ml"] < agreement.at(everything)["predicted_ml"]


def test_lesions_equal_the_recall_of_the_benchmark(detection, truth, agreement):
    region = detection.brain_mask.data
    for threshold in thresholds(detection):
        marked = CachedLabeller(detection).label(threshold, 0.5)
        table = agreement.lesions(marked)
        expected = lesion_recall(marked.labels, truth & region, detection.anomaly.voxel_ml)
        assert (len(table.lesions), table.found) == (expected.lesions, expected.found)
        assert table.false_findings == expected.false_positives
        for lesion in table.lesions:
            assert detection.anomaly.data[lesion.index] == pytest.approx(lesion.peak)
            assert truth[lesion.index]


def test_a_truth_outside_the_brain_is_not_called_empty(detection, truth):
    outside = Agreement(detection, truth & ~detection.brain_mask.data)
    figures = outside.at(CachedLabeller(detection).label(0.01, 0.0))
    assert outside.is_empty
    assert outside.explanation(figures).startswith("None of the ground truth lies in the brain")
    assert "outside the mask" in figures.notes[0]
