"""A Stable Diffusion to generate from: a pipeline folder, a Hub id, or a run of LoRA with its base model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from dermgen import runs
from dermgen.builtin import NAMES
from dermgen.config import InputError, require_seeds
from dermgen.data import preprocess
from dermgen.data.cache import key_of
from dermgen.generation.request import (
    NUMBER,
    OPTIONS,
    InitImage,
    class_counts,
    fill,
    grid_rows,
    random_subset,
    read_init_images,
    refuse_unused,
)
from dermgen.labels import TAXONOMIES
from dermgen.sampling import ImageGenerator, taken_in_turn
from dermgen.settings.generate import GenerateConfig
from dermgen.stable_diffusion import files, weight_files
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.generator import StableDiffusionGenerator, native_resolution
from dermgen.stable_diffusion.inputs import check_prompts, cut_texts
from dermgen.stable_diffusion.pipeline import dtype_of, load_adapter
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.run_record import RunRecord
from dermgen.training.schedulers import check_steps

OF_OTHERS = {"truncation", "weights", "direction"}
OF_ADAPTERS = {"base_model", "adapter_weight"}


class StableDiffusionModel:
    """The model of the config, and the requested images.

    Raises:
        InputError: if there is no such model, or options that it lacks are given.
    """

    def __init__(self, config: GenerateConfig):
        self.config, self.record = config, RunRecord.read(config.model_path)
        self.adapter = _adapter(Path(config.model_path))
        self.options = OPTIONS - OF_OTHERS - (OF_ADAPTERS if self.adapter is None else set())
        self.base = self._base()
        self.base.check()
        if config.prompt is None and config.classes is None and config.grid is None:
            raise InputError("a Stable Diffusion needs one of --prompt, --classes and --grid")
        refuse_unused(config, OPTIONS - OF_OTHERS, "a Stable Diffusion")
        self.guidance_scale = 7.5 if config.guidance_scale is None else config.guidance_scale
        if self.guidance_scale < 1:
            raise InputError(f"guidance_scale must be at least 1 for a Stable Diffusion, got {self.guidance_scale}")
        self.num_inference_steps = config.num_inference_steps or 25
        self.scheduler = config.scheduler or "dpmsolver++"
        init_images = read_init_images(config.init_images, config.init_split)
        refuse_unused(config, self.options, f"{config.model}, which is not a LoRA")
        schedule = files.scheduler_config(self.base.name_or_path, self.base.revision)
        check_steps(self.scheduler, schedule, self.num_inference_steps, config.strength if init_images else 1.0)
        self.base_sha256, self.base_checked = "", False
        if self.adapter is not None:
            self._check_base()
        self.init_images: list[InitImage] = []
        if init_images:
            self.init_images = random_subset(init_images, len(self._requested()), config.seed)

    def plan(self) -> list[dict]:
        """One row per image: label (its prompt), seed, and what is known of it (dx, localization, age, sex)."""
        rows, requested = [], self._requested()
        require_seeds(self.config.seed, len(requested))
        for seed, row in enumerate(requested, self.config.seed):
            source = taken_in_turn(self.init_images, seed).image_id if self.init_images else ""
            prompt = row["prompt"]
            rows.append({**row, "label": prompt, "caption": prompt, "seed": seed, "source_image_id": source})
        return rows

    def settings(self) -> dict:
        """The manifest's columns that are the same for all images."""
        return {
            "negative_prompt": self.config.negative_prompt,
            "guidance_scale": self.guidance_scale,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "strength": self.config.strength if self.init_images else "",
        }

    def sha256(self) -> str:
        """Hash of the generating weights; "" for a model on the Hub. Adapters differ by strength and base."""
        sha256, config = runs.weights_sha256(self.config.model_path), self.config
        known = self.record.base_sha256
        own_base = config.base_model is None or (known and self.base_sha256 == known)
        if self.adapter is None or (config.adapter_weight == 1 and own_base):
            return sha256
        return key_of(sha256, self.base_sha256 or self.base.name_or_path, config.adapter_weight)

    def cut_texts(self, rows: Sequence[dict], generator: ImageGenerator) -> dict[str, str]:
        """The part that the generator reads of each prompt that is too long for it."""
        texts = [*(row["label"] for row in rows), self.config.negative_prompt]
        return cut_texts(texts, generator.pipeline.tokenizer)

    def load(self, rows: Sequence[dict], device: torch.device) -> ImageGenerator:
        """The generator, on its device."""
        config = self.config
        dtype = dtype_of(config.dtype, device)
        pipeline = self.base.load(dtype)
        prediction_type = self._setting("prediction_type")
        if self.adapter is not None and prediction_type:
            scheduler = pipeline.scheduler
            pipeline.scheduler = scheduler.from_config(scheduler.config, prediction_type=prediction_type)
        check_prompts({row["label"] for row in rows}, pipeline.tokenizer)
        if self.adapter is not None:
            self._check_base()  # one of the Hub has been downloaded by now
            load_adapter(pipeline, self.adapter, config.adapter_weight)
        pipeline.to(device)
        if not self.init_images:
            pipeline.vae.to(torch.float32)  # decoding overflows in fp16
        resolution = config.resolution or native_resolution(pipeline)
        return StableDiffusionGenerator(
            pipeline,
            self.num_inference_steps,
            self.guidance_scale,
            config.negative_prompt,
            self.scheduler,
            resolution,
            [_square(image.path, resolution) for image in self.init_images],
            config.strength,
        )

    def _base(self) -> BaseModel:
        """The pipeline itself, or the base model of adapters, with the files that a LoRA run was trained with."""
        config = self.config
        if self.adapter is None:
            return BaseModel(config.model, variant=config.variant)
        tokenizer = self._setting("tokenizer_name")
        if config.base_model:
            return BaseModel(config.base_model, None, config.variant, tokenizer)
        variant = config.variant or self._setting("variant")
        return BaseModel(self._recorded_base(), self._setting("revision"), variant, tokenizer)

    def _recorded_base(self) -> str:
        """The base model of a LoRA run, in the folder in which it was during the training."""
        name, folder = self._setting("pretrained_model_name_or_path"), self.record.base_path
        if not name:
            raise InputError(
                f"{self.adapter} holds LoRA weights without a record of their base model: give --base_model"
            )
        if name in NAMES:
            return name
        if folder and Path(folder).is_dir():
            return folder
        if folder and not Path(name).is_dir():
            raise InputError(
                f"the base model of {self.config.model} is no longer in {folder}: give its new folder with --base_model"
            )
        if folder is None and self.record.base_sha256 is None and Path(name).is_dir() and not Path(name).is_absolute():
            print(f"note: {self.config.model} does not record which base model it had; {Path(name).resolve()} is used")
        return name

    def _check_base(self) -> None:
        """Check, if the base model is on this machine, that it fits the adapters and that they were trained on it."""
        base, known = self.base, self.record.base_sha256
        folder = files.local_folder(base.name_or_path, base.revision, base.variant)
        if folder is None or self.base_checked:
            return
        self.base_checked = True
        shapes = [files.part_shapes(folder, part, base.variant) for part in ("unet", "text_encoder")]
        weight_files.check_adapter(self.adapter, base.name_or_path, *shapes)
        hashed = known or self.config.base_model
        self.base_sha256 = files.base_sha256(folder, base.variant) if hashed else ""
        if known and self.base_sha256 != known:
            other = f"{base.name_or_path} has other weights than the base model that {self.config.model} was trained on"
            if self.config.base_model is None:
                raise InputError(f"{other}: give the folder of that one with --base_model")
            print(f"warning: {other}; it is used because --base_model names it")

    def _requested(self) -> list[dict]:
        """One row per image: its prompt and what it shows."""
        config = self.config
        if config.prompt is not None:
            return [{"prompt": config.prompt}] * (config.num_images or NUMBER)
        taxonomy, template = TAXONOMIES[config.taxonomy], config.caption_template
        if config.grid is not None:
            rows = grid_rows(Path(config.grid), template, taxonomy)
            return [row for row in rows for _ in range(config.num_images or NUMBER)]
        own_class, own_prompt = self._setting("instance_class"), self._setting("instance_prompt")
        rows = []
        for code, count in class_counts(config.classes):
            # A DreamBooth run was trained on its class with this very prompt.
            trained_prompt = own_prompt if own_class == code else None
            rows += [{"prompt": trained_prompt or fill(template, {"dx": code}, taxonomy), "dx": code}] * count
        return rows

    def _setting(self, name: str) -> str | None:
        return self.record.settings.get(name)


def _adapter(path: Path) -> Path | None:
    """The LoRA weights that a path names or contains; None if it is a whole model.

    Raises:
        InputError: if the weights are of something else, or the run has none yet.
    """
    adapter = path if path.suffix == ".safetensors" else path / LORA_FILE
    if adapter.is_file():
        weight_files.adapted_layers(adapter)
        return adapter
    if path.is_dir() and (path / "config.yaml").exists() and not (path / "model_index.json").exists():
        raise InputError(
            f"the run in {path} has no final weights yet: let its training finish (the same command resumes it)"
        )
    return None


def _square(path: str, size: int) -> Image.Image:
    """The middle square of an image, resized."""
    try:
        image = preprocess.read_image(Path(path))
    except preprocess.BadImage as error:
        raise InputError(f"{path}: {error}") from error
    top, left, side = preprocess.center_box(*image.shape[:2])
    return Image.fromarray(preprocess.resize(image[top : top + side, left : left + side], size))
