"""Take the picture of a cohort's report, with a browser without a window.

Of a batch that has been run::

    napari-addm report study
    python docs/make_report_picture.py study/report.html [--browser chromium] [--rows 1690 3110]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from skimage.io import imread, imsave

WIDTH, HEIGHT = 1100, 20000
MARGIN = 24


def main() -> None:
    """Take the whole page, and cut what is empty below it, or the rows that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--browser", default="chromium", help="Chromium or Chrome")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "figures")
    parser.add_argument("--rows", type=int, nargs=2, help="of the page, pixels; else all of it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "page.png"
        subprocess.run(
            [
                arguments.browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={whole}",
                arguments.page.absolute().as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        picture = imread(whole)[..., :3]
    written = (picture != picture[-1, -1]).any(axis=(1, 2)).nonzero()[0]
    first, end = arguments.rows or (0, int(written[-1]) + 1 + MARGIN)
    imsave(arguments.output / "report.png", picture[first:end])


if __name__ == "__main__":
    main()
