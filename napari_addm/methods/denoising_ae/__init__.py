"""A denoising autoencoder with coarse noise (Kascenas et al., Medical Image Analysis, 2023)."""

from __future__ import annotations

from napari_addm.checkpoint.specification import ScoreSpecification
from napari_addm.methods.ddpm import SMALL_UNET
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.settings import SMALL_GRID, TrainingSettings, uncalibrated


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, with the U-Net of the diffusion models."""
    return {
        "small": TrainingSettings(
            preset="small",
            method="denoising_ae",
            **SMALL_GRID,
            network=SMALL_UNET,
            detection=uncalibrated(
                ScoreSpecification(kind="absolute", smoothing_mm=6.0, erosion_mm=4.0)
            ),
            epochs=300,
            slices_per_volume=10,
            batch_size=16,
            learning_rate=3e-4,
            ema=0.999,
            augment=True,
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
