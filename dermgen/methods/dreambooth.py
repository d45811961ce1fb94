"""DreamBooth (Ruiz et al. 2023, arXiv:2208.12242): a Stable Diffusion taught new pictures, all its weights or LoRA.

The options of diffusers' `train_dreambooth.py` and `train_dreambooth_lora.py` for Stable Diffusion mean the same here.
"""

import dataclasses
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType, set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch.utils.data import Dataset

from dermgen import installation
from dermgen.config import InputError
from dermgen.data import manifest, preprocess, trained_on
from dermgen.data.cache import default_cache_dir, key_of
from dermgen.data.loading import (
    Example,
    PixelSet,
    always_square,
    check_readable,
    collate,
    folder_examples,
    manifest_examples,
)
from dermgen.settings.dreambooth import UNET_TARGETS, DreamboothConfig, DreamboothLoraConfig
from dermgen.stable_diffusion.class_images import class_images, own_images
from dermgen.stable_diffusion.denoising import DenoisingLoss
from dermgen.stable_diffusion.files import base_sha256, check_model, local_folder
from dermgen.stable_diffusion.generator import StableDiffusionGenerator
from dermgen.stable_diffusion.inputs import (
    LatentSource,
    PromptSource,
    cache_latents,
    check_prompts,
    cut_texts,
    tell_cut,
)
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.stable_diffusion.weights import FullWeights, LoraWeights
from dermgen.training.checkpoints import checkpoints
from dermgen.training.diffusion import prior_preservation
from dermgen.training.draws import Draws, derive_seed
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run
from dermgen.training.run_record import RunRecord
from dermgen.training.trained_weights import load_trained_state

if TYPE_CHECKING:
    pass

# Of decoded images of each set: decoding takes a sixth of a small model's step, and few images usually fit in.
KEPT_BYTES = 32 * 2**20


