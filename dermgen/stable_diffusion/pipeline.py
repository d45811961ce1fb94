"""Loading a Stable Diffusion with clear errors, and building a small one from nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dermgen.config import InputError
from dermgen.data.captions import load_tokenizer
from dermgen.stable_diffusion.files import TAKEN, adapted_layers, check_model, is_zero


def load_pipeline(
    name_or_path: str,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer_name: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> StableDiffusionPipeline:
    """Load a Stable Diffusion 1.x or 2.x pipeline by folder or Hub id.

    The safety checker is left out: it takes skin lesions for something else and blanks them to black.

    Raises:
        InputError: if it cannot be had, is another kind of model, or has no safetensors weights.
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
            f"cannot load {name_or_path!r}: {first_line} (a folder of a Stable Diffusion pipeline with safetensors "
            "weights, or a Hub id that can be reached, is needed; --variant fp16 where it has those weights only)"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_adapter(pipeline: StableDiffusionPipeline, path: Path, weight: float) -> None:
    """Put a file of LoRA adapters into the pipeline, at a strength.

    Raises:
        InputError: if diffusers cannot read it, or takes some of its layers only.
    """
    wanted = len(adapted_layers(path))
    try:
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="dermgen")
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise InputError(f"diffusers cannot read the LoRA adapters in {path}: {first_line}") from error
    parts = (pipeline.unet, pipeline.text_encoder)
    taken = sum(isinstance(m, LoraLayer) and "dermgen" in m.lora_A for part in parts for m in part.modules())
    if taken != wanted:
        raise InputError(f"diffusers takes {taken} of the {wanted} layers of the LoRA adapters in {path}: {TAKEN}")
    if is_zero(path):
        print(f"warning: the LoRA adapters in {path} are all zero: the images are those of the base model")
    pipeline.set_adapters("dermgen", weight)


def quiet_libraries() -> None:
    """Only errors of the model libraries: their bars and hints for loading and saving parts drown ours."""
    for logging in (transformers.logging, diffusers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def build_pipeline(
    vae: AutoencoderKL,
    captions: Iterable[str],
    sample_size: int,
    channels: tuple[int, ...] = (64, 128, 192),
    text_width: int = 128,
    text_layers: int = 2,
    max_length: int = 32,
    seed: int = 0,
) -> StableDiffusionPipeline:
    """A whole Stable Diffusion with random weights around a given autoencoder.

    Args:
        vae: encodes images to latents.
        captions: the texts that its tokenizer should know well; other words fall apart into letters.
        sample_size: height and width of the latents.
        channels: of the UNet's levels, the first without cross-attention.
        text_width: hidden size of the text encoder.
        text_layers: of the text encoder.
        max_length: tokens of a prompt, with start and end.
        seed: of the weights.
    """
    tokenizer = build_tokenizer(captions, max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text_width,
                intermediate_size=4 * text_width,
                num_hidden_layers=text_layers,
                num_attention_heads=4,
                max_position_embeddings=max_length,
                projection_dim=text_width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        levels = len(channels) - 1
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=vae.config.latent_channels,
            out_channels=vae.config.latent_channels,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * levels),
            up_block_types=(*["CrossAttnUpBlock2D"] * levels, "UpBlock2D"),
            cross_attention_dim=text_width,
            attention_head_dim=4,
            norm_num_groups=min(32, channels[0]),
        )
    # Stable Diffusion's noise schedule, but the velocity as target: shapes settle in far fewer steps.
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_tokenizer(captions: Iterable[str], max_length: int, vocab_size: int = 2000) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learnt from `captions`."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    learner = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[start, end],
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learnt = json.loads(learner.to_str())["model"]
    # CLIP wants every byte twice, inside a word and at its end, before the merges.
    pieces = [*sorted(alphabet), *(f"{byte}</w>" for byte in sorted(alphabet))]
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in learnt["merges"]]
    words = dict.fromkeys([*pieces, *("".join(m) for m in merges), start, end])
    vocab = {piece: i for i, piece in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length, pad_token=end, unk_token=end)
