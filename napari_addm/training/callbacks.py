"""What Lightning does besides training: pictures, checkpoints to detect with, and the limit."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from napari_addm.checkpoint.file import save_checkpoint
from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.diffusion.noise import SliceNoise
from napari_addm.diffusion.sampling import sampling_levels
from napari_addm.io.files import write_atomic
from napari_addm.methods.base import Sampling, Shape
from napari_addm.training.data import to_model_values, unpack
from napari_addm.training.module import TrainingModule


class WholeStates(TorchCheckpointIO):
    """Writes a state whole or not at all; Lightning copies it from the disk of TMPDIR."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Keep the earlier state when the disk is full, or the run is killed."""
        state = BytesIO()
        torch.save(checkpoint, state)
        write_atomic(Path(path), state.getvalue())


class SavePictures(Callback):
    """Saves validation slices and their reconstruction as a PNG, at every validation.

    Parameters
    ----------
    images : Tensor of uint8, shape (B, 1, H, W)
    """

    def __init__(self, folder: Path, images: Tensor, specification: ModelSpecification) -> None:
        self.folder = folder
        self.images = images
        self.specification = specification

    @torch.no_grad()
    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TrainingModule)
        from skimage.io import imsave

        clean = to_model_values(*unpack(self.images.to(pl_module.device)))
        reconstruction = self._reconstruct(pl_module, clean)
        rows = [torch.cat([i[0].flip(0) for i in part], dim=1) for part in (clean, reconstruction)]
        picture = (torch.cat(rows).clamp(-1, 1) * 127.5 + 127.5).byte().cpu().numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"iteration-{int(pl_module.iterations):07d}.png"
        imsave(path, picture, check_contrast=False)

    def _reconstruct(self, module: TrainingModule, clean: Tensor) -> Tensor:
        level = self.specification.detection.level
        sampling = Sampling() if level is None else Sampling(tuple(sampling_levels(level, 1)))
        diffusion = self.specification.diffusion
        noise = (diffusion.noise, diffusion.noise_sd) if diffusion else ("gaussian", 1.0)
        drawn = SliceNoise(noise[0], 0, noise[1])

        def draw(step: int, shape: Shape | None = None) -> Tensor:
            image = (clean.shape[1], clean.shape[2], clean.shape[3])
            return drawn.sample(range(len(clean)), shape or image, 0, step).to(clean.device)

        *_, last = module.method.reconstruct(
            module.average.module, self.specification, clean, sampling, draw
        )
        return last.image


class ExportCheckpoint(Callback):
    """Writes the moving average as a checkpoint that can detect, at every validation."""

    def __init__(self, path: Path, specification: ModelSpecification, half: bool) -> None:
        self.path = path
        self.specification = specification
        self.half = half

    def export(self, module: TrainingModule) -> None:
        """Write the checkpoint."""
        training = {
            **self.specification.training,
            "iterations": int(module.iterations),
            "seconds": round(module.seconds),
        }
        weights = module.average.module.state_dict()
        if self.half:
            weights = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
        save_checkpoint(self.path, self.specification.replace(training=training), weights)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            assert isinstance(pl_module, TrainingModule)
            self.export(pl_module)


class StopAfterIterations(Callback):
    """Stops at the end of the epoch that reaches a number of iterations.

    Lightning's ``max_steps`` counts the steps of all optimizers instead, and stops within epochs.
    """

    def __init__(self, iterations: int | None) -> None:
        self.iterations = iterations

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._stop_if_spent(trainer, pl_module)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._stop_if_spent(trainer, pl_module)

    def _stop_if_spent(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self.iterations is not None and int(pl_module.iterations) >= self.iterations:
            trainer.should_stop = True
