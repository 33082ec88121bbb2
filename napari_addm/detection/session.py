"""What one detection leaves for the next: prepared scans and finished reconstructions.

A detection that was cancelled goes on where it stopped, one with another score needs no
network, and a volume takes over the slices that were looked at before. Everything is known
by its content, never by its name: another scan, checkpoint, noise level or seed finds nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.midline import Midline
from napari_addm.detection.parallel import beside
from napari_addm.detection.preparation import Slices, prepare
from napari_addm.detection.symmetry import MirrorPlane, find_midline, find_mirror_plane

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import PreparationSpecification
    from napari_addm.io.volume import Volume

LIMIT_BYTES = 1 << 30
PACES = 9
"""How many calls of the network its speed is taken from."""


@dataclass(eq=False)
class Prepared:
    """A scan on the model grid, and what scoring needs of it.

    Attributes
    ----------
    key : hashable
        Of the scan's content, its brain mask and the way it was prepared; None for a scan that
        no session looks for.
    slices : Slices
    scan : ndarray of float32, shape (depth, H, W)
        Model values, 0..1.
    mask : ndarray of bool, shape (depth, H, W)
    """

    key: Hashable
    slices: Slices
    scan: NDArray[np.float32] = field(init=False)
    mask: NDArray[np.bool_] = field(init=False)

    @classmethod
    def alone(
        cls,
        volume: Volume,
        specification: PreparationSpecification,
        brain_mask: NDArray[np.bool_] | None = None,
        slices: Slices | None = None,
    ) -> Prepared:
        """As :meth:`Session.prepared`, for one detection only."""
        return cls(None, slices or prepare(volume, specification, brain_mask))

    def __post_init__(self) -> None:
        self.scan = self.slices.on_grid((self.slices.images + 1.0) / 2.0)
        self.mask = self.slices.on_grid(self.slices.masks)

    def inner(self, millimetres: float) -> NDArray[np.bool_]:
        """The mask, eroded; see :func:`napari_addm.detection.erosion.erode`."""
        return self.slices.depth_mm > max(millimetres, 0.0)

    @cached_property
    def mirror_plane(self) -> MirrorPlane | None:
        """See :func:`napari_addm.detection.symmetry.find_mirror_plane`."""
        return find_mirror_plane(self.scan, self.mask, self.slices.spacing_mm)

    @cached_property
    def midline(self) -> Midline | None:
        """Between the halves of the brain; None also where the file does not say left and right."""
        if not self.slices.volume.sides_known:
            return None
        return find_midline(self.mirror_plane, self.mask, self.slices.affine)

    def get_ready(self, *, symmetry: bool, whole: bool) -> None:
        """Work out what a result takes from the scan alone; it is kept."""
        self.slices.depth_contrast  # noqa: B018  # and with it the depth, for `inner`
        if whole:
            self.slices.native_gain  # noqa: B018
        if symmetry:
            self.mirror_plane  # noqa: B018
        self.midline  # noqa: B018

    @property
    def nbytes(self) -> int:
        """Memory that is held, the scan's voxels among it."""
        # with what the slices have worked out since they were made
        arrays = [each for each in vars(self.slices).values() if isinstance(each, np.ndarray)]
        held = (*arrays, self.slices.volume.data, self.scan, self.mask)
        return sum(int(array.nbytes) for array in held)