def train(config: DreamboothConfig) -> None:
    """Fine-tune, and save the trained weights, averaged if the config asks for it, in `output_dir`.

    Raises:
        InputError: for anything wrong with the settings or the data, before the model is loaded where that is possible.
    """
    _require_extras(config)
    _check_folders(config)
    examples = _instance_examples(config)
    held_out = _held_out_examples(config)
    check_model(config.pretrained_model_name_or_path, config.variant, config.revision)
    check_readable(examples + held_out)
    if config.with_prior_preservation:
        check_readable([Example(str(p), "", p.stem) for p in own_images(Path(config.class_data_dir))])

    weights = None
    run = Run(
        config, save_weights=lambda d: weights.save_checkpoint(d), load_weights=lambda d: weights.load_checkpoint(d)
    )
    if run.accelerator.distributed_type == DistributedType.FSDP:
        if isinstance(config, DreamboothLoraConfig):
            raise InputError("FSDP shards weights that LoRA does not train: use accelerate_configs/multi_gpu.yaml")
        if config.validation_prompt or config.held_out_steps:
            raise InputError(
                "sample grids and held-out losses need whole weights, which FSDP does not keep: leave them out"
            )
    pipeline = load_pipeline(
        config.pretrained_model_name_or_path, config.revision, config.variant, config.tokenizer_name
    )
    check_prompts(
        {e.prompt for e in examples} | ({config.class_prompt} if config.with_prior_preservation else set()),
        pipeline.tokenizer,
    )
    base = _base_facts(config, run)
    _tell_cut_prompts(config, examples, pipeline.tokenizer, run)
    prior = _class_examples(config, pipeline, run)

    # Class images came first, from a model that is still untouched; the adapters' weights are drawn from here on.
    set_seed(config.seed)
    _place(config, pipeline, run)
    prompts = _PromptNumbers(examples + prior + held_out)
    prompt_source = PromptSource(
        prompts.texts,
        pipeline.tokenizer,
        pipeline.text_encoder,
        config.tokenizer_max_length,
        config.text_encoder_use_attention_mask,
    )
    if config.pre_compute_text_embeddings or (
        config.pre_compute_text_embeddings is None and not config.train_text_encoder
    ):
        prompt_source.cache(_cache_dir(config), run.accelerator)
    sets = [_dataset(part, prompts, config, pipeline, run) for part in (examples, prior) if part]
    weights = _trained_weights(config, pipeline)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        if config.train_text_encoder:
            pipeline.text_encoder.gradient_checkpointing_enable()
    parameters = [p for model in weights.models for p in model.parameters() if p.requires_grad]
    unet, *text_encoder, optimizer = run.prepare(*weights.models, adamw(parameters, config), average=weights.models)
    _record_training_set(config, examples, prior, run)
    run.record(
        **base,
        revision=config.revision,
        trained_parameters=sum(p.numel() for p in parameters),
        data_fingerprint=key_of(*(f"{e.image_id} {e.prompt}" for e in examples)),
        instance_images=len(examples),
        class_images=len(prior),
    )

    losses = DenoisingLoss(
        unet=unet,
        unet_dtype=pipeline.unet.dtype,
        text_encoder=text_encoder[0] if text_encoder else None,
        latent_source=LatentSource(pipeline.vae, config.resolution, config.random_flip),
        prompt_source=prompt_source,
        noise_scheduler=_noise_scheduler(config, pipeline),
        empty_prompt=prompts.empty,
        caption_dropout=config.caption_dropout,
        offset_noise=config.offset_noise_strength if config.offset_noise else 0.0,
        snr_gamma=config.snr_gamma,
        mask_loss_weight=config.mask_loss_weight,
        timesteps_as_labels=config.class_labels_conditioning is not None,
    )
    validate_every = _validation_steps(config, run, sets)
    base_images = _validation_images(config, pipeline, run) if validate_every else None
    held_out_set = _dataset(held_out, prompts, config, pipeline, run) if held_out else None

    for model in weights.models:
        model.train()
    for batch in run.batches(*sets, collate_fn=collate):
        if prior:
            loss = prior_preservation(losses(batch, run.draws), config.prior_loss_weight)
        else:
            loss = losses([batch], run.draws).mean()
        run.update(loss, optimizer)
        run.log(loss=loss)
        if held_out_set is not None and run.due(config.held_out_steps):
            # Through the models themselves: processes may have different numbers of batches.
            plain = dataclasses.replace(
                losses, unet=pipeline.unet, text_encoder=pipeline.text_encoder if text_encoder else None
            )
            run.write_metrics(held_out_loss=_held_out_loss(held_out_set, plain, run, weights, config))
        if base_images is not None and run.due(validate_every):
            _sample_grid(config, pipeline, run, weights, base_images)

    _restore_frozen(config, pipeline, run)
    for model in (unet, *text_encoder):
        run.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # compare without autocast's rounding
    if run.accelerator.distributed_type == DistributedType.FSDP:
        weights = _gather_sharded(config, run, unet, *text_encoder)
    with run.averaged_weights():
        if run.is_main:
            weights.save(run.output_dir)
            difference = weights.verify(
                run.output_dir, config.pretrained_model_name_or_path, config.revision, config.variant
            )
            run.record(reloaded_output_difference=difference)
    run.accelerator.wait_for_everyone()


def _check_folders(config: DreamboothConfig) -> None:
    """Refuse class images that are the instance images, and say what is given and not read."""
    if not config.with_prior_preservation and (config.class_prompt or config.class_data_dir):
        print("warning: --class_prompt and --class_data_dir are not used without --with_prior_preservation")
    if not config.instance_data_dir:
        return
    folder = Path(config.instance_data_dir)
    if config.class_data_dir and folder.resolve() == Path(config.class_data_dir).resolve():
        raise InputError(
            f"{folder} is given as instance_data_dir and class_data_dir: keep the class images in a folder of their own"
        )
    texts = [p for p in folder.glob("*.txt") if any(p.with_suffix(s).exists() for s in preprocess.FORMATS)]
    if texts:
        print(
            f"warning: {len(texts)} captions beside the images (as {min(texts).name}) are not read: all images get "
            "--instance_prompt; to train on captions give --data_dir, a manifest with a column caption"
        )


