"""A variational autoencoder with a dense code (Baur et al., Medical Image Analysis, 2021)."""

from __future__ import annotations

from dataclasses import replace

from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.settings import TrainingSettings
from napari_addm.methods.spatial_ae import CHANNELS, autoencoder_presets
from napari_addm.methods.spatial_ae import METHOD as SPATIAL_AE


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"`` and ``"paper"``."""
    network = AutoencoderSpecification(channels=CHANNELS, latent=128, dropout=0.1)
    return autoencoder_presets("dense_vae", network)


METHOD = replace(
    SPATIAL_AE,
    title="VAE (dense)",
    presets=presets,
    implementation="napari_addm.methods.dense_vae.model:DenseVaeMethod",
)
