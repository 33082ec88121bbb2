"""Networks that several methods share, built from their specifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

if TYPE_CHECKING:
    from napari_addm.methods.network_specifications import UNetSpecification

Network = TypeVar("Network", bound=nn.Module)

SMALL_MAP = 1024
"""Positions below which torch's group norm goes group by group."""


class PackedUNet(nn.Module):
    """MONAI's diffusion U-Net on an image folded by pixel-unshuffle.

    Folding 2 x 2 pixels into channels quarters the positions that every
    layer works on; at equal width the network is three to four times cheaper.

    Maps an image (B, 1, H, W) and timesteps (B,) to a predicted noise (B, 1, H, W).
    """

    def __init__(self, specification: UNetSpecification) -> None:
        # The import takes seconds, and a converted network does not need it.
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        super().__init__()
        self.factor = specification.unshuffle
        folded = self.factor**2
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
        folded = pixel_unshuffle(image, self.factor).contiguous(memory_format=torch.channels_last)
        return pixel_shuffle(self.unet(folded, timesteps), self.factor)


class GroupNorm(nn.GroupNorm):
    """Group norm that is faster in bfloat16 on a CPU.

    On small channels-last maps torch takes the few channels of one group at a time, which costs a
    fifth of a U-Net's time. Here the mean of each channel comes first, then that of each group's
    channels, in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        small = input.ndim == 4 and input.shape[2:].numel() < SMALL_MAP
        if not (small and input.dtype == torch.bfloat16 and input.device.type == "cpu"):
            return super().forward(input)
        values = input.float()
        values -= self._group_means(values)
        scale = (self._group_means(values.square()) + self.eps).rsqrt()
        if not self.affine:
            return (values * scale).to(input.dtype)
        weight, bias = (p.float().view(-1, 1, 1) for p in (self.weight, self.bias))
        return torch.addcmul(bias, values, scale * weight).to(input.dtype)

    def _group_means(self, values: Tensor) -> Tensor:
        """The mean of each channel's group, (B, C, 1, 1)."""
        batch, channels = values.shape[:2]
        means = values.mean((2, 3)).view(batch, self.num_groups, -1).mean(2, keepdim=True)
        return means.expand(-1, -1, channels // self.num_groups).reshape(batch, channels, 1, 1)


def build_network(specification: UNetSpecification) -> PackedUNet:
    """An untrained network, in the channels-last layout that convolutions prefer."""
    return channels_last(PackedUNet(specification))


def with_quick_norms(network: Network) -> Network:
    """The same network with every group norm a `GroupNorm`, untrained, in place."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.GroupNorm:
            quick = GroupNorm(module.num_groups, module.num_channels, module.eps, module.affine)
            network.set_submodule(name, quick)
    return network


def channels_last(network: Network) -> Network:
    """The same network with its weights in the channels-last layout, in place."""
    # torch's type stubs do not know this argument of Module.to
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
