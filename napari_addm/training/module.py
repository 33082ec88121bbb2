"""A method's objective and the moving average of its network, as Lightning trains them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from napari_addm.errors import AddmError
from napari_addm.methods.base import Method, StepContext
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS
from napari_addm.training.augmentation import augment
from napari_addm.training.data import to_model_values, unpack
from napari_addm.training.settings import Budget


def warmed_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an exponential moving average with a decay that grows up to ``decay``.

    For torch's ``AveragedModel``. With a constant decay the average of a short training
    would hold mostly its untrained start.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], currents: list[Tensor], iterations: int | Tensor) -> None:
        n = int(iterations)
        weight = 1.0 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, currents, weight)

    return update


class TrainingModule(lightning.LightningModule):
    """A training, one batch at a time.

    Parameters
    ----------
    timer : Timer
        Clock of the training, over all its runs.
    """

    def __init__(self, settings: TrainingSettings, budget: Budget, timer: Timer) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.budget = budget
        self.timer = timer
        method = METHODS[settings.method].load()
        assert isinstance(method, Method)
        self.method = method
        self.objective = self.method.objective(settings)
        # Lightning's EMAWeightAveraging averages counters too, keeps its decay constant, and ends
        # with the average as the state, from which a training could not go on exactly.
        self.average = AveragedModel(
            self.objective.network, multi_avg_fn=warmed_average(settings.ema)
        ).requires_grad_(False)
        self.average.eval()
        self.iterations: Tensor
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    @property
    def seconds(self) -> float:
        """Seconds that the training has taken."""
        return float(self.timer.time_elapsed())

    def configure_optimizers(self) -> Any:
        optimizers = self.objective.optimizers()
        schedulers = [
            torch.optim.lr_scheduler.StepLR(o, self.settings.decay_epochs, self.settings.decay)
            for o in optimizers
        ]
        return optimizers, schedulers

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        iteration = int(self.iterations)
        # Reseeded at every iteration, so that a resumed training repeats an uninterrupted one.
        seed = _seed(self.settings.seed, iteration, self.global_rank)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout has no generator of its own
        values, mask = unpack(batch)
        if self.settings.augment:
            values, mask = augment(
                values, mask, generator, vary_contrast=self.settings.vary_contrast
            )
        optimizers: Any = self.optimizers()
        self.average.eval()
        logged = self.objective.step(
            to_model_values(values, mask),
            StepContext(
                generator,
                self.budget.progress(iteration, self.seconds, self.current_epoch),
                partial(self._step, optimizers if isinstance(optimizers, list) else [optimizers]),
                self._gradient_norm if batch_index == 0 else None,
            ),
        )
        self.average.update_parameters(self.objective.network)
        figures = {k if "/" in k else f"train/{k}": v.detach() for k, v in logged.items()}
        self.log_dict(figures, prog_bar=False)
        name, value = next(iter(logged.items()))
        self.log(name, value.detach(), prog_bar=True, logger=False)
        self.iterations += 1

    def _step(self, optimizers: list[Any], loss: Tensor, optimizer: int = 0) -> None:
        if not torch.isfinite(loss):
            raise AddmError(
                "The training diverged (the loss is not finite); lower the learning rate, or "
                "train with --precision 32."
            )
        chosen = optimizers[optimizer]
        chosen.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(chosen, self.settings.clip, "norm")
        chosen.step()

    def _gradient_norm(self, loss: Tensor) -> Tensor:
        parameters = [p for p in self.objective.network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms = [g.norm() for g in gradients if g is not None]  # type: ignore[redundant-expr]
        return torch.stack(norms).norm()

    def on_train_epoch_end(self) -> None:
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        generator = torch.Generator().manual_seed(batch_index)
        clean = to_model_values(*unpack(batch))
        error = self.objective.validation_loss(self.average.module, clean, generator)
        self.log("validation/loss", error, prog_bar=True, on_epoch=True, batch_size=len(clean))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
