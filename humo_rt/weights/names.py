"""From the names in published files to the names of this project's modules.

Rules only: each function takes a stored name and returns the module's name, or None for a tensor that the module has
by design no use for (Whisper's decoder, say). Reads no files and knows no shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Rename = Callable[[str], "str | None"]

_LORA = re.compile(r"\.(lora_(down|up|A|B)\b|diff(_b)?$)")

_DIT_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

_UMT5_LEAVES = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}

_OPENAI_WHISPER = (
    (r"^blocks\.", "layers."),
    (r"^ln_post\.", "layer_norm."),
    (r"^positional_embedding$", "embed_positions.weight"),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
)

# A Wan VAE resampling block is (norm, SiLU, conv, norm, SiLU, dropout, conv); only these positions hold parameters.
_VAE_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
_VAE_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def dit_name(name: str) -> str | None:
    """HuMo's own names, with or without the prefix ComfyUI writes. The fp8 marker of scaled files is dropped."""
    for prefix in _DIT_PREFIXES:
        name = name.removeprefix(prefix)
    return None if name == "scaled_fp8" else name


def umt5_name(name: str) -> str | None:
    """Wan's official UMT5 names, or transformers' own (left as they are), to transformers' ``UMT5EncoderModel``."""
    if name in ("spiece_model", "scaled_fp8") or name.startswith("decoder."):
        return None
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match and match[2] in _UMT5_LEAVES:
        return f"encoder.block.{match[1]}.{_UMT5_LEAVES[match[2]]}"
    return name


def whisper_name(name: str) -> str | None:
    """Whisper names of transformers, openai or a bare encoder to transformers' ``WhisperEncoder``; no decoder."""
    name = name.removeprefix("model.")
    if name.startswith(("decoder.", "proj_out.")) or name == "alignment_heads":
        return None
    name = name.removeprefix("encoder.")
    for pattern, replacement in _OPENAI_WHISPER:
        name = re.sub(pattern, replacement, name)
    return name


def vae_rename(num_res_blocks: int) -> Rename:
    """Wan's official VAE names, or diffusers' own, to diffusers' ``AutoencoderKLWan``.

    Wan numbers the decoder's blocks through; diffusers groups ``num_res_blocks + 1`` residual blocks and one
    upsampler into a level, so the depth is needed to translate.
    """
    per_level = num_res_blocks + 2

    def rename(name: str) -> str | None:
        name = name.removeprefix("autoencoder.")
        name = re.sub(r"^(encoder|decoder)\.conv1\.", r"\1.conv_in.", name)
        name = re.sub(r"\.head\.0\.", ".norm_out.", name)
        name = re.sub(r"\.head\.2\.", ".conv_out.", name)
        name = re.sub(r"^conv1\.", "quant_conv.", name)
        name = re.sub(r"^conv2\.", "post_quant_conv.", name)
        name = re.sub(r"\.middle\.(\d)\.", lambda m: f".mid_block.{_VAE_MIDDLE[m[1]]}.", name)
        name = re.sub(r"\.downsamples\.(\d+)\.", r".down_blocks.\1.", name)
        name = re.sub(r"\.upsamples\.(\d+)\.", lambda m: _decoder_block(int(m[1]), per_level, name), name)
        name = re.sub(r"\.shortcut\.", ".conv_shortcut.", name)
        return re.sub(r"residual\.[0236]", lambda m: _VAE_RESIDUAL[m[0]], name)

    return rename


def _decoder_block(index: int, per_level: int, name: str) -> str:
    level, position = divmod(index, per_level)
    upsampling = ".resample." in name or ".time_conv." in name
    return f".up_blocks.{level}." + ("upsamplers.0." if upsampling else f"resnets.{position}.")


def renames(num_res_blocks: int) -> dict[str, Rename]:
    """The rule for each network; ``num_res_blocks`` is the VAE's."""
    return {
        "dit": dit_name,
        "vae": vae_rename(num_res_blocks),
        "text_encoder": umt5_name,
        "audio_encoder": whisper_name,
    }


def refuse_lora(names: Iterable[str], source: str) -> None:
    """``ValueError`` if any of ``names`` is one that only a LoRA file has."""
    found = [name for name in names if _LORA.search(name)]
    if found:
        raise ValueError(
            f"{source} is a LoRA ({len(found)} names such as {found[0]!r}), which is not supported yet: "
            "give the full checkpoint, or merge the LoRA into it first"
        )
