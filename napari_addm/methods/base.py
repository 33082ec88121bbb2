"""What a method offers to training and to detection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from napari_addm.checkpoint.specification import (
    DetectionSpecification,
    DiffusionSpecification,
    ModelSpecification,
    NetworkSpecification,
    SamplerKind,
    ScoreSpecification,
)
from napari_addm.checkpoint.specification import Method as MethodName

Shape = tuple[int, int, int]

SMALL_GRID: dict[str, Any] = {"spacing_mm": (2.0, 1.75, 1.75), "size": (112, 96)}
"""The model grid of the presets that train on a CPU."""


@dataclass(frozen=True)
class AdversarialSettings:
    """The options of ADDM's adversarial part; the defaults are our reading of the paper.

    Attributes
    ----------
    weight : float
        lambda of eq. 5; 0 leaves the plain DDPM.
    loss : str
        ``"saturating"``: the denoiser minimises ``log(1 - D(fake))``, as eq. 5
        is written. ``"non_saturating"``: it minimises ``-log D(fake)``.
    judged : str
        What the discriminator sees: ``"previous"``, the sample of x_{t-1}, or
        ``"clean"``, the x0-hat. The gradient reaches the denoiser strongly
        attenuated through x_{t-1} and undiminished through x0-hat.
    real : str
        The real x_{t-1}: ``"marginal"``, a fresh noising of x_0, or
        ``"posterior"``, a sample of q(x_{t-1} | x_t, x_0).
    conditioned : bool
        Whether the discriminator also sees x_t.
    r1 : float
        Weight gamma of the R1 penalty on real samples; 0 leaves it out.
    """

    weight: float = 0.05
    loss: Literal["saturating", "non_saturating"] = "saturating"
    judged: Literal["previous", "clean"] = "previous"
    real: Literal["marginal", "posterior"] = "marginal"
    conditioned: bool = False
    r1: float = 0.0


@dataclass(frozen=True)
class TrainingSettings:
    """What is trained, and how.

    Attributes
    ----------
    preset : str
        The preset that these settings started from.
    method : str
        See :data:`napari_addm.methods.METHODS`.
    spacing_mm, size : tuple
        Model grid: (z, y, x) in mm, and (height, width) of a slice.
    network, diffusion : specification
        ``diffusion`` is None for methods without noise levels.
    detection : DetectionSpecification
        The checkpoint's defaults for :func:`napari_addm.detect`.
    adversarial : AdversarialSettings
        Used by the method ``addm`` alone.
    highest_level : int
        Noise levels are drawn from 1..highest_level in training.
    epochs : int
        An epoch draws ``slices_per_volume`` random slices from every volume.
    learning_rate, decay, decay_epochs : float, float, int
        Adam's rate, multiplied by ``decay`` every ``decay_epochs`` epochs.
    ema : float
        Decay per iteration of the moving average of the weights, which is what is
        saved; smaller in the first iterations, or a short training would save its start.
    clip : float
        Largest gradient norm of each optimizer's weights.
    augment : bool
        Random geometry, contrast, bias field and sharpness.
    seed : int
    """

    preset: str
    method: MethodName
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int]
    network: NetworkSpecification
    detection: DetectionSpecification
    diffusion: DiffusionSpecification | None = None
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)
    highest_level: int = 1000
    epochs: int = 3000
    slices_per_volume: int = 1
    batch_size: int = 4
    learning_rate: float = 1e-4
    decay: float = 0.999
    decay_epochs: int = 200
    ema: float = 0.9999
    clip: float = 1.0
    augment: bool = False
    seed: int = 0


def uncalibrated(
    score: ScoreSpecification, level: int | None = None, **detection: Any
) -> DetectionSpecification:
    """Detection defaults of a model that no threshold has been chosen for yet."""
    return DetectionSpecification(
        level=level, score=score, threshold=0.1, threshold_source="not calibrated", **detection
    )


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
        See :class:`napari_addm.detection.settings.DetectionSettings`.
    """

    levels: tuple[int, ...] = ()
    sampler: SamplerKind = "ddim"
    eta: float = 0.0


class DrawNoise(Protocol):
    """Noise of a batch of slices that depends on nothing but seed, slice, draw and step."""

    def __call__(self, step: int, shape: Shape | None = None) -> Tensor:
        """Unit-variance noise (B, C, H, W) for a step; ``shape`` if not the image's (C, H, W)."""


