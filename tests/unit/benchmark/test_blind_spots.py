"""Lesions drawn into healthy brains, and what a model finds of them."""

import json

import numpy as np
import pytest
from scipy import ndimage
from support import invoke

from napari_addm.benchmark.blind_spots import UNALTERED, Spot, spots_markdown, summarize_spots
from napari_addm.benchmark.simulated_lesions import (
    KINDS,
    SPOTS,
    HealthyBrain,
    kinds_with,
    simulate,
)
from napari_addm.errors import InputError
from napari_addm.io.writing import write_volume

ML = {"cyst_7": 7, "cyst_21": 21, "bleed_5": 5, "mass_7": 7, "mass_21": 21}
ML |= {"spots": SPOTS * 0.3, "subdural_20": 20}
GRIDS = {
    "straight": (np.array([[3, 0, 0, -84], [0, 3, 0, -99], [0, 0, 3, -75], [0, 0, 0, 1.0]]), 1),
    "flipped": (np.array([[0, -4, 0, 100], [0, 0, 3, -99], [-2.5, 0, 0, 80], [0, 0, 0, 1.0]]), 2),
}
SHAPES = {"straight": (56, 66, 50), "flipped": (64, 50, 66)}


@pytest.fixture(params=GRIDS)
def brain(request, make_brain) -> HealthyBrain:
    affine, seed = GRIDS[request.param]
    scan = make_brain(affine, SHAPES[request.param])
    noise = np.random.default_rng(seed).normal(0, 1, scan.shape)
    mask = scan.data > 0
    return HealthyBrain(scan.with_data(np.where(mask, scan.data + noise, 0)), mask)


@pytest.mark.parametrize("kind", ML)
def test_a_lesion_has_its_volume_and_lies_in_one_piece_of_brain(brain, kind):
    made = simulate(KINDS[kind], brain)
    # spots may overlap
    least, most = (0.7 if kind == "spots" else 0.97) * ML[kind], 1.03 * ML[kind]
    assert least < brain.millilitres(made.lesion) < most
    assert not (made.lesion & ~made.brain).any()
    assert not made.scan.data[~made.brain].any()
    assert np.isfinite(made.scan.data).all()
    assert np.array_equal(made.scan.affine, brain.scan.affine)
    if kind != "spots":
        parts, _ = ndimage.label(made.lesion, np.ones((3, 3, 3)))
        assert np.bincount(parts.ravel())[1:].max() > 0.98 * made.lesion.sum()


@pytest.mark.parametrize(("kind", "tone"), [("cyst_21", "fluid"), ("mass_21", "gray")])
def test_tissue_is_replaced_in_the_lesion_alone(brain, kind, tone):
    made = simulate(KINDS[kind], brain)
    core = ndimage.binary_erosion(made.lesion)
    assert np.median(made.scan.data[core]) == pytest.approx(brain.tones[tone], rel=0.1)
    far = ndimage.distance_transform_edt(~made.lesion, sampling=brain.spacing) > 6
    assert np.array_equal(made.scan.data[far], brain.values[far])


def test_a_subdural_crescent_lies_on_the_surface_of_one_half_and_pushes_the_brain(brain):
    made = simulate(KINDS["subdural_20"], brain)
    assert brain.depth_mm[made.lesion].max() < 20
    across = np.argwhere(made.lesion)[:, 2] - (brain.mask.shape[2] - 1) / 2
    assert (across > -2).all() or (across < 2).all()
    behind = (brain.depth_mm > 8) & ~made.lesion
    assert (made.scan.data[behind] != brain.values[behind]).any()
    other = np.indices(brain.mask.shape)[2] - (brain.mask.shape[2] - 1) / 2
    other = (other * np.sign(across.mean()) < -4) & brain.mask
    assert np.allclose(made.scan.data[other], brain.values[other], atol=1e-3)


