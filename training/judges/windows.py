"""What the sync judge looks at: mouth crops and log-mel windows that cover the same 0.2 seconds.

Knows pixels, samples and the frame rate; no network. A window is named by its middle video frame.

Shape legend: N clips of a pool, B chosen clips, F video frames, C channels, H height, W width, K chosen windows per
clip, S audio samples, M mel bands, T mel frames (four per video frame).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.config import FPS, SAMPLE_RATE
from training.judges.networks import MEL_PER_FRAME, MELS, MOUTH_CROP, SYNC_FRAMES

HALF = SYNC_FRAMES // 2
_HOP = SAMPLE_RATE // (FPS * MEL_PER_FRAME)
_FFT = 512


def log_mel(samples_BS: Tensor, num_frames: int) -> Tensor:
    """Log-mel energies (B, 40, 4 * num_frames) of 16 kHz sound; missing sound at the end is silence.

    Log energies have a floor 80 dB under full scale and are scaled to about -1..1, so loudness stays audible.
    """
    frames = num_frames * MEL_PER_FRAME
    needed = frames * _HOP + _FFT
    padded = F.pad(samples_BS.float(), (_FFT // 2, max(0, needed - samples_BS.shape[-1])))[:, :needed]
    windows = padded.unfold(-1, _FFT, _HOP)[:, :frames] * torch.hann_window(_FFT, device=padded.device)
    power = torch.fft.rfft(windows).abs().square() / (_FFT / 4) ** 2
    mel = torch.einsum("btf,mf->bmt", power, _mel_filters(str(samples_BS.device)))
    return mel.clamp(min=1e-8).log10() / 4 + 1


@functools.cache
def _mel_filters(device: str) -> Tensor:
    """Triangular filters (M, FFT / 2 + 1), equally spaced on the mel scale from 60 to 7600 Hz."""
    low, high = (2595 * torch.log10(1 + torch.tensor(hz) / 700) for hz in (60.0, 7600.0))
    edges = 700 * (10 ** (torch.linspace(low.item(), high.item(), MELS + 2) / 2595) - 1)
    hz = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).to(device)


def smooth_centres(centre_BF2: Tensor, radius: int = 6) -> Tensor:
    """Average the mouth's centre over neighbouring frames: the crop follows the head, not the lips."""
    padded = F.pad(centre_BF2.transpose(1, 2).float(), (radius, radius), mode="replicate")
    return F.avg_pool1d(padded, 2 * radius + 1, 1).transpose(1, 2)


def crop_windows(video_NFCHW: Tensor, clip_B: Tensor, middle_BK: Tensor, centre_BK2: Tensor) -> Tensor:
    """Cut K five-frame mouth windows from each of the clips numbered ``clip_B``: float (B, K, 15, 48, 48) in [0, 1].

    ``centre_BK2`` is (y, x) in pixels; all five frames are cut at the middle frame's centre. Frames and pixels outside
    the video repeat its edge.
    """
    frames, channels, height, width = video_NFCHW.shape[1:]
    device = video_NFCHW.device
    centre = centre_BK2.round().long()
    offset = torch.arange(MOUTH_CROP, device=device) - MOUTH_CROP // 2
    rows = (centre[..., 0, None] + offset).clamp(0, height - 1)
    columns = (centre[..., 1, None] + offset).clamp(0, width - 1)
    time = (middle_BK[..., None] + torch.arange(-HALF, HALF + 1, device=device)).clamp(0, frames - 1)
    # One gather: the index arrays broadcast to (B, K, 5, C, 48, 48).
    cut = video_NFCHW[
        clip_B[:, None, None, None, None, None],
        time[:, :, :, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, :, None, None, :, None],
        columns[:, :, None, None, None, :],
    ]
    return cut.flatten(2, 3).float() / 255


def mel_windows(mel_BMT: Tensor, middle_BK: Tensor) -> Tensor:
    """Cut the 20 mel frames of each five-frame window: (B, K, M, 20); outside the clip the edge repeats."""
    start = (middle_BK - HALF) * MEL_PER_FRAME
    index = start[..., None] + torch.arange(SYNC_FRAMES * MEL_PER_FRAME, device=mel_BMT.device)
    index = index.clamp(0, mel_BMT.shape[-1] - 1)
    clip = torch.arange(len(mel_BMT), device=mel_BMT.device)[:, None, None]
    return mel_BMT.transpose(1, 2)[clip, index].transpose(2, 3)
