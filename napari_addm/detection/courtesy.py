"""Network and scoring, which pause between their steps while a person waits for the screen.

Both want the same cores and the interpreter's lock. A picture takes twice as long to draw beside a
network, while a person sees it; the network's end comes as soon with pauses as without.
"""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

LONGEST_SECONDS = 0.1
"""How long a network waits at most; then it goes on beside whatever takes so long."""

_free = Event()
_free.set()
_since = 0.0


def come_first() -> None:
    """Let all courteous work of this process pause, until `go_on`."""
    global _since
    if _free.is_set():
        _since = time.monotonic()
        _free.clear()


def go_on() -> None:
    """Nobody waits any more."""
    _free.set()


def give_way() -> None:
    """Wait while somebody comes first, `LONGEST_SECONDS` after `come_first` at most."""
    if not _free.is_set():
        _free.wait(max(0.0, _since + LONGEST_SECONDS - time.monotonic()))


def make_courteous(network: nn.Module) -> None:
    """Let a network give way before each of its convolutions and products of matrices."""
    from torch.nn import Conv2d, Linear

    for module in network.modules():
        if isinstance(module, (Conv2d, Linear)):
            module.register_forward_pre_hook(_give_way)


def _give_way(module: nn.Module, arguments: object) -> None:
    give_way()
