"""Does a sound file hold what its header promises? Decoders read a cut file to its end without an error.

Knows the headers of WAV, AIFF, RF64, Wave64 and MP3. Ogg promises nothing; what other formats promise, their decoders
compare themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

# Writers that cannot seek back (a pipe) leave the length at or near its maximum.
UNKNOWN_LENGTH, UNKNOWN_64_BITS = 0x7FFF0000, 1 << 62
BYTE_ORDERS = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}
CHUNK_HEADER = 8
SOUND_CHUNKS = (b"data", b"SSND")

# Headers with one length of 64 bits: where it lies, and what it leaves out.
RF64_LENGTH, RF64_UNCOUNTED = slice(20, 28), CHUNK_HEADER
WAVE64_LENGTH = slice(16, 24)

ID3_HEADER = 10
ID3_HAS_FOOTER = 0x10
# An MP3's index lies in its first frame, behind at most 36 bytes of that frame's own.
MP3_INDEX_REACH = 48
MP3_HAS_FRAMES, MP3_HAS_BYTES = 1, 2
# Tools that edit tags cut an MP3 by a little and leave the index as it was.
MP3_TOLERATED_LOSS = 0.01


def promised_beyond_end(path: Path) -> int:
    """Bytes that the header promises behind the end of the file; 0 for whole files and where nothing is promised."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(28)
        if head[:4] in BYTE_ORDERS:
            return _beyond_chunks(file, size, BYTE_ORDERS[head[:4]])
        if head[:4] == b"RF64":
            return _beyond(int.from_bytes(head[RF64_LENGTH], "little") + RF64_UNCOUNTED, size)
        if head[:4] == b"riff":
            return _beyond(int.from_bytes(head[WAVE64_LENGTH], "little"), size)
        return _beyond_mp3(file, size, head)


def _beyond(promised: int, size: int) -> int:
    return 0 if promised >= UNKNOWN_64_BITS else max(promised - size, 0)


def _beyond_chunks(file: BinaryIO, size: int, order: Literal["little", "big"]) -> int:
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


def _beyond_mp3(file: BinaryIO, size: int, head: bytes) -> int:
    """What the index that encoders write (Xing's, called Info at a constant bit rate) counts beyond the end."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= ID3_HEADER:
        # Seven bits to a byte.
        start = ID3_HEADER + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        start += ID3_HEADER if head[5] & ID3_HAS_FOOTER else 0
    file.seek(start)
    frame = file.read(MP3_INDEX_REACH + 4)
    index = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or index < 0:
        return 0
    file.seek(start + index + 4)
    flags = int.from_bytes(file.read(4), "big")
    if not flags & MP3_HAS_BYTES:
        return 0
    file.seek(4 if flags & MP3_HAS_FRAMES else 0, 1)
    promised = int.from_bytes(file.read(4), "big")
    missing = start + promised - size
    return missing if missing > MP3_TOLERATED_LOSS * promised else 0
