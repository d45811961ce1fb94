"""How much memory a fine-tuning takes, by arithmetic."""

import math
from collections.abc import Iterator

import psutil
import torch

from dermgen.blocks import size
from dermgen.findings import Finding
from dermgen.settings.dreambooth import DreamboothConfig
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.files import WEIGHTED, local_folder, part_shapes


def findings(config: DreamboothConfig, base: BaseModel) -> Iterator[Finding]:
    """What weights, gradients and AdamW take; activations come on top and are measured by the step."""
    folder = local_folder(base.name_or_path, base.revision, base.variant)
    if folder is None:
        return
    numbers = {part: sum(map(math.prod, part_shapes(folder, part, base.variant).values())) for part in WEIGHTED}
    half = 2 if config.mixed_precision in ("fp16", "bf16") else 4
    trained = 0
    if config.adapters is None:
        trained = numbers["unet"] + (numbers["text_encoder"] if config.train_text_encoder else 0)
    frozen = sum(numbers.values()) - trained
    moments = 2 if config.use_8bit_adam else 8
    needed = frozen * half + trained * (4 + 4 + moments + (4 if config.ema_decay else 0))
    there = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else psutil.virtual_memory().total
    text = f"weights, gradients and AdamW take {size(needed)}, before activations, of {size(there)}"
    if needed > 0.9 * there:
        yield Finding("FIX", "memory", f"{text}: take dreambooth_lora.py, --use_8bit_adam or --mixed_precision")
    else:
        yield Finding("ok", "memory", text)
