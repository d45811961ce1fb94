"""What a model's folder or file is, by its JSON and the headers of its weights, before anything heavy is loaded."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, LocalEntryNotFoundError

from dermgen.config import InputError
from dermgen.data.cache import hash_file, key_of

TAKEN = "dermgen takes a Stable Diffusion 1.x or 2.x for text to image, as a diffusers folder or Hub id"
SCHEDULER = "scheduler/scheduler_config.json"
PICKLED = (".ckpt", ".bin", ".pt", ".pth")
WEIGHTED = ("unet", "vae", "text_encoder")
# A tensor that each part has, whatever its size: by it a file of another model is known.
MARKS = {"unet": "conv_in.weight", "vae": "encoder.conv_in.weight", "text_encoder": "embeddings.token_embedding.weight"}
# By names of tensors: what a file is that is no adapter dermgen reads. The first that fits counts.
FOREIGN = (
    ("hada_w1_a", "a LoHa adapter (LyCORIS)"),
    ("lokr_w", "a LoKr adapter (LyCORIS)"),
    (".oft_", "an OFT adapter"),
    ("ia3_l", "an IA3 adapter"),
    ("conditioner.embedders.", "a single-file checkpoint of SDXL"),
    ("model.diffusion_model.double_blocks.", "a single-file checkpoint of FLUX"),
    ("model.diffusion_model.joint_blocks.", "a single-file checkpoint of Stable Diffusion 3"),
    ("model.diffusion_model.", "a single-file checkpoint of a Stable Diffusion"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("emb_params", "a textual inversion (the embedding of a word)"),
    ("string_to_param", "a textual inversion (the embedding of a word)"),
)
FAMILIES = (
    (("double_blocks", "single_transformer_blocks", "single_blocks"), "FLUX"),
    (("joint_blocks", "transformer.transformer_blocks"), "Stable Diffusion 3"),
    (("lora_te2_", "lora_te1_", "text_encoder_2.", "lora_unet_input_blocks_4_1"), "SDXL"),
)
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")
DOWN = re.compile(
    r"^(?P<layer>.+?)(\.lora_A(\.default)?|\.lora\.down|_lora\.down|\.lora_down|\.lora_linear_layer\.down)\.weight$"
)
UPS = {"lora_A": "lora_B", "lora.down": "lora.up", "lora_down": "lora_up", "layer.down": "layer.up"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its shape, and from which byte of the file to which it lies."""

    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; no weight is read.

    Raises:
        InputError: if it is no safetensors file, whatever its name, or is cut off.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{":
            raise InputError(f"{path} is {_no_safetensors(start)}")
        file.seek(8)
        text = file.read(min(length, size))
    cut = f"{path} is cut off or damaged: copy or download it again"
    try:
        header = json.loads(text)
        tensors = {
            name: Tensor(tuple(of["shape"]), *(8 + length + place for place in of["data_offsets"]))
            for name, of in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(cut) from error
    needed = max((tensor.end for tensor in tensors.values()), default=0)
    if size < needed:
        raise InputError(f"{cut} ({size:,} of {needed:,} bytes are here)")
    return tensors


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
        raise InputError(f"{path} is {_what(path)}: {TAKEN}")
    if not path.is_dir():
        if path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1:
            raise InputError(f"no such model folder: {path}")
        if path.suffix in (".safetensors", *PICKLED):
            raise InputError(f"no such file: {path}")
        _check_parts(name_or_path, lambda name: _from_hub(name_or_path, name, revision))
        return None
    if not (path / "model_index.json").exists():
        inside = [p for p in sorted(path.glob("*.safetensors")) if p.is_file()]
        held = f"; it holds {inside[0].name}, which is {_what(inside[0])}" if inside else ""
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
        if MARKS[part] not in map(_plain, names):
            raise InputError(f"the weights of {path / part} are those of another model: it has no {MARKS[part]}")
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


def check_adapter(path: Path, base: str, unet: Mapping[str, tuple], text_encoder: Mapping[str, tuple]) -> int:
    """Whether a file holds LoRA adapters that fit a base model; how many layers they are for.

    Args:
        path: a safetensors file.
        base: the base model's name, for the message.
        unet: shapes of the base model's weights, by name.
        text_encoder: likewise.

    Raises:
        InputError: with what it is instead, or which layer does not fit.
    """
    layers = adapted_layers(path)
    known = {f"unet.{_plain(name)}": shape for name, shape in unet.items()}
    known |= {f"text_encoder.{_plain(name)}": shape for name, shape in text_encoder.items()}
    joined = {name.removesuffix(".weight").replace(".", "_"): shape for name, shape in known.items()}
    family = _family(layers)
    of = f" of {family}" if family else ""
    for layer, (width_in, width_out) in layers.items():
        shape = joined.get(_joined(layer))
        if shape is None:
            raise InputError(
                f"{path} is a LoRA adapter{of} for layers that {base} does not have (as {layer}): give the base model "
                f"that it was trained on; {TAKEN}"
            )
        if (shape[1], shape[0]) != (width_in, width_out):
            raise InputError(
                f"{path} is a LoRA adapter{of} for layers of another width than those of {base} ({layer} takes "
                f"{width_in} and gives {width_out} numbers, there {shape[1]} and {shape[0]}): give the base model that "
                "it was trained on"
            )
    return len(layers)


def adapted_layers(path: Path) -> dict[str, tuple[int, int]]:
    """The layers that a file of LoRA adapters changes, each with the numbers that it takes and gives.

    Raises:
        InputError: if the file is anything else.
    """
    header = read_header(path)
    pairs = _pairs(header)
    foreign = _foreign(header)
    if foreign or not pairs:
        raise InputError(
            f"{path} is {_what(path)}: dermgen reads LoRA adapters of a Stable Diffusion 1.x or 2.x, and pipelines "
            "as diffusers folders or Hub ids"
        )
    return {layer: (header[down].shape[1], header[up].shape[0]) for layer, (down, up) in pairs.items()}


def is_zero(path: Path) -> bool:
    """Whether the adapters in a file change nothing, since of each pair of matrices one is all zero."""
    header = read_header(path)
    with open(path, "rb") as file:

        def blank(tensor: Tensor) -> bool:
            file.seek(tensor.start)
            content = file.read(tensor.end - tensor.start)
            return content.count(0) == len(content)

        return all(blank(header[up]) or blank(header[down]) for down, up in _pairs(header).values())


def _pairs(header: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Names of the two matrices of every adapted layer."""
    found = {}
    for name in header:
        match = DOWN.match(name)
        if match:
            tail = name[len(match["layer"]) :]
            up = match["layer"] + next(tail.replace(a, b) for a, b in UPS.items() if a in tail)
            if up in header:
                found[match["layer"]] = (name, up)
    return found


def _joined(layer: str) -> str:
    """A layer's name in the spellings of diffusers, PEFT and kohya, with all parts joined by `_`."""
    layer = layer.replace(".processor.", ".")
    layer = re.sub(r"\bto_out$", "to_out.0", layer)
    for theirs, ours in (("lora_unet_", "unet_"), ("lora_te_", "text_encoder_")):
        layer = ours + layer.removeprefix(theirs) if layer.startswith(theirs) else layer
    return layer.replace(".", "_").replace("text_encoder_text_model_", "text_encoder_")


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")  # some versions of transformers have it, others not


def _what(path: Path) -> str:
    """What a file is, for a message."""
    if path.suffix in PICKLED:
        return "a single file in pickle form, which can run code"
    if path.suffix != ".safetensors":
        with open(path, "rb") as file:
            return _no_safetensors(file.read(64))
    header = read_header(path)
    foreign = _foreign(header)
    if foreign:
        convert = "; convert it with diffusers: StableDiffusionPipeline.from_single_file(…).save_pretrained(…)"
        return foreign + (convert if foreign.endswith("of a Stable Diffusion") else "")
    if _pairs(header):
        family = _family(header)
        return f"a LoRA adapter{f' of {family}' if family else ''}, to be drawn from with dermgen generate --base_model"
    for part, mark in MARKS.items():
        if mark in map(_plain, header):
            return f"the weights of a single part (as {part}) of a model"
    if header and all(len(tensor.shape) <= 2 for tensor in header.values()) and len(header) <= 2:
        return "a textual inversion (the embedding of a word)"
    return f"a file of {len(header)} tensors (as {next(iter(header), 'none')}) that is no adapter or model known here"


def _foreign(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((what for mark, what in FOREIGN if any(mark in name for name in names)), None)


def _family(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((of for marks, of in FAMILIES if any(mark in name for name in names for mark in marks)), None)


def _no_safetensors(start: bytes) -> str:
    if not start:
        return "empty: copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the weights: git lfs pull, or hf download"
    if start.startswith((b"PK", b"\x80")):
        return "a checkpoint in pickle form, which can run code"
    if start.startswith(b"GGUF"):
        return "quantised weights (GGUF)"
    if start.lstrip().startswith(b"<"):
        return "a web page in place of the weights: download it again"
    return "no safetensors file"


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
