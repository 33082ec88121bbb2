"""Words and cells that several outputs share."""

from __future__ import annotations

RESEARCH_USE_ONLY = "Research use only, not a medical device"
# A spreadsheet takes a cell for a formula when it begins with one of these.
FORMULA_SIGNS = frozenset("=+-@＝＋－＠")


def format_duration(seconds: float, tenths: bool = False) -> str:
    """Write a duration in words, such as ``2 h 05 min``.

    Parameters
    ----------
    seconds : float
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
    """Return a value as a cell of a CSV file that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    if text[:1] in {"\t", "\r", "\n"} or text.lstrip()[:1] in FORMULA_SIGNS:
        return f"'{text}"
    return text
