"""Layers that are hidden while another scan is looked at, and the way back.

What a person had hidden stays hidden. It is noted of the layers themselves, not in their metadata,
which napari copies into duplicates: panels need not know each other, a panel that is opened anew
knows what an earlier one has done, and a copy is a layer of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

from napari.layers import Layer

from napari_addm.widgets.viewing.linked_canvas import unwrapped

# Whether a layer that is put away is to be seen again.
_put_away: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
# `unique_id` of each scan that a layer of labels was chosen or made for.
_made_for: WeakKeyDictionary[Layer, set[Hashable]] = WeakKeyDictionary()
# That of the scan that was looked at when a layer came.
_beside: WeakKeyDictionary[Layer, Hashable] = WeakKeyDictionary()


def is_put_away(layer: Layer) -> bool:
    """Whether a layer belongs to another scan than the one in view."""
    return unwrapped(layer) in _put_away


def put_away(layer: Layer, visible: bool | None = None) -> None:
    """Hide a layer until its scan is looked at again.

    Parameters
    ----------
    layer : Layer
    visible : bool, optional
        Whether it is to be seen then; as it is seen now.
    """
    seen = bool(layer.visible) if visible is None else visible
    if seen or not is_put_away(layer):  # a person may have shown it meanwhile
        _put_away[unwrapped(layer)] = seen
    if layer.visible:
        layer.visible = False


def give_back(layer: Layer) -> None:
    """Show a layer that was put away, if it was seen before."""
    if _put_away.pop(unwrapped(layer), False):
        layer.visible = True


def belongs_to(layer: Layer, scan_id: Hashable) -> None:
    """Note that a layer was chosen or made for the scan of a `unique_id`."""
    _made_for.setdefault(unwrapped(layer), set()).add(scan_id)


def scans_of(layer: Layer) -> set[Hashable]:
    """`unique_id` of the scans that a layer was chosen or made for."""
    return set(_made_for.get(unwrapped(layer), ()))


def note_beside(layer: Layer, scan_id: Hashable) -> None:
    """Note which scan was looked at when a layer came, once."""
    _beside.setdefault(unwrapped(layer), scan_id)


def beside(layer: Layer) -> Hashable | None:
    """`unique_id` of the scan that was looked at when a layer came, if that was noted."""
    return _beside.get(unwrapped(layer))
