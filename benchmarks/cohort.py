"""A whole cohort in one run, with ten bad files among the good ones, checked case by case.

    python benchmarks/cohort.py DATA -o results/ [-- options of batch]

DATA holds ``healthy/*_T1w.nii.gz``, ``wholehead/*_T1w.nii.gz`` (they need the extra ``strip``),
``tumour/CASE/{t1,mask}.nii.gz`` and ``ms_lesion/CASE/{t1,mask}.nii.gz``. The script writes a table
of all of them into ``results/DOE^JANE/``, with ten files that are no scan, each in another way,
and with a patient's name in the header of the first scan. It runs ``napari-addm batch`` and
``napari-addm report``, and then looks: every good case is done, every bad one failed with its own
reason, no input was changed, and the patient's name is nowhere in what was written. Run it again
to go on where it was stopped.
"""

import argparse
import csv
import gzip
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

ADDM = [sys.executable, "-m", "napari_addm.cli"]
PATIENT = "DOE^JANE"
SOME_FAILED = 3

Row = dict[str, str]


def main() -> None:
    """Plant, run, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])

    inputs, output = options.output / PATIENT, options.output / "out"
    inputs.mkdir(parents=True, exist_ok=True)
    rows = good_cases(options.data, inputs)
    reasons = plant_bad(inputs / "bad", next(row for row in rows if not row["truth"]), rows)
    table = inputs / "cases.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "scan", "truth"])
        writer.writeheader()
        writer.writerows(rows)
    before = stamps(inputs, rows)

    said = subprocess.run(
        [*ADDM, "batch", table, "-o", output, *given[cut + 1 :]],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    print(said.stderr, file=sys.stderr)
    if said.returncode not in (0, SOME_FAILED):
        sys.exit(f"the batch ended with {said.returncode}; the same command goes on")
    subprocess.run([*ADDM, "report", output], check=True, stdout=subprocess.DEVNULL)
    with (output / "manifest.csv").open(newline="") as file:
        found = {row["case"]: row for row in csv.DictReader(file)}
    wrong = check(rows, reasons, found)
    if said.returncode != SOME_FAILED:
        wrong.append(f"the exit code is {said.returncode}, not {SOME_FAILED}")
    if stamps(inputs, rows) != before:
        wrong.append("an input was changed")
    wrong += [f"the patient's name is in {place}" for place in named(output, said.stderr)]
    lines = summary(found, reasons)
    (options.output / "cohort.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if wrong:
        sys.exit("\n".join(["not as it has to be:", *wrong]))
    print("every good case is done, every bad one is named with its reason")


def good_cases(data: Path, inputs: Path) -> list[Row]:
    """A line for each scan, through links, so that no folder above them is told."""
    rows = []
    for group in ("healthy", "wholehead", "tumour", "ms_lesion"):
        link = inputs / group
        if not link.is_symlink():
            link.symlink_to((data / group).resolve())
        for scan in sorted((data / group).glob("*_T1w.nii.gz")):
            name = scan.name.removesuffix("_T1w.nii.gz")
            rows.append(row(f"{group}/{name}", f"{group}/{scan.name}"))
        for scan in sorted((data / group).glob("*/t1.nii.gz")):
            folder = f"{group}/{scan.parent.name}"
            rows.append(row(folder, f"{folder}/t1.nii.gz", f"{folder}/mask.nii.gz"))
    first = rows[0]
    image = nib.nifti1.load(inputs / first["scan"])
    for text in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[text] = PATIENT.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
    first["scan"] = "named_T1w.nii.gz"
    with (
        (inputs / first["scan"]).open("wb") as file,
        gzip.GzipFile(f"{PATIENT}.nii", "wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(image.to_bytes())
    return rows


def row(case: str, scan: str, truth: str = "") -> Row:
    """A line of the table."""
    return {"case": case, "scan": scan, "truth": truth}


def plant_bad(folder: Path, good: Row, rows: list[Row]) -> dict[str, str]:
    """Add ten bad cases to the table; for each, what its reason has to say."""
    folder.mkdir(exist_ok=True)
    source = folder.parent / good["scan"]
    stored, image = source.read_bytes(), nib.nifti1.load(source)
    data = np.asarray(image.dataobj, dtype=np.float32)

    def save(name: str, data: np.ndarray) -> Path:
        nib.save(nib.Nifti1Image(data, image.affine), folder / f"{name}.nii.gz")
        return folder / f"{name}.nii.gz"

    (folder / "truncated.nii.gz").write_bytes(stored[: len(stored) // 2])
    (folder / "web_page.nii.gz").write_text("<!DOCTYPE html><html>404 Not Found</html>")
    (folder / "empty.nii.gz").write_bytes(b"")
    save("all_nan", np.full_like(data, np.nan))
    save("constant", np.full_like(data, 7))
    save("flat", data[:, :, data.shape[2] // 2])
    save("five_d", data[..., None, None].repeat(2, axis=3).repeat(2, axis=4))
    save("complex", data.astype(np.complex64))
    content = bytearray(gzip.decompress(save("singular", data).read_bytes()))
    content[280:328] = np.diag([1.0, 1.0, 0.0, 1.0])[:3].astype("<f4").tobytes()  # srow_*
    content[252:254] = b"\0\0"  # no quaternion to fall back on
    (folder / "singular.nii.gz").write_bytes(gzip.compress(bytes(content)))
    tumour = next(row for row in rows if row["truth"])
    moved = nib.nifti1.load(folder.parent / tumour["truth"])
    affine = moved.affine.copy()
    affine[:3, 3] += 30
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), affine), folder / "elsewhere.nii.gz")

    reasons = {
        "bad/truncated": "is cut short",
        "bad/web_page": "is a web page",
        "bad/empty": "is empty",
        "bad/all_nan": "all NaN",
        "bad/constant": "same value",
        "bad/flat": "2D picture",
        "bad/five_d": "5 dimensions",
        "bad/complex": "complex",
        "bad/singular": "singular affine",
        "bad/wrong_truth": "elsewhere.nii.gz lies up to",
    }
    rows += [row(name, f"{name}.nii.gz") for name in reasons if name != "bad/wrong_truth"]
    rows.append(row("bad/wrong_truth", tumour["scan"], "bad/elsewhere.nii.gz"))
    return reasons


def stamps(inputs: Path, rows: list[Row]) -> dict[str, tuple[int, int]]:
    """Size and time of every input."""
    names = {name for row in rows for name in (row["scan"], row["truth"]) if name}
    found = {name: (inputs / name).stat() for name in sorted(names)}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def check(rows: list[Row], reasons: dict[str, str], found: dict[str, Row]) -> list[str]:
    """What is not as it has to be."""
    wrong = [f"{name} is not in the manifest" for name in {r["case"] for r in rows} - found.keys()]
    for name, result in found.items():
        expected = "failed" if name in reasons else "done"
        if result["status"] != expected:
            wrong.append(f"{name} is {result['status']} ({result['reason']}), not {expected}")
        elif name in reasons and reasons[name] not in result["reason"]:
            wrong.append(f"{name} failed for another reason: {result['reason']}")
        elif "bug" in result["reason"]:
            wrong.append(f"{name}: {result['reason']}")
    wrong += [
        f"{r['case']} has a truth and no Dice"
        for r in rows
        if r["truth"] and r["case"] not in reasons and not found.get(r["case"], {}).get("dice")
    ]
    return wrong


def named(output: Path, said: str) -> list[str]:
    """Where the patient's name is told, and must not be."""
    places = ["what the batch said"] if PATIENT in said else []
    for path in output.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.name.endswith(".gz"):
            content += gzip.decompress(content)
        if PATIENT in path.name or PATIENT.encode() in content:
            places.append(str(path.relative_to(output)))
    return places


def summary(found: dict[str, Row], reasons: dict[str, str]) -> list[str]:
    """A line for each group, and one for each bad file."""
    lines = [
        "| group | cases | done | failed | with a flag | flags | median mL | largest mL | Dice |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in dict.fromkeys(name.split("/")[0] for name in found):
        mine = [result for name, result in found.items() if name.split("/")[0] == group]
        done = [result for result in mine if result["status"] == "done"]
        flags = Counter(key for result in done for key in result["qc"].split())
        volumes = [float(result["anomaly_ml"]) for result in done]
        dice = [float(result["dice"]) for result in done if result["dice"]]
        cells = [
            group,
            len(mine),
            len(done),
            len(mine) - len(done),
            sum(bool(result["qc"]) for result in done),
            ", ".join(f"{key} {count}" for key, count in flags.most_common()) or "–",
            f"{statistics.median(volumes):.1f}" if volumes else "–",
            f"{max(volumes):.1f}" if volumes else "–",
            f"{statistics.fmean(dice):.3f}" if dice else "–",
        ]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    lines += ["", "| bad file | reason in the manifest |", "| --- | --- |"]
    lines += [f"| {name} | {found[name]['reason']} |" for name in reasons if name in found]
    return lines


if __name__ == "__main__":
    main()
