"""Quality of ``napari-addm detect`` on real scans, beside maps of the intensities alone.

    python benchmarks/real_scans.py DATA -o results/ [--checkpoint F] [-- detect options]

DATA holds ``tumour/CASE/{t1,mask}.nii.gz``, ``ms_lesion/CASE/{t1,mask}.nii.gz`` and
``wholehead/*_T1w.nii.gz`` (they need the extra ``strip``), and
``split.json``, which says which tumours are for validation and which for test.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from napari_addm.detection.brain_mask import find_brain
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.sorted_scores import SortedScores


def main() -> None:
    """Detect on every case, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    options.detect = given[end + 1 :]
    split = json.loads((options.data / "split.json").read_text())

    rows = []
    for folder in sorted((options.data / "tumour").iterdir()):
        if folder.is_dir():
            group = next(g for g in ("validation", "test") if folder.name in split["tumour"][g])
            rows.append(case(f"tumour, {group}", folder, options))
    rows += [case("MS", f, options) for f in sorted((options.data / "ms_lesion").iterdir())]
    for scan in sorted((options.data / "wholehead").glob("*_T1w.nii.gz")):
        rows.append(detect("whole head", scan, None, options))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "cases.json").write_text(json.dumps(rows, indent=1))

    lines = table(rows)
    (options.output / "cases.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def case(group: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a labelled case: the command's result, and the baselines on the same voxels."""
    row = detect(group, folder / "t1.nii.gz", folder / "mask.nii.gz", options)
    volume = read_volume(folder / "t1.nii.gz")
    brain = find_brain(volume)
    assert brain is not None, f"{folder.name} is not skull-stripped"
    lesion = read_labels(folder / "mask.nii.gz").data[brain] > 0
    ours = read_volume(row["paths"]["anomaly"])
    assert ours.same_grid(volume), f"{folder.name}: the map does not lie where the scan lies"
    row["prevalence"] = float(lesion.mean())
    row["addm"] = measures(ours.data[brain], lesion)
    maps = intensity_baselines(volume, brain, smoothing_mm=6.0, erosion_mm=4.0)
    row["baselines"] = {name: measures(map_[brain], lesion) for name, map_ in maps.items()}
    return row


def detect(
    group: str, scan: Path, truth: Path | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Run the command; a failure stops the benchmark."""
    name = scan.parent.name if scan.name == "t1.nii.gz" else scan.name.split("_")[0]
    output = options.output / group.split(",")[0].replace(" ", "_") / name
    command = [sys.executable, "-m", "napari_addm.cli", "detect", str(scan), "-o", str(output)]
    command += ["--json", "--montage", "--overwrite"]
    command += ["--ground-truth", str(truth)] if truth else []
    done = subprocess.run(
        [*command, *options.detect], stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    seconds = found["seconds"]["total"]
    volume_ml = sum(f["volume_ml"] for f in found["findings"])
    print(
        f"{group}, {name}: {len(found['findings'])} findings, {volume_ml:.0f} mL, {seconds:.0f} s"
    )
    return {
        "group": group,
        "case": name,
        "findings": len(found["findings"]),
        "volume_ml": volume_ml,
        "seconds": seconds,
        "paths": found["paths"],
        "warnings": [each["text"] for each in found["warnings"]],
        "metrics": found.get("metrics"),
    }


def measures(scores: np.ndarray, lesion: np.ndarray) -> dict[str, float | None]:
    """Measure scores inside the brain without a threshold."""
    found = SortedScores.of(scores, lesion)
    return {"auprc": found.auprc, "best_dice": found.best_dice, "auroc": found.auroc}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Write every case and the means of each group as Markdown."""
    labelled = [r for r in rows if "addm" in r]
    baselines = list(labelled[0]["baselines"])
    lines = [
        "| group | case | prevalence | ADDM AUPRC | ADDM AUROC | ADDM best Dice "
        "| Dice at threshold | " + " | ".join(f"{b}: AUPRC / best Dice" for b in baselines) + " |",
        "|" + " --- |" * (7 + len(baselines)),
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in labelled:
        groups.setdefault(row["group"], []).append(row)
        lines.append(line(row["group"], row["case"], [row], baselines))
    lines += [
        line(f"**{name}**", "**mean**", members, baselines) for name, members in groups.items()
    ]
    lines += [""]
    for row in rows:
        if "addm" not in row:
            lines.append(
                f"- {row['group']}, {row['case']}: {row['findings']} findings, "
                f"{row['volume_ml']:.1f} mL; {'; '.join(row['warnings']) or 'no warnings'}"
            )
    return lines


def line(group: str, name: str, rows: list[dict[str, Any]], baselines: list[str]) -> str:
    """Write a row of the table: the mean over some cases."""

    def mean(*keys: str) -> float:
        values: list[Any] = rows
        for key in keys:
            values = [v[key] for v in values]
        return statistics.fmean(v or 0.0 for v in values)

    cells = [group, name, f"{mean('prevalence'):.3f}", f"{mean('addm', 'auprc'):.3f}"]
    cells += [f"{mean('addm', 'auroc'):.3f}", f"{mean('addm', 'best_dice'):.3f}"]
    cells += [f"{mean('metrics', 'dice'):.3f}"]
    cells += [
        f"{mean('baselines', b, 'auprc'):.3f} / {mean('baselines', b, 'best_dice'):.3f}"
        for b in baselines
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
