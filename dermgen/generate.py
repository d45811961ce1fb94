"""`dermgen generate`: a run or a Hub model, prompts or classes, to a manifest folder of synthetic images."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image

from dermgen import __version__
from dermgen.config import InputError, option, require_at_least
from dermgen.data import captions, manifest, preprocess
from dermgen.data.cache import hash_file, key_of
from dermgen.data.loading import folder_examples
from dermgen.data.sheets import contact_sheet
from dermgen.labels import TAXONOMIES, Taxonomy
from dermgen.sampling import Request, draw, save_png
from dermgen.stable_diffusion.generator import StableDiffusionGenerator
from dermgen.stable_diffusion.inputs import check_prompts
from dermgen.stable_diffusion.pipeline import check_model, load_pipeline
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.run import claim_together

GRID_FIELDS = (*captions.FIELDS, "skin_tone")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Draw images from a trained run or a Hub model; give --prompt, --classes or --grid."""

    model: str = option(None, "run folder, pipeline folder or Hub id; a run of LoRA finds its base model itself")
    base_model: str | None = option(None, "base of a LoRA file that does not name one")
    output_dir: str = option(None, "manifest folder to write")
    prompt: str | None = option(None, "what all images show")
    num_images: int = option(16, "images of --prompt, or of each combination of --grid")
    classes: str | None = option(None, "images per class, e.g. mel:500,df:300")
    grid: str | None = option(None, "YAML file of attribute lists (dx, localization, age, sex, skin_tone) to combine")
    caption_template: str = option(captions.DEFAULT_TEMPLATE, "prompt of --classes and --grid")
    taxonomy: Literal["ham10000", "isic2019", "binary"] = option("ham10000", "that class codes are looked up in")
    adapter_weight: float = option(1.0, "strength of LoRA adapters; 0 is the base model")
    negative_prompt: str = option("", "what to steer away from")
    guidance_scale: float = option(7.5, "weight of the prompt; 1 is none")
    num_inference_steps: int = option(25, "denoising steps")
    scheduler: Literal["dpmsolver++", "ddim", "ddpm", "euler", "pndm", "unipc"] = option("dpmsolver++", "sampler")
    init_images: str | None = option(None, "folder of images to start from in place of noise (image to image)")
    strength: float = option(0.6, "how much of an initial image is redrawn, in (0, 1]")
    resolution: int | None = option(None, "height and width in pixels; default the model's own")
    seed: int = option(0, "image i is drawn from seed + i")
    batch_size: int = option(8, "images at a time and process")
    dtype: Literal["fp32", "fp16", "bf16"] | None = option(None, "default fp16 on a GPU, else fp32")

    def __post_init__(self):
        if not self.model or not self.output_dir:
            raise InputError("--model (a run folder or Hub id) and --output_dir are needed")
        if sum(x is not None for x in (self.prompt, self.classes, self.grid)) != 1:
            raise InputError("give exactly one of --prompt, --classes and --grid")
        if self.resolution is not None and (self.resolution % 8 or self.resolution < 8):
            raise InputError(f"resolution must be a positive multiple of 8, got {self.resolution}")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength must be above 0 and at most 1, got {self.strength}")
        require_at_least(1, num_images=self.num_images, batch_size=self.batch_size)
        require_at_least(1, num_inference_steps=self.num_inference_steps)
        captions.check_template(self.caption_template, GRID_FIELDS)


def generate(config: GenerateConfig) -> Path:
    """Write `num_images` PNGs with a manifest of how each was made; what is there already is kept.

    Raises:
        InputError: for a model that cannot be loaded, an unknown class, or the folder of other settings.
    """
    rows = _plan(config)
    model_path, base = _resolve_model(config)
    accelerator = Accelerator()
    folder = Path(config.output_dir)
    claim_together(accelerator, folder, config, may_change=("output_dir", "batch_size"))
    (folder / "images").mkdir(exist_ok=True)

    default = "fp16" if accelerator.device.type in ("cuda", "xpu") else "fp32"
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.dtype or default]
    prompts = {row["prompt"] for row in rows}
    generator = _load_generator(config, prompts, model_path, base, dtype, accelerator.device)
    sha256 = broadcast_object_list([model_hash(model_path, base) if accelerator.is_main_process else None])[0]
    table = _table(rows, config, sha256)
    facts_of = {row["file_name"]: row for row in table.to_dict("records")}
    _claim_plan(folder, table, config, accelerator)
    requests = [Request(row["prompt"], row["seed"], folder / row["file_name"]) for row in facts_of.values()]

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
        given = [hash_file(e.path) for e in folder_examples(config.init_images, "", "")] if config.init_images else []
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


