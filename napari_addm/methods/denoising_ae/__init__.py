"""A denoising autoencoder with coarse noise (Kascenas et al., Medical Image Analysis, 2023).

Noise grid, its strength and the loss inside the brain are published. The U-Net is that of the small
diffusion models, and there is T1 alone, without amsgrad, cosine decay and median filter.
"""

from __future__ import annotations

from napari_addm.methods.ddpm import SMALL_UNET
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.settings import ABSOLUTE_SCORE, SMALL, TrainingSettings, uncalibrated


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, with the U-Net of the diffusion models."""
    return {
        "small": TrainingSettings(
            method="denoising_ae",
            **SMALL,
            network=SMALL_UNET,
            detection=uncalibrated(ABSOLUTE_SCORE),
            learning_rate=3e-4,
        )
    }


METHOD = MethodInfo(
    title="Denoising AE (Kascenas)",
    source="Kascenas et al., Medical Image Analysis 2023",
    network=UNetSpecification,
    presets=presets,
    implementation="napari_addm.methods.denoising_ae.model:DenoisingMethod",
    openvino=True,
    reduced_precision=True,
)
