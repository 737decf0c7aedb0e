"""Images from files and arrays, whole and broken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from humo_rt.media import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def test_every_source_gives_the_same_rgb(tmp_path):
    path = tmp_path / "portrait.png"
    Image.fromarray(PIXELS).save(path)
    alpha = np.dstack([PIXELS, np.zeros((40, 30), np.uint8)])
    for source in (path, str(path), Image.open(path), PIXELS, PIXELS / 255, alpha, Image.fromarray(alpha)):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (30, 40))
        assert np.array_equal(np.asarray(image), PIXELS)


def test_grey_becomes_three_channels():
    grey = PIXELS[:, :, 0]
    for source in (grey, grey[:, :, None], Image.fromarray(grey)):
        assert np.array_equal(np.asarray(read_image(source)), grey[:, :, None].repeat(3, axis=2))


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = PIXELS[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "deep.png"))[:, :, 1], grey)
    with pytest.raises(ValueError, match="32 bits per pixel"):
        read_image(Image.fromarray(grey.astype(np.float32)))


def test_the_orientation_tag_is_not_applied(tmp_path):
    image = Image.fromarray(PIXELS)
    tags = image.getexif()
    tags[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=tags)
    assert read_image(tmp_path / "turned.png").size == (30, 40)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 40, 30), np.uint8), r"shape \(3, 40, 30\) is not an image"),
        (np.zeros((0, 30, 3), np.uint8), "is not an image"),
        (np.full((4, 4, 3), 200.0), "ranges from 200 to 200: scale"),
        (np.full((4, 4, 3), np.nan), "ranges from nan"),
        (np.zeros((4, 4, 3), np.int32), "type int32 has no scale"),
    ],
)
def test_arrays_that_are_not_images(array, message):
    with pytest.raises(ValueError, match=message):
        read_image(array)


def test_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.png' does not exist"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is not a file"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png' is not an image"):
        read_image(tmp_path / "text.png")
    for name, kept in (("cut.png", 0.6), ("cut.jpg", 0.6), ("header.jpg", 0.2), ("cut.webp", 0.75)):
        Image.fromarray(PIXELS).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: round(kept * len(data))])
        with pytest.raises(ValueError, match=rf"{name}' cannot be decoded"):
            read_image(tmp_path / name)
