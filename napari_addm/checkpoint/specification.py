"""The checkpoint: one safetensors file whose header says all that is needed to use it.

The header's ``specification`` entry is JSON for :class:`ModelSpecification`.
Reading it imports no torch, and nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from napari_addm.registry import NOISES, SAMPLERS, NoiseName, SamplerName

SCHEMA_VERSION = 1

ScoreKind = Literal["signed", "darker", "brighter", "absolute", "squared", "ssim", "structure"]
SamplerKind = Annotated[SamplerName, BeforeValidator(SAMPLERS.check)]
NoiseKind = Annotated[NoiseName, BeforeValidator(NOISES.check)]
Millimetres = Annotated[float, Field(ge=0.1, le=20)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreparationSpecification(_Part):
    """How a scan becomes the slices that the network knows.

    Attributes
    ----------
    spacing_mm : (z, y, x)
        Voxel size of the model grid; its axes are the world's S, A, R.
    size : (height, width)
        Pixels of one axial slice.
    percentiles, landmarks : tuple of float
        The intensity rule: the scan's percentiles inside the brain mask are
        mapped to these landmarks, linearly between them (Nyul and Udupa,
        1999). Landmarks lie in 0..1; the network sees ``2 * value - 1`` and
        air as -1.
    """

    orientation: Literal["axial"] = "axial"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    size: tuple[Annotated[int, Field(ge=8, le=1024)], Annotated[int, Field(ge=8, le=1024)]]
    percentiles: tuple[float, ...]
    landmarks: tuple[float, ...]

    @model_validator(mode="after")
    def _rising(self) -> PreparationSpecification:
        for name in ("percentiles", "landmarks"):
            values = getattr(self, name)
            if not 2 <= len(values) <= 101:
                raise ValueError(f"{name} needs 2 to 101 values")
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must rise")
        if len(self.percentiles) != len(self.landmarks):
            raise ValueError("percentiles and landmarks differ in number")
        if self.percentiles[0] < 0 or self.percentiles[-1] > 100:
            raise ValueError("percentiles lie between 0 and 100")
        if self.landmarks[0] < 0 or self.landmarks[-1] > 1:
            raise ValueError("landmarks lie between 0 and 1")
        return self


Width = Annotated[int, Field(ge=4, le=2048)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
Share = Annotated[float, Field(ge=0, lt=1)]


class UNetSpecification(_Part):
    """The U-Net that predicts the noise (MONAI's ``DiffusionModelUNet``).

    Attributes
    ----------
    pack : int
        The image is folded ``pack x pack`` pixels into channels
        (pixel-unshuffle) before the network and unfolded after it.
    channels, res_blocks, attention : tuple
        One entry per resolution level, finest first.
    """

    kind: Literal["diffusion_unet"] = "diffusion_unet"
    pack: Literal[1, 2, 4]
    channels: Widths
    res_blocks: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(min_length=1, max_length=8)
    attention: tuple[bool, ...] = Field(min_length=1, max_length=8)
    head_channels: Count
    norm_groups: Count

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return self.pack * 2 ** (len(self.channels) - 1)

    @model_validator(mode="after")
    def _consistent(self) -> UNetSpecification:
        if not len(self.channels) == len(self.res_blocks) == len(self.attention):
            raise ValueError("channels, res_blocks and attention differ in number")
        if any(c % self.norm_groups for c in self.channels):
            raise ValueError("every entry of channels must be a multiple of norm_groups")
        for channels, attends in zip(self.channels, self.attention, strict=True):
            if attends and channels % self.head_channels:
                raise ValueError("channels with attention must be a multiple of head_channels")
        return self


class AutoencoderSpecification(_Part):
    """A convolutional autoencoder that halves the image once per entry of ``channels``.

    Attributes
    ----------
    channels : tuple
        Finest first.
    latent : int or None
        Length of a dense code; None for a spatial one.
    dropout : float
        Share of the code that is dropped in training.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    channels: Widths
    latent: Annotated[int, Field(ge=1, le=65536)] | None = None
    dropout: Share = 0.0

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return int(2 ** len(self.channels))


class GanSpecification(_Part):
    """Generator, critic and encoder of residual blocks, as f-AnoGAN needs them.

    Attributes
    ----------
    channels : tuple
        Finest first; each level halves the image.
    latent : int
        Length of the code.
    pack : int
        The image is folded ``pack x pack`` pixels into channels, as for the U-Net.
    """

    kind: Literal["gan"] = "gan"
    channels: Widths
    latent: Annotated[int, Field(ge=1, le=65536)]
    pack: Literal[1, 2, 4]

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return int(self.pack * 2 ** len(self.channels))


class VqVaeSpecification(_Part):
    """A vector-quantised autoencoder (MONAI's ``VQVAE``).

    Attributes
    ----------
    channels : tuple
        Finest first; each level halves the image.
    res_layers : int
        Residual blocks per level.
    embeddings, embedding_size : int
        Entries of the codebook, and the length of one.
    """

    channels: Widths
    res_layers: Annotated[int, Field(ge=1, le=8)]
    embeddings: Annotated[int, Field(ge=2, le=65536)]
    embedding_size: Annotated[int, Field(ge=1, le=4096)]

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return int(2 ** len(self.channels))


class VqTransformerSpecification(_Part):
    """A VQ-VAE and a transformer over its codes (MONAI's ``DecoderOnlyTransformer``)."""

    kind: Literal["vqvae_transformer"] = "vqvae_transformer"
    vqvae: VqVaeSpecification
    width: Width
    layers: Annotated[int, Field(ge=1, le=64)]
    heads: Annotated[int, Field(ge=1, le=64)]

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return self.vqvae.divisor

    @model_validator(mode="after")
    def _consistent(self) -> VqTransformerSpecification:
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        return self


class LatentUNetSpecification(_Part):
    """A VQ-VAE and a diffusion U-Net on its latents, which are not folded (``unet.pack`` 1)."""

    kind: Literal["latent_unet"] = "latent_unet"
    vqvae: VqVaeSpecification
    unet: UNetSpecification

    @property
    def divisor(self) -> int:
        """What height and width of a slice have to be multiples of."""
        return self.vqvae.divisor * self.unet.divisor

    @model_validator(mode="after")
    def _consistent(self) -> LatentUNetSpecification:
        if self.unet.pack != 1:
            raise ValueError("unet.pack must be 1 on latents")
        return self


NetworkSpecification = Annotated[
    UNetSpecification
    | AutoencoderSpecification
    | GanSpecification
    | VqTransformerSpecification
    | LatentUNetSpecification,
    Field(discriminator="kind"),
]

Method = Literal[
    "addm",
    "ddpm",
    "anoddpm",
    "denoising_ae",
    "spatial_ae",
    "dense_vae",
    "f_anogan",
    "vqvae_transformer",
    "latent_diffusion",
]
NETWORK_KINDS: dict[Method, str] = {
    "addm": "diffusion_unet",
    "ddpm": "diffusion_unet",
    "anoddpm": "diffusion_unet",
    "denoising_ae": "diffusion_unet",
    "spatial_ae": "autoencoder",
    "dense_vae": "autoencoder",
    "f_anogan": "gan",
    "vqvae_transformer": "vqvae_transformer",
    "latent_diffusion": "latent_unet",
}
"""Every method and the kind of network that it needs."""

DIFFUSION_METHODS: tuple[Method, ...] = ("addm", "ddpm", "anoddpm", "latent_diffusion")
"""Methods with a noise level and sampling steps; the others reconstruct in one go."""

RANDOM_METHODS: tuple[Method, ...] = (*DIFFUSION_METHODS, "vqvae_transformer")
"""Methods whose noise draws differ."""


class DiffusionSpecification(_Part):
    """The chain that the network was trained on.

    Attributes
    ----------
    length : int
        T, the number of noise levels; betas are linear, scaled by 1000/T.
    noise : str
        Kind of noise, of unit variance, in training and sampling.
    """

    length: Annotated[int, Field(ge=21, le=100_000)]
    betas: Literal["linear"] = "linear"
    noise: NoiseKind
    prediction: Literal["noise"] = "noise"


class ScoreSpecification(_Part):
    """From residual to anomaly map; see :mod:`napari_addm.detection.scoring`.

    Attributes
    ----------
    symmetry : bool
        Whether what both halves of the brain show is discounted; see
        :mod:`napari_addm.detection.symmetry`.
    """

    kind: ScoreKind
    smoothing_mm: Annotated[float, Field(ge=0, le=100)]
    erosion_mm: Annotated[float, Field(ge=0, le=50)]
    symmetry: bool = False


class FalseAlarmSpecification(_Part):
    """What a model finds in healthy brains, threshold by threshold.

    Attributes
    ----------
    thresholds, mean_ml : tuple of float
        Rising thresholds, and the mean volume per brain of what is found above
        each, in mL; it never rises.
    minimum_ml : float
        Smallest finding that was counted, mL.
    subjects : int
        Healthy brains that this was measured on, none of them trained on.
    """

    thresholds: tuple[float, ...] = Field(min_length=1, max_length=1000)
    mean_ml: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1, max_length=1000)
    minimum_ml: Annotated[float, Field(ge=0)]
    subjects: Count

    @model_validator(mode="after")
    def _monotone(self) -> FalseAlarmSpecification:
        if len(self.thresholds) != len(self.mean_ml):
            raise ValueError("thresholds and mean_ml differ in number")
        if any(b <= a for a, b in pairwise(self.thresholds)):
            raise ValueError("thresholds must rise")
        if any(b > a for a, b in pairwise(self.mean_ml)):
            raise ValueError("mean_ml must not rise")
        return self

    def expected_ml(self, threshold: float) -> float:
        """Mean volume per healthy brain above a threshold, mL.

        Linear between the measured thresholds; beyond them the nearest one's.
        """
        place = bisect_right(self.thresholds, threshold)
        if place == 0 or place == len(self.thresholds):
            return self.mean_ml[min(place, len(self.mean_ml) - 1)]
        low, high = self.thresholds[place - 1 : place + 1]
        share = (threshold - low) / (high - low)
        return self.mean_ml[place - 1] + share * (self.mean_ml[place] - self.mean_ml[place - 1])

    def threshold_for(self, expected_ml: float) -> float | None:
        """The lowest measured threshold that keeps a promise: the inverse of `expected_ml`.

        Parameters
        ----------
        expected_ml : float
            Mean volume per healthy brain, mL.

        Returns
        -------
        float or None
            None where even the highest measured threshold marks more.
        """
        for place, (threshold, ml) in enumerate(zip(self.thresholds, self.mean_ml, strict=True)):
            if ml <= expected_ml:
                if place == 0:
                    return threshold
                low, more = self.thresholds[place - 1], self.mean_ml[place - 1]
                return low + (threshold - low) * (more - expected_ml) / (more - ml)
        return None

    def in_words(self, threshold: float) -> str:
        """The same for a person, such as ``about 2.5 mL``; bounds beyond the measured range."""
        expected = self.expected_ml(threshold)
        if threshold < self.thresholds[0]:
            return f"more than {expected:.0f} mL"
        if threshold > self.thresholds[-1] or expected < 0.05:
            return f"less than {max(expected, 0.1):.1f} mL"
        return f"about {expected:.{0 if expected >= 10 else 1}f} mL"


