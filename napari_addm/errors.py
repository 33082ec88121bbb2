"""Errors whose message is one sentence for the person at the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class AddmError(Exception):
    """What went wrong, in one sentence: the file, the problem, the fix.

    The command line prints the message on one line and exits with 1; the dock widget shows it.
    Anything else that is raised is a bug.
    """


class InputError(AddmError):
    """A scan, mask or ground truth that cannot be used as it is."""


class CheckpointError(AddmError):
    """A checkpoint that is damaged, foreign or not what it says it is."""


class MissingExtraError(AddmError):
    """An optional package is needed and is not installed.

    Parameters
    ----------
    subject : str
        What needs it.
    package : str
        Its name.
    extra : str
        The extra of this package that installs it.
    instead : str
        What else the user may do, as a clause.
    """

    def __init__(self, subject: str, package: str, extra: str, instead: str = "") -> None:
        super().__init__(
            f"{subject} needs the package {package}, which is not installed: run "
            f'pip install "napari-addm[{extra}]"{instead and f", or {instead}"}.'
        )


def describe_problem(problem: ErrorDetails) -> str:
    """Return what pydantic says of a value, as the end of a sentence without its full stop."""
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]
