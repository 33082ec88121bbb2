"""Decisions on the findings of finished cases, saved in place."""

import csv
import json
import os
import shutil

import killed_batch
import pytest
from cohorts import Trial
from support import invoke

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.review import finish_saving, read_decided, refresh_page, save_decisions
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision, Decisions
from napari_addm.outputs.case_page import CaseSources, write_case_page
from napari_addm.outputs.folder import claim_outputs

REVIEW = {1: Decision("rejected", '=1+1, skull, "no lesion"')}


def case_of(trial: Trial, name: str = "a") -> CohortCase:
    return next(case for case in trial.cases if case.name == name)


def result_of(trial: Trial, name: str = "a") -> CaseResult:
    state = CohortFolder(trial.output).states.read_own(case_of(trial, name))
    assert state is not None
    assert state.done
    return state.result


def save(trial: Trial, decisions: Decisions, opened: CaseResult | None = None) -> CaseResult:
    return save_decisions(trial.output, case_of(trial), decisions, opened or result_of(trial))


def decisions_of(trial: Trial) -> Decisions:
    return read_decided(trial.output, case_of(trial), result_of(trial)).decisions


def table_of(trial: Trial) -> dict[int, tuple[str, str]]:
    with (trial.output / "a" / "a_findings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        int(row["id"]): (row["decision"], row["note"])
        for row in rows
        if row["decision"] or row["note"]
    }


def verdict(trial: Trial) -> str:
    record, scan = trial.output / "a" / "a_record.json", trial.source / "a.nii.gz"
    options = ["--scan", scan, "--checkpoint", trial.checkpoint, "--json"]
    done = invoke(["verify", record, *options])
    return str(json.loads(done.stdout)["verdict"])


def test_decisions_are_in_record_table_and_state(folder: Trial) -> None:
    before, rows = folder.files, folder.rows
    opened = result_of(folder)
    saved = save(folder, REVIEW, opened)
    assert decisions_of(folder) == REVIEW
    assert table_of(folder) == {1: ("rejected", """'=1+1, skull, "no lesion\"""")}
    assert (saved.accepted, saved.rejected, saved.noted) == (0, 1, 1)
    assert result_of(folder) == saved
    changed = {name for name, content in folder.files.items() if content != before[name]}
    assert changed == {"a/a_record.json", "a/a_findings.csv"}
    assert verdict(folder) == "identical"

    assert "3 done" in folder.run().stderr  # neither refused nor done anew
    assert decisions_of(folder) == REVIEW
    assert folder.rows == rows

    save(folder, {}, saved)  # the last decision was taken back
    assert folder.files == before
    assert result_of(folder) == opened


def test_a_case_that_was_seen_stays_so(folder: Trial) -> None:
    saved = save_decisions(folder.output, case_of(folder), {}, result_of(folder), seen=True)
    assert saved.seen
    assert saved.holds_decisions
    assert result_of(folder) == saved
    assert read_decided(folder.output, case_of(folder), saved).seen
    assert verdict(folder) == "identical"
    after = save(folder, REVIEW)
    assert after.seen
    assert "3 done" in folder.run().stderr
    assert result_of(folder).seen


def test_a_run_with_other_settings_keeps_decisions(folder: Trial) -> None:
    save(folder, {1: Decision(note="look again")})
    before = folder.files
    done = folder.fails("--threshold", "0.03")
    assert "a: done, as an earlier run left it, not checked: it holds a person's" in done.stderr
    assert "1 of them not checked" in done.stderr
    assert result_of(folder).noted == 1  # so the worklist and the report show them
    after = folder.files
    kept = {name for name in after if name.startswith("a/")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["b/b_record.json"] != before["b/b_record.json"]
    folder.run()
    assert decisions_of(folder) == {1: Decision(note="look again")}

    shutil.move(folder.output / "a", folder.root / "a kept")
    folder.run("--threshold", "0.03")
    assert not decisions_of(folder)


def test_decisions_on_an_earlier_scan_do_not_count_for_another(folder: Trial) -> None:
    save(folder, REVIEW)
    shutil.copy(folder.source / "b.nii.gz", folder.source / "a.nii.gz")
    done = folder.fails()
    assert "a: failed" in done.stderr
    assert "holds a person's decisions" in done.stderr


def test_what_somebody_else_saved_is_not_replaced(folder: Trial) -> None:
    opened = result_of(folder)
    theirs = save(folder, {1: Decision("rejected")}, opened)
    with pytest.raises(AddmError, match="a was decided on or run by somebody else since"):
        save(folder, {1: Decision("accepted")}, opened)
    assert decisions_of(folder) == {1: Decision("rejected")}

    record = folder.output / "a" / "a_record.json"
    record.write_text(record.read_text().replace('"rejected"', '"accepted"'))
    with pytest.raises(AddmError, match=r"a_record\.json was changed or removed"):
        save(folder, REVIEW, theirs)
    with pytest.raises(AddmError, match=r"a_record\.json was changed or removed"):
        decisions_of(folder)


def test_half_a_character_in_a_note_does_not_keep_it_from_being_saved(folder: Trial) -> None:
    save(folder, {1: Decision("rejected", "skull \ud83d")})
    assert decisions_of(folder) == {1: Decision("rejected", "skull ?")}


def test_two_programs_do_not_save_at_once(folder: Trial) -> None:
    before = folder.files
    with (
        claim_outputs(folder.output / "a", "a"),
        pytest.raises(AddmError, match="Another run is writing the files of a"),
    ):
        killed_batch.in_other_thread(lambda: save(folder, REVIEW))
    assert folder.files == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a folder cannot be locked")
def test_a_folder_that_takes_no_file_keeps_what_was_decided(folder: Trial) -> None:
    save(folder, REVIEW)
    place = folder.output / "a"
    place.chmod(0o500)
    try:
        with pytest.raises(AddmError, match="cannot be written"):
            save(folder, {})
    finally:
        place.chmod(0o700)
    assert decisions_of(folder) == REVIEW


@pytest.mark.parametrize("renames", range(6))
def test_an_end_of_the_program_while_saving_loses_nothing(folder: Trial, renames: int) -> None:
    old, new = {1: Decision("accepted", "old")}, {1: Decision("rejected", "new")}
    save(folder, old)
    assert killed_batch.save_and_die(folder, renames) == 9
    case, states = case_of(folder), CohortFolder(folder.output).states
    assert decisions_of(folder) == (old if renames < 4 else new)
    assert folder.reported()["a"] == ("done", "")
    if renames % 2:
        folder.run()  # takes the case over
    else:
        state = states.read_own(case)
        assert state is not None
        finish_saving(folder.output, case, state)
    assert decisions_of(folder) == (old if renames < 4 else new)
    assert table_of(folder)[1] == (("accepted", "old") if renames < 4 else ("rejected", "new"))
    assert result_of(folder).rejected == (renames >= 4)
    assert verdict(folder) == "identical"
    save(folder, REVIEW)
    assert not list((folder.output / "a").glob(".*"))


def test_a_page_follows_the_decisions(folder: Trial) -> None:
    case = case_of(folder)
    assert refresh_page(folder.output, case, CaseSources()) is None  # there is none
    page = write_case_page(folder.output / "a" / "a_record.json", CaseSources(case.scan))
    assert refresh_page(folder.output, case, CaseSources()) is None
    assert "=1+1" not in page.read_text()
    save(folder, REVIEW)
    assert refresh_page(folder.output, case, CaseSources(case.scan)) == page
    assert "=1+1, skull, &#34;no lesion&#34;" in page.read_text()
