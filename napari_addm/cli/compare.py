"""``napari-addm compare``: two results of one patient."""

from __future__ import annotations

from pathlib import Path

from napari_addm.cli._common import FAILED, Flag, OutputFolder, print_line, print_result


def compare(
    before: Path,
    after: Path,
    /,
    *,
    output: OutputFolder,
    before_scan: Path | None = None,
    after_scan: Path | None = None,
    overwrite: Flag = False,
) -> int:
    """Say which findings are new, grown, shrunk, unchanged or gone between two dates.

    The later scan is registered to the earlier one. Maps, labels, a table, a record and
    one page are written on the earlier scan's grid; the results themselves stay as they
    are. Exit code 1 where the registration is doubtful: nothing is matched then.

    Parameters
    ----------
    before
        The earlier result: its ..._record.json, or the folder that holds it.
    after
        The later result of the same patient.
    output
        Folder for the files.
    before_scan
        The earlier scan, unless it lies beside its record.
    after_scan
        The later scan, unless it lies beside its record.
    overwrite
        Replace the files of an earlier comparison.
    """
    from napari_addm.findings.matching import count_kinds
    from napari_addm.outputs.two_dates import write_two_dates

    found, paths = write_two_dates(
        before,
        after,
        output,
        before_scan=before_scan,
        after_scan=after_scan,
        overwrite=overwrite,
    )
    for caution in found.cautions:
        print_line(caution)
    if found.changes is not None:
        counts = ", ".join(f"{n} {kind}" for kind, n in count_kinds(found.changes).items())
        weak = sum(change.weak for change in found.changes)
        print_result(counts + (f"; {weak} of them weak" if weak else ""))
    for path in paths.values():
        print_result(path)
    return 0 if found.changes is not None else FAILED
