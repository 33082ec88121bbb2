"""What a method declares about itself. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from napari_addm.checkpoint.specification import NetworkSpecification
from napari_addm.methods.settings import TrainingOptions, TrainingSettings

if TYPE_CHECKING:
    from napari_addm.methods.base import Method, VolumeMethod


@dataclass(frozen=True)
class MethodInfo:
    """The ``METHOD`` of a method's folder.

    Attributes
    ----------
    title : str
        Name in tables, on cards and in the benchmark.
    source : str
        Publication.
    network : type
        Specification of the network that the method works with.
    presets : callable
        Settings to train with, by name, for a chain of T timesteps; ``"small"`` trains on a CPU.
        Methods without noise levels ignore T.
    implementation : str
        ``"module:CLASS"`` of the `~napari_addm.methods.base.Method` or
        `~napari_addm.methods.base.VolumeMethod`, which needs torch.
    noise_levels : bool
        Whether the method noises a slice to a level and denoises it in steps. Other methods
        reconstruct in one pass.
    random : bool
        Whether reconstructions differ with the seed, so that several samples make sense.
    openvino : bool
        Whether the network can run on OpenVINO.
    reduced_precision : bool
        Whether the network may run in bfloat16 or float16.
    trained : bool
        Whether it learns in iterations. What is fitted instead needs no budget.
    options : type or None
        The method's own training options.
    compared_timesteps : tuple of int
        Chain lengths T of the rows that the benchmark gives this method.
    """

    title: str
    source: str
    network: type[NetworkSpecification]
    presets: Callable[[int], Mapping[str, TrainingSettings]]
    implementation: str
    noise_levels: bool = False
    random: bool = False
    openvino: bool = False
    reduced_precision: bool = False
    trained: bool = True
    options: type[TrainingOptions] | None = None
    compared_timesteps: tuple[int, ...] = (1000,)

    def load(self) -> Method | VolumeMethod:
        """Import the implementation."""
        module, _, name = self.implementation.partition(":")
        method: Method | VolumeMethod = getattr(import_module(module), name)()
        return method
