"""The vector-quantized autoencoder that two methods build on, and their training in two stages."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from napari_addm.methods.base import Objective, StepContext
from napari_addm.methods.network_specifications import VqVaeSpecification
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings

FIRST_STAGE = 0.5
"""Fraction of the training that the VQ-VAE gets; the network on its codes gets the rest."""

DEAD = 0.1
"""A code that is used less often than this fraction of the mean gets another place."""


def build_vqvae(specification: VqVaeSpecification) -> VQVAE:
    """MONAI's VQ-VAE; every level halves the image."""
    levels = len(specification.channels)
    return VQVAE(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=specification.channels,
        num_res_layers=specification.res_layers,
        num_res_channels=specification.channels,
        # stride, kernel, dilation, padding; and the output's padding on the way up
        downsample_parameters=((2, 4, 1, 1),) * levels,
        upsample_parameters=((2, 4, 1, 1, 0),) * levels,
        num_embeddings=specification.embeddings,
        embedding_dim=specification.embedding_size,
    )


def frozen(vqvae: VQVAE) -> VQVAE:
    """The same VQ-VAE with its weights as buffers, in place.

    The moving average that becomes the checkpoint averages parameters and copies
    buffers. As buffers, the saved VQ-VAE is to the bit the one whose codes the second
    stage is trained on; an average of parameters would lag behind it.
    """
    for part in vqvae.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach())
    return vqvae


def codebook(vqvae: VQVAE) -> EMAQuantizer:
    """The quantizer proper, below MONAI's wrapper."""
    return vqvae.quantizer.quantizer


def encode(vqvae: VQVAE, image: Tensor) -> Tensor:
    """Codes of images, int64, shape (B, h, w).

    Always in float32, or training under autocast would learn other codes than
    detection meets; and past the quantizer's own ``forward``, which moves the codebook.
    """
    with torch.autocast(image.device.type, enabled=False):
        codes: Tensor = codebook(vqvae).quantize(vqvae.encode(image.float()))[2]
    return codes


def decode(vqvae: VQVAE, codes: Tensor) -> Tensor:
    """Images of codes, float32, shape (B, 1, H, W)."""
    return vqvae.decode(codebook(vqvae).embed(codes)).float()


@torch.no_grad()
def revive(quantizer: EMAQuantizer, latents: Tensor, generator: torch.Generator) -> None:
    """Move codes that are hardly used to latents that no code is near (in place).

    MONAI's codebook begins with random codes of size 0: whatever is not used in the
    first iteration is divided by next to nothing, flies off, and is never used. With this,
    the first batch of latents is also where the codebook begins.

    Parameters
    ----------
    latents : Tensor of float32, shape (B, C, h, w)
        Not yet quantized.
    generator : torch.Generator
        On the CPU.
    """
    places = latents.movedim(1, -1).flatten(0, -2)
    usual = len(places) / quantizer.num_embeddings
    dead = quantizer.ema_cluster_size < DEAD * usual
    count = int(dead.sum())
    if not count:
        return
    distance = torch.cdist(places, quantizer.embedding.weight).min(dim=1).values.square()
    # The small constant is for a batch of which every latent is a code already.
    chosen = torch.multinomial(distance.cpu() + 1e-12, count, True, generator=generator)
    found = places[chosen.to(places.device)]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(found, 0)  # every process keeps the same codebook
    quantizer.embedding.weight[dead] = found
    quantizer.ema_cluster_size[dead] = usual
    quantizer.ema_w[dead] = found * usual


class TwoStageObjective(Objective):
    """First the VQ-VAE; then, with that frozen, a network on its codes.

    Parameters
    ----------
    network : nn.Module
        Has the attribute ``vqvae``, a `frozen` one; its parameters are the second stage's.

    Attributes
    ----------
    vqvae : VQVAE
        The one that learns. The network's is its moving average.
    """

    def __init__(
        self, settings: TrainingSettings, specification: VqVaeSpecification, network: nn.Module
    ) -> None:
        super().__init__(settings)
        self.network = network
        self.vqvae = channels_last(build_vqvae(specification))
        self.average: VQVAE = cast(VQVAE, network.vqvae)
        self.average.load_state_dict(self.vqvae.state_dict())
        self.iterations: Tensor
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def optimizers(self) -> list[Optimizer]:
        """Adam over both stages; it leaves weights alone that a loss does not reach."""
        learning = [p for p in self.vqvae.parameters() if p.requires_grad]
        both = [*learning, *self.network.parameters()]
        return [Adam(both, lr=self.settings.learning_rate)]

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """The VQ-VAE up to its fraction of the training, then the second stage."""
        if context.progress < FIRST_STAGE:
            return self.first(clean, context)
        return self.second(clean, context)

    def first(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean absolute error of the decoded image, and commitment to the codes."""
        latents = self.vqvae.encode(clean).float()
        # MONAI switches autocast off on CUDA alone; codes in bfloat16 would be coarse ones.
        with torch.autocast(clean.device.type, enabled=False):
            revive(codebook(self.vqvae), latents.detach(), context.generator)
            commitment, quantized = self.vqvae.quantizer(latents)
        error = (self.vqvae.decode(quantized).float() - clean).abs().mean()
        context.optimizer_step(error + commitment)
        self.follow(quantized.detach())
        perplexity = self.vqvae.quantizer.perplexity
        return {"l1": error, "commitment": commitment, "perplexity": perplexity}

    @torch.no_grad()
    def follow(self, latents: Tensor) -> None:
        """Let the network's VQ-VAE follow the one that learns.

        Parameters
        ----------
        latents : Tensor, shape (B, C, h, w)
            The batch's, quantized.
        """
        weight = self.following()
        learnt = self.vqvae.state_dict()
        for name, value in self.average.state_dict().items():
            value.lerp_(learnt[name], weight)
        self.iterations += 1

    def following(self) -> float:
        """Weight of the newest in the moving average; larger in the first iterations."""
        return max(1.0 - self.settings.ema, 9.0 / (10.0 + int(self.iterations)))

    @abstractmethod
    def second(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """One batch of the second stage."""
