"""Memory that a process keeps for its next scan when it frees it."""

from __future__ import annotations

import ctypes
import platform

# of glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# Nothing is as large: an argument of mallopt is an int of 32 bits.
_NEVER = 2**31 - 1
# glibc gives a whole heap of 64 MiB back as soon as it is empty, unless the padding is as large.
_HEAP = 64 << 20


def keep_memory() -> bool:
    """Let this process keep what it frees, for whatever it needs next.

    Maps, and what passes between the layers of a network, are taken and freed many times in a run;
    each time the system hands out empty pages, and every thread looks up anew where memory lies.
    For a process that does nothing else: others get the memory back when it ends.

    Returns
    -------
    bool
        Whether it does: on Linux with glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        [
            mallopt(_MMAP_THRESHOLD, _NEVER) or mallopt(_MMAP_THRESHOLD, _HEAP // 2),  # before 2.35
            mallopt(_TRIM_THRESHOLD, _NEVER),
            mallopt(_TOP_PAD, _HEAP),
        ]
    )
