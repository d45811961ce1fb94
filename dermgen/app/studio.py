"""A model that generates on request, and the nearest training image of each sample."""

import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from accelerate import Accelerator
from PIL import Image

from dermgen.builtin import located
from dermgen.config import InputError
from dermgen.data import manifest, preprocess
from dermgen.data.image_files import check_readable
from dermgen.evaluate import features, images
from dermgen.evaluate.neighbours import Neighbours
from dermgen.generation.generate import find_model, generate
from dermgen.labels import HAM10000
from dermgen.results.audit import Audit
from dermgen.results.common import is_one, read
from dermgen.sampling import ImageGenerator
from dermgen.settings.app import AppConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import FROM_SCRATCH
from dermgen.training.run_record import RunRecord


def can_generate(record: RunRecord) -> bool:
    """Whether a finished run's model generates images on request: that of a classifier or a translation does not."""
    method = FROM_SCRATCH.get(record.method or "")
    return record.base_model is not None or (method is not None and not method.translates)


class Studio:
    """What the page's buttons do: generate a set like `dermgen generate`, find its nearest training images, zip it.

    Args:
        config: the model and what its samples are compared with.
        folder: for what is generated.

    Raises:
        InputError: if the model cannot generate, or there is no audit where one is given.
    """

    def __init__(self, config: AppConfig, folder: Path):
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()  # one device, one set at a time
        self._loaded: tuple[Any, ImageGenerator] | None = None
        self.record = RunRecord.read(located(config.model))
        method = FROM_SCRATCH.get(self.record.method or "")
        self.takes_prompts = self.record.method is None
        self.takes_steps = self.takes_prompts or (method is not None and "num_inference_steps" in method.options)
        if method is not None and method.translates:
            raise InputError(f"{config.model} translates images: use dermgen generate --init_images")
        # Whatever is wrong with the model is reported now, not at the first click.
        probe = {"prompt": "-"} if self.takes_prompts else {}
        find_model(GenerateConfig(model=config.model, output_dir="-", **self._files(), **probe))
        self.train = self._training_images()
        self.neighbours: Neighbours | None = None
        self.threshold: float | None = None
        if config.audit is not None:
            if not is_one(Audit, config.audit):
                raise InputError(f"{config.audit} has no audit.json: give the folder of `dermgen audit`")
            self.threshold = read(Audit, config.audit).threshold

    @property
    def classes(self) -> list[str]:
        """The classes that can be requested."""
        if self.takes_prompts:
            return list(HAM10000.codes)
        return list(self.record.classes) if self.record.class_conditional else []

    def generate(self, requested: dict[str, Any], num_images: int, seed: int, steps: int, guidance: float) -> Path:
        """A manifest folder of new images.

        Args:
            requested: `prompt`, or attributes (`dx`, `localization`, `age`, `sex`); without values any image.
            num_images: of them.
            seed: of the first.
            steps: denoising steps, where the model takes them.
            guidance: weight of the prompt, likewise.

        Raises:
            InputError: for what the model refuses.
        """
        with self.lock:
            folder = Path(tempfile.mkdtemp(dir=self.folder)) / "set"
            config = self._config(requested, num_images, seed, steps, guidance, folder)
            key = (config.num_inference_steps, config.guidance_scale)
            if self._loaded is None or self._loaded[0] != key:
                model = find_model(config)
                self._loaded = key, model.load(model.plan(), Accelerator().device)
            return generate(config, self._loaded[1])

    def nearest(self, folder: Path) -> list[tuple[Image.Image, str]] | None:
        """The nearest training image of each image in the folder, with its caption; None without training images."""
        if self.train is None:
            return None
        if self.neighbours is None:
            self.neighbours = Neighbours(self.train, features.load("pixels"), Accelerator())
        distance, rows, _ = self.neighbours.nearest(images.read(folder, True))
        captioned = []
        for d, row in zip(distance, rows, strict=True):
            word = "nothing to compare" if np.isnan(d) else f"distance {d:.2f}"
            if self.threshold is not None and d < self.threshold:
                word += ", A COPY?"
            picture = Image.fromarray(preprocess.read_image(Path(self.train["path"][row])))
            captioned.append((picture, f"real, {word}, {self.train['image_id'][row]}"))
        return captioned

    def legend(self) -> str:
        """What the pictures show."""
        if self.train is None:
            return "There are no training images here to compare with: give their manifest with --real."
        text = "Right of each sample: the **real** training image that is nearest to it. Distance 0 is the same picture"
        if self.threshold is None:
            return f"{text}; with --audit, copies are marked."
        return f"{text}; below {self.threshold:.2f} it counts as a copy, by the audit's threshold."

    def zip(self, folder: Path) -> Path:
        """The images with their manifest, in one file."""
        path = folder.with_suffix(".zip")
        table = manifest.read(folder)
        with zipfile.ZipFile(path, "w") as file:
            # A folder of this machine is recorded by its name alone, as in the images' own text.
            public = table.assign(model=[Path(name).name if Path(name).exists() else name for name in table["model"]])
            file.writestr("metadata.csv", public.to_csv(index=False))
            for image in sorted((folder / "images").iterdir()):
                file.write(image, f"images/{image.name}")
        return path

    def _config(self, requested, num_images, seed, steps, guidance, folder) -> GenerateConfig:
        common: dict[str, Any] = {
            "model": self.config.model,
            "output_dir": str(folder),
            "seed": int(seed),
            **self._files(),
        }
        if self.takes_steps:
            common |= {"num_inference_steps": int(steps), "guidance_scale": float(guidance)}
        if not self.takes_prompts:
            if self.classes:
                return GenerateConfig(**common, classes=f"{requested['dx']}:{int(num_images)}")
            return GenerateConfig(**common, num_images=int(num_images))
        if requested.get("prompt"):
            return GenerateConfig(**common, prompt=requested["prompt"], num_images=int(num_images))
        grid = folder.with_suffix(".yaml")
        grid.write_text(yaml.safe_dump({name: [value] for name, value in requested.items() if value}))
        return GenerateConfig(**common, grid=str(grid), num_images=int(num_images))

    def _files(self) -> dict[str, str | None]:
        return {"base_model": self.config.base_model, "variant": self.config.variant}

    def _training_images(self) -> pd.DataFrame | None:
        """The train split of the manifest that the run names, if it is here."""
        folder = self.config.real or self.record.settings.get("data_dir")
        if folder is None or (self.config.real is None and not Path(folder, "metadata.csv").exists()):
            return None
        table = manifest.select(manifest.read_real(folder, need_classes=False), split="train", where=str(folder))
        check_readable(list(table["path"]))
        return table.reset_index(drop=True)
