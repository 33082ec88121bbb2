"""What the panel starts with: napari's page of preferences for this plugin.

The values live in napari's own plugin settings, and nowhere else: what is
chosen in the panel and what stands on the page in *Preferences* cannot
differ, a person sees all that is remembered, and napari's *Restore defaults*
and its choice of a settings folder hold for them too.

The level, the steps, the draws and the score are not remembered. They are a
checkpoint's own, and its threshold was calibrated with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari.settings import get_plugin_settings

PLUGIN = "napari-addm"
OWN_SAMPLER = "checkpoint's own"


@dataclass(frozen=True)
class Preferences:
    """What the page holds.

    Attributes
    ----------
    device, precision : str
        As `napari_addm.detection.pipeline.DetectionSettings` takes them.
    sampler : str or None
        That a new panel starts with; None is the checkpoint's own.
    checkpoint : Path or None
        Chosen last; None is the bundled one.
    checkpoint_folder : Path or None
        Whose checkpoints are offered.
    output_folder : Path or None
        Where the dialog of *Save* starts.
    folded : frozenset of str
        Headings of the sections that are folded.
    cohort : str
        Folder, pattern or table of the last batch; empty for none.
    cohort_output : Path or None
        Where its results go.
    """

    device: str = "auto"
    precision: str = "auto"
    sampler: str | None = None
    checkpoint: Path | None = None
    checkpoint_folder: Path | None = None
    output_folder: Path | None = None
    folded: frozenset[str] = frozenset()
    cohort: str = ""
    cohort_output: Path | None = None


def read() -> Preferences:
    """The preferences as they stand; defaults where napari does not know the plugin."""
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
        cohort=page.cohort.strip(),
        cohort_output=_path(page.cohort_output),
    )


def remember(name: str, value: str) -> None:
    """Keep a choice for the next panel, unless the preferences say that none is to be kept.

    Parameters
    ----------
    name : str
        A property of the page, as `napari.yaml` names it.
    value : str
        Empty means its default.
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
    """Call a bound method when a value on the page has changed.

    Returns
    -------
    callable
        Ends it.
    """
    page = _page()
    if page is None:
        return lambda: None
    page.events.connect(changed)
    return lambda: page.events.disconnect(changed)


def _page() -> Any:
    # Asked for anew each time: napari builds it again when plugins come or go.
    try:
        return getattr(get_plugin_settings(PLUGIN), "panel", None)
    except KeyError:  # the plugin is disabled, or napari has not heard of it
        return None


def _path(words: str) -> Path | None:
    return Path(words).expanduser() if words.strip() else None
