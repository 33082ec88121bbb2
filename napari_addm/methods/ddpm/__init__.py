"""The plain denoising diffusion model (Ho et al., 2020): ADDM without its adversary."""

from __future__ import annotations

from typing import Any

from napari_addm.checkpoint.specification import DiffusionSpecification, ScoreSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.settings import SMALL, STRUCTURE_SCORE, TrainingSettings, uncalibrated

SMALL_UNET = UNetSpecification(
    unshuffle=2,
    channels=(32, 96, 128, 192),
    res_blocks=(1, 1, 1, 1),
    attention=(False, False, False, True),
    head_channels=32,
    norm_groups=32,
)
PAPER_UNET = UNetSpecification(
    unshuffle=1,
    channels=(128, 128, 256, 256, 512, 512),
    res_blocks=(2, 2, 2, 2, 2, 2),
    attention=(False, False, False, True, True, True),
    head_channels=64,
    norm_groups=32,
)
"""AnoDDPM's network, which ADDM's paper follows where it says nothing."""


def small_diffusion(
    method: str, timesteps: int, noise: str = "pyramid", **settings: Any
) -> TrainingSettings:
    """A preset that trains on a CPU: packed slices, pyramid noise, augmentation."""
    return TrainingSettings(
        method=method,
        **SMALL,
        network=SMALL_UNET,
        diffusion=DiffusionSpecification(timesteps=timesteps, noise=noise),
        detection=uncalibrated(
            STRUCTURE_SCORE,
            round(0.15 * timesteps),
            draws=4,
        ),
        # Above half of the chain little is left of the image to reconstruct from.
        max_timestep=timesteps // 2,
        learning_rate=3e-4,
        **settings,
    )


def paper_diffusion(
    method: str, timesteps: int, noise: str, max_timestep: int | None = None, **settings: Any
) -> TrainingSettings:
    """ADDM's published configuration: 256 x 256, batch 4, 3000 epochs."""
    return TrainingSettings(
        preset="paper",
        method=method,
        spacing_mm=(1.0, 0.9, 0.9),
        size=(256, 256),
        network=PAPER_UNET,
        diffusion=DiffusionSpecification(timesteps=timesteps, noise=noise),
        # The level, the squared error and the ancestral sampler are AnoDDPM's.
        detection=uncalibrated(
            ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0),
            timesteps // 4,
            steps=timesteps // 4,
            sampler="ddpm",
        ),
        max_timestep=max_timestep or timesteps,
        **settings,
    )


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``."""
    return {"small": small_diffusion("ddpm", timesteps)}


METHOD = MethodInfo(
    title="DDPM (lambda = 0)",
    source="Ho, Jain and Abbeel, NeurIPS 2020",
    network=UNetSpecification,
    presets=presets,
    implementation="napari_addm.methods.ddpm.model:DdpmMethod",
    noise_levels=True,
    random=True,
    openvino=True,
    reduced_precision=True,
)
