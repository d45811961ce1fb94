"""A small Stable Diffusion with random weights around a given autoencoder, and a tokenizer of its own words."""

import json
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def build_pipeline(
    vae: AutoencoderKL | AutoencoderTiny,
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
        text_encoder = _text_encoder(tokenizer, text_width, text_layers, max_length)
        unet = _unet(sample_size, vae.config.latent_channels, channels, text_width)
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


def _text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int, max_length: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=max_length,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(sample_size: int, latent_channels: int, channels: tuple[int, ...], text_width: int) -> UNet2DConditionModel:
    levels = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * levels),
        up_block_types=(*["CrossAttnUpBlock2D"] * levels, "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=min(32, channels[0]),
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
