"""Findings: components, sizes, places, and the CSV."""

import csv
import io
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_addm.detection.midline import Midline
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import Finding, measure_findings
from napari_addm.findings.labelling import FindingLabeller, label_anomalies
from napari_addm.findings.table import CSV_COLUMNS, findings_csv, findings_record
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import GRID_OF_LAYER, UNKNOWN_SIDES, volume_from_array

SPACING = (1.0, 1.0, 1.0)


def two_lesions() -> np.ndarray:
    anomaly = np.zeros((20, 24, 28), dtype=np.float32)
    anomaly[2:4, 3:6, 5:9] = 1.0  # 24 voxels
    anomaly[10:15, 10:15, 20:25] = 2.0  # 125 voxels
    anomaly[12, 11, 22] = 5.0
    return anomaly


def test_ids_fall_with_volume():
    labels = label_anomalies(two_lesions(), 0.5, spacing=SPACING, minimum_ml=0)
    assert labels.dtype == np.int32
    assert (labels == 1).sum() == 125
    assert (labels == 2).sum() == 24
    assert labels.max() == 2


@pytest.mark.parametrize(("side", "dtype"), [(4, np.uint8), (7, np.uint16)])
def test_compact_labels_are_the_same_in_the_smallest_type(side, dtype):
    anomaly = np.zeros((2 * side,) * 3, np.float32)
    anomaly[::2, ::2, ::2] = 1.0  # side ** 3 findings of one voxel
    compact = FindingLabeller(anomaly, spacing=SPACING, compact=True).label(0.5, 0)
    assert compact.dtype == dtype
    np.testing.assert_array_equal(
        compact, label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0)
    )
    assert len(np.unique(compact)) == side**3 + 1


def test_threshold_is_strict():
    anomaly = two_lesions()
    assert label_anomalies(anomaly, 1.0, spacing=SPACING, minimum_ml=0).max() == 1
    assert not label_anomalies(anomaly, 5.0, spacing=SPACING, minimum_ml=0).any()


def test_minimum_size_is_in_ml_and_inclusive():
    anomaly = two_lesions()
    assert label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0.024).max() == 2
    assert label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0.025).max() == 1
    assert label_anomalies(anomaly, 0.5, spacing=(2.0, 1.0, 1.0), minimum_ml=0.048).max() == 2
    for minimum in (1.0, 1e308):
        assert label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=minimum).max() == 0


def test_hundred_voxels_are_a_tenth_of_a_millilitre():
    anomaly = np.zeros((12, 12, 12))
    anomaly[1:5, 1:6, 1:6] = 1.0
    assert label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0.1).max() == 1


def test_corners_connect_and_gaps_do_not():
    anomaly = np.zeros((6, 6, 6))
    anomaly[1, 1, 1] = anomaly[2, 2, 2] = anomaly[4, 4, 4] = 1.0
    labels = label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0)
    assert labels[1, 1, 1] == labels[2, 2, 2] == 1
    assert labels[4, 4, 4] == 2


def test_mask_limits_and_splits():
    anomaly = np.ones((5, 5, 9))
    mask = np.ones(anomaly.shape, dtype=np.uint8)
    mask[:, :, 4] = 0
    mask[0] = 0
    labels = label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0, mask=mask)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, mask > 0)


def test_not_a_number_is_not_anomalous():
    anomaly = np.full((4, 4, 4), np.nan, dtype=np.float32)
    assert not label_anomalies(anomaly, -1.0, spacing=SPACING, minimum_ml=0).any()


def test_more_components_than_sixteen_bits_can_name():
    anomaly = np.zeros((90, 90, 90), dtype=np.float32)
    anomaly[::2, ::2, ::2] = 1.0
    labels = label_anomalies(anomaly, 0.5, spacing=SPACING, minimum_ml=0)
    assert labels.max() == 45**3 > 65_535
    assert np.unique(labels).size == 45**3 + 1


@given(
    hnp.arrays(np.float32, (6, 7, 8), elements=st.integers(0, 3).map(float)),
    st.integers(0, 3),
    st.integers(0, 6),
)
def test_equals_plain_labelling_of_the_whole_grid(anomaly, threshold, fewest):
    labels = label_anomalies(anomaly, threshold, spacing=SPACING, minimum_ml=fewest / 1000)
    plain, count = ndimage.label(anomaly > threshold, np.ones((3, 3, 3)))
    big = [n for n in range(1, count + 1) if (plain == n).sum() >= fewest]
    np.testing.assert_array_equal(labels > 0, np.isin(plain, big))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == len(big)
    assert (np.diff(sizes) <= 0).all()
    for n in big:
        assert np.unique(labels[plain == n]).size == 1


