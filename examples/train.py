"""Train a model on a folder of healthy scans, and detect with it.

    python examples/train.py [HEALTHY [OUT]]

Without a folder: three artificial brains, and a few iterations, to see that it runs. A useful model
takes some fifty real scans and hours. Needs the extra train.
"""

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

import napari_addm as addm
from napari_addm.training.settings import RunSettings, preset_settings
from napari_addm.training.train import train


def make_brains(folder: Path) -> None:
    """Write three ellipsoids with bright and dark tissue, 4 mm, as NIfTI."""
    x, y, z = np.indices((40, 48, 36))
    for number in range(3):
        inside = ((x - 20) / (16 + number)) ** 2 + ((y - 24) / 21) ** 2 + ((z - 18) / 15) ** 2 < 1
        tissue = 100 + 20 * np.sin(x / 3) * np.cos(y / 4) * np.sin(z / 3)
        voxels = np.where(inside, tissue, 0).astype(np.float32)
        image = nib.Nifti1Image(voxels, np.diag([4.0, 4, 4, 1]))
        nib.save(image, folder / f"sub-{number}_T1w.nii.gz")


def main(healthy: Path, out: Path, iterations: int | None = None) -> None:
    """Train and detect."""
    out.mkdir(parents=True, exist_ok=True)
    settings = preset_settings("addm", "small")
    run = RunSettings(iterations=iterations, minutes=60, restart=True)
    model = train(healthy, out / "model.safetensors", settings, run)
    print(model)

    scan = addm.read_volume(next(healthy.glob("*.nii*")))
    detection = addm.run(scan, addm.load_checkpoint(model), addm.DetectionSettings(draws=1))
    print(
        f"mean score in the brain: {detection.anomaly.data[detection.brain_mask.data].mean():.3f}"
    )


if __name__ == "__main__":
    arguments = [Path(each) for each in sys.argv[1:]]
    if arguments:
        main(arguments[0], arguments[1] if len(arguments) > 1 else Path("example_output"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_brains(Path(folder))
            main(Path(folder), Path("example_output"), iterations=2)
