"""Damaged output folders of a batch: the list, the report and the next run end in words."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
from cohorts import OURS, Trial
from fuzz.mutate import TEXTS, Random, change_bytes, change_tree, or_words, tries
from support import invoke

from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.inspect import inspect_cohort
from napari_addm.cohort.report import write_cohort_report
from napari_addm.cohort.results import read_cohort
from napari_addm.io.hashing import scan_sha256


def damage(random: Random, output: Path) -> None:
    """Change a state, a plan, a record, a manifest or a page, or what lies beside them."""
    hidden = output / HIDDEN
    record = output / "a" / "a_record.json"
    targets = [hidden / "plan.json", *(hidden / "cases").iterdir(), record]
    path = targets[random.integers(len(targets))]
    if not path.is_file():
        return  # it is damaged already
    match random.integers(8):
        case 0:
            path.write_bytes(change_bytes(random, path.read_bytes()))
        case 1:
            path = output / OURS[random.integers(len(OURS))]
            path.write_bytes(change_bytes(random, path.read_bytes()))
        case 2:
            path.unlink()
            os.symlink(random.choice(["/dev/zero", "nowhere", "../..", path.name]), path)
        case 3:
            path.unlink()
            os.mkfifo(path) if random.random() < 0.5 else path.mkdir()
        case 4:
            name = f".{random.bytes(16).hex()}.part"
            (output / random.choice(["", HIDDEN, "a"]) / name).symlink_to(output.parent)
        case _:
            tree = change_tree(random, json.loads(path.read_text()))
            path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
            if (
                path == record and CohortFolder(output).states.path("a").is_file()
            ):  # as the batch would have written it
                state = CohortFolder(output).states.path("a")
                content = json.loads(state.read_text())
                content["files"]["a/a_record.json"] = scan_sha256(path)
                content["qc"] = [TEXTS[random.integers(len(TEXTS))]]
                state.write_text(json.dumps(content))


def test_a_damaged_folder_is_reported_and_goes_on(folder: Trial) -> None:
    """The scans are damaged, too, so that the next run reads all it finds, and no network works."""
    write_cohort_report(folder.output)
    for scan in Path(folder.source).iterdir():
        scan.write_bytes(b"x")
    kept, there = folder.root / "kept", {path.name for path in folder.root.iterdir()}
    shutil.copytree(folder.output, kept)
    for seed in tries(15):
        random = np.random.default_rng(seed)
        for _ in range(random.integers(1, 3)):
            with suppress(ValueError):  # it is no JSON since the damage before
                damage(random, folder.output)
        cases = or_words(lambda: folder.cases) or []
        assert all(found.case.runs for found in inspect_cohort(cases, folder.output))
        or_words(lambda: write_cohort_report(folder.output))
        options = ["--checkpoint", folder.checkpoint, "--device", "cpu", "--retry-failed"]
        for more in (options[:-1], options):
            done = invoke(["batch", folder.source, "-o", folder.output, *more])
            assert "bug" not in done.output, f"seed {seed}: {done.output}"
            assert done.exit_code in (1, 3), f"seed {seed}: {done.output}"
        or_words(lambda: write_cohort_report(folder.output))
        assert {path.name for path in folder.root.iterdir()} == there | {"kept"}
        shutil.rmtree(folder.output)
        shutil.copytree(kept, folder.output)


def test_a_damaged_record_is_named_and_the_other_cases_stay(folder: Trial) -> None:
    """Its hash is renewed, so that only its content can tell."""
    record, state = folder.output / "a" / "a_record.json", folder.state_path("a")
    whole, files = record.read_bytes(), json.loads(state.read_text())["files"]
    for seed in tries(30):
        random = np.random.default_rng(seed)
        if random.random() < 0.5:
            record.write_bytes(change_bytes(random, whole))
        else:
            tree = change_tree(random, json.loads(whole))
            record.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
        folder.forge("a", files={**files, "a/a_record.json": scan_sha256(record)})
        write_cohort_report(folder.output)
        damaged, *others = read_cohort(folder.output).entries
        reason = damaged.result.reason
        assert damaged.record is not None or reason.startswith("not checked: a_record.json "), seed
        assert reason.isprintable(), seed
        assert all(entry.record is not None and not entry.result.reason for entry in others), seed
