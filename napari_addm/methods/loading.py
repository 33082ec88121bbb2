"""Loading the trained network of a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.errors import CheckpointError
from napari_addm.io.text import printable
from napari_addm.methods.networks import channels_last, with_quick_norms
from napari_addm.registry import METHODS


def load_network(checkpoint: Checkpoint) -> nn.Module:
    """Load the trained network of a checkpoint: on the CPU, float32, for inference.

    Raises
    ------
    CheckpointError
        If the weights do not fit the specification; the differences are listed.
    """
    specification = checkpoint.specification
    method = METHODS[specification.method].load()
    size = specification.preparation.size
    try:
        with torch.device("meta"):
            network = with_quick_norms(method.build(specification.network, size))
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        # MONAI checks what only it can know
        raise CheckpointError(
            f"{checkpoint.path}: its network cannot be built ({printable(error, 200)}); use the "
            "checkpoint as it was written."
        ) from error
    state = network.state_dict()
    _check_fit(checkpoint, state)
    if any(name not in state for name, _ in network.named_buffers()):
        # Buffers that are not saved have to be computed.
        network = with_quick_norms(method.build(specification.network, size))
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.network_weights.items()
    }
    network.load_state_dict(weights, assign=True)
    return channels_last(network).eval().requires_grad_(False)


def _check_fit(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(t.shape) for name, t in state.items()}
    found = {name: tuple(t.shape) for name, t in checkpoint.network_weights.items()}
    differences = [f"{name} is missing" for name in expected.keys() - found.keys()]
    differences += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    differences += [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if differences:
        shown = "; ".join(sorted(differences)[:5])
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(
            f"{checkpoint.path}: the weights do not fit the specified network ({shown}{more}); "
            "use the checkpoint as it was written."
        )
