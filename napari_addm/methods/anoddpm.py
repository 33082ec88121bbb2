"""AnoDDPM: a diffusion model with simplex noise (Wyatt et al., CVPR Workshops, 2022).

The noise is simplex in training, in noising the scan, and in the sampler's own steps.
"""

from __future__ import annotations

from dataclasses import replace

from napari_addm.methods.base import TrainingSettings
from napari_addm.methods.ddpm import DdpmMethod, paper_diffusion, small_diffusion


class AnoddpmMethod(DdpmMethod):
    """The plain diffusion model on another noise."""

    name = "anoddpm"
    title = "AnoDDPM"
    source = "Wyatt, Leach, Schmon and Willcocks, CVPR Workshops 2022"

    def presets(self, length: int) -> dict[str, TrainingSettings]:
        """``"small"``, and ``"paper"``: the published configuration, levels below 800 of 1000."""
        paper = replace(
            paper_diffusion(self.name, length, "simplex"),
            highest_level=length * 4 // 5,
            batch_size=1,
        )
        return {"small": small_diffusion(self.name, length, "simplex"), "paper": paper}


METHOD = AnoddpmMethod()
