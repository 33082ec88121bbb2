"""A VQ-VAE, and a transformer over its codes.

The transformer learns how likely every code of a healthy slice is after those before it, in
raster order. In a scan, unlikely codes are resampled. The change of the decoded image is the
anomaly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from monai.networks.nets.transformer import DecoderOnlyTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.methods.base import DrawNoise, Method, Reconstruction, Sampling, StepContext
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings
from napari_addm.methods.vqvae import TwoStageObjective, build_vqvae, decode, encode, frozen
from napari_addm.methods.vqvae_transformer import VqTransformerSpecification

UNLIKELY = 0.005
"""Codes less likely than this are resampled."""


class VqTransformer(nn.Module):
    """A frozen VQ-VAE, and the transformer that knows its codes.

    Maps the first n codes, int64 (B, n), to logits of the first n + 1, float32
    (B, n + 1, embeddings).
    """

    def __init__(self, specification: VqTransformerSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        self.vqvae = frozen(build_vqvae(specification.vqvae))
        self.embeddings = specification.vqvae.embeddings
        height, width = size
        self.transformer = DecoderOnlyTransformer(
            num_tokens=self.embeddings + 1,  # the last one begins every sequence
            max_seq_len=height * width // specification.divisor**2,
            attn_layers_dim=specification.width,
            attn_layers_depth=specification.layers,
            attn_layers_heads=specification.heads,
            use_flash_attention=True,
        )
        for block in self.transformer.blocks:
            # Flash attention makes its own mask; this one would fill the checkpoint.
            del block.get_submodule("attn").causal_mask

    def forward(self, before: Tensor) -> Tensor:
        start = before.new_full((len(before), 1), self.embeddings)
        logits: Tensor = self.transformer(torch.cat([start, before], dim=1))
        return logits[..., : self.embeddings].float()


def likelihoods(network: VqTransformer, codes: Tensor) -> Tensor:
    """Probability of every code given those before it, float32, shape of ``codes`` (B, n)."""
    chances = network(codes[:, :-1]).softmax(dim=-1)
    return chances.gather(2, codes[..., None])[..., 0]


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Codes by inverse transform sampling, int64, shape (B,).

    Parameters
    ----------
    logits : Tensor, shape (B, K)
    uniform : Tensor, shape (B,)
        0..1.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    found = torch.searchsorted(cumulative, uniform[:, None].contiguous())[:, 0]
    return found.clamp_max(logits.shape[-1] - 1)


def resample(
    network: VqTransformer, codes: Tensor, unlikely: Tensor, uniform: Tensor
) -> Iterator[Tensor]:
    """Resample codes one after the other, each given the codes before it.

    The transformer is asked only about codes that are drawn, and only for the sequences
    that they are in.

    Parameters
    ----------
    codes : Tensor of int64, shape (B, n)
    unlikely : Tensor of bool, shape (B, n)
        Which to draw; the others stay as they are.
    uniform : Tensor of float32, shape (B, n)
        Where each draw falls, 0..1.

    Yields
    ------
    Tensor of int64, shape (B, n)
        After every place, drawn or not.
    """
    for place, asked in enumerate(unlikely.T.cpu()):
        rows = asked.nonzero()[:, 0].to(codes.device)
        if len(rows):
            with torch.no_grad():
                logits = network(codes[rows, :place])[:, -1]
            codes = codes.clone()
            codes[rows, place] = draw(logits, uniform[rows, place])
        yield codes


class VqTransformerObjective(TwoStageObjective):
    """The VQ-VAE, then the transformer."""

    network: VqTransformer

    def __init__(self, settings: TrainingSettings) -> None:
        assert isinstance(settings.network, VqTransformerSpecification)
        network = channels_last(VqTransformer(settings.network, settings.size))
        super().__init__(settings, settings.network.vqvae, network)

    def second(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean negative log likelihood of the codes, in nats."""
        loss = self._surprise(self.network, clean)
        context.optimizer_step(loss)
        return {"surprise": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The sum of both stages' errors, in either."""
        assert isinstance(network, VqTransformer)
        decoded = decode(network.vqvae, encode(network.vqvae, clean))
        return (decoded - clean).abs().mean() + self._surprise(network, clean)

    def _surprise(self, network: VqTransformer, clean: Tensor) -> Tensor:
        with torch.no_grad():
            codes = encode(network.vqvae, clean).flatten(1)
        return cross_entropy(network(codes[:, :-1]).flatten(0, 1), codes.flatten())


class VqTransformerMethod(Method):
    """Resampling of unlikely codes."""

    objective = VqTransformerObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """VQ-VAE and transformer."""
        return channels_last(VqTransformer(network, size))

    def calls(self, specification: ModelSpecification, sampling: Sampling) -> int:
        """The likelihoods, every code in turn, and the decoder."""
        height, width = specification.preparation.size
        return height * width // specification.network.divisor**2 + 2

    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """Resample unlikely codes.

        Codes that stay yield as well, so that the number of yields is known beforehand and
        the remaining time can be estimated.
        """
        assert isinstance(network, VqTransformer)
        with torch.no_grad():
            grid = encode(network.vqvae, clean)
            codes = grid.flatten(1)
            unlikely = likelihoods(network, codes) < UNLIKELY
            unchanged = Reconstruction(decode(network.vqvae, grid), torch.zeros_like(clean))
        yield unchanged
        uniform = torch.special.ndtr(noise(1, (1, grid.shape[1], grid.shape[2]))).flatten(1)
        for drawn in resample(network, codes, unlikely, uniform):
            codes = drawn
            yield unchanged
        with torch.no_grad():
            healed = decode(network.vqvae, codes.reshape(grid.shape))
            # Linear between the centers of the codes, which smooths it by the width of one.
            changed = unlikely.reshape(grid.shape)[:, None].float()
            weight = interpolate(changed, clean.shape[2:], mode="bilinear")
        yield Reconstruction(healed, weight)
