"""Networks built from the model specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

if TYPE_CHECKING:
    from napari_addm.checkpoint import UNetSpecification

Network = TypeVar("Network", bound=nn.Module)


class PackedUNet(nn.Module):
    """MONAI's diffusion U-Net on an image folded by pixel-unshuffle.

    Folding 2 x 2 pixels into channels quarters the positions that every
    layer works on; at equal width the network is three to four times cheaper.

    Maps an image (B, 1, H, W) and timesteps (B,) to a predicted noise
    (B, 1, H, W).
    """

    def __init__(self, specification: UNetSpecification) -> None:
        # takes seconds, and who runs a converted network does not need it
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        super().__init__()
        self.pack = specification.pack
        folded = specification.pack**2
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=folded,
            out_channels=folded,
            channels=specification.channels,
            num_res_blocks=specification.res_blocks,
            attention_levels=specification.attention,
            num_head_channels=specification.head_channels,
            norm_num_groups=specification.norm_groups,
        )

    def forward(self, image: Tensor, timesteps: Tensor) -> Tensor:
        folded = pixel_unshuffle(image, self.pack).contiguous(memory_format=torch.channels_last)
        return pixel_shuffle(self.unet(folded, timesteps), self.pack)


def build_network(specification: UNetSpecification) -> PackedUNet:
    """An untrained network, in the channels-last layout that convolutions prefer."""
    return channels_last(PackedUNet(specification))


def channels_last(network: Network) -> Network:
    """The same network with its weights in the channels-last layout, in place."""
    # torch's type stubs do not know this argument of Module.to
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
