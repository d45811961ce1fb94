"""Validation during a fine-tuning: sample grids of prompts, and the loss on held-out images."""

import itertools
from collections.abc import Sequence

import torch
from accelerate.utils import send_to_device
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.utils.data import Dataset

from dermgen.data.loading import collate
from dermgen.sampling import evaluating
from dermgen.stable_diffusion.denoising import DenoisingLoss
from dermgen.stable_diffusion.generator import StableDiffusionGenerator
from dermgen.training.draws import HELD_OUT, Draws, derive_seed
from dermgen.training.run import Run

SCHEDULERS = {"DPMSolverMultistepScheduler": "dpmsolver++", "DDPMScheduler": "ddpm"}


class SampleGrids:
    """For each prompt a row of the fine-tuned model's images, with `show_base` below the base model's from that noise.

    Args:
        pipeline: before the training; its images are kept for comparison.
        run: the training; only its main process generates.
        prompts: one pair of rows each.
        columns: images per prompt.
        seed: of the first column; each further column has the next.
        batch_size: images generated at a time.
        guidance_scale: weight of the prompt.
        scheduler: one of `SCHEDULERS`.
        resolution: height and width in pixels.
        show_base: whether the base model's images are worth a look, as those of an untrained one are not.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        run: Run,
        prompts: Sequence[str],
        columns: int,
        seed: int,
        batch_size: int,
        guidance_scale: float,
        scheduler: str,
        resolution: int,
        show_base: bool = True,
    ):
        self.pipeline, self.run, self.columns, self.batch_size = pipeline, run, columns, batch_size
        self.requests = list(itertools.product(prompts, range(seed, seed + columns)))
        self.settings = {
            "guidance_scale": guidance_scale,
            "scheduler": SCHEDULERS[scheduler],
            "resolution": resolution,
        }
        self.base_images = self._generate() if run.is_main and show_base else None

    def save(self, models: Sequence[nn.Module]) -> None:
        """Write the grid of the current step; `models` are those in training."""
        if self.run.is_main:
            with self.run.averaged_weights(), evaluating(*models):
                tuned = self._generate()
            shown = [images for images in (self.base_images, tuned) if images is not None]
            rows = [images.unflatten(0, (-1, self.columns)) for images in shown]
            self.run.sample_grid(torch.stack(rows, dim=1).flatten(0, 2), self.columns)
        self.run.accelerator.wait_for_everyone()

    def _generate(self) -> torch.Tensor:
        """Images (prompts x columns, 3, H, W) uint8."""
        generator = StableDiffusionGenerator(self.pipeline, **self.settings)
        images = []
        for start in range(0, len(self.requests), self.batch_size):
            prompts, seeds = zip(*self.requests[start : start + self.batch_size], strict=True)
            with self.run.accelerator.autocast():
                images.append(generator.sample(prompts, seeds).cpu())
        return torch.cat(images)


def held_out_loss(
    dataset: Dataset, losses: DenoisingLoss, run: Run, models: Sequence[nn.Module], batch_size: int, seed: int
) -> float:
    """Mean loss on held-out images with fixed noise and timesteps; the processes share the work.

    Args:
        dataset: the images.
        losses: of the models themselves, not as `run` wraps them: processes may have different numbers of batches.
        run: the training.
        models: those in training.
        batch_size: images at a time and process.
        seed: of noise and timesteps.
    """
    accelerator = run.accelerator
    total = torch.zeros((), device=accelerator.device)
    share = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    with run.averaged_weights(), evaluating(*models):
        for start in range(0, len(share), batch_size):
            indices = share[start : start + batch_size]
            batch = send_to_device(collate([dataset[i] for i in indices]), accelerator.device)
            total += losses([batch], Draws([derive_seed(seed, HELD_OUT, i) for i in indices], accelerator.device)).sum()
    return float(accelerator.reduce(total)) / len(dataset)
