"""Names of a case's files: after the scan, or by the rules of BIDS derivatives (BIDS 1.10).

A scan named as BIDS names one (``sub-01_ses-02_T1w.nii.gz``) gets a BIDS derivatives layout; any
other scan gets files that begin with its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from napari_addm import __version__
from napari_addm.errors import AddmError

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"

# The end of each file's name, by the key of the file.
ENDINGS = {
    "anomaly": "_anomaly.nii.gz",
    "labels": "_labels.nii.gz",
    "recon": "_recon.nii.gz",
    "uncertainty": "_uncertainty.nii.gz",
    "brightness": "_brightness.nii.gz",
    "findings": "_findings.csv",
    "record": "_record.json",
    "overlay": "_overlay.png",
    "seg": "_seg.dcm",
    "sr": "_sr.dcm",
    "page": "_page.html",
}
# The same in BIDS: the desc- label, and what follows it. A score is no probability, so it is no
# probseg. BIDS has no suffix for it, nor for the last seven, which a dataset has to ignore.
BIDS_ENDINGS = {
    "anomaly": ("anomaly", "map.nii.gz"),
    "labels": ("anomaly", "dseg.nii.gz"),
    "recon": ("recon", "T1w.nii.gz"),
    "uncertainty": ("uncertainty", "map.nii.gz"),
    "brightness": ("brightness", "map.nii.gz"),
    "findings": ("anomaly", "findings.csv"),
    "record": ("anomaly", "record.json"),
    "overlay": ("anomaly", "overlay.png"),
    "seg": ("anomaly", "seg.dcm"),
    "sr": ("anomaly", "sr.dcm"),
    "page": ("anomaly", "page.html"),
}
IGNORED = (
    "*_map.nii.gz",
    "*_map.json",
    "*_findings.csv",
    "*_record.json",
    "*_overlay.png",
    "*_seg.dcm",
    "*_sr.dcm",
    "*_page.html",
)
# Two results of one patient, compared.
COMPARISON_NAMES = {
    "before_anomaly": "comparison_before_anomaly.nii.gz",
    "before_labels": "comparison_before_labels.nii.gz",
    "after_scan": "comparison_after_scan.nii.gz",
    "after_anomaly": "comparison_after_anomaly.nii.gz",
    "after_labels": "comparison_after_labels.nii.gz",
    "changes": "comparison_changes.csv",
    "record": "comparison.json",
    "page": "comparison.html",
}
# What the files at the root of a dataset say about the maps, by the end of their names.
SIDECARS: dict[str, dict[str, object]] = {
    "desc-recon_T1w": {"Description": "The scan as the model redraws it", "SkullStripped": True},
    "desc-anomaly_dseg": {
        "Description": "Findings 1..n by falling volume; the table is ..._findings.csv"
    },
    "desc-anomaly_map": {
        "Description": "Score of scan against reconstruction; higher is less alike"
    },
    "desc-uncertainty_map": {"Description": "Standard deviation of the score over noise draws"},
    "desc-brightness_map": {
        "Description": "How much brighter (positive) or darker (negative) than healthy brains, in "
        "the units of the anomaly map"
    },
}

_BIDS = re.compile(r"sub-[A-Za-z0-9+]+(_ses-[A-Za-z0-9+]+)?(_[a-z]+-[A-Za-z0-9+]+)*_T1w")
# These entities come last in a derivative's name, in this order.
_LATE = ("space", "res", "den", "label", "desc")


def is_bids(stem: str) -> bool:
    """Whether a scan's name, without its suffix, is one that BIDS gives to a T1-weighted scan."""
    return _BIDS.fullmatch(stem) is not None


