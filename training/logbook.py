"""The record of a run: one JSON object per line, TensorBoard beside it, sample videos as GIF.

Knows names and numbers. TensorBoard is optional; its absence is said once.
"""

from __future__ import annotations

import io
import json
import logging
import math
from contextlib import suppress
from pathlib import Path

from torch import Tensor

logger = logging.getLogger(__name__)

FPS = 25


class Logbook:
    """Writes into ``folder``; only the first process of a run opens one.

    ``step``: the last one that the run has done. What was written of later ones, before it broke off, is taken out, as
    they will be done again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        lines = folder / "log.jsonl"
        if lines.exists():
            _keep_until(lines, step)
        self._lines = lines.open("a", buffering=1)
        self._board = _open_board(folder, step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN; a score that could not be taken becomes null.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, **plain}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.info("step %d  %s", step, shown)

    def videos(self, step: int, videos_FCHW: dict[str, Tensor]) -> None:
        """Keep uint8 videos (frames, 3, height, width) as GIF files and in TensorBoard."""
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        for name, video in videos_FCHW.items():
            data = encode_gif(video)
            (folder / f"{name}-{step:08d}.gif").write_bytes(data)
            if self._board is not None:
                self._board.file_writer.add_summary(_gif_summary(name, data, video.shape[-2:]), step)

    def close(self) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()


def encode_gif(video_FCHW: Tensor) -> bytes:
    """A looping GIF at 25 frames a second from uint8 (frames, 3, height, width)."""
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in video_FCHW.permute(0, 2, 3, 1).cpu().numpy()]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0)
    return buffer.getvalue()


def _keep_until(lines: Path, step: int) -> None:
    kept = []
    for line in lines.read_text().splitlines(keepends=True):
        with suppress(json.JSONDecodeError):  # the last line of a run that was killed
            if json.loads(line)["step"] <= step:
                kept.append(line)
    replaced = lines.with_suffix(".tmp")
    replaced.write_text("".join(kept))
    replaced.replace(lines)


def _open_board(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("no TensorBoard: scalars go to log.jsonl only (pip install 'humo-rt[train]' adds it)")
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _gif_summary(name: str, data: bytes, size: tuple[int, int]):
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=data)
    return Summary(value=[Summary.Value(tag=name, image=image)])
