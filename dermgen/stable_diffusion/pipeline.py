"""Loading a Stable Diffusion, and LoRA adapters into it, with clear errors."""

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import LoraLayer

from dermgen.config import InputError
from dermgen.data.captions import load_tokenizer
from dermgen.stable_diffusion.files import check_model
from dermgen.stable_diffusion.weight_files import TAKEN, adapted_layers, is_zero

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_of(precision: str | None, device: torch.device) -> torch.dtype:
    """The data type that a setting names; by default fp16 on a GPU, else fp32."""
    return DTYPES[precision or ("fp16" if device.type in ("cuda", "xpu") else "fp32")]


def load_pipeline(
    name_or_path: str,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer_name: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> StableDiffusionPipeline:
    """Load a Stable Diffusion 1.x or 2.x pipeline by folder or Hub id.

    The safety checker is left out: it mistakes skin lesions for indecent content and returns black images.

    Raises:
        InputError: if it cannot be loaded, is another kind of model, or has no safetensors weights.
    """
    check_model(name_or_path, variant, revision)
    quiet_libraries()
    parts = {} if tokenizer_name is None else {"tokenizer": load_tokenizer(tokenizer_name, None)}
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            name_or_path,
            revision=revision,
            variant=variant,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            **parts,
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise InputError(
            f"cannot load {name_or_path!r}: {first_line} (give the folder of a Stable Diffusion pipeline with "
            "safetensors weights, or a Hub id that can be reached; --variant fp16 if it has only those weights)"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_adapter(pipeline: StableDiffusionPipeline, path: Path, weight: float) -> None:
    """Load a file of LoRA adapters into the pipeline, with a weight.

    Raises:
        InputError: if diffusers cannot read it, or reads only some of its layers.
    """
    expected = len(adapted_layers(path))
    try:
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="dermgen")
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise InputError(f"diffusers cannot read the LoRA adapters in {path}: {first_line}") from error
    parts = (pipeline.unet, pipeline.text_encoder)
    loaded = sum(isinstance(m, LoraLayer) and "dermgen" in m.lora_A for part in parts for m in part.modules())
    if loaded != expected:
        raise InputError(f"diffusers loads {loaded} of {expected} layers of the LoRA adapters in {path}: {TAKEN}")
    if is_zero(path):
        print(f"warning: the LoRA adapters in {path} are all zero: the images are those of the base model")
    pipeline.set_adapters("dermgen", weight)


def quiet_libraries() -> None:
    """Silence all but errors of the model libraries, whose bars and hints would bury our own messages."""
    for logging in (transformers.logging, diffusers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
