"""What tests of several rooms share; import it as ``from support import ...``."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(arguments: Sequence[object]) -> Finished:
    """Run ``napari-addm ARGUMENTS`` in this process.

    Regions are named with ``--regions`` only: they are most of the time of a small detection.
    """
    from napari_addm.cli.app import run

    line = [str(argument) for argument in arguments]
    if line[:1] == ["detect"] and "--regions" not in line:
        line.append("--no-regions")

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(line)
    return Finished(code, out.getvalue(), err.getvalue())


def code_of_part(kind: str) -> str:
    """Return the code that the page Contribute shows for a kind of part."""
    page = (Path(__file__).parents[1] / "docs" / "contribute.md").read_text(encoding="utf-8")
    section = page.split(f"## Add a {'file ' * (kind == 'format')}{kind}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(code)