def model_hash(model_path: str, base: str | None) -> str:
    """SHA-256 of the weights that draw: of the LoRA file, or over the UNet's files; "" for a model on the Hub."""
    folder = Path(model_path)
    if base is not None:
        return hash_file(folder / LORA_FILE if folder.is_dir() else folder)
    files = sorted((folder / "unet").glob("*.safetensors"))
    return hash_file(files[0]) if len(files) == 1 else key_of(*map(hash_file, files)) if files else ""


def _plan(config: GenerateConfig) -> list[dict]:
    """One row per image: prompt, and what is known of it (dx, localization, age, sex)."""
    if config.prompt is not None:
        return [{"prompt": config.prompt} for _ in range(config.num_images)]
    taxonomy = TAXONOMIES[config.taxonomy]
    if config.classes is not None:
        own = _own_prompt(config.model)
        rows = []
        for code, count in _class_counts(config.classes):
            prompt = own[1] if own and own[0] == code else _prompt(config.caption_template, {"dx": code}, taxonomy)
            rows += [{"prompt": prompt, "dx": code}] * count
        return rows
    return [row for row in _grid_rows(config, taxonomy) for _ in range(config.num_images)]


def _class_counts(text: str) -> list[tuple[str, int]]:
    counts = []
    for part in text.split(","):
        code, colon, number = part.strip().partition(":")
        if not colon or not number.strip().isdigit() or int(number) < 1:
            raise InputError(f"--classes must be like mel:500,df:300, got {part.strip()!r}")
        counts.append((code.strip(), int(number)))
    return counts


def _grid_rows(config: GenerateConfig, taxonomy: Taxonomy) -> list[dict]:
    path = Path(config.grid)
    try:
        lists = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the grid {path}: {error}") from error
    if not isinstance(lists, dict) or not all(isinstance(v, list) and v for v in lists.values()):
        raise InputError(f"{path} must hold lists, as `dx: [mel, df]`")
    unknown = set(lists) - set(GRID_FIELDS)
    if unknown:
        raise InputError(
            f"{path}: unknown attribute {sorted(unknown)[0]!r}; the attributes are {', '.join(GRID_FIELDS)}"
        )
    template = config.caption_template
    if "skin_tone" in lists and "{skin_tone}" not in template:
        template += ", {skin_tone}"
    rows = []
    for values in itertools.product(*lists.values()):
        row = dict(zip(lists, values, strict=True))
        rows.append({**row, "prompt": _prompt(template, row, taxonomy)})
    return rows


def _prompt(template: str, row: dict, taxonomy: Taxonomy) -> str:
    lesion = taxonomy[row["dx"]] if "dx" in row else None
    malignancy = lesion.malignancy if lesion else ""
    return captions.fill(template, {"malignancy": malignancy, **row, "dx": lesion.name if lesion else ""})


def _resolve_model(config: GenerateConfig) -> tuple[str, str | None]:
    """The model's path or id, and for LoRA weights the base model they belong to."""
    path = Path(config.model)
    lora = path if path.suffix == ".safetensors" else path / LORA_FILE
    if lora.is_file():
        base = config.base_model or _run_setting(path, "pretrained_model_name_or_path")
        if not base:
            raise InputError(f"{lora} are LoRA weights and do not say of which model: give --base_model")
        check_model(base)
        return config.model, base
    if path.is_dir() and (path / "config.yaml").exists() and not (path / "model_index.json").exists():
        raise InputError(
            f"the run in {path} has no final weights yet: let its training finish (the same command goes on)"
        )
    check_model(config.model)
    return config.model, None


