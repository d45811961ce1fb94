"""Every sampler against a network that knows the answer."""

import inspect
import math
import re

import pytest
import torch
from diffusers import DDPMScheduler

from dermgen.config import InputError
from dermgen.data.loading import to_uint8
from dermgen.training.schedulers import SCHEDULERS, check_steps, noise_scheduler

MEAN, STD = 0.3, 0.25


def sampled(name: str, schedule: DDPMScheduler, steps: int, error: float = 0.01, count: int = 2000) -> torch.Tensor:
    """Pixels sampled with the network that is ideal for pixels of N(MEAN, STD²), but for an error of 1 %."""
    scheduler = noise_scheduler(name, schedule.config)
    scheduler.set_timesteps(steps)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 1, 1, generator=rng) * scheduler.init_noise_sigma
    noise = {"generator": rng} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        share = schedule.alphas_cumprod[round(float(t))]
        a, b = share.sqrt(), (1 - share).sqrt()
        clean = MEAN + a * STD**2 / (a**2 * STD**2 + b**2) * (scaled - a * MEAN)  # the mean of what x may come from
        predicted = (scaled - a * clean) / b
        if schedule.config.prediction_type == "v_prediction":
            predicted = a * predicted - b * clean
        predicted = predicted + error * torch.randn(count, 1, 1, 1, generator=rng)
        x = scheduler.step(predicted, t, x, **noise).prev_sample
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_every_sampler_reproduces_the_spread_of_the_data_with_every_schedule_and_target(name, beta_schedule, kind):
    schedule = DDPMScheduler(beta_schedule=beta_schedule, prediction_type=kind)
    pixels = sampled(name, schedule, 50)
    assert pixels.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert pixels.std().item() == pytest.approx(STD, rel=0.2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_sampler_needs_the_image_clipped_to_survive_the_end_of_the_cosine_schedule(name):
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    assert sampled(name, schedule, 50).std().item() == pytest.approx(STD, rel=0.2)


@pytest.mark.parametrize("steps", [50, 250, 500])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_that_was_saved_and_loaded_reproduces_the_same_spread(name, steps, tmp_path):
    """Loaded, every scheduler carries `clip_sample`, which four of the six never apply."""
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path)
    schedule = DDPMScheduler.from_pretrained(tmp_path)
    assert sampled(name, schedule, steps).std().item() == pytest.approx(STD, rel=0.13 if steps == 50 else 0.03)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_as_many_steps_as_a_sampler_takes_give_no_nan(name):
    schedule = DDPMScheduler(num_train_timesteps=60, beta_schedule="squaredcos_cap_v2")
    with pytest.raises(InputError, match=rf"of which {re.escape(name)} takes at most \d+: lower num") as error:
        check_steps(name, schedule.config, 61)
    most = int(re.search(r"at most (\d+)", str(error.value))[1])
    check_steps(name, schedule.config, most)
    assert most > 50
    assert sampled(name, schedule, most).std().item() == pytest.approx(STD, rel=0.2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_that_keeps_some_signal_is_sampled_from_its_first_to_its_last_step(name):
    for settings in ({}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}):
        trained = DDPMScheduler(**settings)
        assert torch.equal(noise_scheduler(name, trained.config).alphas_cumprod, trained.alphas_cumprod)


def test_nan_does_not_become_a_black_pixel():
    with pytest.raises(InputError, match="gave NaN for an image"):
        to_uint8(torch.tensor([0.0, math.nan]))
