"""Unsupervised anomaly detection in brain MRI with adversarial denoising diffusion models.

The names below load on first use, so that importing the package, and reading
a scan with it, costs no import of torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import load_checkpoint, read_specification
    from napari_addm.detection.pipeline import Detection, Progress, detect, run
    from napari_addm.detection.session import Session
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.errors import AddmError
    from napari_addm.findings.findings import Finding, measure_findings
    from napari_addm.findings.labelling import label_anomalies
    from napari_addm.io.reading import read_labels, read_volume
    from napari_addm.io.volume import Volume, volume_from_array
    from napari_addm.io.writing import write_volume
    from napari_addm.metrics.evaluation import Metrics, evaluate

__version__ = version("napari-addm")

__all__ = [
    "AddmError",
    "Detection",
    "DetectionSettings",
    "Finding",
    "Metrics",
    "Progress",
    "Session",
    "Volume",
    "detect",
    "evaluate",
    "label_anomalies",
    "load_checkpoint",
    "measure_findings",
    "read_labels",
    "read_specification",
    "read_volume",
    "run",
    "volume_from_array",
    "write_volume",
]

_HOME = {
    "AddmError": "errors",
    "Detection": "detection.pipeline",
    "DetectionSettings": "detection.settings",
    "Finding": "findings.findings",
    "Metrics": "metrics.evaluation",
    "Progress": "detection.pipeline",
    "Session": "detection.session",
    "Volume": "io.volume",
    "detect": "detection.pipeline",
    "evaluate": "metrics.evaluation",
    "label_anomalies": "findings.labelling",
    "load_checkpoint": "checkpoint.file",
    "measure_findings": "findings.findings",
    "read_labels": "io.reading",
    "read_specification": "checkpoint.file",
    "read_volume": "io.reading",
    "run": "detection.pipeline",
    "volume_from_array": "io.volume",
    "write_volume": "io.writing",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
