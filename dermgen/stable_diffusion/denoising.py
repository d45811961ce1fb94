"""The training loss of a Stable Diffusion: the UNet's errors on noised latents with their prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import nn

from dermgen.stable_diffusion.inputs import LatentSource, PromptSource
from dermgen.training.diffusion import denoising_losses
from dermgen.training.draws import Draws


@dataclass(kw_only=True)
class DenoisingLoss:
    """Per-image losses of one or more batches; image i depends on its own random stream alone.

    Args:
        unet: as prepared for training.
        unet_dtype: what its inputs are cast to.
        text_encoder: as prepared for training, or None if it is frozen.
        latent_source: batch to latents.
        prompt_source: prompt numbers to embeddings.
        noise_scheduler: its `prediction_type` decides the target.
        empty_prompt: number of the empty prompt.
        caption_dropout: share of images that get the empty prompt.
        offset_noise: strength of noise that is constant over an image and channel; 0 is none.
        snr_gamma: of min-SNR weights; None for none.
        mask_loss_weight: extra weight of the lesion's pixels.
        timesteps_as_labels: pass the timesteps to the UNet as class labels too.
    """

    unet: nn.Module
    unet_dtype: torch.dtype
    text_encoder: nn.Module | None
    latent_source: LatentSource
    prompt_source: PromptSource
    noise_scheduler: DDPMScheduler
    empty_prompt: int
    caption_dropout: float = 0.0
    offset_noise: float = 0.0
    snr_gamma: float | None = None
    mask_loss_weight: float = 0.0
    timesteps_as_labels: bool = False

    def __call__(self, batches: Sequence[dict], draws: Draws) -> torch.Tensor:
        """Losses (N,) of the images of all batches, one after the other; `draws` has a stream for each."""
        prompt_ids = torch.cat([batch["prompt_id"] for batch in batches])
        parts = draws.split([len(batch["prompt_id"]) for batch in batches])
        encoded = [self.latent_source(batch, part) for batch, part in zip(batches, parts, strict=True)]
        latents = torch.cat([x for x, _ in encoded])
        if self.caption_dropout:
            prompt_ids = torch.where(draws.uniform() < self.caption_dropout, self.empty_prompt, prompt_ids)
        hidden = self.prompt_source(prompt_ids, self.text_encoder)
        noise = draws.normal(*latents.shape[1:])
        if self.offset_noise:
            noise = noise + self.offset_noise * draws.normal(latents.shape[1], 1, 1)
        timesteps = draws.integers(self.noise_scheduler.config.num_train_timesteps)
        labels = timesteps if self.timesteps_as_labels else None

        def predict(noisy: torch.Tensor) -> torch.Tensor:
            inputs = noisy.to(self.unet_dtype), timesteps, hidden.to(self.unet_dtype)
            return self.unet(*inputs, class_labels=labels).sample

        pixel_weights = None
        if self.mask_loss_weight:
            pixel_weights = 1 + self.mask_loss_weight * torch.cat([mask for _, mask in encoded])
        return denoising_losses(predict, self.noise_scheduler, latents, noise, timesteps, self.snr_gamma, pixel_weights)
