"""AnoDDPM: a diffusion model with simplex noise (Wyatt et al., CVPR Workshops, 2022).

The noise is simplex in training, in noising the scan, and in the sampler's own steps.
"""

from __future__ import annotations

from dataclasses import replace

from napari_addm.checkpoint import DiffusionSpecification, ScoreSpecification, UNetSpecification
from napari_addm.methods.base import TrainingSettings, uncalibrated
from napari_addm.methods.ddpm import DdpmMethod, small_diffusion


class AnoddpmMethod(DdpmMethod):
    """The plain diffusion model on another noise."""

    name = "anoddpm"
    title = "AnoDDPM"
    source = "Wyatt, Leach, Schmon and Willcocks, CVPR Workshops 2022"

    def presets(self, length: int) -> dict[str, TrainingSettings]:
        """``"small"``, and ``"paper"``: the published configuration, levels below 800 of 1000."""
        small = small_diffusion(self.name, length, "simplex")
        paper = replace(
            small,
            preset="paper",
            spacing_mm=(1.0, 0.9, 0.9),
            size=(256, 256),
            network=UNetSpecification(
                pack=1,
                channels=(128, 128, 256, 256, 512, 512),
                res_blocks=(2, 2, 2, 2, 2, 2),
                attention=(False, False, False, True, True, True),
                head_channels=64,
                norm_groups=32,
            ),
            diffusion=DiffusionSpecification(length=length, noise="simplex"),
            detection=uncalibrated(
                ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0),
                length // 4,
                steps=length // 4,
                sampler="ddpm",
            ),
            highest_level=length * 4 // 5,
            epochs=3000,
            slices_per_volume=1,
            batch_size=1,
            learning_rate=1e-4,
            ema=0.9999,
            augment=False,
        )
        return {"small": small, "paper": paper}


METHOD = AnoddpmMethod()
