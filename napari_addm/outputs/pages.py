"""HTML pages and table cells that all reports share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_addm.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = set("=+-@＝＋－＠")


def page_environment() -> Environment:
    """Where the templates of the pages are rendered: strict, with every text escaped.

    Raises
    ------
    MissingExtraError
        Without jinja2 (the extra ``benchmark``).
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise missing_extra("jinja2") from error
    environment = Environment(
        loader=PackageLoader("napari_addm.outputs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": format_figure,
        "duration": format_duration,
        "value": finite_number,
    }
    return environment


def format_figure(value: float | None, digits: int) -> str:
    """A number for the eye, with a true minus; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def format_duration(seconds: float) -> str:
    """A time in words, such as ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def finite_number(value: object) -> float | None:
    """The value as a number; None when it is none, or not finite."""
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return None


def csv_cell(value: object) -> str | int | float:
    """A value as a cell of a CSV that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    if text[:1] in {"\t", "\r", "\n"} or text.lstrip()[:1] in FORMULA:
        return f"'{text}"
    return text


def missing_extra(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"The page of a benchmark needs the package {package}, which is not installed: run "
        'pip install "napari-addm[benchmark]".'
    )