SMALL_MAPS = hnp.arrays(np.float32, (5, 6, 7), elements=st.integers(0, 4).map(float))


@given(
    SMALL_MAPS,
    hnp.arrays(np.bool_, (5, 6, 7)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6),
)
def test_a_moving_threshold_finds_what_a_fresh_one_finds(anomaly, mask, steps):
    volume = volume_from_array(anomaly, spacing=(2.0, 1.0, 1.5))
    spread = anomaly / 7 + 1
    labeller = FindingLabeller(anomaly, spacing=volume.spacing, mask=mask)
    for n, (threshold, fewest) in enumerate(steps):
        minimum = fewest * volume.voxel_ml
        fresh = label_anomalies(
            anomaly, threshold, spacing=volume.spacing, minimum_ml=minimum, mask=mask
        )
        labels, findings = labeller.find(threshold, minimum, volume, spread)
        assert findings == measure_findings(labels, anomaly, volume, spread)
        assert findings.total_ml == pytest.approx(np.count_nonzero(fresh) * volume.voxel_ml)
        np.testing.assert_array_equal(labels > 0, fresh > 0)
        # one number each, and not the same one
        pairs = set(zip(labels[fresh > 0].tolist(), fresh[fresh > 0].tolist(), strict=True))
        assert len(pairs) == len(findings) == fresh.max()
        if n == 0:
            np.testing.assert_array_equal(labels, fresh)


@given(SMALL_MAPS, st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_a_number_stays_with_its_peak(anomaly, thresholds):
    labeller = FindingLabeller(anomaly, spacing=SPACING)
    number_at: dict[int, int] = {}
    seen: dict[int, np.ndarray] = {}
    for threshold in thresholds:
        labels = labeller.label(threshold, 0)
        np.testing.assert_array_equal(labels, seen.setdefault(threshold, labels))
        for number in np.unique(labels[labels > 0]).tolist():
            inside = np.flatnonzero(labels == number)
            peak = int(inside[np.argmax(anomaly.ravel()[inside])])
            assert number_at.setdefault(peak, number) == number
    assert sorted(number_at.values()) == list(range(1, len(number_at) + 1))


@given(
    SMALL_MAPS,
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_numbers_are_taken_over_from_other_labels(anomaly, thresholds, others):
    labeller, another = (
        FindingLabeller(anomaly, spacing=SPACING),
        FindingLabeller(anomaly, spacing=SPACING),
    )
    for threshold in thresholds:
        labels = labeller.label(threshold, 0)
    for threshold in others:
        another.label(threshold, 0)
    another.renumber(labels)
    np.testing.assert_array_equal(another.label(thresholds[-1], 0), labels)
    for threshold in range(4):  # and what is new has a number of its own
        new = another.label(threshold, 0)
        numbers = np.unique(new[new > 0])
        assert (
            len(numbers) == label_anomalies(anomaly, threshold, spacing=SPACING, minimum_ml=0).max()
        )


def test_what_falls_apart_and_flows_together():
    anomaly = np.zeros((3, 3, 20), np.float32)
    anomaly[1, 1, 2:18] = 1  # a bridge ...
    anomaly[1, 1, 2:9] = 2  # ... between a large hill ...
    anomaly[1, 1, 12:17] = 2
    anomaly[1, 1, 13] = 5  # ... and a high one
    labeller = FindingLabeller(anomaly, spacing=SPACING)
    assert labeller.label(0.5, 0).max() == 1
    labels = labeller.label(1.5, 0)
    assert (labels[1, 1, 13], labels[1, 1, 4]) == (1, 2)
    assert set(np.unique(labeller.label(0.5, 0))) == {0, 1}
    np.testing.assert_array_equal(labeller.label(1.5, 0), labels)


ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, "oblique"])
def test_the_place_is_the_worlds_however_the_scan_is_stored(orientation, tmp_path):
    """A lesion is planted in the world; the file's axes must not matter."""
    turn = nib.eulerangles.euler2mat(0.3, -0.2, 0.25) if orientation == "oblique" else np.eye(3)
    axes = "LIP" if orientation == "oblique" else orientation
    linear = np.zeros((3, 3))
    for native, (world, flip) in enumerate(nib.orientations.axcodes2ornt(axes)):
        linear[int(world), native] = flip * (2.0, 2.5, 3.0)[native]
    linear = turn @ linear
    shape = (60, 52, 44)
    affine = nib.affines.from_matvec(linear, -linear @ (np.array(shape) / 2))
    world = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    planted = np.array([-32.0, 12.0, 40.0])
    lesion = (np.linalg.norm(world - planted, axis=1) < 8).reshape(shape)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(lesion.astype(np.float32), affine), path)
    volume = read_volume(path)
    labels = label_anomalies(volume.data, 0.5, spacing=volume.spacing)
    (finding,) = measure_findings(labels, volume.data, volume)
    expected = world[lesion.ravel()].mean(0)
    np.testing.assert_allclose(finding.centroid_mm, expected, atol=1e-3)
    np.testing.assert_allclose(expected, planted, atol=1)
    assert finding.volume_ml == pytest.approx(lesion.sum() * 15 / 1000)


