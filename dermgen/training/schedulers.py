"""The noise schedulers that images are sampled with, and the steps that each can take."""

import math
from collections.abc import Mapping

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from dermgen.blocks import counted
from dermgen.config import InputError

SCHEDULERS = {
    "dpmsolver++": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "euler": EulerDiscreteScheduler,
    "pndm": PNDMScheduler,
    "unipc": UniPCMultistepScheduler,
}

# Share of the image's variance at the last timestep of the linear schedule of 1000 steps, rounded down: half the
# logarithm of signal to noise is -5.1, diffusers' value.
LEAST_SIGNAL = 1 / (1 + math.exp(2 * 5.1))


def noise_scheduler(name: str, config: Mapping) -> SchedulerMixin:
    """The scheduler of that name in `SCHEDULERS`, for a network that was trained with a scheduler of `config`.

    Dividing by almost no signal leaves only the network's error, so where the noise is predicted and nothing
    clips the image, sampling starts at the last timestep with enough signal (DPM-Solver's `lambda_min_clipped`, for
    every sampler).
    """
    config = {**config}
    if config.get("variance_type") in ("learned", "learned_range"):
        config["variance_type"] = "fixed_small"  # the networks here predict no variance
    scheduler = SCHEDULERS[name].from_config(config)
    usable = _usable(scheduler)
    clips = name in ("ddim", "ddpm") and scheduler.config.get("clip_sample")  # the others carry the key, and never do
    divides = name == "pndm"  # takes steps of one length only, and so any number of timesteps but an odd one
    if usable == len(scheduler.alphas_cumprod) or scheduler.config.prediction_type != "epsilon" or clips or divides:
        return scheduler
    shortened = {"trained_betas": scheduler.betas[:usable].tolist(), "num_train_timesteps": usable}
    # "leading" rounds the distance of timesteps down, and would start far from the last of so odd a number.
    config = {**scheduler.config, **shortened, "rescale_betas_zero_snr": False, "timestep_spacing": "linspace"}
    config.pop("_use_default_values", None)  # would undo the change of a setting that was at its default
    return SCHEDULERS[name].from_config(config)


def _usable(scheduler: SchedulerMixin) -> int:
    """Timesteps with enough signal for a network that predicts the noise."""
    return int((scheduler.alphas_cumprod >= LEAST_SIGNAL).sum())


def check_steps(name: str, config: Mapping, steps: int, strength: float = 1.0) -> None:
    """Check that a scheduler can sample in this many steps; no model is loaded.

    Args:
        name: of the scheduler, in `SCHEDULERS`.
        config: of the scheduler that the network was trained with.
        steps: denoising steps.
        strength: share of the steps that is taken, if sampling starts from an image.

    Raises:
        InputError: if it cannot.
    """
    scheduler = noise_scheduler(name, config)
    # Two schedulers round one timestep more than they take; a timestep twice is a division by zero.
    most = scheduler.config.num_train_timesteps - (name in ("dpmsolver++", "unipc"))
    if name == "pndm" and scheduler.config.prediction_type == "epsilon":
        most = _usable(scheduler)  # with more it would start where there is almost no signal
    if steps > most:
        trained = config.get("num_train_timesteps", 1000)
        raise InputError(
            f"num_inference_steps is {steps}, but the model was trained with {trained} timesteps, of which {name} "
            f"takes at most {most}: lower num_inference_steps"
        )
    if int(steps * strength) < 1:
        raise InputError(f"num_inference_steps {steps} x strength {strength} is less than one step: raise one of them")
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise InputError(
            f"the scheduler {name} cannot sample in {counted(steps, 'step')}: take more steps, or another scheduler"
        ) from error
