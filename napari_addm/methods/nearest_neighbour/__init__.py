"""The training brain that is most similar to the scan, registered affinely."""

from __future__ import annotations

from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import BrainsSpecification
from napari_addm.methods.settings import SMALL, STRUCTURE_SCORE, TrainingSettings, uncalibrated


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, on the grid of the networks."""
    return {
        "small": TrainingSettings(
            method="nearest_neighbour",
            **SMALL,
            network=BrainsSpecification(),
            detection=uncalibrated(STRUCTURE_SCORE),
        )
    }


METHOD = MethodInfo(
    title="Nearest neighbour",
    source="the most similar training brain, without a network",
    network=BrainsSpecification,
    presets=presets,
    implementation="napari_addm.methods.brains:NearestBrainMethod",
    trained=False,
)
