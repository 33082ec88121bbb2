"""Learning without Lightning: an objective steps its own optimizers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import ModelSpecification, PreparationSpecification
from napari_addm.methods.base import Objective, StepContext
from napari_addm.methods.settings import TrainingSettings


class Trainee:
    """Steps an objective as the training does, and notes the optimizers that it took."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.optimizers = objective.optimizers()
        self.taken: list[int] = []

    def __call__(self, loss: torch.Tensor, optimizer: int = 0) -> None:
        self.optimizers[optimizer].zero_grad()
        loss.backward()
        self.optimizers[optimizer].step()
        self.taken.append(optimizer)

    def step(self, clean: torch.Tensor, progress: float) -> dict[str, torch.Tensor]:
        """Learn from one batch."""
        generator = torch.Generator().manual_seed(len(self.taken))
        return self.objective.step(clean, StepContext(generator, progress, self))


@pytest.fixture(scope="session")
def trainee() -> type[Trainee]:
    """The class, for tests to make their own."""
    return Trainee


@pytest.fixture(scope="session")
def as_checkpoint() -> Callable[[TrainingSettings, torch.nn.Module], Checkpoint]:
    """``as_checkpoint(settings, network)``: a checkpoint that has no file."""

    def wrap(settings: TrainingSettings, network: torch.nn.Module) -> Checkpoint:
        specification: dict[str, Any] = {
            key: getattr(settings, key) for key in ("method", "network", "diffusion", "detection")
        }
        preparation = PreparationSpecification(
            spacing_mm=settings.spacing_mm,
            size=settings.size,
            percentiles=(1.0, 50.0, 99.0),
            landmarks=(0.05, 0.5, 0.95),
        )
        model = ModelSpecification(name="in memory", preparation=preparation, **specification)
        sha256 = f"{settings.method} {id(network)}"
        return Checkpoint(model, network.state_dict(), Path("none.safetensors"), sha256)

    return wrap