def _instance_examples(config: DreamboothConfig) -> list[Example]:
    if config.instance_data_dir is not None:
        return folder_examples(config.instance_data_dir, config.instance_prompt, "instance_data_dir")
    return manifest_examples(
        config.data_dir,
        "train",
        config.instance_class,
        config.exclude_classes or (),
        config.instance_prompt,
        config.num_instance_images,
        config.max_images_per_class,
        seed=config.seed,
    )


def _record_training_set(
    config: DreamboothConfig, examples: Sequence[Example], prior: Sequence[Example], run: Run
) -> None:
    """Record the real images that the run trains on: instance images, and of the class images one's own."""
    own = {str(path) for path in own_images(Path(config.class_data_dir))} if prior else set()
    rows = [{"image_id": e.image_id, "path": e.path} for e in examples]
    rows += [{"image_id": f"class/{Path(e.path).name}", "path": e.path} for e in prior if e.path in own]
    rows = [{**row, "dx": "", "synthetic": "false"} for row in rows]
    if config.data_dir is None:
        data = trained_on.of_plain_folder(len(examples))
    else:
        data = manifest.facts(config.data_dir, [e.image_id for e in examples])
    trained_on.write(run.output_dir, run.accelerator, rows, [data], config.pretrained_model_name_or_path)


def _base_facts(config: DreamboothConfig, run: Run) -> dict:
    """By what the base model is known again: its name, its weights, and where it was.

    Raises:
        InputError: if a run that is resumed was begun with other weights.
    """
    name = config.pretrained_model_name_or_path
    on_hub, folder = not Path(name).exists(), local_folder(name, config.revision, config.variant)
    facts = {"base_model": name, "base_on_hub": on_hub}
    if folder is None or not run.is_main:
        return facts
    sha256 = base_sha256(folder, config.variant)
    known = RunRecord.read(run.output_dir).base_sha256
    if known not in (None, sha256):
        raise InputError(
            f"{run.output_dir} was trained from another model than {folder.resolve()} holds now: put that one "
            "back, or choose a new output_dir"
        )
    return facts | {"base_sha256": sha256, "base_path": None if on_hub else str(folder.resolve())}


def _held_out_examples(config: DreamboothConfig) -> list[Example]:
    if not config.held_out_steps:
        return []
    return manifest_examples(
        config.data_dir,
        "val",
        config.instance_class,
        config.exclude_classes or (),
        config.instance_prompt,
        at_most=config.held_out_images,
        seed=config.seed,
    )


def _tell_cut_prompts(config: DreamboothConfig, examples: Sequence[Example], tokenizer, run: Run) -> None:
    of_class = [config.class_prompt] if config.with_prior_preservation else []
    texts = {*(e.prompt for e in examples), *of_class, *(config.validation_prompt or ())}
    cut = cut_texts(sorted(texts), tokenizer, config.tokenizer_max_length)
    if cut and run.is_main:
        print(f"{tell_cut(cut, len(texts))}; `dermgen prepare --tokenizer MODEL` tells which attributes are lost")


# --- model and data ---


def _class_examples(config: DreamboothConfig, pipeline: StableDiffusionPipeline, run: Run) -> list[Example]:
    if not config.with_prior_preservation:
        return []
    default = "fp16" if run.accelerator.device.type in ("cuda", "xpu") else "fp32"
    names = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = names[config.prior_generation_precision or default]
    examples, drawn = class_images(
        Path(config.class_data_dir),
        config.class_prompt,
        config.num_class_images,
        pipeline,
        run.accelerator,
        config.sample_batch_size,
        config.seed,
        dtype,
        resumed=bool(checkpoints(run.output_dir)),
    )
    if drawn and dtype != torch.float32:
        # Rounding cannot be undone: the weights to be trained are loaded again.
        fresh = load_pipeline(config.pretrained_model_name_or_path, config.revision, config.variant)
        pipeline.register_modules(unet=fresh.unet, vae=fresh.vae, text_encoder=fresh.text_encoder)
    return examples