@dataclass(frozen=True)
class Reconstruction:
    """Slices as a method would expect them in a healthy brain.

    Attributes
    ----------
    image : Tensor of float32, shape (B, 1, H, W)
        Model values, -1..1.
    weight : Tensor of float32, shape (B, 1, H, W), or None
        What the residual is multiplied by, for methods that also tell where a
        lesion can be; None for 1 everywhere.
    """

    image: Tensor
    weight: Tensor | None = None


# --- training -------------------------------------------------------------------------------


class Update(Protocol):
    """Minimises a loss: one step of one optimizer, gradients clipped."""

    def __call__(self, loss: Tensor, optimizer: int = 0) -> None:
        """``optimizer`` counts in the order of :meth:`Learner.optimizers`."""


@dataclass(frozen=True)
class Step:
    """What a learner gets for one batch beside the images.

    Attributes
    ----------
    generator : torch.Generator
        On the CPU; depends on seed and iteration alone.
    share : float
        Share of the training that is done, 0..1, for methods that train in stages.
    update : Update
    gradient_norm : callable or None
        Norm of a loss's gradient at the network's weights, without a step; given
        once an epoch only, because it takes a backward pass of its own.
    """

    generator: torch.Generator
    share: float
    update: Update
    gradient_norm: Callable[[Tensor], Tensor] | None = None


class Learner(nn.Module, ABC):
    """What is trained: the network that is saved, and what helps to train it.

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
    def step(self, clean: Tensor, step: Step) -> dict[str, Tensor]:
        """Learn from one batch.

        Parameters
        ----------
        clean : Tensor of float32, shape (B, 1, H, W)
            Healthy slices, -1..1, air -1.

        Returns
        -------
        dict of str to Tensor, scalar
            What the log gets under ``train/``; names with a slash as they are.
        """

    @abstractmethod
    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The averaged network's loss on held-out slices; scalar."""


# --- the method -----------------------------------------------------------------------------


class Method(ABC):
    """One system of the comparison.

    Attributes
    ----------
    name : str
        As in a checkpoint's header.
    title : str
        For tables.
    source : str
        Where it was published.
    reduced_precision : bool
        Whether its network may run in bfloat16 or float16.
    """

    name: ClassVar[MethodName]
    title: ClassVar[str]
    source: ClassVar[str]
    reduced_precision: ClassVar[bool] = False

    @abstractmethod
    def presets(self, length: int) -> dict[str, TrainingSettings]:
        """Settings to train with, by name; ``"small"`` trains on a CPU.

        Parameters
        ----------
        length : int
            T, for methods with noise levels.
        """

    @abstractmethod
    def build(self, network: NetworkSpecification, size: tuple[int, int]) -> nn.Module:
        """An untrained network for slices of ``size`` (height, width)."""

    @abstractmethod
    def learner(self, settings: TrainingSettings) -> Learner:
        """A fresh network with all that trains it."""

    def calls(self, specification: ModelSpecification, sampling: Sampling) -> int:
        """How many times :meth:`reconstruct` yields."""
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
            Of :meth:`build`, trained, in evaluation mode.
        clean : Tensor of float32, shape (B, 1, H, W)
            The scan's slices, -1..1.

        Yields
        ------
        Reconstruction
            After every call of the network, so that a run can be cancelled within
            one; the last is the result.
        """


def at_precision(network: nn.Module) -> Callable[..., Tensor]:
    """A network that takes and gives float32 whatever the format of its weights."""
    # a compiled network has none to be seen, and takes and gives float32
    dtype = next((each.dtype for each in network.parameters()), torch.float32)

    def call(image: Tensor, *others: Tensor) -> Tensor:
        found: Tensor = network(image.to(dtype), *others)
        return found.float()

    return call


def random_levels(count: int, highest: int, generator: torch.Generator) -> Tensor:
    """Noise levels 1..highest, int64, shape (count,)."""
    return torch.randint(1, highest + 1, (count,), generator=generator)


def fresh_noise(
    draw: Callable[[Shape, torch.Generator], Tensor], like: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise for a training batch, one field per image, on the device of ``like``."""
    shape = (like.shape[1], like.shape[2], like.shape[3])
    return torch.stack([draw(shape, generator) for _ in range(len(like))]).to(like.device)
