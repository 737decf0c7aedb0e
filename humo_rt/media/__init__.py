"""Files in, files out: sound, images and video. Knows containers, codecs and files that are broken; no models."""

from humo_rt.media.audio import Sound, mix, read_audio, read_sound
from humo_rt.media.background import BackgroundWriter
from humo_rt.media.image import read_image
from humo_rt.media.video import read_settings, read_video
from humo_rt.media.writer import VideoWriter, check_codecs, check_output_path

__all__ = [
    "BackgroundWriter",
    "Sound",
    "VideoWriter",
    "check_codecs",
    "check_output_path",
    "mix",
    "read_audio",
    "read_image",
    "read_settings",
    "read_sound",
    "read_video",
]
