"""HTML pages and table cells that all reports share."""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from typing import TYPE_CHECKING

from napari_addm.errors import MissingExtraError
from napari_addm.findings.findings import USUALLY_MISSED
from napari_addm.io.remarks import DO_NOT_TRUST
from napari_addm.io.text import format_duration, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL import Image


@cache  # which keeps the compiled templates
def page_environment(package: str = "napari_addm.outputs") -> Environment:
    """Where the templates of the pages are rendered: strict, with every text escaped and printable.

    `package` has the page's own template; those that pages share are always found.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise missing_extra("jinja2") from error
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("napari_addm.outputs")]),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": format_figure,
        "duration": format_duration,
        "value": finite_number,
    }
    environment.globals |= {"usually_missed": USUALLY_MISSED, "do_not_trust": DO_NOT_TRUST}
    return environment


def _visible(value: object) -> object:
    """Show what cannot be seen in a name, such as marks of direction, as escapes; markup stays."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def as_jpeg(picture: Image.Image, quality: int) -> str:
    """A picture as a JPEG in base64, without its metadata."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality, optimize=True, subsampling=0)
    return base64.b64encode(encoded.getvalue()).decode("ascii")


def format_figure(value: float | None, digits: int) -> str:
    """A number for the eye, with a true minus; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def finite_number(value: object) -> float | None:
    """The value as a number; None when it is none, or not finite."""
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return None


def missing_extra(package: str) -> MissingExtraError:
    """Make the error for a page whose package is not installed."""
    return MissingExtraError("The page", package, "benchmark")