def test_measures_by_hand():
    anomaly = two_lesions()
    volume = volume_from_array(
        anomaly, np.array([[0, 0, 1.0, -10], [0, 1.5, 0, -20], [2.0, 0, 0, -30], [0, 0, 0, 1]])
    )
    labels = label_anomalies(anomaly, 0.5, spacing=volume.spacing, minimum_ml=0)
    uncertainty = np.where(labels == 1, 0.25, 0.5)
    first, second = measure_findings(labels, anomaly, volume, uncertainty)
    assert first.id == 1
    assert first.voxels == 125
    assert first.volume_ml == pytest.approx(125 * 3 / 1000)
    # center (s, a, r) = (12, 12, 22)
    assert first.centroid_mm == pytest.approx((22 - 10, 12 * 1.5 - 20, 12 * 2 - 30))
    assert first.peak == 5
    assert first.mean == pytest.approx((124 * 2 + 5) / 125)
    assert first.slice == 12
    assert (first.uncertainty, second.uncertainty) == (0.25, 0.5)
    assert second.slice == 2  # of equal peaks the first
    assert measure_findings(labels, anomaly, volume)[0].uncertainty is None


def test_centroid_follows_an_oblique_sheared_affine():
    rng = np.random.default_rng(3)
    affine = np.eye(4)
    affine[:3] = rng.standard_normal((3, 4)) * 3
    anomaly = (rng.random((9, 8, 7)) > 0.8).astype(np.float32)
    volume = volume_from_array(anomaly, affine)
    labels = label_anomalies(anomaly, 0.5, spacing=volume.spacing, minimum_ml=0)
    for finding in measure_findings(labels, anomaly, volume):
        index = np.argwhere(labels == finding.id)
        world = nib.affines.apply_affine(affine, index).mean(0)
        np.testing.assert_allclose(finding.centroid_mm, world)
        assert finding.volume_ml == pytest.approx(len(index) * volume.voxel_ml)


@given(hnp.arrays(np.int16, (5, 6, 7), elements=st.integers(0, 5)))
def test_labels_with_gaps_as_a_person_leaves_them(labels):
    anomaly = np.arange(labels.size, dtype=np.float32).reshape(labels.shape) % 17
    volume = volume_from_array(anomaly)
    findings = measure_findings(labels, anomaly, volume)
    assert [f.id for f in findings] == [n for n in np.unique(labels) if n > 0]
    for finding in findings:
        values = anomaly[labels == finding.id]
        assert finding.voxels == values.size
        assert finding.peak == values.max()
        assert finding.mean == pytest.approx(values.mean())
        at_peak = np.argwhere((labels == finding.id) & (anomaly == finding.peak))
        assert finding.slice == at_peak[0, 0]


@pytest.mark.parametrize("painted", [-3, 2**31 - 1])
def test_any_number_may_be_painted(painted):
    labels = np.zeros((3, 4, 5), np.int32)
    labels[0, 0, :2], labels[1, 1, 1] = painted, 1
    volume = volume_from_array(np.ones(labels.shape, np.float32))
    found = {f.id: f.voxels for f in measure_findings(labels, volume.data, volume)}
    assert found == {painted: 2, 1: 1}


def test_no_findings():
    volume = volume_from_array(np.zeros((3, 4, 5), dtype=np.float32))
    assert measure_findings(np.zeros(volume.shape, np.int32), volume.data, volume) == []
    assert findings_csv([]) == ",".join(CSV_COLUMNS) + "\n"


