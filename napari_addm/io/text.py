"""Words and cells that several outputs share."""

from __future__ import annotations

from collections.abc import Sequence

RESEARCH_USE_ONLY = "Research use only, not a medical device"
# A spreadsheet takes a cell for a formula when it begins with one of these.
FORMULA_SIGNS = frozenset("=+-@＝＋－＠")


def printable(text: object, length: int | None = None) -> str:
    r"""Return text as one line that no terminal obeys, such as ``\x1b[31m`` for an escape.

    Control characters, line breaks, marks of direction and invisible letters show as escapes.

    Parameters
    ----------
    length : int, optional
        Cut the text after so many letters, and end it with ``..`` then.
    """
    text = str(text)
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text[:length]
    )
    return shown if length is None or len(text) <= length else f"{shown}.."


def format_duration(seconds: float, tenths: bool = False) -> str:
    """Write a duration in words, such as ``2 h 05 min``.

    Parameters
    ----------
    tenths : bool
        Whether times below 10 s have a decimal.
    """
    if tenths and seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def csv_cell(value: object) -> str | int | float:
    """Return a value as a cell of a CSV file that no spreadsheet takes for a formula.

    Nor does a terminal obey it; see `printable`.
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in FORMULA_SIGNS else text


def format_shape(shape: Sequence[int]) -> str:
    """Write numbers of voxels, such as ``176 x 256 x 256``."""
    return " x ".join(map(str, shape))


def format_size(count: float) -> str:
    """Write a number of bytes with a fitting unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def format_amount(value: float) -> str:
    """Write a number with three digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
