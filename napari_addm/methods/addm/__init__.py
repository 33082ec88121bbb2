"""The Adversarial Denoising Diffusion Model (Yu, Oh and Yang, 2023, arXiv:2312.04382)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from napari_addm.methods.ddpm import METHOD as DDPM
from napari_addm.methods.ddpm import paper_diffusion, small_diffusion
from napari_addm.methods.settings import TrainingOptions, TrainingSettings


class AdversarialSettings(TrainingOptions):
    """The options of ADDM's adversarial part; the defaults are our reading of the paper.

    Attributes
    ----------
    weight : float
        lambda of eq. 5; 0 leaves the plain DDPM.
    loss : str
        ``"saturating"``: the denoiser minimizes ``log(1 - D(fake))``, as eq. 5
        is written. ``"non_saturating"``: it minimizes ``-log D(fake)``.
    discriminator_input : str
        What the discriminator sees: ``"previous"``, the sample of x_{t-1}, or
        ``"clean"``, the x0-hat. The gradient reaches the denoiser strongly
        attenuated through x_{t-1} and undiminished through x0-hat.
    real_sample : str
        The real x_{t-1}: ``"marginal"``, a fresh noising of x_0, or
        ``"posterior"``, a sample of q(x_{t-1} | x_t, x_0).
    conditioned : bool
        Whether the discriminator also sees x_t.
    r1 : float
        Weight gamma of the R1 penalty on real samples; 0 leaves it out.
    """

    record_key: ClassVar[str] = "adversarial"

    weight: float = Field(
        0.05, ge=0, title="Adversarial weight", description="Weight of the adversarial loss."
    )
    loss: Literal["saturating", "non_saturating"] = Field(
        "saturating",
        title="Adversarial loss",
        description="The denoiser's adversarial loss; the paper's is saturating.",
    )
    discriminator_input: Literal["previous", "clean"] = Field(
        "previous",
        alias="judged",
        title="Discriminator input",
        description="What the discriminator sees: previous, x_(t-1); clean, x_0.",
    )
    real_sample: Literal["marginal", "posterior"] = Field(
        "marginal",
        alias="real",
        title="Real sample",
        description="The real x_(t-1): marginal, noised from x_0; posterior, given x_t and x_0.",
    )
    conditioned: bool = Field(
        False, title="Conditioned", description="The discriminator also sees x_t."
    )
    r1: float = Field(
        0.0, ge=0, title="R1", description="Weight of the R1 penalty on the discriminator."
    )


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, and ``"paper"``: the published configuration.

    The paper's is 256 x 256, batch 4, 3000 epochs, Gaussian noise, lambda 0.05. Its network
    is AnoDDPM's, which the paper follows where it says nothing.
    """
    options = AdversarialSettings()
    return {
        "small": small_diffusion("addm", timesteps, options=options),
        "paper": paper_diffusion("addm", timesteps, "gaussian", options=options),
    }


METHOD = replace(
    DDPM,
    title="ADDM",
    source="Yu, Oh and Yang, arXiv:2312.04382, 2023",
    presets=presets,
    implementation="napari_addm.methods.addm.model:AddmMethod",
    options=AdversarialSettings,
    compared_timesteps=(300, 500, 1000),
)
