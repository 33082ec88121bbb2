"""A session: prepared scans and finished reconstructions that later detections reuse.

A cancelled detection continues where it stopped, another score needs no network, and a volume
reuses the slices that were shown before. Everything is found by its content, never by its name:
another scan, checkpoint, noise level or seed finds nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.atlas import ScanRegions, find_regions
from napari_addm.detection.healthy_norm import BrainBox, Norm, norms_of
from napari_addm.detection.midline import Midline
from napari_addm.detection.parallel import parallel_map
from napari_addm.detection.preparation import ModelSlices, prepare
from napari_addm.detection.symmetry import MirrorPlane, find_midline, find_mirror_plane
from napari_addm.errors import MissingExtraError

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.checkpoint.specification import PreparationSpecification
    from napari_addm.io.volume import Volume

LIMIT_BYTES = 1 << 30
PACES = 9
"""Number of network calls from which the speed is estimated."""


@dataclass(eq=False)
class PreparedScan:
    """A scan on the model grid, and what scoring needs of it.

    Attributes
    ----------
    key : hashable
        Identifies the scan's content, its brain mask and its preparation; None outside a session.
    scan : ndarray of float32, shape (depth, H, W)
        Model values, 0..1.
    mask : ndarray of bool, shape (depth, H, W)
    regions : ScanRegions or None
        Regions of the brain, once `find_regions` has found them.
    """

    slices: ModelSlices
    key: Hashable = None
    scan: NDArray[np.float32] = field(init=False)
    mask: NDArray[np.bool_] = field(init=False)
    regions: ScanRegions | None = field(init=False, default=None)
    _norms: dict[str, dict[str, Norm]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scan = self.slices.to_model_volume((self.slices.images + 1.0) / 2.0)
        self.mask = self.slices.to_model_volume(self.slices.masks)

    def inner(self, millimetres: float) -> NDArray[np.bool_]:
        """Return the part of the brain that lies deeper than some mm below its surface."""
        return self.slices.depth_mm > max(millimetres, 0.0)

    @cached_property
    def mirror_plane(self) -> MirrorPlane | None:
        """The plane of symmetry; None where left and right are too different."""
        return find_mirror_plane(self.scan, self.mask, self.slices.spacing_mm)

    @cached_property
    def is_cut(self) -> bool:
        """Whether a part of the brain is missing."""
        return BrainBox.is_cut(self.mask)

    @cached_property
    def midline(self) -> Midline | None:
        """The plane between the halves; None also where the file does not say left and right."""
        if not self.slices.volume.sides_known:
            return None
        return find_midline(self.mirror_plane, self.mask, self.slices.affine)

    def norms(self, checkpoint: Checkpoint) -> dict[str, Norm]:
        """The checkpoint's healthy norms on the model grid."""
        if checkpoint.sha256 not in self._norms:
            placed = BrainBox.of(self.mask).place(norms_of(checkpoint))
            self._norms = {checkpoint.sha256: placed}
        return self._norms[checkpoint.sha256]

    def find_regions(self) -> None:
        """Find and keep the regions, unless SimpleITK is missing, or which side is left."""
        if self.regions is None and self.slices.volume.sides_known:
            with suppress(MissingExtraError):
                self.regions = find_regions(self.slices.volume, self.slices.brain_mask)

    def prepare_scoring(self, *, symmetry: bool, whole: bool) -> None:
        """Compute and keep what a result needs of the scan alone."""
        self.slices.depth_contrast  # noqa: B018  # and with it the depth, for `inner`
        if whole:
            self.slices.native_gain  # noqa: B018
        if symmetry:
            self.mirror_plane  # noqa: B018
        self.midline  # noqa: B018

    @property
    def nbytes(self) -> int:
        """Bytes in memory, with the scan's voxels."""
        # with the cached properties of the slices
        arrays = [each for each in vars(self.slices).values() if isinstance(each, np.ndarray)]
        if self.regions is not None and self.regions.labels is not None:
            arrays.append(self.regions.labels)
        norms = [norm for placed in self._norms.values() for norm in placed.values()]
        arrays += [part for norm in norms for part in (norm.mean, norm.deviation)]
        held = (*arrays, self.slices.volume.data, self.scan, self.mask)
        return sum(int(array.nbytes) for array in held)


