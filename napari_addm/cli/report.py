"""``napari-addm report``: the page of a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from napari_addm.cli._common import print_result


def report(
    output: Annotated[Path, Parameter(name="OUT")], /, *, pictures: NonNegativeInt = 200
) -> None:
    """Make one page of what a batch found, with a CSV and a JSON of all figures beside it.

    The page needs no network and no other file. Shards are put together, and
    OUT/manifest.csv is written for all of them.

    Parameters
    ----------
    output
        The output folder of napari-addm batch.
    pictures
        Largest number of pictures on the page.
    """
    from napari_addm.cohort.report import write_cohort_report

    for path in write_cohort_report(output, pictures).values():
        print_result(path)
