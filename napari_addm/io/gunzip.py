"""Decompressing gzip as the program gunzip does."""

from __future__ import annotations

import io
from typing import BinaryIO

from isal import isal_zlib

MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 2**18


class Gunzip(io.RawIOBase):
    """The decompressed bytes of a file of one or more gzip members.

    Zeros behind them are padding. Other bytes are ignored, as gunzip ignores them, and
    `has_garbage` tells. Each member's checksum is compared at its end.

    Raises
    ------
    EOFError
        While it is read, when the file ends inside a member.
    isal_zlib.error
        While it is read, when a member is damaged.
    """

    def __init__(self, file: BinaryIO | io.BufferedIOBase) -> None:
        self.has_garbage = False
        self._file = file
        self._input = b""
        self._member = _new_member()
        self._ended = False

    def readable(self) -> bool:
        """True: it is read only."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of a buffer; 0 bytes mean the end."""
        while not self._ended:
            data = self._member.decompress(self._input, len(buffer))
            at_end = self._member.eof
            self._input = self._member.unused_data if at_end else self._member.unconsumed_tail
            if at_end:
                self._next_member()
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not at_end and not self._input:
                self._input = self._file.read(CHUNK_BYTES)
                if not self._input:
                    raise EOFError
        return 0

    def _next_member(self) -> None:
        rest = self._input.lstrip(b"\0")
        while len(rest) < len(MAGIC) and (more := self._file.read(CHUNK_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        self.has_garbage = bool(rest) and not rest.startswith(MAGIC)
        self._ended = self.has_garbage or not rest
        self._input, self._member = rest, _new_member()


def _new_member() -> isal_zlib.Decompress:
    return isal_zlib.decompressobj(wbits=16 + isal_zlib.MAX_WBITS)
