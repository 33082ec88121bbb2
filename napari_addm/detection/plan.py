"""The plan of a detection: which slices are reconstructed, how, and what is done already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import HealthyNormSpecification, ScoreSpecification
from napari_addm.detection.devices import BATCH_SIZES, choose_device, choose_precision
from napari_addm.detection.preparation import ModelSlices, prepare
from napari_addm.detection.session import PreparedScan, Reconstructions, Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.remarks import Remark, caution, note
from napari_addm.io.volume import Volume
from napari_addm.registry import METHODS

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification
    from napari_addm.methods.base import Sampling

FEW = 4
"""Batch size for a few slices, so that the first of them does not wait for the last."""


@dataclass(frozen=True)
class Plan:
    """All that a run needs, once the scan is prepared.

    Attributes
    ----------
    settings : DetectionSettings
        With every default filled in.
    reconstructions : Reconstructions
        What is done already, and the place for the rest.
    positions : ndarray of int
        The model slices that take part, rising.
    first_slice : callable
        Gives the slice of the scan from which slices are reconstructed outward.
    erosion_mm : float
        How deep below the brain's surface scores begin.
    warnings : tuple of str
        About the settings.
    """

    checkpoint: Checkpoint
    settings: DetectionSettings
    scan: PreparedScan
    reconstructions: Reconstructions
    positions: NDArray[np.int64]
    first_slice: Callable[[], int]
    erosion_mm: float
    warnings: tuple[str, ...]

    @property
    def draws(self) -> int:
        """Number of noise draws."""
        assert self.settings.draws is not None
        return self.settings.draws

    @property
    def scores_neighbors(self) -> bool:
        """Whether single slices are scored with neighbors that are in no result themselves."""
        return self.settings.slices is not None and self.settings.context_mm > 0

    @property
    def score(self) -> ScoreSpecification:
        """The checkpoint's score with the changes of the settings."""
        settings = self.settings
        changes = {
            "kind": settings.score,
            "smoothing_mm": settings.smoothing_mm,
            "symmetry": settings.symmetry,
            "erosion_mm": self.erosion_mm,
        }
        return self.checkpoint.specification.detection.score.model_copy(update=changes)

    @property
    def healthy_norm(self) -> HealthyNormSpecification | None:
        """The comparison with healthy brains; None without one, or under another score."""
        default = self.checkpoint.specification.detection
        own = self.erosion_mm == default.score.erosion_mm
        return default.healthy_norm if self.settings.healthy_norm and own else None

    @property
    def sampling(self) -> Sampling:
        """The noise levels and the sampler; empty for methods without noise levels."""
        from napari_addm.diffusion.sampling import sampling_levels
        from napari_addm.methods.base import Sampling

        settings = self.settings
        if settings.level is None:
            return Sampling()
        assert settings.steps is not None
        assert settings.sampler is not None
        assert settings.eta is not None
        levels = tuple(sampling_levels(settings.level, settings.steps))
        return Sampling(levels, settings.sampler, settings.eta)

    def choose_precision(self, device: str) -> str:
        """Choose the network's number format on a device."""
        return _choose_precision(self.settings, self.checkpoint, device)

    def order(self) -> list[int]:
        """List the model slices from the first slice outward."""
        slices = self.scan.slices
        first = min(max(self.first_slice(), 0), slices.volume.shape[0] - 1)
        near = slices.model_slices_for([first])
        center = near.mean() if len(near) else self.positions.mean()
        order = np.argsort(np.abs(self.positions - center), kind="stable")
        return [int(position) for position in self.positions[order]]


def plan_detection(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings,
    brain_mask: NDArray[np.bool_] | None,
    first_slice: int | Callable[[], int] | None,
    prepared: ModelSlices | None,
    session: Session | None,
) -> Plan:
    """Prepare the scan, choose its slices, and find what a session holds of them.

    Parameters
    ----------
    volume, checkpoint
        As for `napari_addm.detection.pipeline.detect`.
    settings : DetectionSettings
        With every default filled in.
    brain_mask, first_slice, prepared, session
        As for `napari_addm.detection.pipeline.detect`.
    """
    specification = checkpoint.specification
    if session is None:  # nobody asks for the scan again, so it needs no fingerprint
        session = Session()
        scan = PreparedScan(prepared or prepare(volume, specification.preparation, brain_mask))
    else:
        scan = session.prepared(volume, specification.preparation, brain_mask, prepared)
    positions = _choose_slices(scan.slices, settings)
    reconstructions = _find_reconstructions(session, scan, checkpoint, settings, len(positions))
    if first_slice is None:
        wanted = settings.slices
        first_slice = volume.shape[0] // 2 if wanted is None else wanted[len(wanted) // 2]
    fixed = first_slice
    return Plan(
        checkpoint,
        settings,
        scan,
        reconstructions,
        positions,
        fixed if callable(fixed) else lambda: fixed,
        specification.detection.score.erosion_mm,
        _warn(settings, specification),
    )


