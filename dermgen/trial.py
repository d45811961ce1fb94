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
from dermgen.data import manifest, preprocess
from dermgen.data.loading import image_files
from dermgen.data.phantom import PhantomConfig, write_phantoms
from dermgen.data.prepare import PrepareConfig, prepare
from dermgen.data.subsets import choose, subset
from dermgen.generation.generate import generate
from dermgen.settings.classifier import ClassifierConfig
from dermgen.settings.ddpm import DdpmConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import METHODS, Method
from dermgen.settings.training import TrainConfig
from dermgen.training.run_record import RunRecord


@dataclass
class Tried:
    """What one step took."""

    seconds: float
    peak_bytes: int
    checkpoint_bytes: int
    weights_bytes: int
    parameters: int | None


def try_out(config: TrainConfig, method: Method, folder: Path) -> Tried:
    """One training step of the recipe in `folder`; the run is `folder/run`.

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
    run = folder / "run"
    checkpoint, whole = _size(run / "checkpoint-1"), _size(run)
    record = RunRecord.read(run)
    return Tried(
        seconds,
        peak,
        checkpoint,
        whole - checkpoint,
        record.parameters or record.trained_parameters,
    )


def shorten(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same settings for one step on a few of the images, all files in `folder`."""
    names = {field.name for field in dataclasses.fields(config)}
    given = {name: getattr(config, name) for name in names}
    changes = {
        "output_dir": str(folder / "run"), "max_train_steps": 1, "checkpointing_steps": 1, "lr_warmup_steps": 0,
        "checkpoints_total_limit": None, "resume_from_checkpoint": None, "report_to": "none", "push_to_hub": False,
        "cache_dir": str(folder / "cache"), "max_images_per_class": None, "num_instance_images": None,
        "class_data_dir": str(folder / "class") if given.get("class_data_dir") else None,
        "num_class_images": config.train_batch_size, "sample_batch_size": 1, "validation_prompt": None,
        "held_out_steps": None, "synthetic_dir": None, "synthetic_ratio": None, "synthetic_classes": None,
        "only_kept": False, "no_real": False, "early_stopping_patience": None, "reduce_on_plateau_patience": None,
        "validation_steps": 1 if isinstance(config, ClassifierConfig) else None, "eval_batch_size": 8,
    }  # fmt: skip
    number = max(16, config.train_batch_size)
    for name in ("data_dir", "data_dir_b"):
        if given.get(name):
            changes[name] = str(few(Path(given[name]), folder / name, number, config.seed))
    if given.get("instance_data_dir"):
        place = folder / "instances"
        place.mkdir()
        paths = image_files(Path(given["instance_data_dir"]))
        for i in choose([path.name for path in paths], number, config.seed):
            shutil.copy(paths[i], place)
        changes["instance_data_dir"] = str(place)
    return dataclasses.replace(config, **{name: value for name, value in changes.items() if name in names})


def few(source: Path, folder: Path, number: int, seed: int) -> Path:
    """A manifest of up to twice `number` training images, all classes in turn, and two of each class to hold out."""
    table = manifest.read(source)
    of = {name: part for name, part in table.groupby("split") if name in manifest.SPLITS}
    parts = [subset(of[name], 2, seed, "each") for name in ("val", "test") if name in of]
    parts += [subset(of["train"], 2 * number, seed, "turns")] if "train" in of else []
    manifest.write_view(table[table["image_id"].isin(pd.concat(parts)["image_id"])], source, folder)
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
    """Load `folder/run` again and draw one image from it, or classify one.

    Raises:
        InputError: if that is not possible.
    """
    run = folder / "run"
    if not method.generates:
        loaded, _, resolution = networks.load_run(run)
        path = next((folder / "data_dir" / "images").iterdir())
        pixels = preprocess.resize(preprocess.read_image(path), resolution)
        with torch.no_grad():
            loaded(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)
        return
    with _quiet():
        generate(GenerateConfig(model=str(run), output_dir=str(folder / "sample"), **_asking(config, method, folder)))


def _asking(config: TrainConfig, method: Method, folder: Path) -> dict[str, Any]:
    """What is asked of `dermgen generate`: one image, in few steps."""
    if not method.networks:
        return {"prompt": config.instance_prompt or "a skin lesion", "num_images": 1, "num_inference_steps": 2}
    if method.translates:
        return {"init_images": str(folder / "data_dir"), "num_images": 1}
    steps = {"num_inference_steps": 2} if "num_inference_steps" in method.options else {}
    if config.class_conditional:
        return {"classes": f"{RunRecord.read(folder / 'run').classes[0]}:1", **steps}
    return {"num_images": 1, **steps}


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block nothing of the steps' own words is shown."""
    with open(os.devnull, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield
