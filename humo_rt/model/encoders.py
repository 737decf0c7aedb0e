"""The text and audio encoders, built from configuration through transformers.

Knows which transformers class and settings each published encoder is. Reads no weights: build inside
``torch.device("meta")`` to fill the modules from a file afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from humo_rt.config import AudioEncoderConfig, TextEncoderConfig

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

MAX_AUDIO_STATES = 1500


def build_text_encoder(config: TextEncoderConfig) -> UMT5EncoderModel:
    """UMT5's encoder in evaluation mode: ids (B, L) -> ``last_hidden_state`` (B, L, d_model).

    The released model computes attention without fused kernels, so that is what is asked for here.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    umt5 = UMT5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        attn_implementation="eager",
    )
    return UMT5EncoderModel(umt5).eval()


def build_audio_encoder(config: AudioEncoderConfig) -> WhisperEncoder:
    """Whisper's encoder in evaluation mode: log-mel (B, num_mel_bins, 3000) -> 1500 states of d_model.

    ``output_hidden_states=True`` gives ``num_layers + 1`` states, the last one behind the final LayerNorm.
    """
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    whisper = WhisperConfig(
        d_model=config.d_model,
        encoder_layers=config.num_layers,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.ffn_dim,
        num_mel_bins=config.num_mel_bins,
        max_source_positions=MAX_AUDIO_STATES,
        use_cache=False,
    )
    return WhisperEncoder(whisper).eval()
