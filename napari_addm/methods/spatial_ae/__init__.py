"""A convolutional autoencoder with a spatial code (Baur et al., Medical Image Analysis, 2021)."""

from __future__ import annotations

from napari_addm.checkpoint.specification import ScoreSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.settings import ABSOLUTE_SCORE, SMALL, TrainingSettings, uncalibrated

CHANNELS = (32, 64, 128, 128)


def autoencoder_presets(
    method: str, network: AutoencoderSpecification
) -> dict[str, TrainingSettings]:
    """``"small"``, and ``"paper"``: the published sizes, 128 x 128 and batch 8."""
    return {
        "small": TrainingSettings(
            method=method,
            network=network,
            **(SMALL | {"ema": 0.99}),
            detection=uncalibrated(ABSOLUTE_SCORE),
            learning_rate=1e-3,
        ),
        "paper": TrainingSettings(
            preset="paper",
            method=method,
            network=network,
            spacing_mm=(1.0, 1.5, 1.5),
            size=(128, 128),
            detection=uncalibrated(
                ScoreSpecification(kind="absolute", smoothing_mm=0.0, erosion_mm=4.0)
            ),
            # The paper stops early on the validation loss; here the training's budget decides.
            epochs=100,
            slices_per_volume=100,
            batch_size=8,
            learning_rate=1e-4,
            decay=1.0,
            ema=0.99,
        ),
    }


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"`` and ``"paper"``."""
    network = AutoencoderSpecification(channels=CHANNELS, dropout=0.2)
    return autoencoder_presets("spatial_ae", network)


METHOD = MethodInfo(
    title="AE (spatial)",
    source="Baur et al., Medical Image Analysis 2021",
    network=AutoencoderSpecification,
    presets=presets,
    implementation="napari_addm.methods.spatial_ae.model:SpatialAeMethod",
)
