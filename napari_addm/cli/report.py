"""``napari-addm report``: the page of a cohort or of one case."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from napari_addm.cli._common import USAGE, print_result, stop


def report(
    output: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    pictures: Annotated[
        NonNegativeInt | None, Parameter(show_default=lambda _: "200 cases, or 12 findings")
    ] = None,
    scan: Path | None = None,
    ground_truth: Path | None = None,
) -> None:
    """Make one page of what a batch found, or of one case.

    The page needs no network and no other file. Beside that of a batch lie a CSV and a JSON of
    all figures, and OUT/manifest.csv for all shards. That of a case, ..._page.html, lies beside
    the case's record; it is made from the saved files, and nothing is computed again.

    Parameters
    ----------
    output
        The output folder of napari-addm batch; or a case: its run record, ..._record.json, or its
        folder.
    pictures
        Largest number of cases, or of one case's findings, that have pictures.
    scan
        The scan of a case, unless it lies beside the record.
    ground_truth
        The ground truth of a case, if it had one and it does not lie beside the record.
    """
    from napari_addm.cohort.files import HIDDEN
    from napari_addm.cohort.report import MOST_PICTURES, write_cohort_report

    if os.path.lexists(output / HIDDEN):
        if scan is not None or ground_truth is not None:
            stop(
                f"{output} is a batch: leave out --scan and --ground-truth, or give the record of "
                "a case.",
                USAGE,
            )
        most = MOST_PICTURES if pictures is None else pictures
        for path in write_cohort_report(output, most).values():
            print_result(path)
        return
    from napari_addm.outputs.case_page import (
        MOST_PICTURED,
        CaseSources,
        find_record,
        write_case_page,
    )

    most = MOST_PICTURED if pictures is None else pictures
    sources = CaseSources(scan, ground_truth)
    print_result(write_case_page(find_record(output), sources, most))
