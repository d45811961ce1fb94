"""Settings of `dermgen generate`."""

from dataclasses import dataclass
from typing import Literal

from dermgen import watermark
from dermgen.builtin import located
from dermgen.config import SEEDS, InputError, check, option
from dermgen.data import captions

GRID_FIELDS = (*captions.FIELDS, "skin_tone")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate images from a trained run or a Hub model.

    A Stable Diffusion takes --prompt, --classes or --grid; a model trained from scratch takes --classes, or
    --num_images if it was trained without classes; a CycleGAN takes the --init_images that it translates.
    """

    model: str = option(
        None,
        "run folder, pipeline folder, Hub id, or phantom (the built-in model); a LoRA run records its base model",
        required=True,
    )
    base_model: str | None = option(
        None, "base model of a LoRA file that does not record one, or its new folder if it was moved"
    )
    variant: str | None = option(
        None, "variant of the weight files, e.g. fp16; default that of the LoRA run's base model"
    )
    output_dir: str = option(None, "manifest folder to write", required=True, free=True)
    prompt: str | None = option(None, "prompt of all images")
    num_images: int | None = option(
        None,
        "number of images for --prompt, for each combination of --grid, or of a run without classes; default 16, "
        "and for a CycleGAN all of --init_images",
        at_least=1,
    )
    classes: str | None = option(None, "images per class, e.g. mel:500,df:300")
    grid: str | None = option(None, "YAML file of attribute lists (dx, localization, age, sex, skin_tone) to combine")
    caption_template: str = option(captions.DEFAULT_TEMPLATE, "template of the prompts of --classes and --grid")
    taxonomy: Literal["ham10000", "isic2019", "binary"] = option(
        "ham10000", "taxonomy in which class codes are looked up"
    )
    adapter_weight: float = option(1.0, "strength of LoRA adapters; 0 is the base model")
    negative_prompt: str = option("", "prompt to guide away from")
    guidance_scale: float | None = option(
        None, "guidance towards the prompt or class; 1 is none; default 7.5 for a Stable Diffusion, 1 for a DDPM"
    )
    num_inference_steps: int | None = option(
        None, "denoising steps; default 25 for a Stable Diffusion, 50 for a DDPM", at_least=1
    )
    scheduler: Literal["dpmsolver++", "ddim", "ddpm", "euler", "pndm", "unipc"] | None = option(
        None, "sampler; default dpmsolver++ for a Stable Diffusion, ddim for a DDPM"
    )
    truncation: float | None = option(
        None, "psi of a StyleGAN2; below 1 trades variety for typical looks; default 1", at_least=0
    )
    weights: Literal["last", "best"] = option(
        "last", "weights of a model trained from scratch: the last, or the best in validation"
    )
    init_images: str | None = option(
        None, "folder or manifest of images to start from instead of noise, or to translate with a CycleGAN"
    )
    init_split: Literal["train", "val", "test"] = option("train", "split of the manifest of --init_images")
    direction: Literal["a_to_b", "b_to_a"] = option("a_to_b", "direction in which a CycleGAN translates")
    strength: float = option(0.6, "how much of an initial image is changed", within="(0, 1]")
    resolution: int | None = option(None, "height and width in pixels; default the model's own", multiple_of=8)
    seed: int = option(
        0, "image i is generated from seed + i; ignored by a CycleGAN, which draws no random numbers", within=SEEDS
    )
    batch_size: int = option(8, "images per process and batch", at_least=1, free=True)
    dtype: Literal["fp32", "fp16", "bf16"] | None = option(None, "precision; default fp16 on a GPU, else fp32")
    watermark: bool = option(False, "embed an invisible mark in each image, which `dermgen inspect` detects")

    def __post_init__(self):
        check(self)
        if sum(x is not None for x in (self.prompt, self.classes, self.grid)) > 1:
            raise InputError("give only one of --prompt, --classes and --grid")
        if self.watermark and self.resolution is not None:
            watermark.require_room(self.resolution, self.resolution)
        if self.negative_prompt and self.guidance_scale is not None and self.guidance_scale <= 1:
            raise InputError(
                f"--negative_prompt does nothing at --guidance_scale {self.guidance_scale}: set it above 1"
            )
        captions.check_template(self.caption_template, GRID_FIELDS)

    @property
    def model_path(self) -> str:
        """The folder or Hub id."""
        return located(self.model)
