"""The plugin's page in napari's preferences, which holds all that panels remember.

The values live in napari's own plugin settings, so panel and page always agree, and napari's
*Restore defaults* works for them. Level, steps, draws and score are not remembered: they belong
to a checkpoint, and its threshold was calibrated with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari.settings import get_plugin_settings

PLUGIN = "napari-addm"
OWN_SAMPLER = "checkpoint's own"
# What a new panel shows folded; `napari.yaml` has the same default.
FOLDED = frozenset({"Model", "Ground truth", "View"})


@dataclass(frozen=True)
class Preferences:
    """The values of the page.

    Attributes
    ----------
    device, precision : str
        As in `napari_addm.detection.settings.DetectionSettings`.
    sampler : str or None
        The sampler of a new panel; None is the checkpoint's own.
    checkpoint : Path or None
        The one chosen last; None is the bundled one.
    checkpoint_folder : Path or None
        The folder of the checkpoints that are offered.
    output_folder : Path or None
        The folder that the dialog of *Save* starts in.
    folded : frozenset of str
        Headings of the sections that are folded.
    planes : {"automatic", "one", "three"}
        How many planes are shown; automatic: three after a run, where the window has room.
    color_bar : bool
        Whether the color bar is shown.
    cohort : str
        Folder, pattern or table of the last batch; empty for none.
    cohort_output : Path or None
        Folder of its results.
    """

    device: str = "auto"
    precision: str = "auto"
    sampler: str | None = None
    checkpoint: Path | None = None
    checkpoint_folder: Path | None = None
    output_folder: Path | None = None
    folded: frozenset[str] = FOLDED
    planes: str = "automatic"
    color_bar: bool = True
    cohort: str = ""
    cohort_output: Path | None = None


def read() -> Preferences:
    """Read the preferences; gives the defaults if napari does not know the plugin."""
    page = _page()
    if page is None:
        return Preferences()
    return Preferences(
        device=page.device,
        precision=page.precision,
        sampler=None if page.sampler == OWN_SAMPLER else page.sampler.lower(),
        checkpoint=_path(page.checkpoint),
        checkpoint_folder=_path(page.checkpoint_folder),
        output_folder=_path(page.output_folder),
        folded=frozenset(filter(None, (word.strip() for word in page.folded.split(",")))),
        planes=page.planes,
        color_bar=page.color_bar,
        cohort=page.cohort.strip(),
        cohort_output=_path(page.cohort_output),
    )


def remember(name: str, value: str | bool) -> None:
    """Remember a choice for the next panel, unless the page turns that off.

    Parameters
    ----------
    name : str
        A property of the page, as `napari.yaml` names it.
    value : str or bool
        Empty for the default.
    """
    page = _page()
    if page is not None and page.remember and getattr(page, name) != value:
        setattr(page, name, value)


def reset() -> None:
    """Set the page to its defaults."""
    page = _page()
    if page is not None:
        page.reset()


def watch(changed: Callable[[Any], object]) -> Callable[[], object]:
    """Call a bound method whenever a value on the page changes.

    Returns
    -------
    callable
        Ends this.
    """
    page = _page()
    if page is None:
        return lambda: None
    page.events.connect(changed)
    return lambda: page.events.disconnect(changed)


def _page() -> Any:
    # napari makes a new page when plugins are added or removed.
    try:
        return getattr(get_plugin_settings(PLUGIN), "panel", None)
    except KeyError:  # the plugin is disabled or not registered
        return None


def _path(words: str) -> Path | None:
    return Path(words).expanduser() if words.strip() else None
