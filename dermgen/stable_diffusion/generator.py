"""Sampling images from a Stable Diffusion pipeline, each from its own prompt and seed."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from dermgen.config import InputError
from dermgen.data.loading import to_uint8
from dermgen.sampling import taken_in_turn
from dermgen.stable_diffusion.files import native_size
from dermgen.training.schedulers import noise_scheduler


class StableDiffusionGenerator:
    """An `ImageGenerator` whose labels are prompts.

    Args:
        pipeline: on its device; the autoencoder may have another precision than the UNet.
        num_inference_steps: denoising steps.
        guidance_scale: weight of the prompt (Ho and Salimans 2022, arXiv:2207.12598); 1 is none.
        negative_prompt: what to steer away from.
        scheduler: one of `schedulers.SCHEDULERS`; DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) by default.
        resolution: height and width in pixels; default what the UNet was made for.
        init_images: start from these instead of noise, taken in turn by seed.
        strength: how much an initial image is changed, in (0, 1].
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        negative_prompt: str = "",
        scheduler: str = "dpmsolver++",
        resolution: int | None = None,
        init_images: Sequence[Image.Image] = (),
        strength: float = 0.6,
    ):
        parts = {**pipeline.components, "scheduler": noise_scheduler(scheduler, pipeline.scheduler.config)}
        pipeline_class = StableDiffusionImg2ImgPipeline if init_images else StableDiffusionPipeline
        self.pipeline = pipeline_class(**parts, requires_safety_checker=False)
        self.pipeline.set_progress_bar_config(disable=True)
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.negative_prompt = negative_prompt
        self.resolution = resolution or native_resolution(pipeline)
        self.init_images, self.strength = list(init_images), strength

    @torch.no_grad()
    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Generate one image per prompt as uint8 (N, 3, H, W); image i depends on its prompt and seed alone.

        Raises:
            InputError: if an image is NaN.
        """
        pipeline, vae = self.pipeline, self.pipeline.vae
        if self.init_images:
            images = [taken_in_turn(self.init_images, seed) for seed in seeds]
            inputs = {"image": images, "strength": self.strength}
        else:
            inputs = {"height": self.resolution, "width": self.resolution}
        latents = pipeline(
            prompt=list(labels),
            negative_prompt=[self.negative_prompt] * len(labels),
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            **inputs,
        ).images
        with torch.autocast(latents.device.type, enabled=False):  # which would undo a float32 autoencoder
            images = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        bad = ~torch.isfinite(images).flatten(1).all(dim=1)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise InputError(
                f"the image of seed {seeds[first]} is NaN in {pipeline.unet.dtype}: try a higher precision"
            )
        return to_uint8(images)


def native_resolution(pipeline: StableDiffusionPipeline) -> int:
    """Height and width in pixels of the images that the UNet was made for."""
    return native_size(pipeline.unet.config.sample_size, pipeline.name_or_path) * pipeline.vae_scale_factor
