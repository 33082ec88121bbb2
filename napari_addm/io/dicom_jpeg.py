"""Headers of pictures in JPEG, JPEG-LS and JPEG 2000, as DICOM images hold them.

GDCM, the decoder of lossless JPEG, ends the process where a header is damaged or another one than
that of the image. So the header is looked at first.
"""

from __future__ import annotations

import re
import struct

TABLES, LOSSLESS, SCAN, RESTART = 0xFFC4, 0xFFC3, 0xFFDA, 0xFFDD
# With that of JPEG-LS.
FRAMES = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {TABLES, 0xFFC8, 0xFFCC}
SKIPPED = {*range(0xFFE0, 0xFFF0), 0xFFDB, 0xFFFE}
MOST_BITS = 16


def picture_header(frame: bytes) -> tuple[int, int, int]:
    """Return the rows, columns and bits of a gray picture.

    Raises
    ------
    ValueError, struct.error, IndexError
        When there is none, or the header of a lossless JPEG is damaged.
    """
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000
        width, height, left, top = struct.unpack(">4I", frame[8:24])
        parts, bits = struct.unpack(">HB", frame[40:43])
        _require(parts == 1)
        return height - top, width - left, (bits & 0x7F) + 1
    _require(frame[:2] == b"\xff\xd8")
    place, restart = 2, 0
    height = width = bits = part = 0
    tables: set[int] = set()
    while True:
        marker, length = struct.unpack(">HH", frame[place : place + 4])
        body = frame[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == TABLES:
            tables |= _huffman_tables(body)
        elif marker == RESTART:
            (restart,) = struct.unpack(">H", body)
        elif marker in FRAMES:
            bits, height, width, parts = struct.unpack(">BHHB", body[:6])
            _require(parts == 1 and length == 11)
            if marker != LOSSLESS:
                return height, width, bits
            part = body[6]
            _require(2 <= bits <= MOST_BITS and body[7] in {0x11, 0x12, 0x21, 0x22})
        elif marker == SCAN:
            break
        else:
            _require(marker in SKIPPED)
    count, scanned, table, predictor, last, shift = body
    _require(count == 1 and scanned == part and table >> 4 in tables)
    _require(1 <= predictor <= 7 and last == 0 and shift < bits and restart % width == 0)
    # Another marker ends the data too early.
    end = re.search(rb"\xff[^\0\xd0-\xd7\xff]" if restart else rb"\xff[^\0\xff]", frame[place:])
    _require(end is not None and end[0] == b"\xff\xd9")
    return height, width, bits


def _huffman_tables(body: bytes) -> set[int]:
    """Return the numbers of sound tables."""
    numbers = set()
    while body:
        number, counts, symbols = body[0], body[1:17], body[17 : 17 + sum(body[1:17])]
        _require(number <= 3 and len(symbols) == sum(counts) and max(symbols) <= MOST_BITS)
        codes = 0
        for length, count in enumerate(counts, 1):
            codes = 2 * codes + count
            _require(codes <= 1 << length)
        numbers.add(number)
        body = body[17 + len(symbols) :]
    return numbers


def _require(sound: bool) -> None:
    if not sound:
        raise ValueError("a damaged header")
