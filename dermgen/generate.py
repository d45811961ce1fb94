"""`dermgen generate`: a run or a Hub model, prompts or classes, to a manifest folder of synthetic images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image

from dermgen import __version__, runs
from dermgen.config import InputError, option, require_at_least
from dermgen.data import captions, manifest
from dermgen.data.cache import hash_file, key_of
from dermgen.data.sheets import contact_sheet
from dermgen.models import GRID_FIELDS, FromScratchModel, StableDiffusionModel, read_sources
from dermgen.sampling import Request, draw, save_png
from dermgen.training.run import claim_together


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Draw images from a trained run or a Hub model.

    A Stable Diffusion takes --prompt, --classes or --grid; a model trained from scratch --classes, or --num_images
    where it was trained without classes; a CycleGAN the --init_images that it translates.
    """

    model: str = option(None, "run folder, pipeline folder or Hub id; a run of LoRA finds its base model itself")
    base_model: str | None = option(None, "base of a LoRA file that does not name one")
    output_dir: str = option(None, "manifest folder to write")
    prompt: str | None = option(None, "what all images show")
    num_images: int | None = option(
        None,
        "images of --prompt, of each combination of --grid, or of a run without classes; default 16, and for a "
        "CycleGAN all of --init_images",
    )
    classes: str | None = option(None, "images per class, e.g. mel:500,df:300")
    grid: str | None = option(None, "YAML file of attribute lists (dx, localization, age, sex, skin_tone) to combine")
    caption_template: str = option(captions.DEFAULT_TEMPLATE, "prompt of --classes and --grid")
    taxonomy: Literal["ham10000", "isic2019", "binary"] = option("ham10000", "that class codes are looked up in")
    adapter_weight: float = option(1.0, "strength of LoRA adapters; 0 is the base model")
    negative_prompt: str = option("", "what to steer away from")
    guidance_scale: float | None = option(
        None, "weight of the prompt or class; 1 is none; default 7.5 for a Stable Diffusion, 1 for a DDPM"
    )
    num_inference_steps: int | None = option(None, "denoising steps; default 25 for a Stable Diffusion, 50 for a DDPM")
    scheduler: Literal["dpmsolver++", "ddim", "ddpm", "euler", "pndm", "unipc"] | None = option(
        None, "sampler; default dpmsolver++ for a Stable Diffusion, ddim for a DDPM"
    )
    truncation: float | None = option(None, "psi of a StyleGAN2; below 1 trades variety for typical looks; default 1")
    weights: Literal["last", "best"] = option("last", "of a model trained from scratch: best is by its validations")
    init_images: str | None = option(
        None, "folder or manifest of images to start from in place of noise, or that a CycleGAN translates"
    )
    init_split: Literal["train", "val", "test"] = option("train", "split of a manifest of --init_images")
    direction: Literal["a_to_b", "b_to_a"] = option("a_to_b", "which way a CycleGAN translates")
    strength: float = option(0.6, "how much of an initial image is redrawn, in (0, 1]")
    resolution: int | None = option(None, "height and width in pixels; default the model's own")
    seed: int = option(0, "image i is drawn from seed + i")
    batch_size: int = option(8, "images at a time and process")
    dtype: Literal["fp32", "fp16", "bf16"] | None = option(None, "default fp16 on a GPU, else fp32")

    def __post_init__(self):
        if not self.model or not self.output_dir:
            raise InputError("--model (a run folder or Hub id) and --output_dir are needed")
        if sum(x is not None for x in (self.prompt, self.classes, self.grid)) > 1:
            raise InputError("give only one of --prompt, --classes and --grid")
        if self.resolution is not None and (self.resolution % 8 or self.resolution < 8):
            raise InputError(f"resolution must be a positive multiple of 8, got {self.resolution}")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength must be above 0 and at most 1, got {self.strength}")
        require_at_least(1, batch_size=self.batch_size)
        for name in ("num_images", "num_inference_steps", "truncation"):
            if getattr(self, name) is not None:
                require_at_least(0 if name == "truncation" else 1, **{name: getattr(self, name)})
        captions.check_template(self.caption_template, GRID_FIELDS)


