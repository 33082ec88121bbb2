"""Check before a release that CHANGELOG.md and CITATION.cff know its version.

python3 tools/check_release.py v0.1.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str) -> list[str]:
    """Return what keeps a tag from being released, in sentences."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        return [f"{tag} is no release tag: use one such as v0.1.0."]
    version = re.escape(tag[1:])
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = []
    if not re.search(rf"^## {version} \(\d{{4}}-\d{{2}}-\d{{2}}\)$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading '## {tag[1:]} (YYYY-MM-DD)': add it.")
    if not re.search(rf"^version: {version}$", citation, re.MULTILINE):
        found.append(f"CITATION.cff has another version: set it to {tag[1:]}.")
    return found


if __name__ == "__main__":
    found = problems(sys.argv[1])
    print("\n".join(found) or f"{sys.argv[1]} can be released.")
    sys.exit(bool(found))