@dataclass(eq=False)
class Reconstructions:
    """Reconstructed slices of one scan under one set of settings.

    Attributes
    ----------
    device, precision : str
        What the network runs on; changed when it had to give way.
    batch : int
        Slices in a call of the network, each draw counting as one. Every call has just so many,
        because float32 sums come out otherwise in the last digit in a batch of another size.
    images : ndarray of float32, shape (draws, N, H, W)
        Model values, -1..1.
    weights : ndarray of float32, shape (draws, N, H, W), or None
        See :class:`napari_addm.methods.base.Reconstruction`.
    finished : ndarray of bool, shape (draws, N)
    warnings : list of str
        Why device, precision or batch were changed.
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

    def hold(self, draws: int) -> None:
        """Make room for so many draws."""
        more = draws - len(self.images)
        if more > 0:
            shape = (more, *self.images.shape[1:])
            self.images = np.concatenate([self.images, np.full(shape, -1.0, np.float32)])
            self.finished = np.concatenate([self.finished, np.zeros(shape[:2], bool)])
            if self.weights is not None:
                self.weights = np.concatenate([self.weights, np.ones(shape, np.float32)])

    def missing(self, order: Sequence[int], draws: int) -> list[tuple[int, int]]:
        """What is not finished yet: (slice, draw), slice after slice in the order given."""
        return [(n, d) for n in order for d in range(draws) if not self.finished[d, n]]

    def put(
        self,
        pairs: Sequence[tuple[int, int]],
        images: NDArray[np.float32],
        weights: NDArray[np.float32] | None,
    ) -> None:
        """Keep what came for some (slice, draw); arrays of shape (len(pairs), H, W)."""
        positions, draws = (list(part) for part in zip(*pairs, strict=True))
        self.images[draws, positions] = images
        if weights is not None:
            if self.weights is None:
                self.weights = np.ones_like(self.images)
            self.weights[draws, positions] = weights
        self.finished[draws, positions] = True

    def time(self, seconds: float) -> None:
        """Note how long one call of the network took."""
        self._paces.append(seconds)

    @property
    def pace(self) -> float | None:
        """Seconds of a call of the network: the median of the last ones."""
        return median(self._paces) if self._paces else None

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        weights = 0 if self.weights is None else self.weights.nbytes
        return int(self.images.nbytes + weights + self.finished.nbytes)


class _Held(Protocol):
    @property
    def nbytes(self) -> int: ...


Kept = TypeVar("Kept", Prepared, Reconstructions)


class Session:
    """Keeps what detections share, up to a limit; what was used longest ago goes first.

    For one detection at a time, which may run in any thread.

    Parameters
    ----------
    limit_bytes : int
        Memory to hold at most, unless what is in use needs more.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, _Held] = OrderedDict()
        self._lock = Lock()

    def prepared(
        self,
        volume: Volume,
        specification: PreparationSpecification,
        brain_mask: NDArray[np.bool_] | None = None,
        slices: Slices | None = None,
    ) -> Prepared:
        """As `prepare`, but only once for the same scan and mask.

        Parameters
        ----------
        volume, specification, brain_mask
            As there.
        slices : Slices, optional
            What it gave, where that was done beforehand; `brain_mask` is then not used.
        """
        if slices is not None:
            brain_mask = slices.brain_mask
        source = volume.source
        key = (
            _fingerprint(volume.data),
            volume.affine.tobytes(),
            # results are written as the file was, so the same voxels of another file are another
            (source.path, source.shape, source.affine.tobytes(), source.axes, source.flips),
            volume.warnings,
            None if brain_mask is None else _fingerprint(brain_mask),
            specification.model_dump_json(),
        )
        return self._get(
            key,
            lambda: Prepared(key, slices or prepare(volume, specification, brain_mask)),
        )

    def reconstructions(
        self, key: Hashable, make: Callable[[], Reconstructions]
    ) -> Reconstructions:
        """What is there for a key, or else what `make` gives.

        Parameters
        ----------
        key : hashable
            Scan, checkpoint and every setting that a reconstruction depends on.
        make : callable
        """
        return self._get(("reconstructions", key), make)

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        with self._lock:
            return sum(kept.nbytes for kept in self._kept.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = make()
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            held = sum(kept.nbytes for kept in self._kept.values())
            # the last two are the scan and the reconstructions that are being worked on
            while held > self.limit_bytes and len(self._kept) > 2:
                _, oldest = self._kept.popitem(last=False)
                held -= oldest.nbytes
        return found  # type: ignore[return-value]


def _fingerprint(array: NDArray[np.generic]) -> bytes:
    """Of the voxels' values, their type and their shape."""
    voxels = np.ascontiguousarray(array).data.cast("B")
    half = len(voxels) // 2
    halves = beside(_digest, (voxels[:half], voxels[half:]))
    return b"".join(halves) + f"{array.dtype.str} {array.shape}".encode()


def _digest(voxels: memoryview) -> bytes:
    return hashlib.sha256(voxels, usedforsecurity=False).digest()
