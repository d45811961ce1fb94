"""What a single file of weights is, by its header, and whether it holds LoRA adapters that fit a model."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dermgen.blocks import counted
from dermgen.config import InputError

TAKEN = "dermgen takes a Stable Diffusion 1.x or 2.x for text to image, as a diffusers folder or Hub id"
PICKLED = (".ckpt", ".bin", ".pt", ".pth")
# Tensors that each part has, whatever its size, so that a file of another model is recognised.
MARKS = {
    "unet": ("conv_in.weight",),
    "vae": ("encoder.conv_in.weight", "encoder.layers.0.weight"),  # of an AutoencoderKL, an AutoencoderTiny
    "text_encoder": ("embeddings.token_embedding.weight",),
}
# Files that dermgen does not read, by names of their tensors; the first match counts.
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
DOWN = re.compile(
    r"^(?P<layer>.+?)(\.lora_A(\.default)?|\.lora\.down|_lora\.down|\.lora_down|\.lora_linear_layer\.down)\.weight$"
)
UPS = {"lora_A": "lora_B", "lora.down": "lora.up", "lora_down": "lora_up", "layer.down": "layer.up"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its shape, and the first and last byte in the file."""

    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; no weight is read.

    Raises:
        InputError: if it is not a safetensors file, whatever its name, or is cut off.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{":
            raise InputError(f"{path} is {_other_content(start)}")
        file.seek(8)
        text = file.read(min(length, size))
    cut = f"{path} is cut off or damaged: copy or download it again"
    try:
        header = json.loads(text)
        tensors = {
            name: Tensor(tuple(entry["shape"]), *(8 + length + offset for offset in entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(cut) from error
    needed = max((tensor.end for tensor in tensors.values()), default=0)
    if size < needed:
        raise InputError(f"{cut} ({size:,} of {needed:,} bytes are here)")
    return tensors


def describe(path: Path) -> str:
    """What a file is, for a message."""
    if path.suffix in PICKLED:
        return "a single file in pickle form, which can run code"
    if path.suffix != ".safetensors":
        with open(path, "rb") as file:
            return _other_content(file.read(64))
    header = read_header(path)
    foreign = _foreign(header)
    if foreign:
        convert = "; convert it with diffusers: StableDiffusionPipeline.from_single_file(…).save_pretrained(…)"
        return foreign + (convert if foreign.endswith("of a Stable Diffusion") else "")
    if _pairs(header):
        family = _family(header)
        return f"a LoRA adapter{f' of {family}' if family else ''}, which dermgen generate takes with --base_model"
    for part, marks in MARKS.items():
        if not set(marks).isdisjoint(map(plain_name, header)):
            return f"the weights of a single part ({part}) of a model"
    if header and all(len(tensor.shape) <= 2 for tensor in header.values()) and len(header) <= 2:
        return "a textual inversion (the embedding of a word)"
    tensors = f"{counted(len(header), 'tensor')} (such as {next(iter(header))})" if header else "no tensors"
    return f"a file of {tensors} that is not an adapter or model known here"


def check_adapter(path: Path, base: str, unet: Mapping[str, tuple], text_encoder: Mapping[str, tuple]) -> int:
    """Check that a file holds LoRA adapters that fit a base model; returns the number of adapted layers.

    Args:
        path: a safetensors file.
        base: the base model's name, for the message.
        unet: shapes of the base model's weights, by name.
        text_encoder: likewise.

    Raises:
        InputError: naming what it is instead, or the layer that does not fit.
    """
    layers = adapted_layers(path)
    known = {f"unet.{plain_name(name)}": shape for name, shape in unet.items()}
    known |= {f"text_encoder.{plain_name(name)}": shape for name, shape in text_encoder.items()}
    joined = {name.removesuffix(".weight").replace(".", "_"): shape for name, shape in known.items()}
    family = _family(layers)
    adapter = f"a LoRA adapter of {family}" if family else "a LoRA adapter"
    for layer, (width_in, width_out) in layers.items():
        shape = joined.get(_joined(layer))
        if shape is None:
            raise InputError(
                f"{path} is {adapter} for layers that {base} does not have (such as {layer}): give the base model "
                f"that it was trained on; {TAKEN}"
            )
        if (shape[1], shape[0]) != (width_in, width_out):
            raise InputError(
                f"{path} is {adapter} for layers of another width than those of {base} ({layer} has {width_in} "
                f"inputs and {width_out} outputs, there {shape[1]} and {shape[0]}): give the base model that "
                "it was trained on"
            )
    return len(layers)


def adapted_layers(path: Path) -> dict[str, tuple[int, int]]:
    """The layers that a file of LoRA adapters changes, each with its numbers of inputs and outputs.

    Raises:
        InputError: if the file is anything else.
    """
    header = read_header(path)
    pairs = _pairs(header)
    foreign = _foreign(header)
    if foreign or not pairs:
        raise InputError(
            f"{path} is {describe(path)}: dermgen reads LoRA adapters of a Stable Diffusion 1.x or 2.x, and pipelines "
            "as diffusers folders or Hub ids"
        )
    return {layer: (header[down].shape[1], header[up].shape[0]) for layer, (down, up) in pairs.items()}


def is_zero(path: Path) -> bool:
    """Whether the adapters in a file change nothing: one matrix of each pair is all zero."""
    header = read_header(path)
    with open(path, "rb") as file:

        def blank(tensor: Tensor) -> bool:
            file.seek(tensor.start)
            content = file.read(tensor.end - tensor.start)
            return content.count(0) == len(content)

        return all(blank(header[up]) or blank(header[down]) for down, up in _pairs(header).values())


def _pairs(header: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Names of the two matrices of every adapted layer."""
    pairs = {}
    for name in header:
        match = DOWN.match(name)
        if match:
            tail = name[len(match["layer"]) :]
            up = match["layer"] + next(tail.replace(a, b) for a, b in UPS.items() if a in tail)
            if up in header:
                pairs[match["layer"]] = (name, up)
    return pairs


def _joined(layer: str) -> str:
    """A layer's name in the spellings of diffusers, PEFT and kohya, with all parts joined by `_`."""
    layer = layer.replace(".processor.", ".")
    layer = re.sub(r"\bto_out$", "to_out.0", layer)
    for theirs, ours in (("lora_unet_", "unet_"), ("lora_te_", "text_encoder_")):
        layer = ours + layer.removeprefix(theirs) if layer.startswith(theirs) else layer
    return layer.replace(".", "_").replace("text_encoder_text_model_", "text_encoder_")


def plain_name(name: str) -> str:
    return name.removeprefix("text_model.")  # which only some versions of transformers have


def _foreign(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((description for mark, description in FOREIGN if any(mark in name for name in names)), None)


def _family(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((family for marks, family in FAMILIES if any(mark in name for name in names for mark in marks)), None)


def _other_content(start: bytes) -> str:
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
    return "not a safetensors file"
