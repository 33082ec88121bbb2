"""DICOM series that tests write, and segmentations that they read back."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_addm.io.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
hd = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
gdcm = pytest.importorskip("gdcm", reason="the extra dicom is not installed")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    generate_uid,
)

NAME = "Doe^Jane"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Direction of a row, direction of a column (LPS), and along which the images are stacked.
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": ((0.96, 0.28, 0), (-0.28, 0.96, 0)),
    "tilted": ((1, 0, 0), (0, 0.8, -0.6)),
}


def write_series(
    folder: Path,
    plane: str = "axial",
    shape: tuple[int, int, int] = (12, 20, 24),
    spacing: tuple[float, float, float] = (3.0, 1.5, 1.25),
    data: np.ndarray | None = None,
    origin: tuple[float, float, float] = (-30.0, 40.0, -25.0),
    backwards: bool = False,
    **tags: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a series; returns its voxels (slice, row, column) and their affine to LPS mm."""
    folder.mkdir(parents=True, exist_ok=True)
    row, column = (np.array(v, float) for v in PLANES[plane])
    normal = np.cross(row, column)
    affine = np.eye(4)
    for n, (direction, step) in enumerate(zip((normal, column, row), spacing, strict=True)):
        affine[:3, n] = direction * step
    affine[:3, 3] = origin
    if data is None:
        data = np.random.default_rng(0).integers(1, 900, shape)
    study, series, place = generate_uid(), generate_uid(), generate_uid()
    for n in range(shape[0]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = place
        image.PatientName, image.PatientID = NAME, NAME
        image.PatientBirthDate, image.PatientSex = "19700101", "F"
        image.Modality, image.Manufacturer = "MR", "SIEMENS"
        image.StudyDate, image.StudyTime, image.StudyID = "20240101", "120000", "1"
        image.AccessionNumber, image.ReferringPhysicianName = "", ""
        image.SeriesNumber, image.SeriesDescription = 4, "t1_mprage_sag"
        image.InstanceNumber = shape[0] - n if backwards else n + 1
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.MRAcquisitionType = "3D"
        image.Rows, image.Columns = shape[1:]
        image.PixelSpacing = [float(spacing[1]), float(spacing[2])]
        image.SliceThickness = float(spacing[0])
        image.ImageOrientationPatient = [*row.tolist(), *column.tolist()]
        image.ImagePositionPatient = (affine[:3, :3] @ (n, 0, 0) + affine[:3, 3]).tolist()
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.EchoTime, image.RepetitionTime = 2.5, 1900
        for tag, value in tags.items():
            setattr(image, tag, value)
        image.PixelData = data[n].astype("<u2").tobytes()
        image.save_as(folder / f"IM{n:04d}", enforce_file_format=True)
    return data, affine


def write_multi_frame(path: Path, files: list[Path]) -> Path:
    """Write the images of a series as the frames of one enhanced image, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [pydicom.dcmread(file) for file in files]
    whole = images[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    whole.NumberOfFrames = len(images)

    def group(name: str, **tags: Any) -> pydicom.Dataset:
        groups, item = pydicom.Dataset(), pydicom.Dataset()
        for tag, value in tags.items():
            setattr(item, tag, value)
        setattr(groups, name, [item])
        return groups

    shared = group(
        "PlaneOrientationSequence", ImageOrientationPatient=whole.ImageOrientationPatient
    )
    measures = {"PixelSpacing": whole.PixelSpacing, "SliceThickness": whole.SliceThickness}
    shared.update(group("PixelMeasuresSequence", **measures))
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [
        group("PlanePositionSequence", ImagePositionPatient=image.ImagePositionPatient)
        for image in images
    ]
    if "RescaleSlope" in whole:
        for image, groups in zip(images, whole.PerFrameFunctionalGroupsSequence, strict=True):
            scale = {tag: image[tag].value for tag in ("RescaleSlope", "RescaleIntercept")}
            groups.update(group("PixelValueTransformationSequence", **scale))
        del whole.RescaleSlope, whole.RescaleIntercept
    whole.PixelData = b"".join(image.PixelData for image in images)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, tag)
    whole.save_as(path, enforce_file_format=True)
    return path


def change(path: Path, **tags: Any) -> None:
    image = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(image, tag, value)
    image.save_as(path)


def compress(path: Path, syntax: str) -> None:
    """Store the pixels of an image in another transfer syntax, by GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax


def to_multi_frame(folder: Path, order: Iterable[int] | None = None) -> None:
    """Put the images of a folder into one, in their order or in a given one."""
    files = sorted(folder.iterdir())
    chosen = files if order is None else [files[n] for n in order]
    write_multi_frame(folder / "frames", chosen)
    for file in files:
        file.unlink()


def assert_placed(volume: Volume, files: Iterable[Path], atol: float = 0.11) -> None:
    """Check every voxel against the images, by the attributes of the standard alone."""
    count = 0
    for path in files:
        image = pydicom.dcmread(path, force=True)
        image.file_meta.setdefault("TransferSyntaxUID", ExplicitVRLittleEndian)
        plugins = {JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pillow"}
        plugin = plugins.get(image.file_meta.TransferSyntaxUID, "")
        image.pixel_array_options(decoding_plugin=plugin)  # GDCM may end the process
        pictures = image.pixel_array.reshape(-1, image.Rows, image.Columns)
        rows, columns = np.indices(pictures.shape[1:]).reshape(2, -1)
        for n, picture in enumerate(pictures):

            def find(group: str, tag: str, n: int = n, image: Any = image) -> Any:
                places = [image.get("SharedFunctionalGroupsSequence", [{}])[0]]
                if "PerFrameFunctionalGroupsSequence" in image:
                    places.insert(0, image.PerFrameFunctionalGroupsSequence[n])
                for place in places:
                    if group in place and tag in place.get(group)[0]:
                        return place.get(group)[0].get(tag)
                return image.get(tag)

            turn = np.array(find("PlaneOrientationSequence", "ImageOrientationPatient"), float)
            start = np.array(find("PlanePositionSequence", "ImagePositionPatient"), float)
            down, across = (float(x) for x in find("PixelMeasuresSequence", "PixelSpacing"))
            slope = find("PixelValueTransformationSequence", "RescaleSlope")
            inter = find("PixelValueTransformationSequence", "RescaleIntercept")
            world = start + np.outer(columns * across, turn[:3]) + np.outer(rows * down, turn[3:])
            there = nib.affines.apply_affine(np.linalg.inv(volume.affine) @ LPS, world)
            nearest = np.rint(there).astype(int)
            off = nib.affines.apply_affine(volume.affine, nearest) - world * (-1, -1, 1)
            assert np.linalg.norm(off, axis=1).max() <= atol
            values = picture.ravel() * float(1 if slope is None else slope)
            values = np.float32(values + float(0 if inter is None else inter))
            np.testing.assert_allclose(volume.data[tuple(nearest.T)], values, rtol=1e-6)
            count += values.size
    assert count == volume.data.size


def segmented_labels(path: Path, volume: Volume) -> np.ndarray:
    """The findings of a DICOM segmentation, as highdicom reads it, on a volume's grid."""
    seg = hd.seg.segread(path)
    numbers = [0, *(int(each.SegmentLabel.split()[-1]) for each in seg.SegmentSequence)]
    stored = seg.get_volume(combine_segments=True)
    index = np.argwhere(stored.array)
    world = nib.affines.apply_affine(LPS @ stored.affine, index)
    there = nib.affines.apply_affine(np.linalg.inv(volume.affine), world)
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max(initial=0) < 0.02
    found = np.zeros(volume.shape, int)
    found[tuple(nearest.T)] = np.array(numbers)[stored.array[tuple(index.T)]]
    return found
