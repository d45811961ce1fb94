"""`dermgen doctor`: whether a recipe has everything it needs, by trying one step of it, and what to do if not."""

import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from dermgen import installation, trial
from dermgen.blocks import counted, size
from dermgen.config import FEW_IMAGES, FEW_ROWS, InputError, rules_of
from dermgen.data import duplicates, manifest, preprocess
from dermgen.data.image_files import folder_images
from dermgen.data.prepared import Split
from dermgen.data.subsets import choose
from dermgen.findings import Finding
from dermgen.job import saved_settings
from dermgen.publish import hub
from dermgen.settings.doctor import DoctorConfig
from dermgen.settings.methods import METHODS, Method
from dermgen.settings.training import TrainConfig

PACKAGES = "dermgen torch torchvision diffusers transformers accelerate peft datasets huggingface-hub".split()
EXTRAS = {"xformers": "xformers", "bitsandbytes": "bitsandbytes", "faiss": "faiss", "gradio": "app"}
SAMPLED = 64  # images that are read
COMPARED = 500  # images at most among which near-duplicates are looked for, in about ten seconds


def doctor(config: DoctorConfig) -> bool:
    """Print a line for each check; whether nothing is to be fixed.

    Raises:
        InputError: for a recipe that cannot be read.
    """
    start = time.perf_counter()
    name, settings = config.training() or (None, None)
    method = METHODS.get(name)
    good = True
    for finding in _findings(config, settings, method):
        print(finding, flush=True)
        good &= finding.state != "FIX"
    seconds = time.perf_counter() - start
    print(f"{'All checks passed' if good else 'Fix the items marked FIX'} ({seconds:.0f} s)")
    return good


def _findings(config: DoctorConfig, settings: TrainConfig | None, method: Method | None) -> Iterator[Finding]:
    yield from _installation()
    yield _device()
    if config.hub:
        yield _hub(config.hub)
    with tempfile.TemporaryDirectory(prefix="dermgen-doctor-") as name:
        folder = Path(name)
        if settings is None:
            settings, method = trial.phantom_recipe(folder)
            yield Finding("note", "recipe", "none given: a small DDPM of phantoms is tried in its place")
            examined = ()
        else:
            examined = _examine(settings, method)
        ready = True
        for finding in examined:
            yield finding
            ready &= finding.state != "FIX"
        if not ready:
            yield Finding("note", "step", "not tried: fix the lines above first")
            return
        yield from _trial(settings, method, folder)


