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
    share : float or None
        Lambda is set anew at every iteration, so that the adversarial gradient has this share of
        the L2's norm, both at all weights of the denoiser. It takes two more backward passes.
        ``weight`` then only says whether there is an adversary. None keeps lambda at ``weight``.
    loss : str
        ``"saturating"``: the denoiser minimizes ``log(1 - D(fake))``, as eq. 5
        is written. ``"non_saturating"``: it minimizes ``-log D(fake)``.
    discriminator_input : str
        What the discriminator sees: ``"previous"``, the sample of x_{t-1};
        ``"step"``, a sample of q(x_s | x_t, x0-hat) for an s far below t, with x_t and t [1]_;
        ``"clean"``, the x0-hat. The gradient reaches the denoiser strongly attenuated through
        x_{t-1}, and undiminished through x0-hat.
    stride : float
        Share of t that ``"step"`` goes back: s = t - stride * t.
    level_weighting : str
        Weight of each level in both adversarial losses. ``"equal"``: 1; but x_s and x0-hat are
        judged up to T/2 only. ``"min_snr"``: min(SNR(t), 5) / 5 [2]_.
    real_sample : str
        The real x_{t-1}: ``"marginal"``, a fresh noising of x_0, or
        ``"posterior"``, a sample of q(x_{t-1} | x_t, x_0). The real x_s is always the latter.
    conditioned : bool
        Whether the discriminator also sees x_t; that of ``"step"`` always does.
    r1 : float
        Weight gamma of the R1 penalty on real samples; 0 leaves it out.

    References
    ----------
    .. [1] Xiao, Kreis, Vahdat. Tackling the Generative Learning Trilemma with Denoising
       Diffusion GANs. ICLR 2022.
    .. [2] Hang et al. Efficient Diffusion Training via Min-SNR Weighting Strategy. ICCV 2023.
    """

    record_key: ClassVar[str] = "adversarial"

    weight: float = Field(
        0.05, ge=0, title="Adversarial weight", description="Weight of the adversarial loss."
    )
    share: float | None = Field(
        None,
        gt=0,
        le=10,
        title="Adversarial share",
        description="Norm of the adversarial gradient as a share of the L2's; the weight follows "
        "it. Without it, the weight is fixed.",
    )
    loss: Literal["saturating", "non_saturating"] = Field(
        "saturating",
        title="Adversarial loss",
        description="The denoiser's adversarial loss; the paper's is saturating.",
    )
    discriminator_input: Literal["previous", "step", "clean"] = Field(
        "previous",
        alias="judged",
        title="Discriminator input",
        description="What the discriminator sees: previous, x_(t-1); step, x_s far below x_t, "
        "with x_t and t; clean, x_0.",
    )
    stride: float = Field(
        0.75, gt=0, le=1, title="Stride", description="Share of t that a judged step goes back."
    )
    level_weighting: Literal["equal", "min_snr"] = Field(
        "equal",
        title="Level weighting",
        description="Weight of a timestep in the adversarial losses: equal; min_snr, less the "
        "noisier the image. Equally weighted, step and clean are judged up to T/2.",
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