@dataclass(eq=False)
class Reconstructions:
    """Reconstructed slices of one scan under one set of settings.

    Attributes
    ----------
    device, precision : str
        What the network runs on; changed when memory runs out or a number format overflows.
    batch : int
        Slices per network call; each draw counts as one. Every call has the same number, because
        the last digit of float32 sums depends on the size of the batch.
    images : ndarray of float32, shape (draws, N, H, W)
        Model values, -1..1.
    weights : ndarray of float32, shape (draws, N, H, W), or None
        See `napari_addm.methods.base.Reconstruction`.
    finished : ndarray of bool, shape (draws, N)
    warnings : list of str
        Why device, precision or batch was changed.
    """

    device: str
    precision: str
    batch: int
    images: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None
    finished: NDArray[np.bool_] = field(init=False)
    warnings: list[str] = field(init=False, default_factory=list)
    _paces: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self.finished = np.zeros(self.images.shape[:2], bool)
        self._paces = deque(maxlen=PACES)

    def ensure_draws(self, draws: int) -> None:
        """Allocate memory for some draws, if there is less."""
        more = draws - len(self.images)
        if more > 0:
            shape = (more, *self.images.shape[1:])
            self.images = np.concatenate([self.images, np.full(shape, -1.0, np.float32)])
            self.finished = np.concatenate([self.finished, np.zeros(shape[:2], bool)])
            if self.weights is not None:
                self.weights = np.concatenate([self.weights, np.ones(shape, np.float32)])

    def pending(self, order: Sequence[int], draws: int) -> list[tuple[int, int]]:
        """List the (slice, draw) that are not finished, slice by slice in the given order."""
        return [(n, d) for n in order for d in range(draws) if not self.finished[d, n]]

    def store(
        self,
        pairs: Sequence[tuple[int, int]],
        images: NDArray[np.float32],
        weights: NDArray[np.float32] | None,
    ) -> None:
        """Store the images and weights of some (slice, draw), of shape (len(pairs), H, W)."""
        positions, draws = (list(part) for part in zip(*pairs, strict=True))
        self.images[draws, positions] = images
        if weights is not None:
            if self.weights is None:
                self.weights = np.ones_like(self.images)
            self.weights[draws, positions] = weights
        self.finished[draws, positions] = True

    def note_call(self, seconds: float) -> None:
        """Note the time of one network call."""
        self._paces.append(seconds)

    @property
    def pace(self) -> float | None:
        """Median seconds of the last network calls."""
        return median(self._paces) if self._paces else None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        weights = 0 if self.weights is None else self.weights.nbytes
        return int(self.images.nbytes + weights + self.finished.nbytes)


class _Cached(Protocol):
    @property
    def nbytes(self) -> int: ...


Kept = TypeVar("Kept", PreparedScan, Reconstructions)


class Session:
    """A cache that detections share; the least recently used part is dropped first.

    It serves one detection at a time, in any thread.

    Parameters
    ----------
    limit_bytes : int
        Upper limit of the memory, unless the current detection needs more.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._cache: OrderedDict[Hashable, _Cached] = OrderedDict()
        self._lock = Lock()

    def prepared(
        self,
        volume: Volume,
        specification: PreparationSpecification,
        brain_mask: NDArray[np.bool_] | None = None,
        slices: ModelSlices | None = None,
    ) -> PreparedScan:
        """Prepare a scan, once for the same scan and mask.

        Parameters
        ----------
        volume, specification, brain_mask
            As for `napari_addm.detection.preparation.prepare`.
        slices : ModelSlices, optional
            Its result, if the scan is prepared already; `brain_mask` is then not used.
        """
        if slices is not None:
            brain_mask = slices.brain_mask
        source = volume.source
        key = (
            _fingerprint(volume.data),
            volume.affine.tobytes(),
            # a result is written in the layout of its scan's file
            (source.path, source.shape, source.affine.tobytes(), source.axes, source.flips),
            volume.warnings,
            None if brain_mask is None else _fingerprint(brain_mask),
            specification.model_dump_json(),
        )
        return self._get(
            key, lambda: PreparedScan(slices or prepare(volume, specification, brain_mask), key)
        )

    def reconstructions(
        self, key: Hashable, make: Callable[[], Reconstructions]
    ) -> Reconstructions:
        """Return the reconstructions of a key, or store new ones.

        Parameters
        ----------
        key : hashable
            Scan, checkpoint and every setting on which a reconstruction depends.
        """
        return self._get(("reconstructions", key), make)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        with self._lock:
            return sum(kept.nbytes for kept in self._cache.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._cache.clear()

    def _get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        with self._lock:
            found = self._cache.get(key)
        if found is None:
            found = make()
        with self._lock:
            self._cache[key] = found
            self._cache.move_to_end(key)
            held = sum(kept.nbytes for kept in self._cache.values())
            # the last two are the scan and the reconstructions in use
            while held > self.limit_bytes and len(self._cache) > 2:
                _, oldest = self._cache.popitem(last=False)
                held -= oldest.nbytes
        return found  # type: ignore[return-value]


def _fingerprint(array: NDArray[np.generic]) -> bytes:
    """Identify an array by its values, type and shape."""
    voxels = np.ascontiguousarray(array).data.cast("B")
    half = len(voxels) // 2
    halves = parallel_map(_digest, (voxels[:half], voxels[half:]))
    return b"".join(halves) + f"{array.dtype.str} {array.shape}".encode()


def _digest(voxels: memoryview) -> bytes:
    return hashlib.sha256(voxels, usedforsecurity=False).digest()
