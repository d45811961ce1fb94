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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors import safe_open

from dermgen import installation, trial
from dermgen.config import InputError
from dermgen.data import captions, duplicates, manifest, preprocess
from dermgen.data.loading import folder_images
from dermgen.data.prepared import Split
from dermgen.data.subsets import choose
from dermgen.job import saved_settings
from dermgen.publish import hub
from dermgen.settings.doctor import DoctorConfig
from dermgen.settings.dreambooth import DreamboothConfig
from dermgen.settings.methods import METHODS, Method
from dermgen.settings.training import TrainConfig

PACKAGES = "dermgen torch torchvision diffusers transformers accelerate peft datasets huggingface-hub".split()
EXTRAS = {"xformers": "xformers", "bitsandbytes": "bitsandbytes", "faiss": "faiss", "gradio": "app"}
SAMPLED = 64  # images that are read
COMPARED = 500  # images at most among which near-duplicates are looked for, in about ten seconds
TOO_LARGE_FOR_A_CPU = 300e6  # weights: one step would take longer than the whole check may


@dataclass(frozen=True)
class Line:
    """One thing that was checked: fine, to be fixed, or worth knowing."""

    state: Literal["ok", "FIX", "note"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<5} {self.name:<10} {self.text}"


def doctor(config: DoctorConfig) -> bool:
    """Print a line for each check; whether nothing is to be fixed.

    Raises:
        InputError: for a recipe that cannot be read.
    """
    start = time.perf_counter()
    name, settings = config.training() or (None, None)
    method = METHODS.get(name)
    good = True
    for line in _lines(config, settings, method):
        print(line, flush=True)
        good &= line.state != "FIX"
    seconds = time.perf_counter() - start
    print(f"{'All checks passed' if good else 'Fix the items marked FIX'} ({seconds:.0f} s)")
    return good


def _lines(config: DoctorConfig, settings: TrainConfig | None, method: Method | None) -> Iterator[Line]:
    yield from _installation()
    yield _device()
    if config.hub:
        yield _hub(config.hub)
    with tempfile.TemporaryDirectory(prefix="dermgen-doctor-") as name:
        folder = Path(name)
        if settings is None:
            settings, method = trial.phantom_recipe(folder)
            yield Line("note", "recipe", "none given: a small DDPM of phantoms is tried in its place")
            ready = True
        else:
            data = list(_data(settings))
            yield from data
            model = list(_model(settings))
            yield from model
            ready = all(line.state != "FIX" for line in (*data, *model))
        if not ready:
            yield Line("note", "step", "not tried: fix the lines above first")
            return
        yield from _trial(settings, method, folder)


