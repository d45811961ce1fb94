"""What can be said of a fine-tuning's base model and prompts before it is tried."""

import math
from collections.abc import Collection
from pathlib import Path

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data.captions import load_tokenizer
from dermgen.findings import Finding
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.files import WEIGHTED, local_folder, part_shapes
from dermgen.stable_diffusion.inputs import check_prompts, cut_texts


def count_weights(base: BaseModel) -> int | None:
    """Number of its weights; None where it must be downloaded. Raises `InputError` if the training would refuse it."""
    folder = _folder(base)
    if folder is None:
        return None
    base.check()
    shapes = [shape for part in WEIGHTED for shape in part_shapes(folder, part, base.variant).values()]
    return sum(map(math.prod, shapes))


def of_prompts(
    base: BaseModel, trained: Collection[str], prompts: Collection[str], max_length: int | None = None
) -> Finding:
    """Whether the tokenizer takes the prompts whole.

    Args:
        base: with the tokenizer.
        trained: prompts that are trained on, which need a token at least.
        prompts: all of them, those of sample grids among them.
        max_length: of a prompt in tokens; default the tokenizer's.
    """
    folder = _folder(base)
    if folder is None and base.tokenizer_name is None:
        return Finding("note", "captions", "not looked at without the model's tokenizer")
    try:
        place = (base.tokenizer_name, None) if base.tokenizer_name else (str(folder),)
        tokenizer = load_tokenizer(*place)
        check_prompts(trained, tokenizer)
    except InputError as error:
        return Finding("FIX", "captions", str(error))
    limit = max_length or tokenizer.model_max_length
    if cut := cut_texts(prompts, tokenizer, limit):
        more = "shorten them, or `dermgen prepare` with a shorter --caption_template"
        return Finding("FIX", "captions", f"{len(cut)} of {len(prompts)} prompts are cut at {limit} tokens: {more}")
    return Finding("ok", "captions", f"{counted(len(prompts), 'prompt fits', 'prompts fit')} into {limit} tokens")


def _folder(base: BaseModel) -> Path | None:
    return local_folder(base.name_or_path, base.revision, base.variant)
