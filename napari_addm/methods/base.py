"""What a method computes: reconstructions for detection, and the objective of its training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from napari_addm.checkpoint.specification import (
    DiffusionSpecification,
    ModelSpecification,
    NetworkSpecification,
    SamplerKind,
)
from napari_addm.io.arrays import Grid, Mask
from napari_addm.io.volume import Volume
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import NOISES

Shape = tuple[int, int, int]
Report = Callable[[str, int, int], None]
"""``report(stage, done, total)`` while something takes long, such as over many scans."""


# --- detection ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How a reconstruction is sampled.

    Attributes
    ----------
    levels : tuple of int
        Falling noise levels, the first the one to noise to, the last 0;
        empty for methods without noise levels.
    sampler, eta
        See `napari_addm.detection.settings.DetectionSettings`.
    """

    levels: tuple[int, ...] = ()
    sampler: SamplerKind = "ddim"
    eta: float = 0.0


class DrawNoise(Protocol):
    """Noise of a batch of slices that depends on nothing but seed, slice, draw and step."""

    def __call__(self, step: int, shape: Shape | None = None) -> Tensor:
        """The chain's noise (B, C, H, W) for a step; ``shape`` if not the image's (C, H, W)."""


@dataclass(frozen=True)
class Reconstruction:
    """Slices as a method expects them in a healthy brain.

    Attributes
    ----------
    image : Tensor of float32, shape (B, 1, H, W)
        Model values, -1..1.
    weight : Tensor of float32, shape (B, 1, H, W), or None
        Factor of the residual, for methods that also find where a lesion can be;
        None for 1 everywhere.
    """

    image: Tensor
    weight: Tensor | None = None


# --- training -------------------------------------------------------------------------------


class OptimizerStep(Protocol):
    """Minimizes a loss: one step of one optimizer, with clipped gradients."""

    def __call__(self, loss: Tensor, optimizer: int = 0) -> None:
        """``optimizer`` counts in the order of `Objective.optimizers`."""


@dataclass(frozen=True)
class StepContext:
    """What an objective gets for one batch besides the images.

    Attributes
    ----------
    generator : torch.Generator
        On the CPU; depends on seed and iteration alone.
    progress : float
        Fraction of the training that is done, 0..1, for methods that train in stages.
    gradient_norm : callable or None
        Norm of a loss's gradient at the network's weights, without a step. It takes a backward
        pass of its own, so that only the first batch of an epoch gets it.
    """

    generator: torch.Generator
    progress: float
    optimizer_step: OptimizerStep
    gradient_norm: Callable[[Tensor], Tensor] | None = None


class Objective(nn.Module, ABC):
    """The network that is saved, what helps to train it, and the losses.

    Attributes
    ----------
    network : nn.Module
        Its moving average becomes the checkpoint's weights.
    """

    network: nn.Module

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings

    def optimizers(self) -> list[Optimizer]:
        """Adam over the whole network unless a method needs another."""
        return [torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)]

    @abstractmethod
    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Learn from one batch.

        Parameters
        ----------
        clean : Tensor of float32, shape (B, 1, H, W)
            Healthy slices, -1..1, air -1.

        Returns
        -------
        dict of str to Tensor, scalar
            What the log gets under ``train/``; names with a slash stay as they are.
        """

    @abstractmethod
    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The averaged network's loss on held-out slices; scalar."""


# --- the method -----------------------------------------------------------------------------


class Method(ABC):
    """Implementation that a `~napari_addm.methods.info.MethodInfo` names.

    Attributes
    ----------
    objective : type
        Called with settings, it gives a fresh network with all that trains it.
    """

    objective: ClassVar[type[Objective]]

    @abstractmethod
    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """An untrained network for slices of ``size`` (height, width).

        Parameters
        ----------
        network : NetworkSpecification
            Of the class that the method declares.
        """

    def calls(self, specification: ModelSpecification, sampling: Sampling) -> int:
        """How many times `reconstruct` yields."""
        return max(1, len(sampling.levels) - 1)

    @abstractmethod
    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """Reconstruct slices as healthy ones.

        Parameters
        ----------
        network : nn.Module
            From `build`, trained, in evaluation mode.
        clean : Tensor of float32, shape (B, 1, H, W)
            The scan's slices, -1..1.

        Yields
        ------
        Reconstruction
            After every call of the network, so that a run can be cancelled within
            one; the last is the result.
        """


class VolumeMethod(ABC):
    """A method that sees the whole scan at once, and is fitted to whole brains, not trained."""

    @abstractmethod
    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """Room for what is kept; see `Method.build`."""

    @abstractmethod
    def fit(
        self,
        settings: TrainingSettings,
        volumes: Sequence[NDArray[np.uint8]],
        cache: Path,
        report: Report,
    ) -> tuple[NetworkSpecification, nn.Module]:
        """Make what is saved from healthy brains.

        Parameters
        ----------
        volumes : sequence of ndarray of uint8, shape (D, H, W)
            Training brains on the model grid: air 0, brain 1..255 for model values 0..1.
        cache : Path
            File for what other fits to the same brains can use.

        Returns
        -------
        specification : NetworkSpecification
            That of the settings, with what the brains decide.
        network : nn.Module
        """

    @abstractmethod
    def reconstruct_volume(
        self, network: nn.Module, specification: ModelSpecification, scan: Volume, mask: Mask
    ) -> tuple[Grid, tuple[str, ...]]:
        """Reconstruct a scan as a healthy one.

        Parameters
        ----------
        scan : Volume
            On the model grid, model values 0..1.
        mask : ndarray of bool, shape (D, H, W)
            The brain.

        Returns
        -------
        reconstruction : ndarray of float32, shape (D, H, W)
            Model values, -1..1, air -1.
        warnings : tuple of str
        """


class OnePass(Method):
    """A method with a network that maps a slice to its reconstruction, in one call."""

    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """The network's answer, within the range of model values."""
        yield Reconstruction(at_precision(network)(clean).clamp(-1.0, 1.0))


def at_precision(network: nn.Module) -> Callable[..., Tensor]:
    """A network that takes and gives float32 whatever the format of its weights."""
    # A compiled network shows no parameters, and takes and gives float32.
    dtype = next((each.dtype for each in network.parameters()), torch.float32)

    def call(image: Tensor, *others: Tensor) -> Tensor:
        found: Tensor = network(image.to(dtype), *others)
        return found.float()

    return call


def random_timesteps(count: int, highest: int, generator: torch.Generator) -> Tensor:
    """Timesteps 1..highest, int64, shape (count,)."""
    return torch.randint(1, highest + 1, (count,), generator=generator)


def chain_noise(diffusion: DiffusionSpecification) -> Callable[[Shape, torch.Generator], Tensor]:
    """How the noise of a chain is drawn, as `fresh_noise` takes it."""
    draw = NOISES[diffusion.noise].draw

    def scaled(shape: Shape, generator: torch.Generator) -> Tensor:
        field: Tensor = draw(shape, generator)
        return field * diffusion.noise_sd

    return scaled


def fresh_noise(
    draw: Callable[[Shape, torch.Generator], Tensor], like: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise for a training batch, one field per image, on the device of ``like``."""
    shape = (like.shape[1], like.shape[2], like.shape[3])
    return torch.stack([draw(shape, generator) for _ in range(len(like))]).to(like.device)
