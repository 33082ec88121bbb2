"""AnoDDPM: a diffusion model with simplex noise (Wyatt et al., CVPR Workshops, 2022).

The noise is simplex in training, in noising the scan, and in the sampler's own steps.
"""

from __future__ import annotations

from dataclasses import replace

from napari_addm.methods.ddpm import METHOD as DDPM
from napari_addm.methods.ddpm import paper_diffusion, small_diffusion
from napari_addm.methods.settings import TrainingSettings


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, and ``"paper"``: the published configuration, levels below 800 of 1000."""
    paper = paper_diffusion(
        "anoddpm", timesteps, "simplex", max_timestep=timesteps * 4 // 5, batch_size=1
    )
    return {"small": small_diffusion("anoddpm", timesteps, "simplex"), "paper": paper}


METHOD = replace(
    DDPM,
    title="AnoDDPM",
    source="Wyatt, Leach, Schmon and Willcocks, CVPR Workshops 2022",
    presets=presets,
)
