"""Procedural talking people: an endless labelled data set that needs no download.

``ProceduralClips`` renders clips by index, ``SpeechBank`` holds what they say, ``ATTRIBUTES`` names what is visible.
"""

from training.data.procedural.appearance import ATTRIBUTES
from training.data.procedural.captions import caption_corpus, caption_from_attributes
from training.data.procedural.clips import ClipBatch, ProceduralClips
from training.data.procedural.speech import SpeechBank

__all__ = ["ATTRIBUTES", "ClipBatch", "ProceduralClips", "SpeechBank", "caption_corpus", "caption_from_attributes"]
