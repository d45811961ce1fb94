"""What the folder of a model is, by its JSON and the headers of its weights, before anything heavy is loaded."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, LocalEntryNotFoundError

from dermgen.config import InputError
from dermgen.data.cache import hash_file, key_of
from dermgen.stable_diffusion.weight_files import MARKS, PICKLED, TAKEN, describe, plain_name, read_header

SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTED = ("unet", "vae", "text_encoder")
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_model(name_or_path: str, variant: str | None = None, revision: str | None = None) -> Path | None:
    """Tell early, by small files and headers alone, whether a folder or Hub id is a Stable Diffusion that loads.

    Args:
        name_or_path: a folder, or a Hub id, of which only its small JSON files are fetched here.
        variant: of the weight files that are to be loaded.
        revision: of a Hub id.

    Returns:
        The folder; None for a Hub id.

    Raises:
        InputError: with what it is, and what is taken.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(f"{path} is {describe(path)}: {TAKEN}")
    if not path.is_dir():
        if path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1:
            raise InputError(f"no such model folder: {path}")
        if path.suffix in (".safetensors", *PICKLED):
            raise InputError(f"no such file: {path}")
        _check_parts(name_or_path, lambda name: _from_hub(name_or_path, name, revision))
        return None
    if not (path / "model_index.json").exists():
        inside = [p for p in sorted(path.glob("*.safetensors")) if p.is_file()]
        held = f"; it holds {inside[0].name}, which is {describe(inside[0])}" if inside else ""
        raise InputError(f"{path} has no model_index.json: it is not the folder of a diffusers pipeline{held}")
    _check_parts(name_or_path, lambda name: path / name)
    for part in (*WEIGHTED, "tokenizer"):
        for file in sorted((path / part).glob("*.json")):
            _read_json(file)
    if not any((path / "tokenizer" / name).exists() for name in ("tokenizer.json", "merges.txt")):
        raise InputError(f"{path} has no tokenizer: the pipeline is not whole, copy or download it again")
    if variant and not any(f".{variant}" in p.name for part in WEIGHTED for p in part_files(path, part, variant)):
        raise InputError(f"{path} has no weights of the variant {variant}: leave --variant out")
    for part in WEIGHTED:
        names = part_shapes(path, part, variant)
        if set(MARKS[part]).isdisjoint(map(plain_name, names)):
            raise InputError(f"the weights of {path / part} are those of another model: it has no {MARKS[part][0]}")
    return path


