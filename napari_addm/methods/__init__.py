"""One file per method: what it learns, and how it reconstructs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import torch

from napari_addm.errors import CheckpointError
from napari_addm.methods.networks import channels_last, with_quick_norms

if TYPE_CHECKING:
    from torch import nn

    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.checkpoint.specification import Method as MethodName
    from napari_addm.methods.base import Method


def get_method(name: MethodName) -> Method:
    """The method that a checkpoint's header names; its module is imported on first use."""
    method: Method = import_module(f"napari_addm.methods.{name}").METHOD
    return method


def load_network(checkpoint: Checkpoint) -> nn.Module:
    """The trained network of a checkpoint, on the CPU, float32, for inference.

    Raises
    ------
    CheckpointError
        If the weights do not fit the specification; the differences are listed.
    """
    specification = checkpoint.specification
    method = get_method(specification.method)
    size = specification.preparation.size
    with torch.device("meta"):
        network = with_quick_norms(method.build(specification.network, size))
    state = network.state_dict()
    expected = {name: tuple(t.shape) for name, t in state.items()}
    found = {name: tuple(t.shape) for name, t in checkpoint.weights.items()}
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
    if any(name not in state for name, _ in network.named_buffers()):
        # what is not saved has to be computed
        network = with_quick_norms(method.build(specification.network, size))
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.weights.items()
    }
    network.load_state_dict(weights, assign=True)
    return channels_last(network).eval().requires_grad_(False)
