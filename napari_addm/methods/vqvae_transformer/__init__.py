"""VQ-VAE and transformer (Pinaya et al., Medical Image Analysis, 2022).

The paper's ensemble of eight orders of the codes is left out: there is one, row by row.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from napari_addm.checkpoint.specification import NetworkSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import VqVaeSpecification, Width
from napari_addm.methods.settings import ABSOLUTE_SCORE, SMALL, TrainingSettings, uncalibrated


class VqTransformerSpecification(NetworkSpecification):
    """A VQ-VAE and a transformer over its codes (MONAI's ``DecoderOnlyTransformer``)."""

    kind: Literal["vqvae_transformer"] = "vqvae_transformer"
    vqvae: VqVaeSpecification
    width: Width
    layers: Annotated[int, Field(ge=1, le=64)]
    heads: Annotated[int, Field(ge=1, le=64)]

    @property
    def divisor(self) -> int:
        return self.vqvae.divisor

    @model_validator(mode="after")
    def _consistent(self) -> VqTransformerSpecification:
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        return self


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``: 14 x 12 codes per slice, so that one sequence is short."""
    vqvae = VqVaeSpecification(
        channels=(32, 64, 128), res_layers=1, embeddings=256, embedding_size=32
    )
    return {
        "small": TrainingSettings(
            method="vqvae_transformer",
            **SMALL,
            network=VqTransformerSpecification(vqvae=vqvae, width=128, layers=6, heads=4),
            detection=uncalibrated(ABSOLUTE_SCORE, draws=4),
            learning_rate=1e-3,
        )
    }


METHOD = MethodInfo(
    title="VQ-VAE + transformer, one order",
    source="Pinaya et al., Medical Image Analysis 2022",
    network=VqTransformerSpecification,
    presets=presets,
    implementation="napari_addm.methods.vqvae_transformer.model:VqTransformerMethod",
    random=True,
)
