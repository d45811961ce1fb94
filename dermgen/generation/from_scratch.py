"""A finished run of a method trained from scratch, to generate from."""

import dataclasses
from collections.abc import Sequence

import torch

from dermgen import runs, watermark
from dermgen.config import InputError, require_seeds
from dermgen.data.loading import PixelSet
from dermgen.generation.request import (
    NUMBER,
    InitImage,
    class_counts,
    fill,
    random_subset,
    read_init_images,
    refuse_unused,
)
from dermgen.labels import from_labels
from dermgen.sampling import GeneratorOptions, ImageGenerator, class_indices
from dermgen.settings.generate import GenerateConfig
from dermgen.stable_diffusion import files
from dermgen.training.schedulers import check_steps

OF_EVERY_RUN = frozenset(
    "model output_dir caption_template weights seed batch_size resolution watermark num_images classes".split()
)
COLUMNS = ("guidance_scale", "num_inference_steps", "scheduler", "truncation")


class FromScratchModel:
    """The run of the config, and the requested images.

    Raises:
        InputError: if the run cannot do what is requested.
    """

    def __init__(self, config: GenerateConfig, run: runs.TrainedRun):
        self.config, self.run = config, run
        self.options = OF_EVERY_RUN | run.method.options
        if config.prompt is not None or config.grid is not None:
            raise InputError(
                f"{config.model} is a run of {run.name}, which reads no prompts: give --classes, or --num_images "
                "if it was trained without classes"
            )
        refuse_unused(config, self.options, f"a run of {run.name}")
        if config.watermark:
            watermark.require_room(run.resolution, run.resolution)
        if config.classes is not None and config.num_images is not None:
            raise InputError("--classes already gives the number of images of each class: leave --num_images out")
        if config.resolution not in (None, run.resolution):
            raise InputError(f"{config.model} generates {run.resolution} px only: leave --resolution out")
        self.init_images = self._init_images() if run.method.translates else []
        # Other options keep the generator's defaults.
        names = run.method.options & {field.name for field in dataclasses.fields(GeneratorOptions)}
        given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
        self.generator_options = GeneratorOptions(**given)
        if "scheduler" in run.method.options:
            schedule = files.scheduler_config(str(run.folder))
            check_steps(self.generator_options.scheduler, schedule, self.generator_options.num_inference_steps)

    def plan(self) -> list[dict]:
        """One row per image: label (its class, "" where none can be requested), seed, and its class."""
        config, run = self.config, self.run
        if run.method.translates:
            return self._translations()
        if config.classes is not None:
            requested = [code for code, count in class_counts(config.classes) for _ in range(count)]
        elif run.class_conditional:
            raise InputError(
                f"{config.model} generates the classes {', '.join(run.classes)}: give --classes, e.g. "
                f"{run.classes[0]}:100"
            )
        else:
            requested = [run.only_class] * (config.num_images or NUMBER)
        class_indices(requested, run.classes, run.class_conditional)
        require_seeds(config.seed, len(requested))
        return [self._row(dx, seed) for seed, dx in enumerate(requested, config.seed)]

    def settings(self) -> dict:
        """The manifest's columns that are the same for all images."""
        known = self.run.method.options
        return {name: getattr(self.generator_options, name) if name in known else "" for name in COLUMNS}

    def sha256(self) -> str:
        """Hash of the generating weights."""
        return self.run.sha256()

    def cut_texts(self, rows: Sequence[dict], generator: ImageGenerator) -> dict[str, str]:
        """Nothing: its labels are classes."""
        return {}

    def load(self, rows: Sequence[dict], device: torch.device) -> ImageGenerator:
        """The generator, on its device."""
        options = self.generator_options
        if self.init_images:  # resized as the training images were
            paths, ids = zip(*((image.path, image.image_id) for image in self.init_images), strict=True)
            options = dataclasses.replace(options, sources=PixelSet(paths, ids, self.run.resolution).stack())
        return runs.load_generator(self.run, device, **vars(options))

    def _init_images(self) -> list[InitImage]:
        """The images that a CycleGAN translates; of a manifest those of the source domain, if that is a class."""
        config, (first, second) = self.config, self.run.classes
        if config.init_images is None:
            raise InputError("a CycleGAN translates images: give --init_images, a folder or a manifest of them")
        domain = first if config.direction == "a_to_b" else second
        images = read_init_images(config.init_images, config.init_split, None if domain in ("a", "b") else domain)
        return random_subset(images, config.num_images or len(images), config.seed)

    def _translations(self) -> list[dict]:
        """One row per initial image, whose index is its seed."""
        target = self.run.classes[1 if self.config.direction == "a_to_b" else 0]
        if self.config.classes is not None:
            raise InputError(
                f"a CycleGAN makes one {target!r} image of each source: choose by --init_images and --direction"
            )
        rows = []
        for i, image in enumerate(self.init_images):
            dx = image.dx if target in ("a", "b") else target
            rows.append({**self._row(dx, i), "source_image_id": image.image_id})
        return rows

    def _row(self, dx: str, seed: int) -> dict:
        caption = fill(self.config.caption_template, {"dx": dx}, from_labels([dx])) if dx else ""
        return {"label": dx, "dx": dx, "seed": seed, "caption": caption}
