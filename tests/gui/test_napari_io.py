"""Scans through napari: real layers, and the manifest's own reader, writers and sample data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import napari_builtins
import nibabel as nib
import npe2
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points
from napari.utils.notifications import notification_manager
from npe2 import DynamicPlugin, PluginManager, PluginManifest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

import napari_addm
from napari_addm.errors import AddmError, InputError
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import Volume, volume_from_array
from napari_addm.outputs.record import read_record
from napari_addm.outputs.verification import verify
from napari_addm.widgets import contributions
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_volumes import LayerData, labels_volume, layer_volume, resample_onto
from napari_addm.widgets.layers import (
    layer_geometry,
    layer_to_volume,
    spatial_part,
    volume_from_layer_data,
    volume_to_layer,
)

SHAPE = (17, 19, 23)
MANIFEST = Path(napari_addm.__file__).parent / "widgets" / "napari.yaml"

LAS = np.array([[-0.9, 0, 0, 80], [0, 1.2, 0, -60], [0, 0, 1.7, 10], [0, 0, 0, 1.0]])
TURN = nib.affines.from_matvec(Rotation.from_euler("xyz", (9, -6, 14), degrees=True).as_matrix())
SHEAR = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
PIR = LAS @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 18], [0, 0, 0, 1.0]])
AFFINES = {"LAS": LAS, "PIR": PIR, "oblique": TURN @ PIR, "sheared": TURN @ SHEAR @ LAS}


def make_data(dtype: type = np.float32) -> np.ndarray:
    return np.arange(1, np.prod(SHAPE) + 1).reshape(SHAPE).astype(dtype)


def make_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 7:9, 11:15], labels[10, 12, 2] = 1, 4
    return labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = LAS) -> Path:
    image = nib.Nifti1Image(data, affine)
    nib.save(image, path)
    return path


def open_layers(path: Path | list[Path]) -> list[Layer]:
    paths = [str(p) for p in (path if isinstance(path, list) else [path])]
    reader = contributions.get_reader(paths)
    assert reader is not None
    return [Layer.create(*item) for item in reader(paths)]


@pytest.fixture
def plugins(npe2pm: PluginManager) -> PluginManager:
    """Only our manifest, so that no other plugin can answer for us."""
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    return npe2pm


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(new_panel, viewer: ViewerModel) -> DetectWidget:
    return new_panel(viewer)


# --- volume <-> layer ----------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", AFFINES)
def test_layer_round_trip(geometry: str, tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", make_data(), AFFINES[geometry])
    volume = read_volume(path)
    (layer,) = open_layers(path)
    back = layer_to_volume(layer)

    assert isinstance(layer, Image)
    assert layer.name == "scan"
    assert back.data is layer.data
    assert_array_equal(back.data, volume.data)
    assert back.same_grid(volume, atol=0)
    assert back.source.header is not None
    assert_array_equal(back.to_native(), make_data())
    # Saved, the header's own affine comes back bit for bit.
    (written,) = contributions.write_image(
        str(tmp_path / "out.nii.gz"), *layer.as_layer_data_tuple()[:2]
    )
    assert_array_equal(nib.load(written).affine, nib.load(path).affine)
    assert_array_equal(nib.load(written).get_fdata(), make_data())


def test_layer_says_where_it_is_in_mm(tmp_path: Path) -> None:
    (layer,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()))
    volume = layer_to_volume(layer)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("S", "A", "R")
    assert_allclose(layer.scale, (1.7, 1.2, 0.9), rtol=1e-6)
    assert_array_equal(layer.affine.affine_matrix, np.eye(4))
    for index in ((0, 0, 0), (22, 18, 16), (3, 5, 7)):
        x, y, z = nib.affines.apply_affine(volume.affine, index)
        assert_allclose(layer.data_to_world(index), (z, y, x), atol=1e-4)


@pytest.mark.parametrize("geometry", ["oblique", "sheared"])
def test_turned_layer_stays_upright_about_its_center(geometry: str, tmp_path: Path) -> None:
    (layer,) = open_layers(save(tmp_path / "scan.nii.gz", make_data(), AFFINES[geometry]))
    volume = layer_to_volume(layer)
    center = (np.array(volume.shape) - 1) / 2
    steps = np.array([layer.data_to_world(one) for one in np.eye(3)]) - layer.data_to_world(
        (0, 0, 0)
    )
    assert_allclose(steps, np.diag(np.diag(steps)), atol=1e-9)
    assert_allclose(
        layer.data_to_world(center), nib.affines.apply_affine(volume.affine, center)[::-1]
    )
    output = Labels((layer.data > 900).astype(np.int32), **layer_geometry(volume))
    assert_array_equal(output.extent.world, layer.extent.world)
    assert layer_to_volume(output).same_grid(volume, atol=0)


def test_viewer_keeps_units_and_labels_of_scan_and_mask(tmp_path: Path) -> None:
    scan = save(tmp_path / "scan.nii.gz", make_data())
    mask = save(tmp_path / "scan_mask.nii.gz", make_labels())
    viewer = ViewerModel()
    for layer in open_layers([scan, mask]):
        viewer.add_layer(layer)

    assert viewer.dims.axis_labels == ("S", "A", "R")
    assert [str(unit) for unit in viewer.layers.extent.units] == ["millimeter"] * 3
    assert_array_equal(viewer.layers[0].extent.world, viewer.layers[1].extent.world)


def test_arrays_become_layers_and_volumes() -> None:
    mask = volume_from_array(make_labels() > 0)
    layer = Layer.create(*volume_to_layer(mask, "labels", name="brain", opacity=0.3))
    assert isinstance(layer, Labels)
    assert (layer.name, layer.opacity) == ("brain", 0.3)
    assert_array_equal(layer.data, make_labels() > 0)
    plain = volume_from_layer_data(make_data(), {})  # the writer needs no metadata
    assert plain.spacing == (1.0, 1.0, 1.0)
    assert_array_equal(plain.data, make_data())


def test_image_has_contrast_limits_at_once() -> None:
    data = np.zeros((80, 80, 80), np.float32)
    data[20:60, 20:60, 20:60] = np.random.default_rng(0).normal(500, 20, (40, 40, 40))
    data[40, 40, 40] = 1e6  # one hot voxel must not darken the brain
    _, arguments, _ = volume_to_layer(volume_from_array(data))

    low, high = arguments["contrast_limits"]
    assert low == 0
    assert 500 < high < 1000
    lonely = np.zeros((9, 9, 9))
    lonely[1, 1, 1] = 5
    assert volume_to_layer(volume_from_array(lonely))[1]["contrast_limits"] == (0, 5)


# --- layers of others ----------------------------------------------------------------------------


def world_of(volume: Volume, layer: Layer, value: float) -> None:
    """The voxel with `value` lies, by the volume, where napari shows it."""
    (index,) = np.argwhere(volume.data == value)
    (shown,) = np.argwhere(layer.data == value)
    ras = nib.affines.apply_affine(volume.affine, index)
    in_mm = 1e-3 if str(layer.units[0]) == "micrometer" else 1.0
    assert_allclose(ras[::-1], np.multiply(layer.data_to_world(shown), in_mm), atol=1e-4)


@pytest.mark.parametrize(
    "placing",
    [
        {"scale": (2, 1, 0.5), "translate": (5, 6, -7), "units": "mm"},
        {"scale": (2, -1, 0.5), "translate": (5, 6, -7)},
        {"affine": AFFINES["oblique"], "scale": (1, 2, 3)},
        {"rotate": (10, 20, 30), "shear": (0.1, 0, 0), "scale": (1, 2, 3)},
        {"scale": (1000, 1500, 900), "units": "um"},
    ],
)
def test_layer_of_another_plugin_is_placed_by_its_transform(placing: dict) -> None:
    layer = Image(make_data(), **placing)
    volume = layer_to_volume(layer)

    for value in (1, 18, 400, np.prod(SHAPE)):
        world_of(volume, layer, value)
    assert "check left and right" in volume.warnings[0]
    assert_array_equal(volume.to_native(), layer.data)


def test_moved_and_cropped_layers_do_not_keep_a_stale_grid(tmp_path: Path) -> None:
    (layer,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()))
    cropped = Image(
        layer.data[2:],
        scale=layer.scale,
        translate=layer.translate + np.array([2 * layer.scale[0], 0, 0]),
        metadata=layer.metadata,
        units=layer.units,
    )
    original = layer_to_volume(layer)
    for value in (1, 700):
        world_of(original, layer, value)
    assert layer_to_volume(cropped).shape == (21, 19, 17)
    assert_allclose(
        layer_to_volume(cropped).affine[:3, 3], original.affine[:3] @ (2, 0, 0, 1), atol=1e-4
    )
    layer.translate = layer.translate + np.array([0, 10, 0])
    moved = layer_to_volume(layer)
    assert_allclose(moved.affine[:3, 3] - original.affine[:3, 3], (0, 10, 0), atol=1e-4)
    assert moved.source.path is None


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Image(np.zeros((20, 20)), name="flat"), "layer 'flat' is a single 2D image: open"),
        (Image(np.zeros((4, 5, 6, 7)), name="film"), "layer 'film' has 4 axes with 4 frames"),
        (Image(np.zeros((5, 6, 7, 3)), rgb=True), "is in color: choose a gray"),
        (Image([np.zeros((8, 8, 8)), np.zeros((4, 4, 4))], multiscale=True), "several resolutions"),
        (Image(np.zeros((5, 6, 7)), units=("s", "mm", "mm")), "axis in second"),
    ],
)
def test_layers_that_are_no_volume_are_refused(layer: Layer, says: str) -> None:
    with pytest.raises(InputError, match=says):
        layer_to_volume(layer)


def test_a_volume_without_a_file_is_called_as_its_layer(tmp_path: Path) -> None:
    plain = Image(make_data(), name="plain")
    ours = Layer.create(*volume_to_layer(volume_from_array(make_data()), name="made here"))
    (of_file,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()))
    of_file.name = "renamed"
    assert layer_to_volume(plain).name == "plain"
    assert layer_to_volume(ours).name == "made here"
    assert layer_volume(LayerData.of(ours)).in_layer_order
    assert layer_to_volume(of_file).name == "scan"
    of_file.translate = of_file.translate + 5  # no longer what the file holds
    assert layer_to_volume(of_file).name == "renamed"
    # of dots alone no file is named
    assert layer_to_volume(Image(make_data(), name="...")).name == "volume"


def test_a_dicom_series_keeps_its_name() -> None:
    """It goes into the record, whatever the layer is called."""
    volume = volume_from_array(make_data())
    source = replace(volume.source, name="T1 sagittal", series=(Path("0001.dcm"),))
    layer = Layer.create(*volume_to_layer(replace(volume, source=source), name="renamed"))

    assert layer_to_volume(layer).name == "T1 sagittal"


@pytest.mark.parametrize("order", ["ours", "another plugin's"])
def test_what_is_left_out_is_said_wherever_the_labels_are_resampled_to(
    order: str, tmp_path: Path
) -> None:
    (scan,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()))
    if order != "ours":
        data = scan.data.transpose(2, 0, 1)[:, ::-1]
        scan = Image(data, name="scan", affine=np.diag([1, -1, 1, 1])[[1, 2, 0, 3]])
    shape = scan.data.shape
    labels = Labels(
        np.ones(shape, np.uint8),
        scale=scan.scale,
        translate=scan.translate,
        affine=scan.affine,
        name="brain",
    )
    where = labels.data_to_world((shape[0] // 2, 0, 0))
    labels.translate = labels.translate + where - labels.data_to_world((0, 0, 0))
    placed = layer_volume(LayerData.of(scan))
    assert placed.in_layer_order == (order == "ours")
    (item,) = resample_onto(LayerData.of(labels), LayerData.of(scan))

    volume = labels_volume(LayerData.of(Layer.create(*item)), placed.volume)
    kept = np.count_nonzero(volume.data)
    total = np.prod(shape)
    part = f"{(total - kept) * volume.voxel_ml:.3g} of its {total * volume.voxel_ml:.3g} mL"
    assert volume.warnings[-1] == f"{part} lie beyond the scan's grid and are left out."


def test_labels_of_several_frames_are_refused() -> None:
    scan = layer_to_volume(Image(make_data()))
    labels = Labels(np.ones((2, *SHAPE), np.uint8), name="film")
    with pytest.raises(InputError, match="layer 'film' has 4 axes: choose labels of one frame"):
        labels_volume(LayerData.of(labels), scan)


# --- reading: image or labels --------------------------------------------------------------------


def test_voxels_and_name_say_what_becomes_labels(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "scan_dseg.nii.gz", make_labels()),
        save(tmp_path / "wmparc.nii.gz", make_labels()),
        save(tmp_path / "lesion_T1w.nii.gz", make_labels()),
        save(tmp_path / "T1_lesion_filled.nii.gz", make_data(np.int16)),
        save(tmp_path / "lesion_mask.nii.gz", make_data() / 7),  # probabilities
    ]
    assert [type(layer) for layer in open_layers(paths)] == [Labels, Labels, Image, Image, Image]


@pytest.mark.parametrize("half", ["scan.hdr", "scan.img"])
def test_each_half_of_a_pair_opens_the_scan(
    half: str, plugins: PluginManager, tmp_path: Path
) -> None:
    nib.save(nib.Nifti1Pair(make_data(), LAS), tmp_path / "scan.hdr")
    layers, reader = npe2.io_utils.read_get_reader([str(tmp_path / half)], stack=False)
    assert reader.command == "napari-addm.get_reader"
    ((voxels, arguments, kind),) = layers
    assert (kind, arguments["name"]) == ("image", "scan")
    assert_array_equal(voxels, read_volume(tmp_path / "scan.hdr").data)


def test_a_damaged_mask_is_refused_in_words(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii.gz", make_labels())
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"mask\.nii\.gz is cut short"):
        open_layers(path)


# --- reading: several frames ---------------------------------------------------------------------


def film(count: int = 3) -> np.ndarray:
    return np.stack([make_data() * (n + 1) for n in range(count)], axis=-1)


@pytest.mark.parametrize("geometry", AFFINES)
def test_several_frames_become_one_layer(geometry: str, tmp_path: Path) -> None:
    path = save(tmp_path / "film.nii.gz", film(), AFFINES[geometry])
    alone = open_layers(save(tmp_path / "one.nii.gz", make_data(), AFFINES[geometry]))[0]
    (layer,) = open_layers(path)

    assert isinstance(layer, Image)
    assert layer.name == "film"
    assert layer.data.shape == (3, *alone.data.shape)
    assert layer.axis_labels == ("frame", "S", "A", "R")
    assert [str(unit) for unit in layer.units] == ["pixel", *["millimeter"] * 3]
    assert_array_equal(layer.scale, (1, *alone.scale))
    assert_array_equal(layer.translate, (0, *alone.translate))
    for frame in (1, 0, 2):
        assert_array_equal(np.asarray(layer.data[frame]), alone.data * (frame + 1))


def test_only_the_frames_that_are_looked_at_are_read(tmp_path: Path) -> None:
    data = film()
    data[..., 2] = np.nan  # which is refused once it is read
    (layer,) = open_layers(save(tmp_path / "film.nii", data))

    assert_array_equal(np.asarray(layer.data[1]).sum(), 2 * make_data().sum())
    with pytest.raises(InputError, match=r"film\.nii holds no number in any voxel"):
        np.asarray(layer.data[2])


def test_frames_of_labels_become_labels(tmp_path: Path) -> None:
    frames = np.stack([make_labels(), make_labels() * 2], axis=-1)
    (labels,) = open_layers(save(tmp_path / "film_mask.nii.gz", frames))
    assert type(labels) is Labels
    assert_array_equal(np.unique(labels.data[1]), (0, 2, 8))
    (probabilities,) = open_layers(save(tmp_path / "other_mask.nii.gz", film() / 7))
    assert type(probabilities) is Image


def test_warnings_are_shown_but_not_that_a_frame_was_used(tmp_path: Path) -> None:
    before = len(notification_manager.records)
    thick = np.diag([1, 1, 5, 1])
    open_layers(save(tmp_path / "scan.nii.gz", make_data(), thick))
    open_layers(save(tmp_path / "film.nii.gz", film(), thick))
    open_layers(save(tmp_path / "good.nii.gz", film()))
    scan, frames = notification_manager.records[before:]
    assert "scan: Slices are 5 mm apart" in scan.message
    assert "film: Slices are 5 mm apart" in frames.message
    assert "was used" not in frames.message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (make_data()[..., None, None].repeat(2, axis=4), r"has 4 dimensions .*: export one 3D"),
        (np.zeros((*SHAPE, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "a color picture"),
    ],
)
def test_five_axes_and_colors_are_refused(data: np.ndarray, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        open_layers(save(tmp_path / "film.nii.gz", data))


def test_one_frame_opens_as_a_scan(tmp_path: Path) -> None:
    (layer,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()[..., None]))
    assert layer.ndim == 3
    assert layer_to_volume(layer).source.path == tmp_path / "scan.nii.gz"


def test_a_part_of_the_frames_names_no_file(tmp_path: Path) -> None:
    """Nobody knows any more which they are."""
    (layer,) = open_layers(save(tmp_path / "film.nii.gz", film()))
    data, arguments, _ = layer.as_layer_data_tuple()
    for part, frame in ((data[1:], (0,)), (data[1:2], None)):
        volume = volume_from_layer_data(*spatial_part(part, arguments, frame))
        assert_array_equal(volume.data, data[1])
        assert volume.source.path is None
    whole = volume_from_layer_data(*spatial_part(data, arguments, (1,)))
    assert whole.source.path == tmp_path / "film.nii.gz"
    assert whole.warnings == ("Frame 1 of 3 was used.",)


@pytest.mark.parametrize("path", ["a.png", "a.tif", "folder", ["a.nii", "a.png"], []])
def test_other_files_are_left_to_others(path: str | list[str]) -> None:
    assert contributions.get_reader(path) is None


# --- a frame, taken in the panel -----------------------------------------------------------------

LPS = np.diag([-0.9, -1.2, 1.7, 1.0]) @ np.array(
    [[1, 0, 0, -80], [0, 1, 0, -60], [0, 0, 1, 10], [0, 0, 0, 1.0]]
)


@pytest.mark.parametrize("affine", [LPS, AFFINES["oblique"]], ids=["LPS", "oblique PIR"])
def test_a_frame_is_saved_where_the_file_has_it(
    affine: np.ndarray, panel: DetectWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    path = save(tmp_path / "film.nii.gz", film(), affine)
    alone = save(tmp_path / "one.nii.gz", film()[..., 1], affine)
    viewer.open(path, plugin="napari-addm")
    assert "go to the frame you want and press 'Take this frame'" in panel.inputs.message.text()
    viewer.dims.set_current_step(0, 1)
    panel.inputs.frame_button.click()

    assert panel.notices.error.text() == ""
    assert panel.inputs.message.text() == ""
    assert panel.inputs.scan_chooser.currentText() == "film 1"
    taken = viewer.layers["film 1"]
    viewer.open(alone, plugin="napari-addm")
    like = viewer.layers["one"]  # the same frame as a file of its own
    assert_array_equal(taken.data, like.data)
    assert_array_equal(taken.extent.world, like.extent.world)
    volume = layer_to_volume(taken)
    assert volume.same_grid(layer_to_volume(like), atol=0)
    assert volume.source.path == path
    assert volume.warnings == ("Frame 1 of 3 was used.",)
    taken.save(str(tmp_path / "saved.nii.gz"), plugin="napari-addm")
    saved = nib.load(tmp_path / "saved.nii.gz")
    assert_array_equal(saved.get_fdata(), film()[..., 1])
    assert_array_equal(saved.affine, nib.load(path).affine)
    # what is drawn on a frame does not come back with the film's
    taken.data[:] = 0
    assert_array_equal(np.asarray(viewer.layers["film"].data[1]), like.data)


def test_a_record_names_the_frame(
    panel: DetectWidget, viewer: ViewerModel, run, finish, scan: Volume, tiny_checkpoint, tmp_path
) -> None:
    head = scan.to_native()
    frames = np.stack([head * 0.9, head], axis=-1)
    path = save(tmp_path / "film.nii.gz", frames, nib.load(scan.source.path).affine)
    viewer.add_layer(open_layers(path)[0])
    viewer.dims.set_current_step(0, 1)
    panel.inputs.frame_button.click()
    run(panel)
    panel.saving.save(tmp_path)
    finish(panel)

    record = tmp_path / "film_record.json"
    assert read_record(record).input.frame == 1
    assert verify(record, model=tiny_checkpoint).verdict in ("identical", "same")


def test_a_frame_of_a_film_that_was_moved_lies_where_it_is_shown(
    panel: DetectWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    (layer,) = open_layers(save(tmp_path / "film.nii.gz", film()))
    layer.translate = layer.translate + np.array([0, 3, 0, 0])
    viewer.add_layer(layer)
    panel.inputs.frame_button.click()

    taken = viewer.layers["film 1"]  # where a viewer begins
    assert_array_equal(taken.extent.world, layer.extent.world[:, 1:])
    volume = layer_to_volume(taken)
    assert volume.source.path is None
    world_of(volume, taken, 400)


def test_a_film_whose_file_is_gone_is_said(
    panel: DetectWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    path = save(tmp_path / "film.nii.gz", film(5))
    viewer.add_layer(open_layers(path)[0])
    for frame in (4, 3, 2):  # others than the one that is taken
        viewer.dims.set_current_step(0, frame)
    path.unlink()
    viewer.layers[0].visible = False
    viewer.dims.set_current_step(0, 1)
    panel.inputs.frame_button.click()

    assert f"{path} does not exist" in panel.notices.error.text()
    assert len(viewer.layers) == 1


# --- through the manifest ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ", "scan.mgz"])
def test_npe2_reads_and_writes_edited_layers(
    name: str, plugins: PluginManager, tmp_path: Path
) -> None:
    if name.endswith("mgz"):
        from nibabel.freesurfer import MGHImage

        path = tmp_path / name
        nib.save(MGHImage(make_data(), AFFINES["oblique"]), path)
    else:
        path = save(tmp_path / name.lower(), make_data(), AFFINES["oblique"])
        path = path.rename(tmp_path / name)
    (item,) = npe2.read([str(path)], stack=False, plugin_name="napari-addm")
    image = Layer.create(*item)
    labels = Labels(np.zeros(image.data.shape, np.int32), **layer_geometry(layer_to_volume(image)))
    labels.data[4, 5, 6] = 2
    labels.paint((10, 10, 10), 3)
    image.data[1, 2, 3] = -5.5

    for layer, target in ((image, "image.nii.gz"), (labels, "labels.nii")):
        written = npe2.write(
            str(tmp_path / target), [layer.as_layer_data_tuple()], plugin_name="napari-addm"
        )
        assert written == [str(tmp_path / target)]

    scan = read_volume(path)
    saved = read_volume(tmp_path / "image.nii.gz")
    assert_array_equal(saved.data, image.data)
    assert saved.data[1, 2, 3] == np.float32(-5.5)
    assert saved.same_grid(scan, atol=1e-3)
    edited = read_labels(tmp_path / "labels.nii")
    assert_array_equal(edited.data, labels.data)
    assert set(np.unique(edited.data)) == {0, 2, 3}
    assert nib.load(tmp_path / "labels.nii").get_data_dtype() == np.uint8
    assert nib.load(tmp_path / "labels.nii").shape == SHAPE


def test_ours_is_asked_for_by_name_where_another_plugin_claims_nifti_too(
    plugins: PluginManager, tmp_path: Path
) -> None:
    """napari's builtins claim .nii.gz as well, so code must say which plugin it means."""
    other = DynamicPlugin("someone-else", plugin_manager=plugins)
    with other:

        @other.contribute.reader(filename_patterns=["*.nii.gz"])
        def get_reader(path: str):  # type: ignore[no-untyped-def]
            return lambda path: [(np.zeros((2, 2)), {}, "image")]

        path = str(save(tmp_path / "scan.nii.gz", make_data()))
        ((data, _, _),) = npe2.read([path], stack=False, plugin_name="napari-addm")
    assert data.shape == (23, 19, 17)


