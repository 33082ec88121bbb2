"""What the commands share: options, progress bars and how they end."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import Parameter

from napari_addm.detection.presets import Preset
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.text import format_duration, printable

if TYPE_CHECKING:
    from rich.console import Console

    from napari_addm.detection.pipeline import Progress

INTERRUPTED = 130
"""What a shell expects after Ctrl-C."""

FAILED = 1
"""Exit code of a command that could not do its work."""

USAGE = 2
"""Exit code for a command line that cannot be understood."""

SOME_FAILED = 3
"""Exit code of a batch in which some cases failed or could not be checked."""

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""An option that is either given or not."""

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
"""``--json``: print one JSON object and nothing else on stdout."""

OutputFolder = Annotated[Path, Parameter(alias="-o")]
"""``--output`` or ``-o``."""


DEFAULTS = DetectionSettings()


CheckpointFile = Annotated[Path, Parameter(show_default=lambda _: "the bundled demo model")]
"""``--checkpoint``."""


@Parameter(name="*", group="Detection", negative_iterable="")
@dataclass(frozen=True)
class RunOptions:
    """What `detect` and `batch` share.

    Attributes
    ----------
    quality
        preview: one noise draw; standard: the model's; thorough: twice its draws.
    threshold
        Voxels with a higher score belong to findings.
    minimum_ml
        Volume of the smallest finding, in mL.
    settings
        The settings of the detection.
    """

    quality: Preset = "standard"
    threshold: float | None = None
    minimum_ml: float | None = None
    settings: Annotated[DetectionSettings, Parameter(name="*")] = DEFAULTS


class Stop(Exception):
    """Ends the command with an exit code and one line on stderr."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def stop(message: str, code: int = FAILED) -> NoReturn:
    """End the command; see `Stop`."""
    raise Stop(message, code)


def console(stderr: bool = False) -> Console:
    """Return a console that highlights nothing by itself, and shows text as `printable` does."""
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*args, **options):
                lines = text if control else "\n".join(map(printable, text.split("\n")))
                yield Segment(lines, style, control)

    return PlainConsole(stderr=stderr, highlight=False)


def print_line(line: object) -> None:
    """Print a line to stderr at once; see `printable`."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


def print_result(*cells: object) -> None:
    """Print a line to stdout, with tabs between its cells; see `printable`."""
    print("\t".join(map(printable, cells)))  # noqa: T201


def print_json(value: object) -> None:
    """Print JSON to stdout, in ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))  # noqa: T201


class LineHandler(logging.Handler):
    """Prints warnings of the log as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        print_line(record.getMessage())


@contextlib.contextmanager
def detection_bar(name: str) -> Iterator[Callable[[Progress], None]]:
    """Show the progress of a detection on stderr, if a person is there to see it."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
    )
    with Bar(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(f"{name}: preparing", total=None, left="")

        def show(progress: Progress) -> None:
            if progress.stage == "prepare":
                return
            left = "" if progress.eta is None else f"about {format_duration(progress.eta)} left"
            bar.update(
                task,
                description=f"{name}: reconstructing",
                completed=progress.done,
                total=progress.total,
                left=left,
            )

        yield show
