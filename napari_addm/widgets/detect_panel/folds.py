"""Which sections a person has folded, from one panel to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from napari_addm.widgets import preferences
from napari_addm.widgets.forms import Section


class Folds:
    """Remembers what a person folds; what the panel folds by itself is not their choice.

    Parameters
    ----------
    sections : mapping of str to Section
        By their titles.
    """

    def __init__(self, sections: Mapping[str, Section]) -> None:
        self._sections = sections
        self._folded: set[str] = set()
        for section in sections.values():
            section.folded.connect(partial(self._on_folded, section))

    def restore(self, folded: Collection[str]) -> None:
        """Fold the sections of these titles, and unfold all others."""
        self._folded = set(folded)
        for title, section in self._sections.items():
            section.expand(title not in self._folded)

    def _on_folded(self, section: Section) -> None:
        (self._folded.discard if section.expanded else self._folded.add)(section.title)
        folded = [title for title in self._sections if title in self._folded]
        preferences.remember("folded", ", ".join(folded))
