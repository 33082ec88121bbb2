"""``napari-addm demo``: the bundled case."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from napari_addm.cli._common import Flag, OutputFolder, print_line
from napari_addm.cli.detect import run_with_bar, show_case
from napari_addm.errors import MissingExtraError
from napari_addm.io.demo import DEMO_SCAN, DEMO_TRUTH


def demo(
    *, headless: Flag = False, output: OutputFolder = Path("demo_output"), steps: int | None = None
) -> None:
    """Show the main job on a brain with a simulated lesion: in napari, or headless.

    Headless, files of an earlier demo in the output folder are replaced.

    Parameters
    ----------
    headless
        Detect and write files; open no window.
    output
        Folder for the files when headless.
    steps
        Sampling steps when headless.
    """
    if not headless and not has_display():
        print_line("There is no display, so the demo runs headless.")
        headless = True
    if not headless:
        _open_viewer()
        return
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.outputs.case import WriteOptions
    from napari_addm.outputs.run_case import CaseRequest

    result = run_with_bar(
        CaseRequest(
            scan=DEMO_SCAN,
            folder=output,
            truth=DEMO_TRUTH,
            settings=DetectionSettings(steps=steps),
            write=WriteOptions(montage=True, overwrite=True),
        )
    )
    show_case(DEMO_SCAN, result)


def has_display() -> bool:
    """Return whether a window can be shown."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_viewer() -> None:
    try:
        import napari
        from npe2 import PluginManager

        viewer = napari.Viewer(title="napari-addm demo")
    except ImportError as error:
        raise MissingExtraError(
            "The viewer", "napari with a Qt binding", "all", "use --headless"
        ) from error
    PluginManager.instance().commands.execute("napari-addm.open_demo", args=(viewer,))
    napari.run()
