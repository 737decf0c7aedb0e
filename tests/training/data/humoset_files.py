"""Tiny data sets in HuMoSet's layout, made on the spot: grey frames that tell their own time, a tone, a drawn face."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

RATE = 16_000
TICKS = 1000  # of a second, the time base of the videos


def write_video(path: Path, frames: Sequence[np.ndarray], seconds: Sequence[float], sound: bool = True) -> None:
    """H.264 with the given (height, width, 3) frames at the given times, and a tone that starts after half a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "4", "preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        audio = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for image, second in zip(frames, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(second * TICKS), Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            time_S = np.arange(round((seconds[-1] + 0.04) * RATE)) / RATE
            tone = np.where(time_S >= 0.5, 0.5 * np.sin(2 * np.pi * 440 * time_S), 0).astype(np.float32)
            block = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = RATE, 0
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))


def clock_frames(seconds: Sequence[float], height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames whose grey level is 100 times their time in seconds."""
    return [np.full((height, width, 3), round(100 * second), np.uint8) for second in seconds]


def drawn_face(height: int, width: int, left: int, top: int, size: int) -> np.ndarray:
    """A face of ``size`` pixels, plain enough to draw and good enough for a detector."""
    image = Image.new("RGB", (width, height), (70, 90, 120))
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, across: float, down: float, colour: tuple[int, int, int]) -> None:
        edges = (x - across, y - down, x + across, y + down)
        draw.ellipse(
            [left + size * edges[0], top + size * edges[1], left + size * edges[2], top + size * edges[3]], colour
        )

    ellipse(0.5, 0.5, 0.46, 0.62, (60, 40, 30))
    ellipse(0.5, 0.55, 0.4, 0.55, (224, 178, 150))
    for x in (0.32, 0.68):
        ellipse(x, 0.3, 0.13, 0.035, (60, 40, 30))
        ellipse(x, 0.42, 0.12, 0.075, (150, 105, 90))
        ellipse(x, 0.42, 0.09, 0.045, (245, 245, 245))
        ellipse(x, 0.42, 0.045, 0.045, (30, 20, 20))
    ellipse(0.5, 0.6, 0.09, 0.05, (185, 130, 110))
    ellipse(0.5, 0.5, 0.04, 0.14, (236, 195, 168))
    ellipse(0.5, 0.82, 0.17, 0.05, (150, 60, 60))
    return np.array(image.filter(ImageFilter.GaussianBlur(1)))


def write_mask(path: Path, frames: int, height: int, width: int, box: tuple[int, int, int, int]) -> None:
    """One person, marked in ``box`` (x0, y0, x1, y1 in pixels) on cells of eight pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((frames, 1, height // 8, width // 8), bool)
    x0, y0, x1, y1 = (edge // 8 for edge in box)
    mask[:, :, y0:y1, x0:x1] = True
    np.savez(path, mask=mask)


class Folder:
    """A data set that grows row by row; ``write`` puts the table down."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[dict] = []

    def add(
        self,
        name: str,
        frames: Sequence[np.ndarray],
        seconds: Sequence[float],
        *,
        sound: bool = True,
        caption: str = "A person speaks.",
        mask: tuple[int, int, int, int] | None = None,
    ) -> Path:
        """A clip with a red reference image; returns the video's path."""
        video, image = f"video/{name}.mp4", f"reference_image/{name}.png"
        write_video(self.root / video, frames, seconds, sound)
        (self.root / image).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (200, 0, 0)).save(self.root / image)
        row = {"video": video, "reference_image": image, "caption": caption, "face_mask": None}
        if mask is not None:
            row["face_mask"] = f"face_mask/{name}.npz"
            write_mask(self.root / row["face_mask"], len(frames), *frames[0].shape[:2], mask)
        self.rows.append(row)
        return self.root / video

    def write(self) -> Path:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(self.rows), self.root / "video_caption.parquet")
        return self.root
