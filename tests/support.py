"""What tests of several rooms share; import it as ``from support import ...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """Run ``napari-addm ARGUMENTS`` in this process."""
    from typer.testing import CliRunner

    from napari_addm.cli.app import app

    done = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="napari-addm")
    return Finished(done.exit_code, done.stdout, done.stderr)
