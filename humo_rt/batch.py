"""Many generations from one JSON file, in the shape the published release uses.

    {"case_1": {"img_paths": ["face.png"], "audio_path": "speech.wav", "prompt": "..."}}

Paths are relative to the JSON file. The model is loaded by the caller, once; a case that fails is reported and the
next one runs. Knows nothing of terminals.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

_KEYS = ("prompt", "img_paths", "audio_path")


class Generator(Protocol):
    """What a batch needs of a pipeline."""

    def generate(self, prompt: str, **options: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """One entry of the file, not yet checked: ``folder`` is where its paths start."""

    name: str
    entry: Any
    folder: Path

    @property
    def mode(self) -> str:
        """T, TI, TA or TIA: the conditions it names, whether they can be used or not."""
        named = self.entry if isinstance(self.entry, dict) else {}
        return "T" + "I" * bool(named.get("img_paths")) + "A" * bool(named.get("audio_path"))

    def request(self) -> tuple[str, dict[str, Any]]:
        """The prompt and the conditions. ``ValueError`` names the case's first fault."""
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise ValueError(f"case name {self.name!r} cannot be a file name: leave out slashes")
        if not isinstance(self.entry, dict):
            raise ValueError(f"expected an object with {', '.join(_KEYS)}, got {type(self.entry).__name__}")
        unknown = [key for key in self.entry if key not in _KEYS]
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}: use {', '.join(_KEYS)}")
        prompt = self.entry.get("prompt")
        if not isinstance(prompt, str):
            raise ValueError("prompt is missing: give a text")
        images = self.entry.get("img_paths") or []
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ValueError(f"img_paths is {images!r}: give a list of file names")
        audio = self.entry.get("audio_path") or None
        if not isinstance(audio, str | None):
            raise ValueError(f"audio_path is {audio!r}: give one file name")
        return prompt, {
            "image": [self.folder / image for image in images] or None,
            "audio": None if audio is None else self.folder / audio,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one case ended: ``output`` is the video, or ``error`` says why there is none."""

    name: str
    seconds: float
    output: Path | None = None
    error: str | None = None


def read_cases(path: Path) -> list[Case]:
    """Read the file; single cases are checked later. ``ValueError`` if it is missing, no JSON, or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_repeats)
    except FileNotFoundError as error:
        raise ValueError(f"cases file {str(path)!r} does not exist: check the path") from error
    except OSError as error:
        raise ValueError(f"cases file {str(path)!r} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"cases file {str(path)!r} is not valid JSON ({error}): correct it") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f'cases file {str(path)!r} must hold an object such as {{"case_1": {{"prompt": "..."}}}}')
    return [Case(name=name, entry=entry, folder=path.parent) for name, entry in content.items()]


def run_cases(
    pipeline: Generator,
    cases: Sequence[Case],
    folder: Path,
    options: Mapping[str, Any],
    *,
    on_start: Callable[[Case], None] = lambda case: None,
) -> Iterator[Outcome]:
    """Generate ``folder/NAME.mp4`` for every case and yield how each ended; ``options`` go to every generation."""
    for case in cases:
        on_start(case)
        begin = time.perf_counter()
        try:
            prompt, conditions = case.request()
            output = folder / f"{case.name}.mp4"
            pipeline.generate(prompt, **conditions, **options, output=output)
        except (ValueError, RuntimeError, OSError) as error:
            logger.debug("case %s failed", case.name, exc_info=error)
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Outcome(name=case.name, seconds=time.perf_counter() - begin, error=reason)
        else:
            yield Outcome(name=case.name, seconds=time.perf_counter() - begin, output=output)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} appears twice")
    return result
