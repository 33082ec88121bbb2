"""AnoDDPM: a diffusion model with simplex noise (Wyatt et al., CVPR Workshops, 2022).

The noise is simplex in training, in noising the scan, and in the sampler's own steps, with the
power that it has in the published code.
"""

from __future__ import annotations

from dataclasses import replace

from napari_addm.methods.ddpm import METHOD as DDPM
from napari_addm.methods.ddpm import paper_diffusion, small_diffusion
from napari_addm.methods.settings import TrainingSettings

NOISE_SD = 0.48
"""Standard deviation of the noise of the published code, measured on 21 fields."""


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, and ``"paper"``: the published configuration, levels below 800 of 1000.

    Both noise to a quarter of the chain. The small one takes a single step from there, where the
    published one takes all, with its own sampler.
    """
    small = small_diffusion("anoddpm", timesteps, "simplex", decay=1.0)
    paper = paper_diffusion(
        "anoddpm",
        timesteps,
        "simplex",
        max_timestep=timesteps * 4 // 5,
        batch_size=1,
        decay=1.0,
    )
    return {
        "small": _published(small, level=timesteps // 4),
        "paper": _published(paper, sampler="anoddpm"),
    }


def _published(settings: TrainingSettings, **detection: int | str) -> TrainingSettings:
    assert settings.diffusion is not None
    return settings.replace(
        diffusion=settings.diffusion.replace(noise_sd=NOISE_SD),
        detection=settings.detection.replace(**detection),
    )


METHOD = replace(
    DDPM,
    title="AnoDDPM",
    source="Wyatt, Leach, Schmon and Willcocks, CVPR Workshops 2022",
    presets=presets,
)
