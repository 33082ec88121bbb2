"""f-AnoGAN (Schlegl et al., Medical Image Analysis, 2019): a GAN, then an encoder for it."""

from __future__ import annotations

from typing import Literal

from napari_addm.checkpoint.specification import NetworkSpecification, ScoreSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import CodeLength, Unshuffle, Widths
from napari_addm.methods.settings import ABSOLUTE_SCORE, SMALL, TrainingSettings, uncalibrated


class GanSpecification(NetworkSpecification):
    """Generator, critic and encoder of residual blocks.

    Attributes
    ----------
    channels : tuple
        Finest first; each level halves the image.
    latent : int
        Length of the code.
    unshuffle : int
        Pixel-unshuffle factor, as for the U-Net. Files call it ``pack``.
    """

    kind: Literal["gan"] = "gan"
    channels: Widths
    latent: CodeLength
    unshuffle: Unshuffle

    @property
    def divisor(self) -> int:
        return int(self.unshuffle * 2 ** len(self.channels))


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, and ``"paper"``: the published network, 64 x 64 and batch 64."""
    return {
        "small": TrainingSettings(
            method="f_anogan",
            **(SMALL | {"batch_size": 8, "ema": 0.99}),
            network=GanSpecification(channels=(32, 64), latent=128, unshuffle=4),
            detection=uncalibrated(ABSOLUTE_SCORE),
            learning_rate=5e-4,
            # As published, the gradients are not clipped: the penalty bounds them.
            clip=1e6,
        ),
        "paper": TrainingSettings(
            preset="paper",
            method="f_anogan",
            spacing_mm=(1.0, 3.0, 3.0),
            size=(64, 64),
            network=GanSpecification(channels=(64, 128, 256, 512), latent=128, unshuffle=1),
            detection=uncalibrated(
                ScoreSpecification(kind="absolute", smoothing_mm=0.0, erosion_mm=4.0)
            ),
            epochs=3000,
            slices_per_volume=100,
            batch_size=64,
            learning_rate=1e-4,
            decay=1.0,
            ema=0.99,
            clip=1e6,
        ),
    }


METHOD = MethodInfo(
    title="f-AnoGAN",
    source="Schlegl et al., Medical Image Analysis 2019",
    network=GanSpecification,
    presets=presets,
    implementation="napari_addm.methods.f_anogan.model:FAnoganMethod",
)
