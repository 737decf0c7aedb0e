"""Guidance and the sampler's update in one pass over the latents.

    guided[...] = sum over b of weights[b] * velocity[b, ...]
    out[r][...] = c[r, 0] * guided + c[r, 1] * sample + c[r, 2] * last_sample + c[r, 3] * newest + c[r, 4] * older

A step of UniPC of order 2 is such a sum: its predictor and its corrector combine tensors that are already there with
numbers that depend on the noise levels alone. ``humo_rt.runtime.fused_update`` gets the numbers from the scheduler.

velocity_BX: (B, ...) float32, float16 or bfloat16, B guidance branches; anything not contiguous is copied first.
weights_B: (B,) and coefficients_35: (3, 5), float32 on the same device, so that a captured graph serves every step.
sample_X, last_sample_X, newest_X, older_X: (...) float32: the latents, the corrected latents of the step before, the
clean latents predicted one and two steps before. All are read, also where the coefficient is 0: start them with zeros.
out: (...) float32 each: the next latents, the corrected latents, the clean latents predicted now.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_dtypes, check_one_device
from humo_rt.kernels.guided_update.reference import reference

COEFFICIENTS = (3, 5)


def guided_update(
    velocity_BX: Tensor,
    weights_B: Tensor,
    sample_X: Tensor,
    last_sample_X: Tensor,
    newest_X: Tensor,
    older_X: Tensor,
    coefficients_35: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Next, corrected and predicted clean latents; shapes above. ``ValueError`` names the wrong argument."""
    check_dtypes(velocity=velocity_BX.dtype)
    if velocity_BX.ndim < 2 or velocity_BX.numel() == 0:
        raise ValueError(f"velocity {tuple(velocity_BX.shape)} is not (B, ...) with every axis at least one")
    latents = {"sample": sample_X, "last_sample": last_sample_X, "newest": newest_X, "older": older_X}
    expected = {name: (tensor, velocity_BX.shape[1:]) for name, tensor in latents.items()}
    expected |= {"weights": (weights_B, velocity_BX.shape[:1]), "coefficients": (coefficients_35, COEFFICIENTS)}
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} {tuple(tensor.shape)} does not fit velocity {tuple(velocity_BX.shape)}: give {tuple(shape)}"
            )
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: use float32")
    check_one_device(velocity=velocity_BX, weights=weights_B, coefficients=coefficients_35, **latents)
    if registry.exporting():
        return reference(velocity_BX, weights_B, sample_X, last_sample_X, newest_X, older_X, coefficients_35)
    return _guided_update(velocity_BX, weights_B, sample_X, last_sample_X, newest_X, older_X, coefficients_35)


@torch.library.custom_op("humo_rt::guided_update", mutates_args=())
def _guided_update(
    velocity_BX: Tensor,
    weights_B: Tensor,
    sample_X: Tensor,
    last_sample_X: Tensor,
    newest_X: Tensor,
    older_X: Tensor,
    coefficients_35: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    run = registry.select("guided_update", velocity_BX.device)
    return run(velocity_BX, weights_B, sample_X, last_sample_X, newest_X, older_X, coefficients_35)


_guided_update.register_fake(reference)
