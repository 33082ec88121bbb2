"""Registration of a brain to another one: of a scan to a template, or of a patient's two scans.

SimpleITK searches (the extra ``regions``). What is not brain is left out of both images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.arrays import Mask, bounding_box, voxel_spacing
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

Kind = Literal["rigid", "affine"]

STEP_MM = 2.0
"""Voxel size of the finest images that are compared."""
LEVELS_MM = (8.0, 4.0)
"""Voxel sizes of the search, from coarse to fine."""
MARGIN_MM = 10.0
"""Background that is kept around a brain."""
BRIGHTEST = 3.0
"""Values above this many times the brain's median are cut: vessels, and what is no brain."""
# What a step keeps of its length where it turns round. With 0.6, the search ends up to 10 degrees
# beside the place in a smooth brain.
STEP_KEPT = 0.8
# Steps in mm, at the place that moves most. A larger first step makes the affine search diverge.
FIRST_STEP_MM: dict[Kind, float] = {"rigid": 2.0, "affine": 0.5}
LAST_STEP_MM = 0.005
MOST_STEPS = 100
DEFORM_LEVELS = ((4, 50), (2, 50), (1, 15))
"""How much coarser the grid of each level is, and how many steps the search takes there."""
DEFORM_SMOOTHING = 1.5
"""Standard deviation by which a displacement is smoothed after each step, voxels of its level."""

