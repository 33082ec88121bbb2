"""What a benchmark compares: its systems, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_addm.registry import METHODS

Protocol = Literal["strict", "anoddpm"]
BASELINE = "template"
"""The system that every other has to beat."""
REFERENCE = "addm_1000"
"""The system that the others are compared with besides."""


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes
    ----------
    label : str
        Name in files and on the command line.
    title : str
        Name in tables.
    method : str or None
        None for the scan's own intensities, which need no training.
    timesteps : int
        T, for methods with noise levels.
    checkpoint : Path or None
        A model that was trained elsewhere, with a budget of its own.
    """

    label: str
    title: str
    method: str | None
    timesteps: int = 1000
    checkpoint: Path | None = None

    @property
    def is_made_here(self) -> bool:
        """Whether the benchmark makes its checkpoint."""
        return self.method is not None and self.checkpoint is None

    @property
    def is_trained_here(self) -> bool:
        """Whether the benchmark trains it, with a budget and a seed."""
        return self.is_made_here and bool(METHODS[self.method or ""].trained)


def known_systems() -> dict[str, System]:
    """Return the systems by label: the scan's intensities, and every installed method.

    What is not trained comes first.
    """
    systems = [System("intensity", "Intensity, no model", None)]
    for name, method in sorted(METHODS.usable().items(), key=lambda item: item[1].trained):
        several = len(method.compared_timesteps) > 1
        systems += [
            System(
                f"{name}_{timesteps}" if several else name,
                f"{method.title}, T = {timesteps}" if several else method.title,
                name,
                timesteps,
            )
            for timesteps in method.compared_timesteps
        ]
    return {system.label: system for system in systems}


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is compared, and how.

    Attributes
    ----------
    systems : tuple of str
        Labels of `known_systems`.
    checkpoints : tuple of Path
        Trained models as further rows.
    protocols : tuple of str
    seeds : tuple of int
        Seeds of training and detection; each seed is a training of its own.
    minutes, iterations : optional
        Budget of each training, equal for all. Iterations make a training
        repeatable to the digit, minutes give equal computation.
    preset : str
    steps, draws : int, optional
        Sampling of the strict protocol, equal for all systems that sample (draws:
        the largest number); without them, the checkpoint's defaults.
    anoddpm_steps : int
        Largest number of ancestral steps of the anoddpm protocol; its noise level is T / 4.
    curve_systems, curve_steps, curve_levels : tuple
        Quality against sampling steps and noise level (shares of T), on the validation
        cases; systems without noise levels are left out.
    device, precision : str
    """

    systems: tuple[str, ...] = field(default_factory=lambda: tuple(known_systems()))
    checkpoints: tuple[Path, ...] = ()
    protocols: tuple[Protocol, ...] = ("strict", "anoddpm")
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None
    iterations: int | None = None
    preset: str = "small"
    steps: int | None = None
    draws: int | None = None
    anoddpm_steps: int = 250
    curve_systems: tuple[str, ...] = ()
    curve_steps: tuple[int, ...] = (1, 2, 5, 10, 25)
    curve_levels: tuple[float, ...] = (0.05, 0.1, 0.15, 0.25, 0.4)
    device: str = "auto"
    precision: str = "auto"
