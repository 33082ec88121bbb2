"""The mean healthy brain, registered affinely: what any model has to beat."""

from __future__ import annotations

from napari_addm.methods.info import MethodInfo
from napari_addm.methods.network_specifications import BrainsSpecification
from napari_addm.methods.settings import SMALL, STRUCTURE_SCORE, TrainingSettings, uncalibrated


def presets(timesteps: int) -> dict[str, TrainingSettings]:
    """``"small"``, on the grid of the networks."""
    return {
        "small": TrainingSettings(
            method="template",
            **SMALL,
            network=BrainsSpecification(),
            detection=uncalibrated(STRUCTURE_SCORE),
        )
    }


METHOD = MethodInfo(
    title="Template (affine)",
    source="the mean of the training brains, without a network",
    network=BrainsSpecification,
    presets=presets,
    implementation="napari_addm.methods.brains:TemplateMethod",
    trained=False,
)
