"""Fill in the pages of the site that the program knows best: command line, settings, Python.

mkdocs calls this file as a hook. The pages in docs/ hold what is written by hand.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import napari_addm
from napari_addm import registry
from napari_addm.cli.app import app
from napari_addm.detection.settings import DetectionSettings
from napari_addm.training.settings import preset_settings

LARGE = 10**9  # an upper bound that only the computer has
ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is made from the program in the place of comments such as `generated: settings`."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)


def command_line() -> str:
    """Return every command with its options, from the help of the command line."""
    pages = app.generate_docs(output_format="markdown")
    return pages[pages.index("## napari-addm detect") :]


def settings_table() -> str:
    """Return the settings of a detection as a table."""
    return "\n".join(("| setting | what it does |", "| --- | --- |", *_settings_rows()))


def _settings_rows() -> Iterator[str]:
    for name, field in DetectionSettings.model_json_schema()["properties"].items():
        default = field["default"]
        mark = " †" if field["affects_scores"] else ""
        unset = "all" if name == "slices" else field.get("automatic", "the model's")
        said = unset if default is None else f"`{str(default).lower()}`"
        yield (
            f"| **{field['title']}**{mark}<br>`--{name.replace('_', '-')}` "
            f"| {field['description']}<br>*{_values(field)}; default:* {said} |"
        )


def _values(field: dict[str, Any]) -> str:
    """Say which values a setting takes."""
    kinds = (field, *field.get("anyOf", ()))
    kind = next(kind for kind in kinds if kind.get("type", "null") != "null")
    if "enum" in kind:
        return ", ".join(kind["enum"])
    low, high = kind.get("minimum"), kind.get("maximum", math.inf)
    bounds = "" if low is None else f"{low:,} to {high:,}" if high < LARGE else f"from {low:,}"
    words = {"boolean": "on or off", "array": "numbers of slices"}.get(kind["type"], kind["type"])
    return " ".join(filter(None, (words, bounds, field.get("unit"))))


def parts(kind: str) -> str:
    """Return the installed parts of a kind as a table."""
    rows = ["| name | what it is |", "| --- | --- |"]
    for name, part in getattr(registry, kind.upper()).items():
        words = getattr(part, "meaning", "") or getattr(part, "description", "")
        source = getattr(part, "source", "")
        said = "<br>".join(filter(None, (words.replace("|", "\\|"), source and f"*{source}*")))
        rows.append(f"| **{part.title}**<br>`{name}` | {said} |")
    return "\n".join(rows)


def sizes() -> str:
    """Return a table of what differs between the sizes of a training."""
    paper, small = (dict(_flat(preset_settings("addm", size))) for size in ("paper", "small"))
    rows = [f"| `{name}` | {paper[name]} | {small[name]} |" for name in paper]
    rows = [row for name, row in zip(paper, rows, strict=True) if paper[name] != small[name]]
    return "\n".join(("| | `paper` | `small` |", "| --- | --- | --- |", *rows[1:]))


def _flat(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a model and of the models in it, with dots in their names."""
    for name, value in model:
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            words = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"{prefix}{name}", words


def python() -> str:
    """Return the examples, and what mkdocstrings turns into the reference of the public names."""
    examples = {
        name: (ROOT / "examples" / name).read_text(encoding="utf-8")
        for name in ("detect.py", "batch_and_plot.py", "train.py")
    }
    shown = [f"## Example: {name}\n\n```python\n{code}```" for name, code in examples.items()]
    names = sorted(napari_addm.__all__, key=lambda name: (name[0].isupper(), name))
    return "\n\n".join((*shown, "## Public names", *(f"::: napari_addm.{name}" for name in names)))


def rooms() -> str:
    """Return the rooms of the package with the first lines of their docstrings, lowest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name for layer in reversed(layers) for name in layer.split(" | ")]
    said = (
        (import_module(f"napari_addm.{name}").__doc__ or "").partition("\n")[0] for name in names
    )
    return "\n".join(f"- `{name}`: {words}" for name, words in zip(names, said, strict=True))


GENERATED: dict[str, Callable[[], str]] = {
    "command_line": command_line,
    "python": python,
    "rooms": rooms,
    "settings": settings_table,
    "sizes": sizes,
    **{
        kind: partial(parts, kind)
        for kind in ("methods", "metrics", "noises", "samplers", "scores")
    },
}
