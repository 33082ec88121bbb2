"""A detection option is one field of the settings model: the rest follows from it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import napari_addm

FIELD = """
    halo_mm: float = _option(3.0, "Halo", "Width of the halo.", unit="mm", ge=0.0, le=9.0)
"""

SCHEMA_AND_BOUNDS = """
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.outputs.record import RunRecord

field = RunRecord.model_json_schema()["$defs"]["RecordedSettings"]["properties"]["halo_mm"]
assert (field["title"], field["maximum"], field["unit"]) == ("Halo", 9.0, "mm")
try:
    DetectionSettings(halo_mm=10.0)
except AddmError as error:
    assert "Halo" in str(error)
else:
    raise AssertionError("10 mm are too many")
"""

COMMAND_LINE = """
from contextlib import redirect_stdout
from io import StringIO

from napari_addm.cli.app import run

for command in ("detect", "batch"):
    with redirect_stdout(StringIO()) as out:
        assert run([command, "--help"]) == 0
    assert "--halo-mm" in out.getvalue()
    assert "Width of the halo." in out.getvalue()
"""

PANEL = """
from qtpy.QtWidgets import QApplication, QLabel

application = QApplication([])
from napari_addm.widgets.model_settings import ModelSettings

panel = ModelSettings()
assert "Halo" in [label.text() for label in panel.findChildren(QLabel)]
field = panel.form["halo_mm"]
assert (field.value, field.min, field.max) == (3.0, 0.0, 9.0)
assert field.native.suffix() == " mm"
assert "Width of the halo." in field.native.toolTip()
field.value = 4.0
assert panel.settings.halo_mm == 4.0
"""

PROGRAMS = {"record": SCHEMA_AND_BOUNDS, "command line": COMMAND_LINE, "panel": PANEL}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package whose settings have one more field."""
    folder = tmp_path_factory.mktemp("copy")
    home = Path(napari_addm.__file__).parent
    package = folder / "napari_addm"
    shutil.copytree(home, package, ignore=shutil.ignore_patterns("sample_data", "__pycache__"))
    (package / "io" / "sample_data").symlink_to(home / "io" / "sample_data")
    settings = package / "detection" / "settings.py"
    text = settings.read_text(encoding="utf-8")
    before = "    @model_validator"
    assert text.count(before) == 1
    settings.write_text(text.replace(before, FIELD + "\n" + before), encoding="utf-8")
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_field_reaches_it_without_another_edit(copy: Path, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[program]],
        env={**os.environ, "PYTHONPATH": str(copy), "QT_QPA_PLATFORM": "offscreen"},
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