def part_shapes(folder: Path, part: str, variant: str | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a pipeline's part, by name; raises `InputError` as `part_files` and `read_header` do."""
    files = part_files(folder, part, variant)
    return {name: tensor.shape for file in files for name, tensor in read_header(file).items()}


def part_files(folder: Path, part: str, variant: str | None = None) -> list[Path]:
    """The weight files of a pipeline's part that are loaded.

    Raises:
        InputError: if they are missing, in pickle form, or of another variant only.
    """
    files = sorted(p for p in (folder / part).glob("*") if p.is_file())
    weights: dict[str, list[Path]] = {}  # by variant, "" for none
    for file in files:
        found = WEIGHTS.fullmatch(file.name)
        if found:
            weights.setdefault(found[1] or "", []).append(file)
    chosen = weights.get(variant or "") or weights.get("")
    if chosen is None and weights:
        told = " or ".join(f"--variant {name}" for name in sorted(weights))
        raise InputError(f"{folder / part} has only weights of the variant {' and '.join(sorted(weights))}: say {told}")
    if chosen is None:
        pickled = any(p.suffix in PICKLED for p in files)
        why = "in pickle form, which can run code" if pickled else "missing"
        raise InputError(f"the weights of {folder / part} are {why}: they must be .safetensors")
    return chosen


def scheduler_config(name_or_path: str, revision: str | None = None) -> dict:
    """Of the noise scheduler that a pipeline was trained with."""
    folder = Path(name_or_path)
    return _read_json(folder / SCHEDULER if folder.is_dir() else _from_hub(name_or_path, SCHEDULER, revision))


def local_folder(name_or_path: str, revision: str | None = None, variant: str | None = None) -> Path | None:
    """Where a model is on this machine: its folder, or that in the Hub's cache; None where it must be downloaded.

    The cache counts only if it has the weights of this very variant, which diffusers would download otherwise.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    try:
        found = try_to_load_from_cache(name_or_path, "unet/config.json", revision=revision)
    except HFValidationError:
        return None  # a path, and nothing is there
    folder = Path(found).parents[1] if isinstance(found, str) else None
    # Its small files are there first.
    return folder if folder is not None and all(_has_variant(folder / part, variant) for part in WEIGHTED) else None


def _has_variant(part: Path, variant: str | None) -> bool:
    found = (WEIGHTS.fullmatch(path.name) for path in part.glob("*.safetensors"))
    return any(match and (match[1] or "") == (variant or "") for match in found)


def base_sha256(folder: Path, variant: str | None = None) -> str:
    """Of the weights of a pipeline that are loaded: by it a base model is known wherever it lies."""
    return key_of(*(_hash(path) for part in WEIGHTED for path in part_files(folder, part, variant)))


def _hash(path: Path) -> str:
    blob = path.resolve()  # the Hub's cache names large files by their SHA-256
    if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name):
        return blob.name
    return _hash_once(blob, path.stat().st_mtime_ns, path.stat().st_size)


@cache
def _hash_once(path: Path, changed: int, size: int) -> str:
    """A file's hash; the app asks for it before each drawing, and gigabytes take seconds."""
    return hash_file(path)


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError among them
        raise InputError(f"{path} is no whole JSON file ({error}): copy or download the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not what its name says: it holds no names and values")
    return found


def _check_parts(model: str, file: Callable[[str], Path]) -> None:
    """Refuse another kind of model by the small JSON files that `file(name)` finds."""

    def read(name: str) -> dict:
        path = file(name)
        if not path.exists():
            raise InputError(f"{model} has no {name}: the pipeline is not whole, copy or download it again")
        return _read_json(path)

    kind = read("model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise InputError(f"{model} is a {kind}, not a Stable Diffusion (StableDiffusionPipeline): {TAKEN}")
    if "beta_schedule" not in read(SCHEDULER):
        raise InputError(f"{model} has a {SCHEDULER} without beta_schedule: which noise it was trained with is lost")
    configs = {part: read(f"{part}/config.json") for part in WEIGHTED}
    unet, latents = configs["unet"], configs["vae"].get("latent_channels", 4)
    if unet.get("in_channels", 4) != latents:
        what = {9: "an inpainting model", 8: "an image-editing model (InstructPix2Pix)", 5: "a model of depth"}
        told = what.get(unet.get("in_channels"), "another kind of model")
        raise InputError(f"{model} is {told}: its UNet takes {unet['in_channels']} channels, not {latents}; {TAKEN}")
    if unet.get("addition_embed_type"):
        raise InputError(f"the UNet of {model} is that of SDXL or a later model: {TAKEN}")
    width, given = unet.get("cross_attention_dim", 1280), configs["text_encoder"].get("hidden_size", 512)
    if isinstance(width, int) and width != given:
        raise InputError(
            f"the UNet of {model} takes texts of {width} numbers and its text encoder gives {given}: they are parts "
            f"of different models; {TAKEN}"
        )
    native_size(unet.get("sample_size"), model)


def native_size(sample_size: int | list[int] | None, model: str) -> int:
    """Height and width of a UNet's latents.

    Raises:
        InputError: if they are not known, or differ.
    """
    sizes = set(sample_size) if isinstance(sample_size, list | tuple) else {sample_size}
    if len(sizes) != 1 or not isinstance(size := sizes.pop(), int):
        raise InputError(
            f"the UNet of {model} is made for latents of {sample_size!r}; dermgen draws squares of one size"
        )
    return size


def _from_hub(model: str, name: str, revision: str | None) -> Path:
    """A small file of a model on the Hub, from the cache where it is there."""
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except GatedRepoError as error:
        raise InputError(
            f"cannot load {model!r}: its owners let only people in who accept their terms: do so at "
            f"https://huggingface.co/{model}, then `hf auth login`"
        ) from error
    except (EntryNotFoundError, OSError, ValueError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise InputError(f"cannot load {model!r}: it has no {name}, so it is no whole pipeline; {TAKEN}") from error
        first_line = str(error).strip().split("\n")[0]
        raise InputError(
            f"cannot load {model!r}: {first_line} (a folder of a Stable Diffusion pipeline with safetensors weights, "
            "or a Hub id that can be reached, is needed)"
        ) from error
