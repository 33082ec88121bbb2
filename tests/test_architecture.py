"""Who may import whom: the table of docs/architecture.md, read from the source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "napari_addm"

# Room by room, the lowest first. A package (`diffusion`, `methods`, `widgets`) is one room.
# Imports inside functions and for types alone count, too.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "diffusion": set(),
    "courtesy": set(),
    "banded": set(),
    "parallel": {"courtesy"},
    "volume": set(),
    "naming": {"errors"},
    "midline": set(),
    "record": {"errors", "midline", "volume"},
    "metrics": {"errors"},
    "statistics": set(),
    "checkpoint": {"errors"},
    "io": {"errors", "volume"},
    "dicom": {"errors", "io", "volume"},
    "findings": {"midline", "volume"},
    "protocols": {"errors", "findings", "metrics"},
    "scoring": {"banded", "checkpoint", "parallel"},
    "symmetry": {"midline", "parallel"},
    "preparation": {"banded", "checkpoint", "errors", "parallel", "scoring", "volume"},
    "evaluation": {"scoring", "volume"},
    "networks": {"checkpoint"},
    "methods": {"checkpoint", "diffusion", "errors", "networks"},
    "openvino_network": {"checkpoint", "errors", "methods"},
    "training": {
        "checkpoint",
        "diffusion",
        "errors",
        "io",
        "methods",
        "preparation",
    },
    "report": {"errors"},
    "session": {"checkpoint", "midline", "parallel", "preparation", "symmetry", "volume"},
    "lanes": {"methods"},
    "graphed": set(),
    "detection": {
        "checkpoint",
        "courtesy",
        "diffusion",
        "errors",
        "graphed",
        "lanes",
        "methods",
        "midline",
        "openvino_network",
        "preparation",
        "scoring",
        "symmetry",
        "session",
        "volume",
    },
    "presets": {"checkpoint", "detection", "errors"},
    "overlay": {"detection", "findings", "io", "midline", "volume"},
    "outputs": {
        "checkpoint",
        "detection",
        "dicom",
        "errors",
        "findings",
        "io",
        "metrics",
        "naming",
        "record",
        "volume",
    },
    "verification": {
        "checkpoint",
        "detection",
        "dicom",
        "errors",
        "io",
        "metrics",
        "outputs",
        "record",
        "volume",
    },
    "cases": {"errors", "io", "preparation", "volume"},
    "qc": {"checkpoint", "detection", "io", "preparation", "volume"},
    "cohort": {"errors", "io", "naming", "report", "volume"},
    "survey": {"cohort", "errors", "io", "qc"},
    "cohort_report": {"cohort", "errors", "io", "qc", "record", "report", "statistics"},
    "batch": {
        "checkpoint",
        "cohort",
        "detection",
        "errors",
        "findings",
        "io",
        "metrics",
        "outputs",
        "overlay",
        "preparation",
        "qc",
        "volume",
    },
    "cluster": {"batch", "checkpoint", "cohort", "errors"},
    "calibration": {
        "cases",
        "checkpoint",
        "detection",
        "errors",
        "evaluation",
        "metrics",
        "preparation",
        "protocols",
        "qc",
    },
    "benchmark": {
        "cases",
        "checkpoint",
        "detection",
        "errors",
        "evaluation",
        "methods",
        "metrics",
        "protocols",
        "report",
        "statistics",
        "training",
    },
    "cli": {
        "batch",
        "benchmark",
        "calibration",
        "cases",
        "checkpoint",
        "cluster",
        "cohort",
        "cohort_report",
        "detection",
        "dicom",
        "errors",
        "findings",
        "io",
        "methods",
        "metrics",
        "naming",
        "outputs",
        "overlay",
        "presets",
        "survey",
        "training",
        "verification",
        "volume",
    },
    "__main__": {"cli"},
    "widgets": {
        "batch",
        "checkpoint",
        "cohort",
        "cohort_report",
        "courtesy",
        "detection",
        "dicom",
        "errors",
        "findings",
        "io",
        "metrics",
        "outputs",
        "overlay",
        "presets",
        "qc",
        "record",
        "scoring",
        "session",
        "survey",
        "volume",
    },
}

VIEWER = {"magicgui", "napari", "PyQt6", "PySide6", "pyqtgraph", "qtpy", "superqt", "vispy"}
LEARNING = {"deepbet", "lightning", "monai", "torch"}
# These may import torch and monai at their top; the others only inside functions.
TORCH_ROOMS = {"diffusion", "graphed", "methods", "networks", "openvino_network", "training"}
# And these not even there.
NO_TORCH = {
    "dicom",
    "errors",
    "evaluation",
    "findings",
    "io",
    "metrics",
    "naming",
    "overlay",
    "protocols",
    "record",
    "report",
    "scoring",
    "statistics",
    "symmetry",
    "volume",
}
# What a widget shows, apart from how: free of Qt and napari.
PLAIN_WIDGETS = {
    "widgets/card.py",
    "widgets/resumed.py",
    "widgets/review.py",
    "widgets/tooltips.py",
}


@dataclass(frozen=True)
class Import:
    """One imported module: where, and whether it is imported with the file that names it."""

    name: str
    line: int
    at_top: bool
    for_types: bool = False

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str | None:
        """The room of ours that is imported, if it is one."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "napari_addm" and len(parts) > 1 else None