def complete_bids(stem: str, folder: PurePosixPath) -> tuple[str, str]:
    """Give a scan's name the subject and the session of the folders that it lies in.

    Parameters
    ----------
    stem : str
        The scan's name without its suffix.
    folder : PurePosixPath
        Where it lies in its dataset, such as ``sub-01/ses-A/anat``.

    Returns
    -------
    name : str
        `stem`, with the subject and the session that it lacks in front.
    problem : str
        How name and folders contradict each other; empty if they do not.
    """
    given = _subject_and_session(folder.parts)
    own = _subject_and_session(stem.split("_"))
    lacks = [key for key, part in given.items() if f"_{part}_" not in f"_{stem}_"]
    for key in lacks:
        if key in own:
            return stem, f"its name says {own[key]} and its folder {given[key]}: rename one of them"
    if not lacks:
        return stem, ""
    parts = own | given
    front = [parts[key] for key in ("sub", "ses") if key in parts]
    rest = f"_{stem}_"
    for part in front:
        rest = rest.replace(f"_{part}_", "_", 1)
    return "_".join(front) + rest[:-1], ""


def _subject_and_session(parts: Sequence[str]) -> dict[str, str]:
    """Find the first parts that begin with ``sub-`` and ``ses-``."""
    return {part[:3]: part for part in reversed(parts) if part[:4] in ("sub-", "ses-")}


def case_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Name the files of a case by the keys of `ENDINGS`, whether they are written or not.

    Parameters
    ----------
    folder : Path
        The output folder; in BIDS, the root of the derivative dataset.
    stem : str
        The scan's name without its suffix.
    """
    if not is_bids(stem):
        return {key: folder / f"{stem}{ending}" for key, ending in ENDINGS.items()}
    entities = _entities(stem)
    inner = folder / f"sub-{entities['sub']}"
    if "ses" in entities:
        inner /= f"ses-{entities['ses']}"
    early = [f"{key}-{label}" for key, label in entities.items() if key not in _LATE]
    given = entities.get("desc", "")
    paths = {}
    for key, (desc, ending) in BIDS_ENDINGS.items():
        # Two versions of one scan differ in nothing but this label.
        late = {**entities, "space": _space(entities), "desc": given + desc.title()}
        if not given:
            late["desc"] = desc
        parts = early + [f"{entity}-{late[entity]}" for entity in _LATE if entity in late]
        paths[key] = inner / "anat" / "_".join([*parts, ending])
    return paths


def dataset_files(folder: Path, stem: str) -> dict[Path, str]:
    """Return the text of the files at the root of a BIDS derivative dataset; none for other scans.

    BIDS asks what a map is aligned to that lies in no template's space. By its inheritance
    principle, one file at the root answers for all scans.
    """
    if not is_bids(stem):
        return {}
    space = _space(_entities(stem))
    reference = {"SpatialReference": "orig"} if space == "orig" else {}
    contents: dict[str, dict[str, object]] = {
        f"space-{space}_{ending}.json": {**content, **reference}
        for ending, content in SIDECARS.items()
    }
    contents[DESCRIPTION] = {
        "Name": "napari-addm: anomalies in T1-weighted brain scans",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "napari-addm",
                "Version": __version__,
                "CodeURL": "https://github.com/napari-addm/napari-addm",
            }
        ],
    }
    files = {
        folder / name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()
    }
    return {**files, folder / ".bidsignore": "\n".join(IGNORED) + "\n"}


def check_dataset(folder: Path, stem: str) -> None:
    """Refuse to mix results into a dataset of raw scans."""
    path = folder / DESCRIPTION
    if not is_bids(stem) or not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kind = found.get("DatasetType", "raw") if isinstance(found, dict) else None
    except (OSError, ValueError):
        kind = None
    if kind != "derivative":
        raise AddmError(
            f"{path} describes a BIDS dataset that is no derivative: choose a folder of its own, "
            f"such as {folder / 'derivatives' / 'napari-addm'}."
        )


def _entities(stem: str) -> dict[str, str]:
    pairs = (part.partition("-") for part in stem.split("_")[:-1])
    return {key: label for key, _, label in pairs}


def _space(entities: dict[str, str]) -> str:
    return entities.get("space", "orig")
