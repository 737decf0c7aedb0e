"""A natural voice through the package hibari-tts, with the time of every phoneme.

The network predicts how long each phoneme lasts; the package keeps that to itself, so this asks its ONNX graph for one
more output. Playing the sound faster or slower than it was made turns the one voice into many speakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.procedural.phonemes import Phoneme
from training.errors import RunError

_DURATIONS = "/Clip_output_0"  # in the graph of hibari-tts 0.2: units per token
_UNIT_SAMPLES = 600
_LEAD_UNITS = 1.7  # the sound comes this much before its token: best fit of mouth openness to the loudness
_LONG_S = 0.16
_EDGE = "_"

# The package's alphabet in espeak's mnemonics; letters that both share are left out.
_MNEMONICS = {
    "A": "eI", "I": "aI", "O": "oU", "Q": "oU", "W": "aU", "Y": "OI", "ɑ": "A:", "ɐ": "a", "ɒ": "0", "æ": "a", "ɔ": "O",
    "ə": "@", "ᵊ": "@", "ɚ": "3", "ɜ": "3:", "ɛ": "E", "ɪ": "I", "ᵻ": "I", "ʊ": "U", "u": "u:", "ʌ": "V", "ʧ": "tS",
    "ʤ": "dZ", "ʃ": "S", "ʒ": "Z", "θ": "T", "ð": "D", "ŋ": "N", "ɹ": "r", "ɡ": "g", "ɾ": "t", "T": "t", "ʔ": "?",
}  # fmt: skip
_PAUSES = frozenset(',.;:!?—…"()“”')
_STRESS = frozenset("ˈˌ")
_LENGTH = frozenset(" ː")


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A variation of the voice: ``shift`` multiplies pitch and formants, ``tempo`` the speed of speaking."""

    shift: float
    tempo: float
    seed: int


class Natural:
    """The network, loaded once.

    Raises ``RunError`` when hibari-tts or onnxruntime is absent, or when the package's graph is another one.
    """

    def __init__(self) -> None:
        try:
            import onnxruntime
            from hibari import Hibari
        except ImportError as error:
            raise RunError(
                "natural speech needs the packages hibari-tts and onnxruntime: pip install 'humo-rt[train]'"
            ) from error
        self._voice = Hibari()
        graph = Path(self._voice.model_path).read_bytes()
        if _DURATIONS.encode() not in graph:
            raise RunError(f"the graph of the installed hibari-tts has no {_DURATIONS}: pip install 'humo-rt[train]'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph + _one_more_output(_DURATIONS), options, providers=["CPUExecutionProvider"]
        )

    def synthesise(self, text: str, speaker: Speaker) -> tuple[np.ndarray, list[Phoneme], float]:
        """Speak ``text``: float32 samples ``(S,)``, phonemes with times in seconds, samples per second."""
        from hibari import dsp

        rate = self._voice.sample_rate * speaker.shift
        speed = np.asarray([np.clip(speaker.tempo / speaker.shift, 0.5, 2.0)], np.float32)
        rng = np.random.default_rng(speaker.seed)
        pieces, phonemes, clock = [], [], 0.0
        for symbols in self._voice.phonemize(text):
            known = [symbol for symbol in symbols if symbol in self._voice.vocab]
            tokens = np.asarray([self._voice.ids(symbols)], np.int64)
            *spectra, units = self._session.run(None, {"ids": tokens, "speed": speed})
            samples = dsp.synth(*(part[0] for part in spectra), rng)
            pieces.append(samples)
            seconds = np.asarray(units, np.float64).ravel() * (_UNIT_SAMPLES / rate)
            begin = clock - _LEAD_UNITS * _UNIT_SAMPLES / rate
            phonemes += time_phonemes([_EDGE, *known, _EDGE], seconds, begin)
            clock += len(samples) / rate
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        while phonemes and phonemes[-1].symbol == _EDGE:
            phonemes.pop()
        return samples, [end_with_sound(phoneme, samples, rate) for phoneme in phonemes], rate


def end_with_sound(phoneme: Phoneme, samples: np.ndarray, rate: float) -> Phoneme:
    """Shorten a long phoneme to its sound: the network lets the last one before a pause last through the pause."""
    if phoneme.end - phoneme.start < _LONG_S:
        return phoneme
    step = int(0.01 * rate)
    span = np.abs(samples[max(0, int(phoneme.start * rate)) : int(phoneme.end * rate)])
    loud = np.flatnonzero(span[: len(span) // step * step].reshape(-1, step).max(axis=1) > 0.04 * np.abs(samples).max())
    sounding = (loud[-1] + 1) * 0.01 if len(loud) else 0.0
    return Phoneme(phoneme.symbol, phoneme.start, min(phoneme.end, phoneme.start + max(0.08, sounding)))


def time_phonemes(symbols: list[str], seconds: np.ndarray, start: float) -> list[Phoneme]:
    """Turn tokens and their durations into phonemes; stress marks belong to the next sound, gaps to the one before."""
    ends = start + np.cumsum(seconds)
    begin, phonemes = start, []
    for symbol, end in zip(symbols, ends, strict=True):
        if symbol in _STRESS:
            continue
        if symbol in _LENGTH and phonemes:
            last = phonemes.pop()
            phonemes.append(Phoneme(last.symbol, last.start, float(end)))
        else:
            mnemonic = _EDGE if symbol in _PAUSES else _MNEMONICS.get(symbol, symbol)
            phonemes.append(Phoneme(mnemonic, float(begin), float(end)))
        begin = end
    return phonemes


def _one_more_output(name: str) -> bytes:
    """An ONNX file's tail that declares ``name`` an output: protobuf merges a repeated message into the first one."""
    model_graph, graph_output, value_name = 7, 12, 1
    return _field(model_graph, _field(graph_output, _field(value_name, name.encode())))


def _field(number: int, payload: bytes) -> bytes:
    assert max(number << 3, len(payload)) < 128, "one byte must hold the tag, and one the length"
    return bytes((number << 3 | 2, len(payload))) + payload
