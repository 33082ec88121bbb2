"""Specifications of networks that several methods share. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from napari_addm.checkpoint.specification import Count, NetworkSpecification, Part

Width = Annotated[int, Field(ge=4, le=2048)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
CodeLength = Annotated[int, Field(ge=1, le=65536)]
Unshuffle = Annotated[Literal[1, 2, 4], Field(alias="pack")]


class UNetSpecification(NetworkSpecification):
    """The U-Net that predicts the noise (MONAI's ``DiffusionModelUNet``).

    Attributes
    ----------
    unshuffle : int
        Pixel-unshuffle factor n: n x n pixels become channels before the network, and pixels
        again after it. Files call it ``pack``.
    channels, res_blocks, attention : tuple
        One entry per resolution level, finest first.
    """

    kind: Literal["diffusion_unet"] = "diffusion_unet"
    unshuffle: Unshuffle
    channels: Widths
    res_blocks: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(min_length=1, max_length=8)
    attention: tuple[bool, ...] = Field(min_length=1, max_length=8)
    head_channels: Count
    norm_groups: Count

    @property
    def divisor(self) -> int:
        return self.unshuffle * 2 ** (len(self.channels) - 1)

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


class AutoencoderSpecification(NetworkSpecification):
    """A convolutional autoencoder that halves the image once per entry of ``channels``.

    Attributes
    ----------
    channels : tuple
        Finest first.
    latent : int or None
        Length of a dense code; None for a spatial one.
    dropout : float
        Fraction of the code that is dropped in training.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    channels: Widths
    latent: CodeLength | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def divisor(self) -> int:
        return int(2 ** len(self.channels))


class BrainsSpecification(NetworkSpecification):
    """Brains that are kept in place of a network.

    Attributes
    ----------
    count, depth : int
        Number of brains, and of their slices; known once they are registered.
    deform : bool
        Whether a brain is bent to fit a scan after an affine registration.
    """

    kind: Literal["brains"] = "brains"
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    depth: Annotated[int, Field(ge=1, le=1024)] = 1
    deform: bool = False

    @property
    def divisor(self) -> int:
        return 1


class VqVaeSpecification(Part):
    """A vector-quantized autoencoder (MONAI's ``VQVAE``).

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
        """Number that height and width of a slice must be multiples of."""
        return int(2 ** len(self.channels))
