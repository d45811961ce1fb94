"""A recipe tried on a few images: one training step, one save, one reload, one sample, in a folder that goes away."""

import contextlib
import dataclasses
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dermgen.classify import networks
from dermgen.config import FEW_IMAGES, FEW_ROWS, NEW_FOLDER, rules_of
from dermgen.data import manifest, preprocess
from dermgen.data.image_files import image_files
from dermgen.data.phantom import PhantomConfig, write_phantoms
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.data.subsets import choose, subset
from dermgen.generation.generate import generate
from dermgen.settings.ddpm import DdpmConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import METHODS, Method
from dermgen.settings.training import TrainConfig
from dermgen.training.run_record import RunRecord


@dataclass
class Tried:
    """What one step of a recipe took, and the settings it had."""

    settings: TrainConfig
    seconds: float
    peak_bytes: int
    checkpoint_bytes: int
    weights_bytes: int
    parameters: int | None


def try_out(config: TrainConfig, method: Method, folder: Path) -> Tried:
    """One training step of the recipe, all files in `folder`.

    Raises:
        InputError: for what the training itself refuses.
    """
    shortened = shorten(config, folder)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with _quiet():
        method.load().train(shortened)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    run = Path(shortened.output_dir)
    checkpoint, whole = _size(run / "checkpoint-1"), _size(run)
    record = RunRecord.read(run)
    parameters = record.parameters or record.trained_parameters
    return Tried(shortened, seconds, peak, checkpoint, whole - checkpoint, parameters)


def shorten(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same settings for one step on a few of the images, all files in `folder`: each option says what it needs."""
    number, changes = max(16, config.train_batch_size), {}
    for name, rules in rules_of(type(config)).items():
        if "trial" not in rules:
            continue
        given, value = getattr(config, name), rules["trial"]
        if value is NEW_FOLDER:
            value = str(folder / name)
        elif value in (FEW_ROWS, FEW_IMAGES):
            copy = few_rows if value is FEW_ROWS else few_images
            value = given and str(copy(Path(given), folder / name, number, config.seed))
        changes[name] = value
    return dataclasses.replace(config, **changes)


def few_rows(source: Path, folder: Path, number: int, seed: int) -> Path:
    """A manifest of up to twice `number` training images, all classes in turn, and two of each class to hold out."""
    table = manifest.read(source)
    splits = {name: part for name, part in table.groupby("split") if name in manifest.SPLITS}
    parts = [subset(splits[name], 2, seed, "each") for name in ("val", "test") if name in splits]
    parts += [subset(splits["train"], 2 * number, seed, "turns")] if "train" in splits else []
    manifest.write_view(table[table["image_id"].isin(pd.concat(parts)["image_id"])], source, folder)
    return folder


def few_images(source: Path, folder: Path, number: int, seed: int) -> Path:
    """Copies of up to `number` images of a plain folder."""
    folder.mkdir()
    paths = image_files(source)
    for i in choose([path.name for path in paths], number, seed):
        shutil.copy(paths[i], folder)
    return folder


def phantom_recipe(folder: Path) -> tuple[TrainConfig, Method]:
    """Something to try where no recipe is given: a small DDPM of a few phantoms."""
    with _quiet():
        write_phantoms(PhantomConfig(output_dir=str(folder / "raw"), num_lesions=28, height=96))
        prepare(
            PrepareConfig(
                source="ham10000",
                data_dir=str(folder / "raw"),
                output_dir=str(folder / "phantoms"),
                resolution=32,
                num_workers=1,
            )
        )
    config = DdpmConfig(
        data_dir=str(folder / "phantoms"),
        resolution=32,
        channels=[32, 64],
        train_batch_size=8,
        class_conditional=True,
        max_train_steps=500,
    )
    return config, METHODS["ddpm"]


def sample(config: TrainConfig, method: Method, folder: Path) -> None:
    """Load the run of a trial again and generate one image in `folder` from it, or classify one.

    Raises:
        InputError: if that is not possible.
    """
    run = Path(config.output_dir)
    if not method.generates:
        loaded, _, resolution = networks.load_run(run)
        path = next(Path(config.data_dir, "images").iterdir())
        pixels = preprocess.resize(preprocess.read_image(path), resolution)
        with torch.no_grad():
            loaded(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)
        return
    with _quiet():
        generate(GenerateConfig(model=str(run), output_dir=str(folder / "sample"), **_request(config, method)))


def _request(config: TrainConfig, method: Method) -> dict[str, Any]:
    """Options of `dermgen generate` for one image in few steps."""
    if not method.networks:
        return {"prompt": config.instance_prompt or "a skin lesion", "num_images": 1, "num_inference_steps": 2}
    if method.translates:
        return {"init_images": config.data_dir, "num_images": 1}
    steps = {"num_inference_steps": 2} if "num_inference_steps" in method.options else {}
    if config.class_conditional:
        return {"classes": f"{RunRecord.read(config.output_dir).classes[0]}:1", **steps}
    return {"num_images": 1, **steps}


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block nothing of the steps' own words is shown."""
    with open(os.devnull, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield
