"""Latent diffusion (Pinaya et al., MICCAI, 2022)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from napari_addm.checkpoint.specification import DiffusionSpecification, NetworkSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import UNetSpecification, VqVaeSpecification
from napari_addm.methods.settings import SMALL, STRUCTURE_SCORE, TrainingSettings, uncalibrated


class LatentUNetSpecification(NetworkSpecification):
    """A VQ-VAE and a diffusion U-Net on its latents, which are not unshuffled."""

    kind: Literal["latent_unet"] = "latent_unet"
    vqvae: VqVaeSpecification
    unet: UNetSpecification

    @property
    def divisor(self) -> int:
        return self.vqvae.divisor * self.unet.divisor

    @model_validator(mode="after")
    def _consistent(self) -> LatentUNetSpecification:
        if self.unet.unshuffle != 1:
            raise ValueError("unet.pack must be 1 on latents")
        return self


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``: latents of 14 x 12, and no changes of contrast: they are what is looked for."""
    vqvae = VqVaeSpecification(
        channels=(32, 64, 128), res_layers=1, embeddings=256, embedding_size=8
    )
    unet = UNetSpecification(
        unshuffle=1,
        channels=(96, 160),
        res_blocks=(2, 2),
        attention=(False, True),
        head_channels=32,
        norm_groups=32,
    )
    return {
        "small": TrainingSettings(
            method="latent_diffusion",
            **SMALL,
            vary_contrast=False,
            network=LatentUNetSpecification(vqvae=vqvae, unet=unet),
            # Latents have no smooth fields that white noise would spare.
            diffusion=DiffusionSpecification(timesteps=timesteps, noise="gaussian"),
            detection=uncalibrated(
                STRUCTURE_SCORE.replace(symmetry=False),
                timesteps // 2,
                steps=min(20, timesteps // 2),
            ),
            max_timestep=timesteps,
            learning_rate=5e-4,
        )
    }


METHOD = MethodInfo(
    title="Latent diffusion (Pinaya)",
    source="Pinaya et al., MICCAI 2022",
    network=LatentUNetSpecification,
    presets=presets,
    implementation="napari_addm.methods.latent_diffusion.model:LatentDiffusionMethod",
    noise_levels=True,
    random=True,
)
