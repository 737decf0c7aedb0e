"""Which files of a folder are which part of a model.

Knows how the published checkpoints, ComfyUI's model folders and this project's own folders are laid out. Opens no
checkpoint and imports no torch: it answers from file names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PARTS = ("dit", "vae", "text_encoder", "tokenizer", "audio_encoder")

_WAN_FOLDERS = ("", "Wan2.1-T2V-1.3B/", "Wan2.1-T2V-14B/")
_HUMO_FOLDERS = ("", "HuMo/")
_COMFY_DIT_FOLDERS = ("", "diffusion_models/", "unet/")
_WHISPER_FOLDERS = ("whisper-large-v3/", "")

_DIT_FILES = {
    "humo-17b": (
        *(f"{folder}HuMo-17B/humo.safetensors.index.json" for folder in _HUMO_FOLDERS),
        "humo.safetensors.index.json",
        *(f"{folder}*[hH][uU][mM][oO]*1[47][bB]*.safetensors" for folder in _COMFY_DIT_FOLDERS),
    ),
    "humo-1.7b": (
        *(f"{folder}HuMo-1.7B/ema.pth" for folder in _HUMO_FOLDERS),
        "ema.pth",
        *(f"{folder}*[hH][uU][mM][oO]*1[._]7[bB]*.safetensors" for folder in _COMFY_DIT_FOLDERS),
    ),
}
_OWN_FILES = {
    "dit": "dit.safetensors",
    "vae": "vae.safetensors",
    "text_encoder": "text_encoder.safetensors",
    "tokenizer": "tokenizer.json",
    "audio_encoder": "audio_encoder.safetensors",
}
# In order of preference. A pattern that ends in "/" is a folder.
_SHARED_FILES = {
    "vae": (
        *(f"{folder}Wan2.1_VAE.pth" for folder in _WAN_FOLDERS),
        "vae/wan_2.1_vae.safetensors",
        "wan_2.1_vae.safetensors",
        "vae/Wan2_1_VAE*.safetensors",
        "Wan2_1_VAE*.safetensors",
    ),
    "text_encoder": (
        *(f"{folder}models_t5_umt5-xxl-enc-bf16.pth" for folder in _WAN_FOLDERS),
        "text_encoders/umt5*xxl*.safetensors",
        "umt5*xxl*.safetensors",
    ),
    "tokenizer": (*(f"{folder}google/umt5-xxl/" for folder in _WAN_FOLDERS), "umt5-xxl/"),
    "audio_encoder": (
        *(f"{folder}model.safetensors" for folder in _WHISPER_FOLDERS),
        *(f"{folder}model.safetensors.index.json" for folder in _WHISPER_FOLDERS),
        *(f"{folder}model.safetensors.index.fp32.json" for folder in _WHISPER_FOLDERS),
        "audio_encoders/whisper*.safetensors",
        "whisper*large*v3*.safetensors",
        "large-v3.pt",
    ),
}
_MASK_PREDICTOR = "mask_predictor.safetensors"
_ZERO_VAE = ("zero_vae_*frame.pt", "HuMo/zero_vae_*frame.pt")

_DOWNLOADS = {
    "dit": "hf download bytedance-research/HuMo --local-dir {root}/HuMo",
    "vae": "hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir {root}/Wan2.1-T2V-1.3B",
    "text_encoder": "hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir {root}/Wan2.1-T2V-1.3B",
    "tokenizer": "hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir {root}/Wan2.1-T2V-1.3B",
    "audio_encoder": "hf download openai/whisper-large-v3 --local-dir {root}/whisper-large-v3",
}


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of one complete model.

    ``zero_vae`` may be empty: the grey video is then encoded when needed. ``mask_predictor``: the head that published
    DiT files leave out, when training here wrote it beside them.
    """

    root: Path
    dit: Path
    vae: Path
    text_encoder: Path
    tokenizer: Path
    audio_encoder: Path
    zero_vae: tuple[Path, ...] = ()
    mask_predictor: Path | None = None

    @property
    def dit_files(self) -> list[Path]:
        """Everything the transformer is loaded from."""
        return [self.dit] if self.mask_predictor is None else [self.dit, self.mask_predictor]


def find_files(path: Path | Sequence[Path], preset_name: str) -> ModelFiles:
    """Find every file of model ``preset_name`` under ``path`` (a folder, several folders, or the DiT file itself).

    ``ValueError`` names each missing part, the places looked at and the command that downloads it.
    """
    found = survey(path, preset_name)
    root = _folders(path)[0]
    missing = [part for part in PARTS if part not in found]
    if missing:
        raise ValueError("; ".join(describe_missing(root, preset_name, part) for part in missing))
    predictor = _first(path, (_MASK_PREDICTOR,))
    return ModelFiles(root=root, zero_vae=tuple(zero_vae_files(path)), mask_predictor=predictor, **found)


def survey(path: Path | Sequence[Path], preset_name: str) -> dict[str, Path]:
    """The parts of ``preset_name`` that exist under ``path``, by name; parts not found are absent."""
    found = {part: file for part in PARTS if (file := _first(path, _patterns(part, preset_name)))}
    if isinstance(path, Path) and path.is_file():
        found["dit"] = path
    return found


def models_in(path: Path) -> list[str]:
    """Which presets' DiT weights a folder holds, by file name; the project's own layout counts as ``"own"``."""
    names = [name for name in _DIT_FILES if _first(path, _DIT_FILES[name])]
    return ["own"] if _first(path, (_OWN_FILES["dit"],)) else names


def describe_missing(root: Path, preset_name: str, part: str) -> str:
    """One sentence: which part is missing, where it was looked for, how to get it."""
    looked = [pattern for pattern in _patterns(part, preset_name) if "[" not in pattern]
    sentence = f"{root} lacks the {part.replace('_', ' ')} ({' or '.join(looked[:3])})"
    if preset_name not in _DIT_FILES:
        return f"{sentence}: put the file there, or choose another preset"
    return f"{sentence}: get it with `{_DOWNLOADS[part].format(root=root)}`"


def _patterns(part: str, preset_name: str) -> tuple[str, ...]:
    if preset_name not in _DIT_FILES:
        return (_OWN_FILES[part],)
    published = _DIT_FILES[preset_name] if part == "dit" else _SHARED_FILES[part]
    return (*published, _OWN_FILES[part])


def zero_vae_files(path: Path | Sequence[Path]) -> list[Path]:
    """Published encodings of a grey video under ``path``; having none is no fault."""
    matches = (match for folder in _folders(path) for pattern in _ZERO_VAE for match in sorted(folder.glob(pattern)))
    return list({match.name: match for match in matches}.values())


def _first(path: Path | Sequence[Path], patterns: Iterable[str]) -> Path | None:
    return next(_matches(_folders(path), patterns), None)


def _matches(folders: Sequence[Path], patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        for folder in folders:
            for match in sorted(folder.glob(pattern)):
                if match.is_dir() if pattern.endswith("/") else match.is_file():
                    yield match


def _folders(path: Path | Sequence[Path]) -> list[Path]:
    """Where to look: the folder itself, and the folders around it when it is one part of the published layout."""
    folders = []
    for start in [path] if isinstance(path, Path) else path:
        folder = start.parent if start.is_file() else start
        folders.append(folder)
        while folder.name.lower().startswith("humo") or folder.name in ("diffusion_models", "unet"):
            folder = folder.parent
            folders.append(folder)
    return folders