def _installation() -> Iterator[Finding]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Finding("ok", "packages", f"Python {platform.python_version()}, {versions}")
    for sentence in installation.conflicts():
        yield Finding("FIX", "packages", sentence)
    missing = [extra for module, extra in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        yield Finding("note", "extras", f"not installed, if you need them: pip install 'dermgen[{','.join(missing)}]'")


def _device() -> Finding:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        if free < total / 2:
            return Finding("FIX", "device", f"{name}: only {size(free)} of {size(total)} are free, end what uses it")
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return Finding("ok", "device", f"{name}, {size(free)} of {size(total)} free; mixed_precision {bf16}")
    memory = psutil.virtual_memory()
    return Finding(
        "ok", "device", f"no GPU; CPU with {torch.get_num_threads()} threads, {size(memory.available)} of memory free"
    )


def _hub(name: str) -> Finding:
    try:
        target = hub.check(hub.named(name, "model"))
    except InputError as error:
        return Finding("FIX", "hub", str(error))
    return Finding("ok", "hub", f"{target.repo_id} may be written")


def _examine(settings: TrainConfig, method: Method) -> Iterator[Finding]:
    yield from _data(settings)
    if not method.networks:
        yield from method.load().examine(settings)


def _data(settings: TrainConfig) -> Iterator[Finding]:
    """The images of the recipe: do they exist, and are they fit for training?"""
    for name, rules in rules_of(type(settings)).items():
        folder, part = getattr(settings, name), rules.get("trial")
        if folder and part in (FEW_ROWS, FEW_IMAGES):
            try:
                yield from _manifest(folder) if part is FEW_ROWS else _plain_folder(folder, name)
            except InputError as error:
                yield Finding("FIX", "data", str(error))


def _manifest(folder: str) -> Iterator[Finding]:
    table = manifest.read_real(folder, need_classes=False)
    split = Split.of(folder)
    if split.leaky:
        yield Finding("FIX", "data", f"{folder} was split by image (LEAKY): prepare it without --allow_leaky_split")
    elif warnings := split.warnings():
        yield Finding("note", "data", f"{folder}: {warnings[0]}")
    counts = table["split"].value_counts().to_dict()
    chosen = choose(table["path"], SAMPLED, 0, table["lesion_id"], table["dx"])
    what = ", ".join(f"{name} {counts.get(name, 0)}" for name in manifest.SPLITS)
    yield from _images(folder, list(table["path"].iloc[chosen]), what)
    yield from _duplicates(folder, list(table["path"]), list(table["split"]))


def _plain_folder(folder: str, option: str) -> Iterator[Finding]:
    paths = [path for _, path in folder_images(folder, option)]
    yield from _images(folder, [paths[i] for i in choose(paths, SAMPLED, 0)], counted(len(paths), "image"))


def _images(folder: str, paths: Sequence[str], what: str) -> Iterator[Finding]:
    """Whether a random subset of the images can be read, and carries no EXIF; the training itself reads all."""
    bad, exif = [], []
    for path in map(Path, paths):
        try:
            preprocess.read_image(path)
        except preprocess.BadImage as error:
            bad.append(f"{path.name} ({error})")
            continue
        with Image.open(path) as opened:
            exif += [path.name] if preprocess.has_exif(opened) else []
    if bad:
        more = "replace or remove them, or run `dermgen prepare`, which leaves them out"
        yield Finding("FIX", "data", f"{folder}: {len(bad)} of {len(paths)} sampled images are bad ({bad[0]}): {more}")
        return
    yield Finding("ok", "data", f"{folder}: {what}; {len(paths)} sampled images can be read")
    if exif:
        text = f"EXIF in {len(exif)} of {len(paths)} sampled images (as {exif[0]}), which may name patients and places"
        yield Finding("FIX", "EXIF", f"{text}: `dermgen prepare` removes it")


def _duplicates(folder: str, paths: Sequence[str], splits: Sequence[str]) -> Iterator[Finding]:
    """Near-duplicates in different splits: looked for among all images, or not at all, since a pair is in no subset."""
    if len(paths) > COMPARED:
        if not saved_settings(folder).get("find_duplicates"):
            yield Finding("note", "duplicates", f"not looked for among {len(paths):,} images: `dermgen prepare` does")
        return
    try:
        with ThreadPoolExecutor() as pool:
            images = pool.map(lambda path: Image.fromarray(preprocess.read_image(Path(path))), paths)
            thumbnails, hashes = zip(*map(duplicates.fingerprint, images), strict=True)
    except preprocess.BadImage:  # a line above says so, or the training will
        return
    groups = np.unique(splits, return_inverse=True)[1]
    pairs = duplicates.find_pairs(np.stack(thumbnails), np.stack(hashes), groups)
    if pairs:
        names = " and ".join(Path(paths[i]).name for i in pairs[0])
        text = f"{len(pairs)} pairs of near-duplicates are in different splits, as {names}"
        yield Finding("FIX", "duplicates", f"{text}: `dermgen prepare` keeps such pairs in one split")


def _trial(settings: TrainConfig, method: Method, folder: Path) -> Iterator[Finding]:
    try:
        tried = trial.try_out(settings, method, folder)
    except InputError as error:
        yield Finding("FIX", "step", str(error))
        return
    except torch.OutOfMemoryError:
        more = "lower --train_batch_size or --resolution, or take --gradient_checkpointing or --mixed_precision"
        yield Finding("FIX", "step", f"the device has not enough memory: {more}")
        return
    weights = f", {tried.parameters / 1e6:,.2f} M trained weights" if tried.parameters else ""
    yield Finding(
        "ok", "step", f"one step and all around it took {tried.seconds:.1f} s{weights}; peak {size(tried.peak_bytes)}"
    )
    yield Finding(
        "ok", "save", f"a checkpoint has {size(tried.checkpoint_bytes)}, the result {size(tried.weights_bytes)}"
    )
    yield _disk(settings, tried)
    try:
        trial.sample(tried.settings, method, folder)
    except InputError as error:
        yield Finding("FIX", "sample", str(error))
        return
    yield Finding("ok", "sample", "loaded again, and one image generated or classified")


def _disk(settings: TrainConfig, tried: trial.Tried) -> Finding:
    """Room for all checkpoints that the recipe keeps."""
    place = Path(settings.output_dir).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding("FIX", "disk", f"{place} cannot be written: choose another --output_dir")
    kept = settings.checkpoints_total_limit
    if kept is None and settings.max_train_steps is None:
        each, free = size(tried.checkpoint_bytes), size(shutil.disk_usage(place).free)
        text = f"each checkpoint takes {each}, all are kept without --checkpoints_total_limit, {free} are free"
        return Finding("note", "disk", text)
    kept = kept or math.ceil(settings.max_train_steps / settings.checkpointing_steps)
    needed, free = (kept + 1) * tried.checkpoint_bytes + tried.weights_bytes, shutil.disk_usage(place).free
    text = f"{kept} checkpoint{'s' * (kept > 1)} and the result take {size(needed)}, {size(free)} are free"
    if needed > free:
        return Finding("FIX", "disk", f"{text}: set --checkpoints_total_limit, or choose another --output_dir")
    return Finding("ok", "disk", text)