class _PromptNumbers:
    """The distinct prompts of all examples, with the empty one for caption dropout last."""

    def __init__(self, examples: Sequence[Example]):
        self.texts = [*dict.fromkeys(e.prompt for e in examples), ""]
        self.empty = len(self.texts) - 1
        self._number = {text: i for i, text in enumerate(self.texts)}

    def of(self, examples: Sequence[Example]) -> list[int]:
        return [self._number[e.prompt] for e in examples]


def _cache_dir(config: DreamboothConfig) -> Path:
    return Path(config.cache_dir) if config.cache_dir else default_cache_dir()


def _dataset(examples, prompts: _PromptNumbers, config: DreamboothConfig, pipeline, run: Run) -> Dataset:
    fixed_crop = config.center_crop or always_square(examples)
    masks = config.mask_loss_weight > 0
    if masks and not fixed_crop:
        raise InputError("--mask_loss_weight needs --center_crop where images are not square")
    cached = config.cache_latents and fixed_crop
    keep = 0 if cached else KEPT_BYTES
    resize = config.image_interpolation_mode
    pixels = PixelSet(examples, prompts.of(examples), config.resolution, fixed_crop, resize, masks, keep)
    if cached:
        return cache_latents(pixels, pipeline.vae, config.random_flip, _cache_dir(config), run.accelerator)
    if config.cache_latents and run.is_main:
        print("latents are not cached: images are not square and are cropped at random (--center_crop would allow it)")
    return pixels


def _require_extras(config: DreamboothConfig) -> None:
    """Raise `InputError` for a package that an option needs and that is not installed."""
    if config.enable_xformers_memory_efficient_attention:
        if importlib.util.find_spec("xformers") is None:
            raise InputError("xformers is not installed: pip install 'dermgen[xformers]', or leave the option out")
        if not torch.cuda.is_available():
            raise InputError("xformers needs a CUDA GPU: leave --enable_xformers_memory_efficient_attention out")
    if config.train_text_encoder and isinstance(config, DreamboothLoraConfig):
        installation.require_text_encoder_adapters()


def _noise_scheduler(config: DreamboothConfig, pipeline: StableDiffusionPipeline) -> DDPMScheduler:
    changes = {"prediction_type": config.prediction_type} if config.prediction_type else {}
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, **changes)
    if config.prediction_type:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
    return noise_scheduler


def _place(config: DreamboothConfig, pipeline: StableDiffusionPipeline, run: Run) -> None:
    """Put the models on the device; frozen ones in the precision of the run, trained ones in float32.

    The autoencoder stays in float32 under fp16, where Stable Diffusion's overflows.
    """
    device = run.accelerator.device
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(run.accelerator.mixed_precision, torch.float32)
    is_lora = isinstance(config, DreamboothLoraConfig)
    pipeline.vae.to(device, torch.float32 if half == torch.float16 else half)
    pipeline.text_encoder.to(device, torch.float32 if config.train_text_encoder and not is_lora else half)
    pipeline.unet.to(device, half if is_lora else torch.float32)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.eval()
    if config.enable_xformers_memory_efficient_attention:
        pipeline.unet.enable_xformers_memory_efficient_attention()


def _trained_weights(config: DreamboothConfig, pipeline: StableDiffusionPipeline) -> FullWeights | LoraWeights:
    if not isinstance(config, DreamboothLoraConfig):
        return FullWeights(pipeline, config.train_text_encoder, not config.skip_save_text_encoder)
    return LoraWeights(
        pipeline,
        config.train_text_encoder,
        config.rank,
        config.rank if config.lora_alpha is None else config.lora_alpha,
        config.lora_dropout,
        config.use_dora,
        config.lora_target_modules or UNET_TARGETS,
    )