def test_the_seed_decides_the_place(brain):
    first, again, other = (simulate(KINDS["cyst_7"], brain, seed).lesion for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_stroke_lies_where_its_shape_lies_in_the_brain(brain, tmp_path):
    there = np.zeros((157, 189, 136), bool)
    there[120:141, 80:101, 70:91] = True  # 9 mL, on the left
    packed = {
        "bits": np.packbits(there[100:150, 70:110, 60:100]),
        "shape": np.array([[50, 40, 40]]),
        "offset": np.array([[100, 70, 60]], np.int16),
        "affine": np.array([[-1, 0, 0, 78], [0, 1, 0, -112], [0, 0, 1, -50], [0, 0, 0, 1.0]]),
        "volume_mL": np.array([9.3]),
    }
    packed["pos"] = np.array([0, len(packed["bits"])])
    np.savez(tmp_path / "shapes.npz", **packed)
    made = simulate(kinds_with(tmp_path / "shapes.npz")["stroke"], brain)
    x, y, z = (
        brain.scan.affine[:3, :3] @ np.argwhere(made.lesion).mean(0) + brain.scan.affine[:3, 3]
    )
    # The ellipsoid's radii are 75, 90 and 65 mm, those of MNI's brain 71, 89.5 and 73.
    assert (x, y, z) == pytest.approx((-52 * 75 / 71, -5 * 90 / 89.5, 23 * 65 / 73), abs=4)
    assert 7 < brain.millilitres(made.lesion) < 12


def test_what_is_no_file_of_shapes_is_refused(brain, tmp_path):
    (tmp_path / "shapes.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"shapes\.npz cannot be read"):
        simulate(kinds_with(tmp_path / "shapes.npz")["stroke"], brain)


def test_a_piece_of_a_brain_is_refused(make_brain):
    scan = make_brain(np.diag([3.0, 3, 3, 1]), (8, 8, 8))
    with pytest.raises(InputError, match="too small"):
        simulate(KINDS["cyst_7"], HealthyBrain(scan, scan.data > 0))


def spot(kind, share, ml=0.0, auprc=0.5):
    return Spot(kind, "brain", 7.0, share, int(ml > 0), ml, auprc, 0.9)


def test_found_and_missed_are_counted_for_each_kind():
    spots = [spot("cyst_7", 0.04, 1.0), spot("cyst_7", 0.26, 4.0, 0.7), spot("spots", 0.0)]
    spots += [spot(UNALTERED, None), spot(UNALTERED, None, 2.0)]
    cyst, small, healthy = summarize_spots(spots, KINDS)
    assert (cyst.found, cyst.brains, cyst.share, cyst.auprc) == (1, 2, pytest.approx(0.15), 0.6)
    assert (small.found, small.brains) == (0, 1)
    assert (healthy.title, healthy.found, healthy.brains, healthy.share) == (
        "No lesion",
        1,
        2,
        None,
    )
    assert "| Cyst, 7 mL | 1 of 2 | 15% | 2.5 | 0.60 | 0.90 |" in spots_markdown([cyst])


def test_the_command_writes_every_row(tmp_path, make_brain, tiny_checkpoint):
    affine, _ = GRIDS["straight"]
    scan = make_brain(affine, SHAPES["straight"])
    (tmp_path / "healthy").mkdir()
    write_volume(tmp_path / "healthy" / "one.nii.gz", scan)
    line = ["blind-spots", tmp_path / "healthy", "-o", tmp_path / "out"]
    line += ["--checkpoint", tiny_checkpoint, "--kinds", "cyst_21,bleed_5"]
    done = invoke(line)
    assert done.exit_code == 0, done.output
    rows = (tmp_path / "out" / "blind_spots.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["kind", "none", "cyst_21", "bleed_5"]
    result = json.loads((tmp_path / "out" / "blind_spots.json").read_text())
    assert [each["title"] for each in result["summary"]][1:] == [
        KINDS["cyst_21"].title,
        KINDS["bleed_5"].title,
    ]
    assert "| Cyst, 21 mL |" in done.stdout


def test_unknown_kinds_and_empty_folders_are_refused(tmp_path):
    done = invoke(["blind-spots", tmp_path, "-o", tmp_path / "out", "--kinds", "cyst"])
    assert "--kinds cyst: choose some of cyst_7" in done.stderr
    done = invoke(["blind-spots", "-o", tmp_path / "out"])
    assert "Name some healthy scans" in done.stderr
    assert not (tmp_path / "out").exists()
