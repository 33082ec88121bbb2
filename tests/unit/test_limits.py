"""Sizes that keep the code readable, where ruff has no rule of its own.

Ruff checks complexity and the number of parameters (pyproject.toml).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import napari_addm

PACKAGE = Path(napari_addm.__file__).parent
LINES = {ast.FunctionDef: 80, ast.AsyncFunctionDef: 80, ast.ClassDef: 300}


def too_long(path: Path) -> Iterator[str]:
    """Names of the functions and classes of a file with too many lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        limit = LINES.get(type(node))
        if limit and node.end_lineno - node.lineno >= limit:
            yield f"{path.relative_to(PACKAGE).as_posix()} {node.name}"


def test_functions_and_classes_are_short() -> None:
    assert [name for path in PACKAGE.rglob("*.py") for name in too_long(path)] == []


def test_the_package_has_few_entries() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 18, sorted(path.name for path in entries)