class DetectionSpecification(_Part):
    """What ``detect`` uses unless it is told otherwise.

    Attributes
    ----------
    level : int or None
        Noise level; None for methods that have none, whose ``steps`` is 1.
    false_alarms : FalseAlarmSpecification or None
        Valid for these defaults alone: another level, score or number of draws
        shifts the scores.
    """

    level: Count | None = None
    steps: Count = 1
    sampler: SamplerKind = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    score: ScoreSpecification
    threshold: float
    threshold_source: Line
    minimum_ml: Annotated[float, Field(ge=0)] = 0.5
    false_alarms: FalseAlarmSpecification | None = None


class ModelSpecification(_Part):
    """All that is needed to use a checkpoint, and to know where it comes from.

    Attributes
    ----------
    training : dict
        The record of the training: preset, objective, seed, iterations,
        seconds, hardware, data and its hash, library versions.
    evaluation : dict
        Figures measured with this checkpoint, each with its data set.
    weights_sha256 : str
        Over the bytes of the tensors, in the file's order.
    """

    schema_version: Literal[1] = 1
    method: Method = "addm"
    name: Line
    description: Annotated[str, Field(max_length=20_000)] = ""
    licence: Line = "unspecified"
    network: NetworkSpecification
    diffusion: DiffusionSpecification | None = None
    preparation: PreparationSpecification
    detection: DetectionSpecification
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpecification:
        if self.network.kind != NETWORK_KINDS[self.method]:
            raise ValueError(f"the method {self.method} does not work with a {self.network.kind}")
        if self.method in DIFFUSION_METHODS:
            if self.diffusion is None or self.detection.level is None:
                raise ValueError(f"the method {self.method} needs diffusion and detection.level")
            if self.detection.level > self.diffusion.length:
                raise ValueError("detection.level lies beyond diffusion.length")
            if self.detection.steps > self.detection.level:
                raise ValueError("detection.steps exceeds detection.level")
        elif self.diffusion is not None or self.detection.level is not None:
            raise ValueError(f"the method {self.method} has neither diffusion nor detection.level")
        divisor = self.network.divisor
        if any(n % divisor for n in self.preparation.size):
            raise ValueError(f"preparation.size must be multiples of {divisor} for this network")
        return self
