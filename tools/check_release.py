"""Check before a release that the files which name a version know it; print its notes.

python3 tools/check_release.py v0.1.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The line of each file that names the version `{}`; `DATE` is any.
NAMED = {
    "CHANGELOG.md": "## {} (DATE)",
    "CITATION.cff": "version: {}",
    "recipe/recipe.yaml": '  version: "{}"',
}


def problems(tag: str) -> list[str]:
    """Return what keeps a tag from being released, in sentences."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        return [f"{tag} is no release tag: use one such as v0.1.0."]
    found = []
    for file, form in NAMED.items():
        line = form.format(tag[1:])
        pattern = re.escape(line).replace("DATE", r"\d{4}-\d{2}-\d{2}")
        if not re.search(f"^{pattern}$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
            found.append(f"{file} does not name this version: add the line '{line.strip()}'.")
    return found


def notes(tag: str) -> str:
    """Return what CHANGELOG.md says about a version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, _, after = text.partition(f"\n## {tag[1:]} ")
    return after.partition("\n## ")[0].partition("\n")[2].strip()


if __name__ == "__main__":
    found = problems(sys.argv[1])
    print("\n".join(found) or notes(sys.argv[1]))
    sys.exit(bool(found))