def test_another_grid_is_refused():
    volume = volume_from_array(np.zeros((3, 4, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="grid"):
        measure_findings(np.zeros((3, 4, 4), np.int32), volume.data, volume)


@pytest.mark.parametrize(
    ("side", "distance", "source", "words", "brief"),
    [
        ("left", 31.2, "symmetry", "left, 31 mm from the midline", "left, 31 mm"),
        ("right", 30.6, "mask", "right (estimated), 31 mm from the midline", "≈ right, 31 mm"),
        ("midline", 2.0, "symmetry", "on the midline", "midline"),
        ("midline", 2.0, "mask", "on the midline (estimated)", "≈ midline"),
        (None, None, None, "side unknown", "unknown"),
    ],
)
def test_location_in_words(side, distance, source, words, brief):
    finding = Finding(
        *(1, 12.3, (-31.24, -22.0, 30.6), 2.5, 1.25, 0.125, 77, 12346),
        side=side,
        from_midline_mm=distance,
        midline_source=source,
    )
    assert finding.location == words
    assert finding.location_in_brief == brief


def test_csv_reads_back():
    findings = [
        Finding(
            *(1, 12.3456, (-31.24, -22.0, 30.6), 2.5, 1.25, 0.125, 77, 12346),
            side="right",
            from_midline_mm=12.34,
            midline_source="mask",
        ),
        Finding(2, 0.5, (4.0, 5.0, -6.0), 1.5, 1.1, None, 3, 500),
    ]
    rows = list(csv.DictReader(io.StringIO(findings_csv(findings))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[0]["volume_ml"] == "12.346"
    assert (rows[0]["x_mm"], rows[0]["y_mm"], rows[0]["z_mm"]) == ("-31.2", "-22.0", "30.6")
    told = ("side", "from_midline_mm", "midline_source")
    assert [rows[0][key] for key in told] == ["right", "12.3", "mask"]
    assert [rows[1][key] for key in told] == ["", "", ""]
    assert rows[0]["uncertainty"] == "0.125"
    assert rows[1]["uncertainty"] == ""
    assert rows[1]["slice"] == "3"
    assert {(row["decision"], row["note"]) for row in rows} == {("", "")}


def test_decisions_stand_in_the_csv_and_in_the_record():
    findings = [
        Finding(n, 1.0, (-31.24, -22.0, 30.6), 2.5, 1.25, None, 77, 1000) for n in (1, 2, 7)
    ]
    decisions = {7: Decision("rejected", 'a vessel,\nsaid "Ann"'), 2: Decision(note="ask")}
    rows = list(csv.DictReader(io.StringIO(findings_csv(findings, decisions))))
    expected = [("", ""), ("", "ask"), ("rejected", 'a vessel, said "Ann"')]
    assert [(row["decision"], row["note"]) for row in rows] == expected
    record = json.loads(json.dumps(findings_record(findings, decisions)))
    assert [(f["decision"] or "", f["note"]) for f in record] == expected
    assert [f["id"] for f in record] == [1, 2, 7]
    assert not Decision()
    assert not Decision(note="  \n ")
    assert Decision(note="x")


@pytest.mark.parametrize("note", ['=HYPERLINK("x")', "+1", "-2", "@SUM(A1)"])
def test_a_note_is_no_formula(note):
    findings = [Finding(1, 1.0, (-31.24, -22.0, 30.6), 2.5, 1.25, None, 77, 1000)]
    decisions = {1: Decision(note=note)}
    (row,) = csv.DictReader(io.StringIO(findings_csv(findings, decisions)))
    assert row["note"] == f"'{note}"
    assert findings_record(findings, decisions)[0]["note"] == note


@pytest.mark.parametrize("warning", [UNKNOWN_SIDES, GRID_OF_LAYER])
def test_an_unknown_side_is_not_claimed(warning):
    data = np.zeros((20, 20, 20), np.float32)
    data[15, 16, 3] = 1
    midline = Midline((1.0, 0.0, 0.0), 0.0, "symmetry")
    for warnings, side in ((("odd", warning), None), (("odd",), "left")):
        volume = volume_from_array(data, warnings=warnings)
        (finding,) = measure_findings(data.astype(np.int32), data, volume, midline=midline)
        assert finding.side == side
        assert ("left" in findings_csv([finding])) == (side == "left")