_lock = Lock()


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the places of a fixed brain lie in a moving one.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        A place in the fixed scan to the same place in the moving scan, both in world RAS+ mm. So
        ``inv(matrix) @ moving.affine`` puts the moving scan where the fixed one lies.
    similarity : float
        Correlation of the two images in the part of the brain that both have.
    overlap : float
        Dice of the two brain masks.
    """

    matrix: NDArray[np.float64]
    similarity: float
    overlap: float


def register(
    moving: Volume, moving_mask: Mask, fixed: Volume, fixed_mask: Mask, kind: Kind = "affine"
) -> Registration:
    """Find where the places of one brain lie in another.

    Contrast and units of the two may differ. The heads may be turned by 30 degrees. The same input
    gives the same result.

    Parameters
    ----------
    moving : Volume
    moving_mask : ndarray of bool, shape (S, A, R)
        Its brain.
    fixed : Volume
    fixed_mask : ndarray of bool, shape (S, A, R)
        Its brain.
    kind : {"rigid", "affine"}
        Rigid for two scans of one patient.

    Raises
    ------
    MissingExtraError
        When SimpleITK is not installed.
    AddmError
        When the brains cannot be compared, such as when one is empty.
    """
    itk = load_simpleitk()
    if not (moving_mask.any() and fixed_mask.any()):
        raise AddmError(f"{moving.name} cannot be registered: a brain mask is empty.")
    one, one_mask = brain_image(fixed, fixed_mask)
    other, other_mask = brain_image(moving, moving_mask)
    try:
        moments = itk.CenteredTransformInitializerFilter.MOMENTS
        found = itk.CenteredTransformInitializer(
            one_mask, other_mask, itk.Euler3DTransform(), moments
        )
        found = itk.Euler3DTransform(found)
        _search(one, other, found, LEVELS_MM, "rigid")
        if kind == "affine":
            rigid, found = found, itk.AffineTransform(3)
            found.SetCenter(rigid.GetCenter())
            found.SetMatrix(rigid.GetMatrix())
            found.SetTranslation(rigid.GetTranslation())
            _search(one, other, found, LEVELS_MM[1:], "affine")
    except RuntimeError as error:  # such as where the brains are apart
        raise AddmError(
            f"{moving.name} cannot be registered to {fixed.name}: check that both are brains."
        ) from error
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(found.GetMatrix(), (3, 3))
    matrix[:3, 3] = found.TransformPoint((0.0, 0.0, 0.0))
    here, here_mask = itk.GetArrayFromImage(one), itk.GetArrayFromImage(one_mask) >= 0.5
    there, there_mask = (
        itk.GetArrayFromImage(itk.Resample(image, one, found, itk.sitkLinear, 0.0))
        for image in (other, other_mask)
    )
    return Registration(matrix, *compare_brains(here, here_mask, there, there_mask >= 0.5))


def compare_brains(
    one: NDArray[np.float32], one_mask: Mask, other: NDArray[np.float32], other_mask: Mask
) -> tuple[float, float]:
    """Return the correlation of two images in the shared brain, and the Dice of both masks."""
    both = one_mask & other_mask
    overlap = 2 * both.sum() / max(one_mask.sum() + other_mask.sum(), 1)
    first, second = (image[both] - image[both].mean() for image in (one, other))
    norm = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return (float(first @ second) / norm if norm else 0.0), float(overlap)


def _search(
    one: sitk.Image,
    other: sitk.Image,
    transform: sitk.Transform,
    levels: tuple[float, ...],
    kind: Kind,
) -> None:
    """Change a transform until two images share as much information as they can."""
    itk = load_simpleitk()
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(itk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        FIRST_STEP_MM[kind], LAST_STEP_MM, MOST_STEPS, relaxationFactor=STEP_KEPT
    )
    method.SetOptimizerScalesFromPhysicalShift()
    size = float(np.prod(one.GetSpacing())) ** (1 / 3)
    method.SetShrinkFactorsPerLevel([max(1, round(level / size)) for level in levels])
    method.SetSmoothingSigmasPerLevel([level / 2 for level in levels])
    method.SetInitialTransform(transform, inPlace=True)
    with one_thread():
        method.Execute(one, other)


def brain_image(volume: Volume, mask: Mask) -> tuple[sitk.Image, sitk.Image]:
    """Return a brain, about 1 inside and 0 around, and its mask, both with voxels of some 2 mm."""
    box = bounding_box(mask)
    factors = [max(1, round(STEP_MM / size)) for size in volume.spacing]
    margins = [int(np.ceil(MARGIN_MM / size)) for size in volume.spacing]
    sizes = [part.stop - part.start for part in box]
    pads = [
        (margin, margin - (size + 2 * margin) % -factor)  # whole blocks
        for size, margin, factor in zip(sizes, margins, factors, strict=True)
    ]
    brain = np.pad(mask[box], pads)
    image = np.where(brain, np.nan_to_num(np.pad(volume.data[box], pads).astype(np.float32)), 0.0)
    image /= max(abs(float(np.median(image[brain]))), np.finfo(np.float32).tiny)
    blocks = [part for size, f in zip(brain.shape, factors, strict=True) for part in (size // f, f)]
    first = [
        part.start - margin + (factor - 1) / 2
        for part, margin, factor in zip(box, margins, factors, strict=True)
    ]
    affine = volume.affine @ np.diag([*factors, 1])
    affine[:3, 3] = nib.affines.apply_affine(volume.affine, first)
    coarse, coarse_brain = (
        values.reshape(blocks).mean(axis=(1, 3, 5))
        for values in (np.clip(image, -BRIGHTEST, BRIGHTEST), brain.astype(np.float32))
    )
    return to_image(coarse, affine), to_image(coarse_brain, affine)


def to_image(values: NDArray[np.generic], affine: NDArray[np.float64]) -> sitk.Image:
    """Make an image of SimpleITK from voxels (S, A, R) and their affine to world mm."""
    spacing = np.array(voxel_spacing(affine))
    image: sitk.Image = load_simpleitk().GetImageFromArray(values)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing[::-1].tolist())  # SimpleITK counts the axes backwards
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


def deform(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Find the smooth displacement that brings two brains together that lie on one grid.

    Returns
    -------
    Transform
        A place in the fixed image to the same place in the moving one.
    """
    itk = load_simpleitk()
    identity, linear = itk.Transform(), itk.sitkLinear
    with one_thread():
        moving = itk.HistogramMatching(moving, fixed, 128, 10, True)
        fields: list[sitk.Image] = []
        for shrink, steps in DEFORM_LEVELS:
            sigma = shrink / 2 * fixed.GetSpacing()[0]
            smooth = [itk.SmoothingRecursiveGaussian(each, sigma) for each in (fixed, moving)]
            one, other = smooth if shrink > 1 else (fixed, moving)
            one = itk.Shrink(one, [shrink] * 3)
            other = itk.Resample(other, one, identity, linear)
            demons = itk.FastSymmetricForcesDemonsRegistrationFilter()
            demons.SetNumberOfIterations(steps)
            demons.SetSmoothDisplacementField(True)
            demons.SetStandardDeviations(DEFORM_SMOOTHING)
            coarser = [itk.Resample(each, one, identity, linear) for each in fields[-1:]]
            fields.append(demons.Execute(one, other, *coarser))
    field = itk.Resample(fields[-1], fixed, identity, linear)
    return itk.DisplacementFieldTransform(itk.Cast(field, itk.sitkVectorFloat64))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK compute with one thread: the order of a sum decides its last digits."""
    process = load_simpleitk().ProcessObject
    with _lock:
        threads = process.GetGlobalDefaultNumberOfThreads()  # a filter's own number is not obeyed
        process.SetGlobalDefaultNumberOfThreads(1)
        try:
            yield
        finally:
            process.SetGlobalDefaultNumberOfThreads(threads)


def load_simpleitk() -> ModuleType:
    """Import SimpleITK, or say how to get it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingExtraError("Registration", "SimpleITK", "regions") from error
    return SimpleITK
