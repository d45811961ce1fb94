"""One interface to every generator, and the loop that draws from it: batches, processes, memory, going on."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from dermgen.config import InputError

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
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


class ImageGenerator(Protocol):
    """What every trained method can do."""

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Draw one image per label (a class code, or a prompt) as uint8 (N, 3, H, W).

        Image `i` depends on `labels[i]` and `seeds[i]` alone.
        """
        ...


class ImageCritic(Protocol):
    """What a trained discriminator can do."""

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        """How real uint8 images (N, 3, H, W) of these classes look, (N,) float32; more is more real."""
        ...


@dataclass(frozen=True)
class Request:
    """One image to be drawn: what of, from which seed, and to which file."""

    label: str
    seed: int
    path: Path


def noise_scheduler(name: str, config: Mapping) -> SchedulerMixin:
    """The scheduler of that name in `SCHEDULERS`, for a network that was trained with a scheduler of `config`.

    An image divided by next to no signal is all error of the network, so where the noise is predicted, and nothing
    clips the image, drawing starts at the last timestep with enough signal (DPM-Solver's `lambda_min_clipped`, for
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
    """Whether a scheduler can draw in so many steps; no model is needed.

    Args:
        name: of the scheduler, in `SCHEDULERS`.
        config: of the scheduler that the network was trained with.
        steps: denoising steps.
        strength: share of them that is taken, where an image is started from.

    Raises:
        InputError: if it cannot.
    """
    scheduler = noise_scheduler(name, config)
    # Two schedulers round one timestep more than they take; a timestep twice is a division by zero.
    most = scheduler.config.num_train_timesteps - (name in ("dpmsolver++", "unipc"))
    if name == "pndm" and scheduler.config.prediction_type == "epsilon":
        most = _usable(scheduler)  # with more it would start where there is next to no signal
    if steps > most:
        trained = config.get("num_train_timesteps", 1000)
        raise InputError(
            f"num_inference_steps is {steps}, but the model was trained with {trained} timesteps, of which {name} "
            f"takes {most}: take no more"
        )
    if int(steps * strength) < 1:
        raise InputError(
            f"{steps} steps at strength {strength} are none at all: num_inference_steps x strength must be at least 1"
        )
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise InputError(f"the scheduler {name} cannot draw in {steps} steps: take more, or another one") from error


def normal(seeds: Sequence[int], *shape: int) -> torch.Tensor:
    """Standard normal numbers (N, *shape), each row from its own seed, on the CPU."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw(
    generator: ImageGenerator,
    requests: Sequence[Request],
    save: Callable[[Request, torch.Tensor], None],
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
    desc: str = "images",
) -> None:
    """Draw this process's share of the requests whose files are missing; a batch is halved when memory runs out.

    Args:
        generator: draws the images.
        requests: the whole list, the same on all processes.
        save: writes one uint8 (3, H, W) image, whole or not at all.
        batch_size: images at a time to begin with.
        process_index: of this process.
        num_processes: that share the work.
        desc: of the progress bar.

    Raises:
        InputError: if not even one image fits into memory.
    """
    mine = [r for r in requests[process_index::num_processes] if not is_whole(r.path)]
    start = time.monotonic()
    with tqdm(total=len(mine), desc=desc, unit="image", disable=process_index > 0, dynamic_ncols=True) as progress:
        done = 0
        while done < len(mine):
            batch = mine[done : done + batch_size]
            try:
                images = generator.sample([r.label for r in batch], [r.seed for r in batch])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise InputError(
                        "not even one image fits into memory: use a smaller model or a larger device"
                    ) from error
                batch_size = len(batch) // 2
                progress.write(f"out of memory with {len(batch)} images at a time; going on with {batch_size}")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            for request, image in zip(batch, images, strict=True):
                save(request, image.cpu())
            done += len(batch)
            progress.update(len(batch))
            progress.set_postfix_str(f"{done / (time.monotonic() - start):.2f} images/s")


def save_png(image: torch.Tensor, path: Path, text: Mapping[str, str]) -> None:
    """Write a uint8 (3, H, W) image with these PNG text chunks, whole or not at all."""
    chunks = PngInfo()
    for name, value in text.items():
        chunks.add_text(name, value)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="PNG", pnginfo=chunks)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the name without the content
    os.replace(partial, path)


def is_whole(path: Path) -> bool:
    """Whether a PNG is there to its last byte; after a power cut it can be there and empty."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # missing, or shorter than that
        return False


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the CPU PyTorch has no exception type of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
