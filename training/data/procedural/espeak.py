"""espeak-ng through ctypes: a line of text becomes samples and phoneme events.

The library keeps global state (voice, noise generator, wave phase): one instance per process, and a fresh process per
batch when the same text must give the same samples. Knows nothing about mouths or sentences.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from training.data.procedural.phonemes import Phoneme, is_pause
from training.errors import RunError

_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_DONT_EXIT = 1 << 15
_UTF8 = 1
_EVENT_END_OF_LIST = 0
_EVENT_PHONEME = 7
_RATE, _PITCH, _RANGE = 1, 3, 4


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, kw_only=True)
class Voice:
    """An espeak voice: ``name`` is ``language+variant``; pitch and range 0..100, speed in words per minute."""

    name: str
    pitch: int = 50
    range: int = 50
    speed: int = 165


class Espeak:
    """The library, loaded and seeded.

    Raises ``RunError`` when the wheel ``espeakng-loader`` is absent or the library does not start.
    """

    def __init__(self, seed: int) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise RunError("speech needs the package espeakng-loader: pip install 'humo-rt[train]'") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[str, int]] = []
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 200, data, _PHONEME_EVENTS | _DONT_EXIT)
        if self.sample_rate <= 0:
            raise RunError(f"espeak-ng did not start with the data in {data.decode()}: reinstall espeakng-loader")
        self._callback = _Callback(self._collect)  # kept alive: C holds only the address
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def _collect(self, wave, count: int, events) -> int:
        if wave and count > 0:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            if events[index].type == _EVENT_PHONEME:
                # The union's eight bytes may be full, so read them raw instead of as a terminated string.
                raw = ctypes.string_at(ctypes.addressof(events[index].id), 8)
                self._events.append((raw.split(b"\0")[0].decode("utf-8", "replace"), events[index].sample))
            index += 1
        return 0

    def synthesise(self, text: str, voice: Voice) -> tuple[np.ndarray, list[Phoneme], float]:
        """Speak ``text``: float32 samples ``(S,)``, phonemes with times in seconds, samples per second."""
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"voice {voice.name!r} is not one of espeak-ng's; use language+variant such as en-us+f3")
        for parameter, value in ((_RATE, voice.speed), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples, self._events = [], []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None)
        samples = np.concatenate(self._samples) if self._samples else np.zeros(0, np.int16)
        starts = [sample / self.sample_rate for _, sample in self._events] + [len(samples) / self.sample_rate]
        phonemes = [
            Phoneme(symbol, start, max(start, end))
            for (symbol, _), start, end in zip(self._events, starts[:-1], starts[1:], strict=True)
        ]
        while phonemes and is_pause(phonemes[-1].symbol):
            phonemes.pop()
        return samples.astype(np.float32) / 32768.0, phonemes, float(self.sample_rate)