def _run_setting(run_dir: Path, name: str) -> str | None:
    path = run_dir / "config.yaml"
    return (yaml.safe_load(path.read_text()) or {}).get(name) if path.exists() else None


def _trained_with(model: str, base: str | None) -> dict[str, str | None]:
    """Which files of its base model a LoRA run was trained with."""
    if base is None:
        return {}
    return {name: _run_setting(Path(model), name) for name in ("revision", "variant", "tokenizer_name")}


def _own_prompt(model: str) -> tuple[str, str] | None:
    """Class and prompt that a DreamBooth run was taught together."""
    code, prompt = (_run_setting(Path(model), name) for name in ("instance_class", "instance_prompt"))
    return (code, prompt) if code and prompt else None


def _load_generator(
    config, prompts: set[str], model_path: str, base: str | None, dtype: torch.dtype, device
) -> StableDiffusionGenerator:
    pipeline = load_pipeline(base or model_path, **_trained_with(config.model, base), dtype=dtype)
    prediction_type = _run_setting(Path(config.model), "prediction_type")
    if base is not None and prediction_type:
        kind = type(pipeline.scheduler)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, prediction_type=prediction_type)
    check_prompts(prompts, pipeline.tokenizer)
    if base is not None:
        path = Path(model_path)
        folder, name = (path, LORA_FILE) if path.is_dir() else (path.parent, path.name)
        pipeline.load_lora_weights(folder, weight_name=name, adapter_name="dermgen")
        pipeline.set_adapters("dermgen", config.adapter_weight)
    pipeline.to(device)
    if not config.init_images:
        pipeline.vae.to(torch.float32)  # decoding overflows in fp16
    resolution = config.resolution or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return StableDiffusionGenerator(
        pipeline,
        config.num_inference_steps,
        config.guidance_scale,
        config.negative_prompt,
        config.scheduler,
        resolution,
        _initial_images(config.init_images, resolution),
        config.strength,
    )


def _initial_images(folder: str | None, size: int) -> Sequence[Image.Image]:
    if folder is None:
        return []
    images = []
    for example in folder_examples(folder, "", "init_images"):
        image = preprocess.read_image(Path(example.path))
        top, left, side = preprocess.center_box(*image.shape[:2])
        images.append(Image.fromarray(preprocess.resize(image[top : top + side, left : left + side], size)))
    return images


def _table(rows: list[dict], config: GenerateConfig, sha256: str) -> pd.DataFrame:
    taken: dict[str, int] = {}
    sources = [e.image_id for e in folder_examples(config.init_images, "", "init_images")] if config.init_images else []
    provenance = Path(config.model, "provenance.json")
    leaky = provenance.exists() and json.loads(provenance.read_text()).get("leaky")
    full = []
    for i, row in enumerate(rows):
        group = row.get("dx") or "image"
        number = taken[group] = taken.get(group, -1) + 1
        image_id = f"{group}_{number:05d}"
        seed = config.seed + i
        full.append(
            {
                **{c: row.get(c, "") for c in manifest.COLUMNS},
                "file_name": f"images/{image_id}.png",
                "image_id": image_id,
                "caption": row["prompt"],
                "source": f"dermgen {__version__}" + (", LEAKY" if leaky else ""),
                "synthetic": "true",
                "prompt": row["prompt"],
                "negative_prompt": config.negative_prompt,
                "seed": seed,
                "index": i,
                "model": config.model,
                "model_sha256": sha256,
                "guidance_scale": config.guidance_scale,
                "num_inference_steps": config.num_inference_steps,
                "scheduler": config.scheduler,
                "strength": config.strength if sources else "",
                "source_image_id": sources[seed % len(sources)] if sources else "",
            }
        )
    return pd.DataFrame(full)


def _contact_sheets(table: pd.DataFrame, folder: Path) -> None:
    """One sheet per class, or one of all images where there are no classes."""
    (folder / "sheets").mkdir(exist_ok=True)
    for dx, part in table.groupby("dx"):
        images = [Image.open(folder / name) for name in part["file_name"].head(64)]
        contact_sheet(images, folder / "sheets" / f"{dx or 'all'}.png", 8)
