"""What other processes see of the outputs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import invoke

from napari_addm.errors import AddmError
from napari_addm.io.volume import volume_from_array
from napari_addm.io.writing import write_volume
from napari_addm.outputs.folder import claim_outputs

HOLD = (
    "import sys, time\n"
    "from napari_addm.outputs.folder import claim_outputs\n"
    "with claim_outputs(sys.argv[1], 'scan'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)
DRAW = (
    "import sys, numpy as np\n"
    "from napari_addm.io.volume import volume_from_array\n"
    "from napari_addm.outputs.drawing import Overlay, write_png\n"
    "from napari_addm.outputs.figure import figure\n"
    "data = np.random.default_rng(0).random((20, 30, 40), np.float32)\n"
    "write_png(sys.argv[1], figure(volume_from_array(data), Overlay(data, data > 0.9), [3, 9]))\n"
    "import napari_addm.outputs.case_page\n"
    "assert not {'qtpy', 'PyQt6', 'PySide6', 'napari', 'torch'} & set(sys.modules)\n"
)


def test_a_lock_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / ".scan.lock").mkdir()
    with (
        pytest.raises(AddmError, match=r"\.scan\.lock cannot be written to"),
        claim_outputs(tmp_path, "scan"),
    ):
        pass


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run is refused; a killed one blocks nobody."""
    scan = volume_from_array(np.ones((9, 11, 13), np.float32))
    write_volume(tmp_path / "scan.nii.gz", scan)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(AddmError, match="Another run is writing the files of scan"),
            claim_outputs(out, "scan"),
        ):
            pass
        refused = invoke(["detect", tmp_path / "scan.nii.gz", "-o", out])
        assert refused.exit_code == 1
        assert "Another run" in refused.stderr
        assert [path.suffix for path in out.iterdir()] == [".lock"]
        with claim_outputs(out, "another"):
            pass  # other cases go on beside it
        other.send_signal(signal.SIGKILL)
    with claim_outputs(out, "scan"):
        pass
    assert not list(out.glob(".*"))


def test_a_figure_needs_no_display_and_no_viewer(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    bare = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    subprocess.run([sys.executable, "-c", DRAW, str(path)], check=True, env=bare, timeout=120)
    with Image.open(path) as picture:
        assert picture.width > 400
        assert not picture.info.keys() - {"dpi"}  # no words beside the pixels
