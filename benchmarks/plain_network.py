"""The network of a checkpoint as people who have its library build it."""

from torch import nn

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.registry import METHODS


def plain_network(checkpoint: Checkpoint) -> nn.Module:
    """As its method builds it in MONAI's parts, without what `load_network` makes quicker."""
    specification = checkpoint.specification
    method = METHODS[specification.method].load()
    network = method.build(specification.network, specification.preparation.size)
    network.load_state_dict({name: value.float() for name, value in checkpoint.weights.items()})
    return network.eval().requires_grad_(False)
