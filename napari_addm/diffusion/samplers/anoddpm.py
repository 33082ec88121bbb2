"""Ancestral sampling as in AnoDDPM (Wyatt et al., 2022): forward variance, and clamped x0-hat."""

from __future__ import annotations

from functools import partial

from napari_addm.diffusion.samplers.ddpm import ddpm
from napari_addm.diffusion.sampling import Sampler

SAMPLER = Sampler(
    title="DDPM (AnoDDPM)",
    description="DDPM with more fresh noise at a step, and x_0 kept within the values of scans.",
    source="Wyatt et al., CVPR Workshops 2022",
    updates=partial(ddpm, variance="beta"),
    clips=True,
)
