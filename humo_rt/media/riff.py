"""Does a WAV or AIFF file hold what its header promises? Decoders read a cut file to its end without an error."""

from __future__ import annotations

from pathlib import Path

# Writers that cannot seek back (a pipe) leave the length at or near its maximum.
UNKNOWN_LENGTH = 0x7FFF0000
BYTE_ORDERS = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}
CHUNK_HEADER = 8
SOUND_CHUNKS = (b"data", b"SSND")


def promised_beyond_end(path: Path) -> int:
    """Bytes that the chunk headers promise behind the end of the file; 0 for whole files and for other formats."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order = BYTE_ORDERS.get(file.read(4))
        if order is None:
            return 0
        position = 12
        while position + CHUNK_HEADER <= size:
            file.seek(position)
            name, length = file.read(4), int.from_bytes(file.read(4), order)
            end = position + CHUNK_HEADER + length
            if length >= UNKNOWN_LENGTH:
                return 0
            if end > size:
                return end - size
            if name in SOUND_CHUNKS:
                return 0
            position = end + length % 2
    # The file ends before any sound chunk; decoders say so themselves.
    return 0