def imports(source: str) -> Iterator[Import]:
    """Every import of a module's source."""

    def walk(node: ast.AST, at_top: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_top, for_types)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: imports are absolute here"
                assert child.module is not None
                if child.module == "napari_addm":
                    # `from napari_addm import training` names a module, `__version__` none
                    for alias in child.names:
                        inside = (PACKAGE / alias.name).is_dir()
                        if inside or (PACKAGE / f"{alias.name}.py").is_file():
                            yield Import(f"napari_addm.{alias.name}", child.lineno, at_top)
                else:
                    yield Import(child.module, child.lineno, at_top, for_types)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, at_top and not inside, for_types or typing)

    yield from walk(ast.parse(source), True, False)


def sources() -> list[Path]:
    # the package's own __init__ only names who defines what, and imports on first use
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


every_source = pytest.mark.parametrize("path", sources(), ids=named)


def test_every_room_is_in_the_table() -> None:
    assert {room_of(path) for path in sources()} == set(MAY_IMPORT)


def test_the_table_goes_one_way() -> None:
    below: set[str] = set()
    for room, allowed in MAY_IMPORT.items():
        assert allowed <= below, f"{room} may import {allowed - below}, which is not below it"
        below.add(room)


def test_the_table_promises_nothing_that_is_not_used() -> None:
    for room, allowed in MAY_IMPORT.items():
        used = {
            found.room
            for path in sources()
            if room_of(path) == room
            for found in imports(path.read_text(encoding="utf-8"))
        }
        assert allowed <= used, f"{room} no longer imports {allowed - used}"


@every_source
def test_nothing_imports_what_is_above_it(path: Path) -> None:
    room = room_of(path)
    wrong = [
        f"{named(path)}:{found.line} imports {found.name}"
        for found in imports(path.read_text(encoding="utf-8"))
        if found.room is not None and found.room not in MAY_IMPORT[room] | {room}
    ]
    assert not wrong


@every_source
def test_only_the_widgets_know_the_viewer(path: Path) -> None:
    for found in imports(path.read_text(encoding="utf-8")):
        if found.package not in VIEWER:
            continue
        if room_of(path) == "cli":
            # `demo` opens a viewer; every other command does without.
            assert found.name == "napari"
            assert not found.at_top
        else:
            assert room_of(path) == "widgets", f"{named(path)}:{found.line} imports {found.name}"
            assert named(path) not in PLAIN_WIDGETS, f"{named(path)} is free of Qt and napari"


@every_source
def test_torch_is_imported_where_it_is_needed(path: Path) -> None:
    room = room_of(path)
    for found in imports(path.read_text(encoding="utf-8")):
        if found.package in LEARNING and not found.for_types:
            where = f"{named(path)}:{found.line} imports {found.name}"
            assert room not in NO_TORCH, where
            assert room in TORCH_ROOMS or not found.at_top, f"{where} at its top"


def test_diffusion_knows_torch_and_nothing_of_ours() -> None:
    for path in sorted((PACKAGE / "diffusion").glob("*.py")):
        for found in imports(path.read_text(encoding="utf-8")):
            assert found.room in (None, "diffusion")
            assert found.package not in {"monai", "lightning", "nibabel"}


def test_the_reader_of_imports_sees_every_kind() -> None:
    """The checks above can fail."""
    found = list(
        imports(
            "from typing import TYPE_CHECKING\n"
            "from napari_addm import __version__, training\n"
            "if TYPE_CHECKING:\n"
            "    from torch import Tensor\n"
            "class Reader:\n"
            "    def read(self):\n"
            "        import napari_addm.widgets.detect\n"
        )
    )
    assert found == [
        Import("typing", 1, True),
        Import("napari_addm.training", 2, True),
        Import("torch", 4, True, for_types=True),
        Import("napari_addm.widgets.detect", 7, False),
    ]
    assert [f.room for f in found] == [None, "training", None, "widgets"]
