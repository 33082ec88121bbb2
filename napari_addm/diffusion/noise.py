"""Noise, slice by slice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_addm.registry import NOISES

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Noise:
    """A noise as the command line and the checkpoints know it.

    Attributes
    ----------
    title, description, source : str
        For people: its name, what it does, and where it was published.
    draw : callable
        ``draw(shape, generator)`` returns a field of mean 0 and variance 1 at every pixel,
        float32, shape (C, H, W), from a generator on the CPU.
    """

    title: str
    description: str
    source: str
    draw: Callable[[Shape, torch.Generator], Tensor]


@dataclass(frozen=True)
class SliceNoise:
    """The noise of a volume, slice by slice.

    Every field has its own generator, seeded by the field's name. So the noise of a slice
    depends neither on its batch, nor on the device, nor on the other slices that are computed.

    Attributes
    ----------
    kind : str
        A name in `napari_addm.registry.NOISES`.
    seed : int
        The seed of the run.
    deviation : float
        Standard deviation of the noise.
    """

    kind: str
    seed: int
    deviation: float = 1.0

    def sample(self, slice_ids: Sequence[int], shape: Shape, draw: int, step: int) -> Tensor:
        """Draw noise for some slices.

        Parameters
        ----------
        slice_ids : sequence of int, length N
            Numbers of the slices in the volume.
        shape : (C, H, W)
            The shape of one slice.
        draw : int
            The number of the reconstruction, for several independent ones.
        step : int
            0 for the noise that is added to the scan, n for the fresh noise of the
            n-th sampling step.

        Returns
        -------
        Tensor, float32, shape (N, C, H, W), on the CPU
        """
        noise = NOISES[self.kind]
        fields = torch.empty(len(slice_ids), *shape)
        for field, slice_id in zip(fields, slice_ids, strict=True):
            name = f"{self.seed} {draw} {step} {int(slice_id)}".encode()
            seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
            field.copy_(noise.draw(shape, torch.Generator().manual_seed(seed)))
        return fields.mul_(self.deviation)
