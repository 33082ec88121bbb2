"""A detection option is one field of the settings model: the rest follows from it."""

import shutil
import subprocess
import sys
from pathlib import Path

import napari_addm

FIELD = """
    halo_mm: float = _option(3.0, "Halo", "Width of the halo.", unit="mm", ge=0.0, le=9.0)
"""

CHECK = """
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


def test_a_field_reaches_the_record_without_another_edit(tmp_path: Path) -> None:
    home = Path(napari_addm.__file__).parent
    copy = tmp_path / "napari_addm"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("sample_data", "__pycache__"))
    (copy / "io" / "sample_data").symlink_to(home / "io" / "sample_data")
    settings = copy / "detection" / "settings.py"
    text = settings.read_text(encoding="utf-8")
    before = "    @model_validator"
    assert text.count(before) == 1
    settings.write_text(text.replace(before, FIELD + "\n" + before), encoding="utf-8")
    program = [sys.executable, "-c", CHECK]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        program, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
