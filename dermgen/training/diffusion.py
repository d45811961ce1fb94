"""Losses of diffusion training: pure functions of tensors; no models are loaded here."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F


class NoiseScheduler(Protocol):
    """The part of a diffusers scheduler that is used here."""

    alphas_cumprod: torch.Tensor

    def add_noise(self, samples, noise, timesteps) -> torch.Tensor: ...
    def get_velocity(self, samples, noise, timesteps) -> torch.Tensor: ...


def snr(noise_scheduler: NoiseScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at integer `timesteps` (N,), as (N,) float32."""
    alphas_cumprod = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weights(snr: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR-gamma loss weights (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    Args:
        snr: (N,) signal-to-noise ratios, unitless, all positive.
        gamma: where the weight is clipped; the paper uses 5.
        prediction_type: what the network predicts, "epsilon" or "v_prediction".

    Returns:
        (N,) weights; 1 for "epsilon" wherever `snr <= gamma`.

    Raises:
        ValueError: if `prediction_type` is neither of the two.
    """
    clipped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return clipped / snr
    if prediction_type == "v_prediction":
        return clipped / (snr + 1)
    raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {prediction_type!r}")


def denoising_target(noise_scheduler, images, noise, timesteps, prediction_type: str) -> torch.Tensor:
    """What the network should predict from the noised (N, C, H, W) `images`: the noise, or the velocity."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(images, noise, timesteps)
    raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {prediction_type!r}")


def per_image_mse(
    prediction: torch.Tensor, target: torch.Tensor, pixel_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each image, (N,) float32.

    Args:
        prediction: (N, C, H, W), any float type.
        target: (N, C, H, W).
        pixel_weights: (N, 1, H, W), not negative; scaled here to a mean of 1 in each image, so that a weighted loss
            stays on the scale of the plain one however large the lesion is.
    """
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none")
    if pixel_weights is not None:
        errors = errors * (pixel_weights / pixel_weights.mean(dim=(1, 2, 3), keepdim=True))
    return errors.mean(dim=(1, 2, 3))


def denoising_losses(
    predict: Callable[[torch.Tensor], torch.Tensor],
    noise_scheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    snr_gamma: float | None = None,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Denoising loss of each image, (N,).

    Args:
        predict: the network, from noised images (N, C, H, W) to the noise or velocity that it predicts.
        noise_scheduler: its `prediction_type` decides the target.
        images: (N, C, H, W), or latents.
        noise: of the same shape.
        timesteps: (N,).
        snr_gamma: weigh by min-SNR.
        pixel_weights: see `per_image_mse`.
    """
    predicted_type = noise_scheduler.config.prediction_type
    prediction = predict(noise_scheduler.add_noise(images, noise, timesteps))
    target = denoising_target(noise_scheduler, images, noise, timesteps, predicted_type)
    losses = per_image_mse(prediction, target, pixel_weights)
    if snr_gamma is None:
        return losses
    return losses * min_snr_weights(snr(noise_scheduler, timesteps), snr_gamma, predicted_type)


def prior_preservation(losses: torch.Tensor, prior_loss_weight: float) -> torch.Tensor:
    """DreamBooth's loss (Ruiz et al. 2023, arXiv:2208.12242): instance mean + weight x prior mean.

    Args:
        losses: (2N,) per-image losses, the instance images first.
    """
    instance, prior = losses.chunk(2)
    return instance.mean() + prior_loss_weight * prior.mean()
