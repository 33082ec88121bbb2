"""The command line: ``napari-addm detect | verify | batch | report | train`` and more.

Each command is a file of this folder. Whatever is heavy is imported inside the commands, so that
``--help`` is quick. Results go to stdout, progress and everything else to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from pydantic import ValidationError

from napari_addm import __version__
from napari_addm.cli._common import FAILED, INTERRUPTED, SOME_FAILED, USAGE, Stop, print_line
from napari_addm.cli.batch import batch
from napari_addm.cli.benchmark import benchmark
from napari_addm.cli.blind_spots import blind_spots
from napari_addm.cli.calibrate import calibrate
from napari_addm.cli.compare import compare
from napari_addm.cli.demo import demo
from napari_addm.cli.detect import detect
from napari_addm.cli.info import info
from napari_addm.cli.process import main
from napari_addm.cli.report import report
from napari_addm.cli.train import train
from napari_addm.cli.verify import verify
from napari_addm.errors import AddmError, describe_problem

__all__ = ["SOME_FAILED", "app", "main", "run"]

OUT_OF_MEMORY = "Error: Out of memory: close other programs, or use a larger machine."

COMMANDS = (
    detect,
    verify,
    compare,
    batch,
    report,
    train,
    benchmark,
    blind_spots,
    calibrate,
    info,
    demo,
)

app = App(
    name="napari-addm",
    help="Find what does not belong in a brain MRI. For research, not for diagnosis.",
    version=f"napari-addm {__version__}",
    help_format="markdown",
    help_epilogue="`--debug`, or `NAPARI_ADDM_DEBUG=1`, shows the tracebacks of errors.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in COMMANDS:
    app.command(command, sort_key=COMMANDS.index(command))


def _describe(error: BaseException) -> tuple[str, int]:
    """Return the message of an error for a person, and its exit code."""
    match error:
        case ValidationError():
            return f"Error: {_first_problem(error)}", USAGE
        case CycloptsError(__cause__=ValidationError() as cause):
            return f"Error: {_first_problem(cause)}", USAGE
        case CycloptsError():
            return f"Error: {error} See napari-addm COMMAND --help.", USAGE
        case Stop():
            return str(error), error.code
        case KeyboardInterrupt():
            return getattr(error, "__notes__", ["Stopped."])[0], INTERRUPTED
        case AddmError():
            return f"Error: {error}", FAILED
        case MemoryError():
            return OUT_OF_MEMORY, FAILED
        case ImportError() if "failed to map segment" in str(error):
            return OUT_OF_MEMORY, FAILED
        case OSError():
            what = error.filename if isinstance(error.filename, str) else "The system"
            return (
                f"Error: {what}: {error.strerror or error}: check the disk, the folder and its "
                "permissions.",
                FAILED,
            )
        case _:
            return (
                f"Error: {type(error).__name__}: {error} (this is a bug in napari-addm; "
                "napari-addm --debug COMMAND shows where, please report it)",
                FAILED,
            )


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return f"These options do not fit together: {describe_problem(first)}."
    option = ".".join(str(part) for part in first["loc"]).replace("_", "-")
    return f"--{option} cannot be {first['input']!r}: {describe_problem(first)}."


def run(tokens: Sequence[str] | None = None) -> int:
    """Run a command line; whatever goes wrong is one line on stderr and an exit code.

    Parameters
    ----------
    tokens : sequence of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    line = list(sys.argv[1:] if tokens is None else tokens)
    # by hand: for cyclopts, an option of all commands parses each line twice
    commands = [token for token in line if token != "--debug"]
    debug = os.environ.get("NAPARI_ADDM_DEBUG", "").lower() not in ("", "0", "false", "no")
    try:
        code = app(commands, exit_on_error=False, print_error=False)
        return code if isinstance(code, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        if debug or len(commands) < len(line):
            traceback.print_exc()
        message, code = _describe(error)
        print_line(" ".join(message.split()))
        return code
