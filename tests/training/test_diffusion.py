"""Diffusion losses against closed forms and diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from dermgen.training.diffusion import denoising_target, min_snr_weights, per_image_mse, prior_preservation, snr


def test_snr_agrees_with_diffusers():
    scheduler, timesteps = DDPMScheduler(), torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(snr(scheduler, timesteps), compute_snr(scheduler, timesteps), rtol=1e-4, atol=1e-8)


def test_min_snr_weights_are_the_papers():
    ratios = torch.tensor([1.0, 4.0, 5.0, 10.0])
    torch.testing.assert_close(min_snr_weights(ratios, 5.0, "epsilon"), torch.tensor([1.0, 1.0, 1.0, 0.5]))
    torch.testing.assert_close(min_snr_weights(ratios, 5.0, "v_prediction"), torch.tensor([0.5, 0.8, 5 / 6, 5 / 11]))
    with pytest.raises(ValueError, match="'sample'"):
        min_snr_weights(ratios, 5.0, "sample")


def test_the_velocity_target_turns_a_noisy_image_back_into_the_clean_one():
    scheduler = DDPMScheduler()
    images, noise, timesteps = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([5, 400, 990])
    noisy = scheduler.add_noise(images, noise, timesteps)
    velocity = denoising_target(scheduler, images, noise, timesteps, "v_prediction")
    alpha = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - scheduler.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    torch.testing.assert_close(alpha * noisy - sigma * velocity, images, rtol=1e-4, atol=1e-5)
    assert denoising_target(scheduler, images, noise, timesteps, "epsilon") is noise


def test_a_weighted_loss_counts_pixels_by_weight_and_keeps_its_scale():
    prediction, target = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    weights = torch.rand(2, 1, 4, 4)
    by_hand = [
        sum(weights[i, 0, y, x] * prediction[i, c, y, x] ** 2 for c in range(3) for y in range(4) for x in range(4))
        / (3 * weights[i].sum())
        for i in range(2)
    ]
    torch.testing.assert_close(per_image_mse(prediction, target, weights), torch.stack(by_hand))
    plain = per_image_mse(prediction, target)
    torch.testing.assert_close(per_image_mse(prediction, target, torch.full((2, 1, 4, 4), 7.0)), plain)
    torch.testing.assert_close(plain[0], prediction[0].pow(2).mean())


def test_prior_preservation_weighs_the_second_half():
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert prior_preservation(losses, 0.5) == 2 + 0.5 * 15
