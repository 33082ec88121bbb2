"""Damaged tables of cases: refused in words, or read as cases that stay within the output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fuzz.mutate import TEXTS, change_bytes, change_lines, or_words, tries

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.find import find_cohort

TABLE = """sep=;
case;scan;truth;mask
one;in/a.nii.gz;labels/truth.nii.gz;
two;in/b.nii.gz;;labels/mask.nii.gz
;in/c.nii.gz;;
;/data/study/p1/t1.nii;;
;scans\\p02\\t1.nii;;
"pat;4";"in/d.nii.gz";;
"""


def check_within(cases: list[CohortCase], output: Path) -> None:
    """Check that every case has a name of its own, and files within the output."""
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        row = json.dumps([case.name, case.input, case.skip, case.problem], ensure_ascii=False)
        assert row.encode()
        for path in case.paths(output).values() if case.runs else ():
            assert path.resolve().is_relative_to(output)
            assert len(path.relative_to(output).parts) > 1, "a file beside the manifest"


def test_a_damaged_table_is_refused_in_words_or_stays_within_the_output(tmp_path: Path) -> None:
    table, output = tmp_path / "cases.csv", (tmp_path / "out").resolve()
    for seed in tries():
        random = np.random.default_rng(seed)
        text = TABLE.replace(";", random.choice([";", ",", "\t"])).partition("\n")[2]
        if random.random() < 0.2:
            text = TABLE
        match random.integers(3):
            case 0:
                content = change_bytes(random, text.encode())
            case 1:
                content = change_lines(random, text).encode("utf-8", "surrogatepass")
            case _:
                cells = text.replace("\n", "\n;").split(";")
                for _ in range(random.integers(1, 4)):
                    cells[random.integers(len(cells))] = TEXTS[random.integers(len(TEXTS))]
                content = ";".join(cells).replace("\n;", "\n").encode("utf-8", "surrogatepass")
        table.write_bytes(content)
        cases = or_words(lambda: find_cohort(table, output))
        if cases is not None:
            check_within(cases, output)
