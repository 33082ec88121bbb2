"""How the files of a case are named: after the scan, or by the rules of BIDS derivatives.

A scan named as BIDS names one (``sub-01_ses-02_T1w.nii.gz``) gets a BIDS
derivatives layout; any other scan gets files that begin with its own name.
The rules are those of BIDS 1.10, "Imaging data types" of its derivatives.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

from napari_addm import __version__
from napari_addm.errors import AddmError

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"

# What is written for a case, and how each file's name ends.
ENDINGS = {
    "anomaly": "_anomaly.nii.gz",
    "labels": "_labels.nii.gz",
    "recon": "_recon.nii.gz",
    "uncertainty": "_uncertainty.nii.gz",
    "findings": "_findings.csv",
    "record": "_record.json",
    "overlay": "_overlay.png",
    "seg": "_seg.dcm",
}
# The same in BIDS: desc- label, and what follows it. A score is no probability, so it is no
# probseg; BIDS has no suffix for it, nor for the last five (see `IGNORED`).
BIDS_ENDINGS = {
    "anomaly": ("anomaly", "map.nii.gz"),
    "labels": ("anomaly", "dseg.nii.gz"),
    "recon": ("recon", "T1w.nii.gz"),
    "uncertainty": ("uncertainty", "map.nii.gz"),
    "findings": ("anomaly", "findings.csv"),
    "record": ("anomaly", "record.json"),
    "overlay": ("anomaly", "overlay.png"),
    "seg": ("anomaly", "seg.dcm"),
}
IGNORED = (
    "*_map.nii.gz",
    "*_map.json",
    "*_findings.csv",
    "*_record.json",
    "*_overlay.png",
    "*_seg.dcm",
)

# The most bytes that a file system takes in the name of a file or folder.
LONGEST_NAME = 255
# The most in a whole path, less what a file is called while it is being written.
LONGEST_PATH = 4000
# What Windows takes for a device, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in (*"0123456789", "\xb9", "\xb2", "\xb3")
}

# Unicode's Default_Ignorable_Code_Point: nobody sees them, and some file systems drop them.
_UNSEEN = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)

_BIDS = re.compile(r"sub-[A-Za-z0-9+]+(_ses-[A-Za-z0-9+]+)?(_[a-z]+-[A-Za-z0-9+]+)*_T1w")
# These come last in a derivative's name, in this order.
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
        `stem` itself where it lacks neither, or else the name with what it lacks in front.
    fault : str
        How name and folders contradict each other; empty when they do not.
    """
    given = {part[:3]: part for part in reversed(folder.parts) if part[:4] in ("sub-", "ses-")}
    own = {part[:3]: part for part in reversed(stem.split("_")) if part[:4] in ("sub-", "ses-")}
    lacks = [key for key, part in given.items() if f"_{part}_" not in f"_{stem}_"]
    for key in lacks:
        if key in own:
            return stem, f"its name says {own[key]} and its folder {given[key]}: rename one of them"
    if not lacks:
        return stem, ""
    front, rest = [], f"_{stem}_"
    for key in ("sub", "ses"):
        part = given.get(key) or own.get(key)
        if part:
            front.append(part)
            rest = rest.replace(f"_{part}_", "_", 1)
    return "_".join(front) + rest[:-1], ""


def same_name_key(name: str) -> str:
    """What two names have in common that some file system takes for one.

    Names are compared without upper and lower case, in one Unicode form (APFS, NTFS and network
    shares do not tell such names apart), without characters that cannot be seen, and without the
    dots and blanks at the end of a part, which Windows drops.

    Parameters
    ----------
    name : str
        A path with ``/`` between its parts.
    """
    parts = []
    for part in name.split("/"):
        if part.isascii():
            parts.append(part.lower().rstrip(". ") or part)
            continue
        folded = _UNSEEN.sub("", part)
        for _ in range(2):  # folding the case may need composing anew, and the other way round
            folded = unicodedata.normalize("NFKC", folded.casefold())
        seen = "".join(c for c in folded if unicodedata.category(c) != "Cf")
        seen = _UNSEEN.sub("", seen)
        parts.append(seen.rstrip(". ") or seen)
    return "/".join(parts)


def path_fault(paths: Iterable[PurePath]) -> str:
    """Why relative paths cannot be those of files everywhere; empty when they can.

    A name may be too long, no Unicode (as old exports have them), or one that Windows keeps for a
    device.
    """
    for part in dict.fromkeys(part for path in paths for part in path.parts):
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            return f"its name is not written in UTF-8: rename {readable(part)}"
        if length > LONGEST_NAME:
            return (
                f"its name is too long: {part[:40]}... would have {length} bytes where a file "
                f"system takes {LONGEST_NAME}"
            )
        if part.partition(".")[0].rstrip().casefold() in _DEVICES:
            return f"Windows keeps the name {part} for a device"
    return ""


def longest_path(paths: Iterable[PurePath]) -> int:
    """The bytes of the longest of some paths, as the system is asked for them."""
    here = os.getcwd()
    return max(len(os.path.join(here, path).encode(errors="surrogatepass")) for path in paths)


def readable(name: str) -> str:
    r"""A file's name that can be written in UTF-8; bytes that are none become ``\xfc``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def case_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where the files of a case go, whether they are written or not.

    Parameters
    ----------
    folder : Path
        The output folder; in BIDS, the root of the derivative dataset.
    stem : str
        The scan's name without its suffix.

    Returns
    -------
    dict of str to Path
        By the keys of `ENDINGS`.
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
    """The files at the root of a BIDS derivative dataset, and their text; none for other scans.

    BIDS wants to know of a map in no template's space what it is aligned to; by
    its inheritance principle, one file at the root says so for all scans.
    """
    if not is_bids(stem):
        return {}
    space = _space(_entities(stem))
    reference = {"SpatialReference": "orig"} if space == "orig" else {}
    contents: dict[str, dict[str, object]] = {
        f"space-{space}_desc-recon_T1w.json": {
            "Description": "The scan as the model redraws it",
            "SkullStripped": True,
        },
        f"space-{space}_desc-anomaly_dseg.json": {
            "Description": "Findings 1..n by falling volume; the table is ..._findings.csv",
        },
        f"space-{space}_desc-anomaly_map.json": {
            "Description": "Score of scan against reconstruction; higher is less alike",
        },
        f"space-{space}_desc-uncertainty_map.json": {
            "Description": "Standard deviation of the score over noise draws",
        },
    }
    description: dict[str, object] = {
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
    contents = {name: {**content, **reference} for name, content in contents.items()}
    contents[DESCRIPTION] = description
    files = {
        folder / name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()
    }
    return {**files, folder / ".bidsignore": "\n".join(IGNORED) + "\n"}


def check_dataset(folder: Path, stem: str) -> None:
    """Refuse to mix results into a dataset of raw scans.

    Raises
    ------
    AddmError
    """
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
