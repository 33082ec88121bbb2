"""Layers that are hidden while another scan is in view, and to which scans layers belong.

This is kept by layer, not in metadata, which napari copies into duplicates. All panels share it,
so a panel that is opened later knows what an earlier one has done.
"""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

from napari.layers import Layer

from napari_addm.widgets.viewing.connections import unwrapped

# Whether a layer that is put away was visible.
_put_away: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
# `unique_id` of each scan that a labels layer was chosen or made for.
_made_for: WeakKeyDictionary[Layer, set[Hashable]] = WeakKeyDictionary()
# `unique_id` of the scan that was in view when a layer was added.
_beside: WeakKeyDictionary[Layer, Hashable] = WeakKeyDictionary()


def is_put_away(layer: Layer) -> bool:
    """Whether a layer belongs to another scan than the one in view."""
    return unwrapped(layer) in _put_away


def put_away(layer: Layer) -> None:
    """Hide a layer until its scan is in view again. It is then as visible as it is now."""
    seen = bool(layer.visible)
    if seen or not is_put_away(layer):  # a person may have shown it meanwhile
        _put_away[unwrapped(layer)] = seen
    if layer.visible:
        layer.visible = False


def give_back(layer: Layer) -> None:
    """Show a layer that was put away, if it was visible before."""
    if _put_away.pop(unwrapped(layer), False):
        layer.visible = True


def belongs_to(layer: Layer, scan_id: Hashable) -> None:
    """Remember that a layer was chosen or made for the scan of a `unique_id`."""
    _made_for.setdefault(unwrapped(layer), set()).add(scan_id)


def scans_of(layer: Layer) -> set[Hashable]:
    """Give the `unique_id` of each scan that a layer was chosen or made for."""
    return set(_made_for.get(unwrapped(layer), ()))


def note_beside(layer: Layer, scan_id: Hashable) -> None:
    """Remember, once, which scan was in view when a layer was added."""
    _beside.setdefault(unwrapped(layer), scan_id)


def beside(layer: Layer) -> Hashable | None:
    """Give the `unique_id` of the scan that was in view when a layer was added, if known."""
    return _beside.get(unwrapped(layer))