def generate(config: GenerateConfig) -> Path:
    """Write `num_images` PNGs with a manifest of how each was made; what is there already is kept.

    Raises:
        InputError: for a model that cannot be loaded, an unknown class, or the folder of other settings.
    """
    run = runs.find(config.model, config.weights)
    model = FromScratchModel(config, run) if run else StableDiffusionModel(config)
    rows = model.plan()
    accelerator = Accelerator()
    folder = Path(config.output_dir)
    claim_together(accelerator, folder, config, may_change=("output_dir", "batch_size"))
    (folder / "images").mkdir(exist_ok=True)

    generator = model.load(rows, accelerator.device)
    sha256 = broadcast_object_list([model.sha256() if accelerator.is_main_process else None])[0]
    table = _table(rows, config, model.settings(), sha256)
    facts_of = {row["file_name"]: row for row in table.to_dict("records")}
    _claim_plan(folder, table, config, accelerator)
    requests = [Request(row["label"], row["seed"], folder / name) for row, name in zip(rows, facts_of, strict=True)]

    def save(request: Request, image: torch.Tensor) -> None:
        facts = facts_of[request.path.relative_to(folder).as_posix()]
        write_synthetic(image, request.path, {k: facts[k] for k in manifest.SYNTHETIC_COLUMNS if facts[k] != ""})

    draw(generator, requests, save, config.batch_size, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        manifest.write(table, folder)
        _contact_sheets(table, folder)
        print(f"{len(table)} images in {folder / 'images'}, contact sheets in {folder / 'sheets'}")
    accelerator.wait_for_everyone()
    return folder


def _claim_plan(folder: Path, table: pd.DataFrame, config: GenerateConfig, accelerator: Accelerator) -> None:
    """Refuse to go on where prompts, weights or initial images are no longer those of the images that are there."""
    if accelerator.is_main_process:
        given = [hash_file(source.path) for source in read_sources(config.init_images, config.init_split)]
        plan, path = key_of(table.to_csv(), *given), folder / ".plan"
        if path.exists() and path.read_text() != plan:
            raise InputError(
                f"{folder} has images of other prompts, weights or initial images (a retrained model, an edited grid): "
                "choose a new output_dir"
            )
        path.write_text(plan)
    accelerator.wait_for_everyone()


def write_synthetic(image: torch.Tensor, path: Path, facts: dict) -> None:
    """Write a uint8 (3, H, W) image as a PNG that says in its text chunks that it is synthetic, and by what."""
    comment = f"Synthetic image, not a photograph of a patient; not for diagnosis. Made by dermgen {__version__}."
    save_png(image, path, {"Comment": comment, "Software": f"dermgen {__version__}", "dermgen": json.dumps(facts)})


def _table(rows: list[dict], config: GenerateConfig, settings: dict, sha256: str) -> pd.DataFrame:
    """The manifest of the images to be: what each shows, and how it will be made."""
    taken: dict[str, int] = {}
    provenance = Path(config.model, "provenance.json")
    leaky = provenance.exists() and json.loads(provenance.read_text()).get("leaky")
    full = []
    for i, row in enumerate(rows):
        group = row.get("dx") or "image"
        number = taken[group] = taken.get(group, -1) + 1
        image_id = f"{group}_{number:05d}"
        full.append(
            {
                **{c: row.get(c, "") for c in (*manifest.COLUMNS, *manifest.SYNTHETIC_COLUMNS)},
                "file_name": f"images/{image_id}.png",
                "image_id": image_id,
                "source": f"dermgen {__version__}" + (", LEAKY" if leaky else ""),
                "synthetic": "true",
                "index": i,
                "model": config.model,
                "model_sha256": sha256,
                **settings,
            }
        )
    return pd.DataFrame(full)


def _contact_sheets(table: pd.DataFrame, folder: Path) -> None:
    """One sheet per class, or one of all images where there are no classes."""
    (folder / "sheets").mkdir(exist_ok=True)
    for dx, part in table.groupby("dx"):
        images = [Image.open(folder / name) for name in part["file_name"].head(64)]
        contact_sheet(images, folder / "sheets" / f"{dx or 'all'}.png", 8)
