"""Keys of the viewer that the panel adds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from napari.utils.key_bindings import coerce_keybinding

from napari_addm.widgets import texts
from napari_addm.widgets.viewing.connections import unwrapped

if TYPE_CHECKING:
    import napari


class ViewerKeys:
    """Binds the keys of `texts.SHORTCUTS`. A key that is taken stays with its owner.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    actions : mapping
        From each action of a shortcut to a function without arguments, or to a generator function
        of the viewer, which goes on when the key is released.

    Attributes
    ----------
    keymap : dict
        From keys to functions, for other canvases, too.
    bound : list of Shortcut
        The keys that were free.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, actions: Mapping[str, Callable[..., Any]]
    ) -> None:
        self._viewer = viewer
        self.keymap = {each.key: actions[each.action] for each in texts.SHORTCUTS}
        self.bound: list[texts.Shortcut] = []
        for shortcut in texts.SHORTCUTS:
            with contextlib.suppress(ValueError):
                viewer.bind_key(shortcut.key, self.keymap[shortcut.key])
                self.bound.append(shortcut)

    def close(self) -> None:
        """Free the keys, but those that somebody else has bound since."""
        now = unwrapped(unwrapped(self._viewer).keymap)
        for shortcut in self.bound:
            if now.get(coerce_keybinding(shortcut.key)) is self.keymap[shortcut.key]:
                self._viewer.bind_key(shortcut.key, None)


def press(action: Callable[[], object]) -> Callable[[Any], None]:
    """Make a key's function of an action without arguments."""

    def pressed(viewer: Any) -> None:
        action()

    return pressed