def test_saving_again_replaces_the_result_but_never_the_scan(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", make_data())
    (layer,) = open_layers(path)
    for value in (1, 77):
        layer.data[0, 0, 0] = value
        arguments = layer.as_layer_data_tuple()[:2]
        contributions.write_image(str(tmp_path / "out.nii.gz"), *arguments)
    assert read_volume(tmp_path / "out.nii.gz").data[0, 0, 0] == 77
    with pytest.raises(AddmError, match="not overwritten"):
        contributions.write_image(str(path), *arguments)


@pytest.fixture
def builtins(npe2pm: PluginManager) -> PluginManager:
    """Our manifest behind napari's own, as in an application."""
    own = Path(napari_builtins.__file__).parent / "builtins.yaml"
    for manifest in (own, MANIFEST):
        npe2pm.register(PluginManifest.from_file(manifest))
    return npe2pm


def scan_and_more(viewer: ViewerModel, folder: Path) -> dict[str, Layer]:
    """A scan, labels on another grid, a copy in micrometers, and layers that are no volumes."""
    scan = open_layers(save(folder / "scan.nii.gz", make_data(), AFFINES["oblique"]))[0]
    labels = open_layers(save(folder / "mask.nii", make_labels(), AFFINES["PIR"]))[0]
    plain = Image(make_data()[::2], name="a/b: c", scale=(2000, 1000, 3000), units=("um",) * 3)
    layers = [
        scan,
        labels,
        plain,
        Image(make_data()[0], name="photo"),
        Points(ndim=3, name="marks"),
    ]
    for layer in layers:
        viewer.add_layer(layer)
    return {layer.name: layer for layer in layers}


def test_several_layers_are_saved_each_on_its_grid_under_its_name(
    builtins: PluginManager, viewer: ViewerModel, tmp_path: Path
) -> None:
    layers = scan_and_more(viewer, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    before = len(notification_manager.records)
    written = viewer.layers.save(str(out / "case.nii.gz"))
    names = {"scan": "case_scan", "mask": "case_mask", "a/b: c": "case_a_b_ c"}
    assert sorted(written) == sorted(str(out / f"{name}.nii.gz") for name in names.values())
    for name, file in names.items():
        saved = read_volume(out / f"{file}.nii.gz", constant=True)
        assert saved.same_grid(layer_to_volume(layers[name]), atol=1e-3)
        assert_array_equal(saved.to_native().sum(), layers[name].data.sum())
    (words, told) = [str(one.message) for one in notification_manager.records[before:]]
    assert words.startswith("Not saved: layer 'photo' is a single 2D image")
    assert "'marks' holds no voxels" in words
    assert "case_scan.nii.gz" in told

    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.nii*")}
    with pytest.raises(AddmError, match="exists already"):
        viewer.layers.save(str(out / "case.nii.gz"))
    with pytest.raises(AddmError, match="exists already"):
        viewer.layers.save(str(tmp_path / "scan.nii.gz"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii*")} == kept
    another = viewer.add_image(make_data()[0])
    viewer.layers.selection = {layers["photo"], layers["marks"], another}
    with pytest.raises(AddmError, match="None of these layers"):
        viewer.layers.save(str(out / "other.nii"), selected=True)


def test_layers_saved_into_a_folder_keep_their_grid(
    builtins: PluginManager, viewer: ViewerModel, tmp_path: Path
) -> None:
    layers = scan_and_more(viewer, tmp_path)
    viewer.layers.remove(layers["marks"])  # with points, napari's own writer comes first
    written = {Path(path).name for path in viewer.layers.save(str(tmp_path / "all"))}
    assert written == {"scan.nii.gz", "mask.nii.gz", "a_b_ c.nii.gz", "photo.tif"}
    assert written == {path.name for path in (tmp_path / "all").iterdir()}
    saved = read_volume(tmp_path / "all" / "scan.nii.gz")
    assert saved.same_grid(layer_to_volume(layers["scan"]), atol=1e-3)
    # where nothing is ours, napari saves as it does without us
    for name in ("scan", "mask", "photo"):
        viewer.layers.remove(layers[name])
    layers["a/b: c"].name = "plain"
    viewer.add_image(make_data(), name="another")
    viewer.layers.save(str(tmp_path / "others"))
    assert {path.name for path in (tmp_path / "others").iterdir()} == {"plain.tif", "another.tif"}


def test_one_layer_has_one_writer_of_ours(builtins: PluginManager) -> None:
    for kinds, count in ((["image"], 1), (["labels"], 1), (["image", "labels"], 2)):
        writers = builtins.iter_compatible_writers(kinds)
        assert sum(writer.plugin_name == "napari-addm" for writer in writers) == count


def test_files_opened_as_a_stack_are_layers_with_words(
    plugins: PluginManager, tmp_path: Path
) -> None:
    files = [str(save(tmp_path / f"{n}.nii.gz", make_data() + n)) for n in range(2)]
    before = len(notification_manager.records)
    layers = npe2.read(files, stack=True, plugin_name="napari-addm")
    assert len(layers) == 2
    assert "a layer of its own" in str(notification_manager.records[before].message)
    npe2.read(files[:1], stack=False, plugin_name="napari-addm")
    assert len(notification_manager.records) == before + 1


def test_a_name_without_a_suffix_becomes_a_nifti(tmp_path: Path) -> None:
    (layer,) = open_layers(save(tmp_path / "scan.nii.gz", make_data()))
    arguments = layer.as_layer_data_tuple()[:2]
    (written,) = contributions.write_image(str(tmp_path / "sub-1.T1"), *arguments)
    assert written == str(tmp_path / "sub-1.T1.nii.gz")
    with pytest.raises(AddmError, match="exists already"):  # napari asked about another name
        contributions.write_image(str(tmp_path / "sub-1.T1"), *arguments)


def test_demo_case_comes_through_the_manifest(plugins: PluginManager) -> None:
    ((plugin, (sample,)),) = plugins.iter_sample_data()
    scan, lesion = (Layer.create(*item) for item in sample.open(_registry=plugins.commands))
    assert plugin == "napari-addm"
    assert (type(scan), type(lesion)) == (Image, Labels)
    assert layer_to_volume(scan).same_grid(layer_to_volume(lesion))
    assert layer_to_volume(scan).warnings == ()
    assert set(np.unique(lesion.data)) == {0, 1}