def _restore_frozen(config: DreamboothConfig, pipeline: StableDiffusionPipeline, run: Run) -> None:
    """Before a whole pipeline is saved: its frozen parts as they were, not rounded to the precision of the run."""
    if isinstance(config, DreamboothLoraConfig) or run.accelerator.mixed_precision == "no":
        return
    fresh = load_pipeline(config.pretrained_model_name_or_path, config.revision, config.variant)
    pipeline.register_modules(vae=fresh.vae)
    if not config.train_text_encoder:
        pipeline.register_modules(text_encoder=fresh.text_encoder)


def _gather_sharded(config: DreamboothConfig, run: Run, *models: torch.nn.Module) -> FullWeights:
    """Weights that FSDP keeps in pieces, put together in a fresh pipeline."""
    states = [run.accelerator.get_state_dict(model) for model in models]
    pipeline = load_pipeline(config.pretrained_model_name_or_path, config.revision, config.variant)
    whole = FullWeights(pipeline, config.train_text_encoder, not config.skip_save_text_encoder)
    if run.is_main:
        for model, state in zip(whole.models, states, strict=True):
            load_trained_state(model, state)
    return whole


# --- looking at a run ---


def _validation_steps(config: DreamboothConfig, run: Run, sets: Sequence[Dataset]) -> int | None:
    if not config.validation_prompt:
        return None
    epochs = config.validation_epochs
    if epochs is None and config.validation_steps is None and isinstance(config, DreamboothLoraConfig):
        epochs = 50
    return epochs * run.steps_per_epoch(*sets) if epochs else config.validation_steps or 100


def _validation_images(config: DreamboothConfig, pipeline, run: Run) -> torch.Tensor | None:
    """Images of the validation prompts, always from the same noise, (prompts x images, 3, H, W) uint8."""
    if not run.is_main:
        return torch.empty(0)
    scheduler = {"DPMSolverMultistepScheduler": "dpmsolver++", "DDPMScheduler": "ddpm"}[config.validation_scheduler]
    generator = StableDiffusionGenerator(
        pipeline, guidance_scale=config.validation_guidance_scale, scheduler=scheduler, resolution=config.resolution
    )
    wanted = list(itertools.product(config.validation_prompt, range(config.num_validation_images)))
    images = []
    for start in range(0, len(wanted), config.sample_batch_size):
        prompts, seeds = zip(*wanted[start : start + config.sample_batch_size], strict=True)
        with run.accelerator.autocast():
            images.append(generator.sample(prompts, [config.seed + s for s in seeds]).cpu())
    return torch.cat(images)


def _sample_grid(config: DreamboothConfig, pipeline, run: Run, weights, base_images: torch.Tensor) -> None:
    """For each prompt a row of the base model's images, and under it the tuned model's from the same noise."""
    if run.is_main:
        for model in weights.models:
            model.eval()
        with run.averaged_weights():
            tuned = _validation_images(config, pipeline, run)
        for model in weights.models:
            model.train()
        columns = config.num_validation_images
        rows = torch.stack([base_images.unflatten(0, (-1, columns)), tuned.unflatten(0, (-1, columns))], dim=1)
        run.sample_grid(rows.flatten(0, 2), columns)
    run.accelerator.wait_for_everyone()


@torch.no_grad()
def _held_out_loss(dataset: Dataset, losses, run: Run, weights, config: DreamboothConfig) -> float:
    """Mean loss of held-out images at noise and timesteps that never change."""
    for model in weights.models:
        model.eval()
    total = torch.zeros((), device=run.accelerator.device)
    mine = range(run.accelerator.process_index, len(dataset), run.accelerator.num_processes)
    with run.averaged_weights():
        for start in range(0, len(mine), config.train_batch_size):
            part = mine[start : start + config.train_batch_size]
            batch = {
                k: v.to(run.accelerator.device) if isinstance(v, torch.Tensor) else v
                for k, v in collate([dataset[i] for i in part]).items()
            }
            total += losses(
                [batch], Draws([derive_seed(config.seed, 2**30, i) for i in part], run.accelerator.device)
            ).sum()
    for model in weights.models:
        model.train()
    return float(run.accelerator.reduce(total)) / len(dataset)
