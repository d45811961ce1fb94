"""Class images for prior preservation: the user's own, then ones drawn from the base model and named by how.

A drawn image is `<number>-<key>.png`; the key is a hash of the model's weights, the prompt and the settings, so that
images of another prompt in the same folder are neither used nor touched.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline

from dermgen.config import InputError
from dermgen.data.cache import hash_weights, key_of
from dermgen.data.examples import Example
from dermgen.data.image_files import image_files
from dermgen.data.subsets import choose
from dermgen.sampling import Request, generate_missing, is_whole, save_png
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.generator import StableDiffusionGenerator
from dermgen.stable_diffusion.pipeline import dtype_of
from dermgen.training.draws import CLASS_IMAGES, derive_seed


def own_images(folder: Path) -> list[Path]:
    """Images in a folder of class images that were put there, not drawn here, under whatever settings."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"class_data_dir {folder} is a file: give a folder")
    return [p for p in image_files(folder) if not _is_drawn(p)] if folder.exists() else []


def class_images(
    folder: Path,
    prompt: str,
    number: int,
    base: BaseModel,
    pipeline: StableDiffusionPipeline,
    accelerator: Accelerator,
    batch_size: int,
    seed: int,
    precision: str | None = None,
    resumed: bool = False,
) -> list[Example]:
    """`number` class images; all processes draw the missing ones together.

    They have the size that the model was made for, whatever the training's: at another size it draws broken images,
    and training would preserve those. `StableDiffusionGenerator`'s 25 steps of DPM-Solver++ stand for diffusers' 50.

    Args:
        folder: of class images, made if it is missing.
        prompt: of the class.
        number: of images wanted.
        base: the base model.
        pipeline: of the base model in float32, before anything of it is trained; it is so again afterwards.
        accelerator: each process draws its share.
        batch_size: images drawn at a time and process.
        seed: of the drawn images.
        precision: of drawing, "no", "fp32", "fp16" or "bf16"; default fp16 on a GPU, else fp32.
        resumed: whether the run has trained on class images already.

    Raises:
        InputError: if a resumed run would be given other class images than it was begun with.
    """
    dtype = dtype_of(precision, accelerator.device)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    own = own_images(folder)
    own = [own[i] for i in choose([path.name for path in own], number, seed)]
    generator = StableDiffusionGenerator(pipeline)
    key = _key(generator, prompt, seed, dtype)
    requests = [
        Request(prompt, derive_seed(seed, CLASS_IMAGES, i) % 2**63, folder / f"{i}-{key}.png")
        for i in range(number - len(own))
    ]
    missing = not all(is_whole(r.path) for r in requests)
    accelerator.wait_for_everyone()  # all have looked before one draws
    if missing and resumed and any(_is_drawn(p) and not p.stem.endswith(key) for p in image_files(folder)):
        raise InputError(
            f"the class images in {folder} were drawn with other settings, or by an earlier version that drew them at "
            "--resolution, and the run was begun with those: choose a new output_dir"
        )
    if missing:
        pipeline.to(accelerator.device, dtype)
        pipeline.vae.to(torch.float32)  # decoding overflows in fp16
        rank, ranks = accelerator.process_index, accelerator.num_processes
        generate_missing(generator, requests, _save, batch_size, rank, ranks, "class images")
        accelerator.wait_for_everyone()
        if dtype != torch.float32:
            base.restore(pipeline, "unet", "vae", "text_encoder")
    return [Example(str(path), prompt, path.stem) for path in [*own, *(r.path for r in requests)]]


def _key(generator: StableDiffusionGenerator, prompt: str, seed: int, dtype: torch.dtype) -> str:
    """Of all that the drawn images depend on."""
    pipeline = generator.pipeline
    weights = [hash_weights(part) for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae)]
    settings = (generator.num_inference_steps, generator.guidance_scale, generator.resolution, seed, dtype)
    return key_of("class images 1", *weights, prompt, settings)


def _is_drawn(path: Path) -> bool:
    number, _, key = path.stem.partition("-")
    return path.suffix == ".png" and number.isdigit() and len(key) == 24


def _save(request: Request, image: torch.Tensor) -> None:
    save_png(image, request.path, {"Comment": "synthetic image drawn by dermgen as a DreamBooth class image"})
