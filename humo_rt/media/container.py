"""Opening a media file with ffmpeg, whatever its name and its tags are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def open_container(path: str | os.PathLike[str]) -> Any:
    """PyAV's input container, to be used as a context manager. Errors are PyAV's and the system's."""
    import av

    # A relative name with a colon would be taken for a protocol, and old tags are not always UTF-8.
    return av.open(str(Path(path).absolute()), metadata_errors="replace")