def _installation() -> Iterator[Line]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Line("ok", "packages", f"Python {platform.python_version()}, {versions}")
    for sentence in installation.conflicts():
        yield Line("FIX", "packages", sentence)
    missing = [extra for module, extra in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        yield Line("note", "extras", f"not installed, if you need them: pip install 'dermgen[{','.join(missing)}]'")


def _device() -> Line:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        if free < total / 2:
            return Line("FIX", "device", f"{name}: only {_gib(free)} of {_gib(total)} are free, end what uses it")
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return Line("ok", "device", f"{name}, {_gib(free)} of {_gib(total)} free; mixed_precision {bf16}")
    memory = psutil.virtual_memory()
    return Line(
        "ok", "device", f"no GPU; CPU with {torch.get_num_threads()} threads, {_gib(memory.available)} of memory free"
    )


def _hub(name: str) -> Line:
    try:
        target = hub.check(hub.named(name, "model"))
    except InputError as error:
        return Line("FIX", "hub", str(error))
    return Line("ok", "hub", f"{target.repo_id} may be written")


def _data(settings: TrainConfig) -> Iterator[Line]:
    """The images of the recipe: do they exist, and are they fit for training?"""
    values = vars(settings)
    for folder in filter(None, (values.get("data_dir"), values.get("data_dir_b"))):
        try:
            table = manifest.read_real(folder, need_classes=False)
        except InputError as error:
            yield Line("FIX", "data", str(error))
            continue
        split = Split.of(folder)
        if split.leaky:
            yield Line("FIX", "data", f"{folder} was split by image (LEAKY): prepare it without --allow_leaky_split")
        elif warnings := split.warnings():
            yield Line("note", "data", f"{folder}: {warnings[0]}")
        counts = table["split"].value_counts().to_dict()
        chosen = choose(table["path"], SAMPLED, 0, table["lesion_id"], table["dx"])
        what = ", ".join(f"{name} {counts.get(name, 0)}" for name in manifest.SPLITS)
        yield from _images(folder, list(table["path"].iloc[chosen]), what)
        yield from _duplicates(folder, list(table["path"]), list(table["split"]))
        if isinstance(settings, DreamboothConfig) and not settings.instance_prompt:
            yield _captions(settings, list(table["caption"]))
    if folder := values.get("instance_data_dir"):
        try:
            paths = [path for _, path in folder_images(folder, "instance_data_dir")]
        except InputError as error:
            yield Line("FIX", "data", str(error))
            return
        yield from _images(folder, [paths[i] for i in choose(paths, SAMPLED, 0)], f"{len(paths)} images")
    if isinstance(settings, DreamboothConfig) and settings.instance_prompt:
        yield _captions(settings, [settings.instance_prompt, *filter(None, [settings.class_prompt])])


def _images(folder: str, paths: Sequence[str], what: str) -> Iterator[Line]:
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
        yield Line("FIX", "data", f"{folder}: {len(bad)} of {len(paths)} sampled images are bad ({bad[0]}): {more}")
        return
    yield Line("ok", "data", f"{folder}: {what}; {len(paths)} sampled images can be read")
    if exif:
        text = f"EXIF in {len(exif)} of {len(paths)} sampled images (as {exif[0]}), which may name patients and places"
        yield Line("FIX", "EXIF", f"{text}: `dermgen prepare` removes it")


def _duplicates(folder: str, paths: Sequence[str], splits: Sequence[str]) -> Iterator[Line]:
    """Near-duplicates in different splits: looked for among all images, or not at all, since a pair is in no subset."""
    if len(paths) > COMPARED:
        if not saved_settings(folder).get("find_duplicates"):
            yield Line("note", "duplicates", f"not looked for among {len(paths):,} images: `dermgen prepare` does")
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
        yield Line("FIX", "duplicates", f"{text}: `dermgen prepare` keeps such pairs in one split")


def _captions(settings: DreamboothConfig, texts: list[str]) -> Line:
    """Are prompts cut by the tokenizer?"""
    folder = _local_model(settings.pretrained_model_name_or_path)
    if folder is None:
        return Line("note", "captions", "not looked at without the model's tokenizer")
    try:
        tokenizer = captions.load_tokenizer(settings.tokenizer_name or str(folder))
    except InputError as error:
        return Line("FIX", "captions", str(error))
    texts = sorted(set(texts))
    counts = captions.lint(texts, {}, tokenizer)
    if counts:
        cut = f"{counts['caption']} of {len(texts)} prompts are cut at {tokenizer.model_max_length} tokens"
        return Line("FIX", "captions", f"{cut}: shorten them, or `dermgen prepare` with a shorter --caption_template")
    return Line("ok", "captions", f"{len(texts)} prompts fit into {tokenizer.model_max_length} tokens")


def _model(settings: TrainConfig) -> Iterator[Line]:
    """The pretrained model of the recipe: is it here, and does it fit?"""
    name = vars(settings).get("pretrained_model_name_or_path")
    if not name or vars(settings).get("from_scratch"):
        return
    folder = _local_model(name)
    if folder is None:
        yield Line("FIX", "model", f"{name} is not on this machine: hf download {name}")
        return
    whole = [folder] if (folder / "config.json").exists() else [p for p in folder.iterdir() if p.is_dir()]
    numbers = {part.name: _num_weights(part, vars(settings).get("variant")) for part in whole}
    total = sum(numbers.values())
    yield Line("ok", "model", f"{name}: {total / 1e6:,.1f} M weights")
    if isinstance(settings, DreamboothConfig):
        yield _memory(settings, numbers)
    if not torch.cuda.is_available() and total > TOO_LARGE_FOR_A_CPU:
        yield Line("FIX", "device", "this recipe needs a GPU: one step of it on a CPU takes minutes")


def _memory(settings: DreamboothConfig, numbers: dict[str, int]) -> Line:
    """What weights, gradients and AdamW take, by arithmetic; activations come on top and are measured by the step."""
    half = 2 if settings.mixed_precision in ("fp16", "bf16") else 4
    trained = 0
    if settings.adapters is None:
        trained = numbers.get("unet", 0) + (numbers.get("text_encoder", 0) if settings.train_text_encoder else 0)
    frozen = sum(numbers.values()) - trained - numbers.get("safety_checker", 0)
    moments = 2 if settings.use_8bit_adam else 8
    needed = frozen * half + trained * (4 + 4 + moments + (4 if settings.ema_decay else 0))
    there = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else psutil.virtual_memory().total
    text = f"weights, gradients and AdamW take {_gib(needed)}, before activations, of {_gib(there)}"
    if needed > 0.9 * there:
        return Line("FIX", "memory", f"{text}: take dreambooth_lora.py, --use_8bit_adam or --mixed_precision")
    return Line("ok", "memory", text)


def _trial(settings: TrainConfig, method: Method, folder: Path) -> Iterator[Line]:
    try:
        tried = trial.try_out(settings, method, folder)
    except InputError as error:
        yield Line("FIX", "step", str(error))
        return
    except torch.OutOfMemoryError:
        more = "lower --train_batch_size or --resolution, or take --gradient_checkpointing or --mixed_precision"
        yield Line("FIX", "step", f"the device has not enough memory: {more}")
        return
    weights = f", {tried.parameters / 1e6:,.2f} M trained weights" if tried.parameters else ""
    yield Line(
        "ok", "step", f"one step and all around it took {tried.seconds:.1f} s{weights}; peak {_gib(tried.peak_bytes)}"
    )
    yield Line("ok", "save", f"a checkpoint has {_gib(tried.checkpoint_bytes)}, the result {_gib(tried.weights_bytes)}")
    yield _disk(settings, tried)
    try:
        trial.sample(tried.settings, method, folder)
    except InputError as error:
        yield Line("FIX", "sample", str(error))
        return
    yield Line("ok", "sample", "loaded again, and one image generated or classified")


def _disk(settings: TrainConfig, tried: trial.Tried) -> Line:
    """Room for all checkpoints that the recipe keeps."""
    place = Path(settings.output_dir).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Line("FIX", "disk", f"{place} cannot be written: choose another --output_dir")
    kept = settings.checkpoints_total_limit
    if kept is None and settings.max_train_steps is None:
        free, size = shutil.disk_usage(place).free, _gib(tried.checkpoint_bytes)
        text = f"each checkpoint takes {size}, all are kept without --checkpoints_total_limit, {_gib(free)} are free"
        return Line("note", "disk", text)
    kept = kept or math.ceil(settings.max_train_steps / settings.checkpointing_steps)
    needed, free = (kept + 1) * tried.checkpoint_bytes + tried.weights_bytes, shutil.disk_usage(place).free
    text = f"{kept} checkpoint{'s' * (kept > 1)} and the result take {_gib(needed)}, {_gib(free)} are free"
    if needed > free:
        return Line("FIX", "disk", f"{text}: set --checkpoints_total_limit, or choose another --output_dir")
    return Line("ok", "disk", text)


def _local_model(name: str) -> Path | None:
    """The folder of a model: given, or in the Hub's cache; None where it must be downloaded."""
    if Path(name).is_dir():
        return Path(name)
    for file in ("model_index.json", "config.json"):
        found = try_to_load_from_cache(name, file)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _num_weights(folder: Path, variant: str | None) -> int:
    """Weights in the safetensors files of a model's part that would be loaded, by their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        marks = path.name.removesuffix(".safetensors").split(".")[1:]  # as fp16, non_ema
        if [mark for mark in marks if not mark[0].isdigit()] != ([variant] if variant else []):
            continue
        with safe_open(path, framework="np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _gib(n: float) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"