def _choose_slices(slices: ModelSlices, settings: DetectionSettings) -> NDArray[np.int64]:
    """Choose the model slices of the wanted slices and their neighbors.

    Raises
    ------
    AddmError
        If a wanted slice is outside the scan, or none shows brain.
    """
    wanted, count, name = settings.slices, slices.volume.shape[0], slices.volume.name
    if wanted is None:
        return np.arange(len(slices.images))
    if not wanted or any(not 0 <= index < count for index in wanted):
        raise AddmError(f"{name}: the slices have to be within 0..{count - 1} of the scan.")
    if not len(slices.model_slices_for(wanted)):
        raise AddmError(f"{name}: there is no brain in the chosen slice; choose another.")
    reach = round(settings.context_mm / slices.volume.spacing[0])
    distance = np.abs(np.arange(count)[:, None] - np.array(wanted)).min(axis=1)
    return slices.model_slices_for(np.flatnonzero(distance <= reach).tolist())


def _find_reconstructions(
    session: Session,
    scan: PreparedScan,
    checkpoint: Checkpoint,
    settings: DetectionSettings,
    wanted: int,
) -> Reconstructions:
    """Find what a session holds for a scan and all that a reconstruction depends on."""
    device = choose_device(settings.device)
    dtype = _choose_precision(settings, checkpoint, device)
    images = scan.slices.images
    batch = _batch_size(settings, device, wanted, len(images))
    assert settings.draws is not None
    shape = settings.draws, *images.shape
    sampling = settings.level, settings.steps, settings.sampler, settings.eta, settings.seed
    reconstructions = session.reconstructions(
        (scan.key, checkpoint.sha256, sampling, device, dtype, batch),
        lambda: Reconstructions(device, dtype, batch, np.full(shape, -1.0, np.float32)),
    )
    reconstructions.ensure_draws(settings.draws)
    return reconstructions


def _choose_precision(settings: DetectionSettings, checkpoint: Checkpoint, device: str) -> str:
    reduced = METHODS[checkpoint.specification.method].reduced_precision
    dtype = choose_precision(settings.precision if reduced else "float32", device)
    return str(dtype).removeprefix("torch.")


def _batch_size(settings: DetectionSettings, device: str, wanted: int, count: int) -> int:
    """Choose how many slices and draws go into every network call.

    It depends on the settings alone, never on what is done already: see
    `napari_addm.detection.session.Reconstructions.batch`.
    """
    assert settings.draws is not None
    size = settings.batch_size or BATCH_SIZES[device]
    if settings.slices is not None and wanted * settings.draws < size:
        return min(size, FEW)
    if size <= FEW:
        return size
    # equal batches, because a small last one costs as much as a full one
    pairs = count * settings.draws
    return -(-pairs // -(-pairs // size))


def _warn(settings: DetectionSettings, specification: ModelSpecification) -> tuple[str, ...]:
    """Word what a reader must know about the settings."""
    warnings: list[Remark] = []
    highest = specification.training.get("highest_level")
    if settings.level is not None and isinstance(highest, int) and settings.level > highest:
        warnings.append(
            caution(
                f"The network was trained up to noise level {highest}: from {settings.level} it "
                "reconstructs what it never learned."
            )
        )
    if settings.slices is not None:
        how, weigh = "among themselves alone", caution
        if settings.context_mm > 0:
            how, weigh = f"with their neighbors within {settings.context_mm:g} mm", note
        warnings.append(
            weigh(f"Single slices are scored {how}: the calibrated threshold fits whole volumes.")
        )
    return tuple(warnings)
