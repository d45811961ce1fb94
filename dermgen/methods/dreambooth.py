"""DreamBooth (Ruiz et al. 2023, arXiv:2208.12242): fine-tuning of all weights of a Stable Diffusion, or of LoRA.

The options of diffusers' `train_dreambooth.py` and `train_dreambooth_lora.py` have the same meaning here.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate.utils import DistributedType, set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import nn

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import preprocess, trained_on
from dermgen.data.cache import default_cache_dir, key_of
from dermgen.data.examples import Example, files_of, folder_examples, manifest_examples
from dermgen.data.image_files import check_readable
from dermgen.data.loading import collate
from dermgen.data.set_facts import SetFacts
from dermgen.findings import Finding, of_base_model
from dermgen.settings.dreambooth import DreamboothConfig
from dermgen.stable_diffusion import memory, recipe
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.class_images import class_images, own_images
from dermgen.stable_diffusion.denoising import DenoisingLoss
from dermgen.stable_diffusion.inputs import LatentSource, PromptSource, check_prompts, cut_texts, cut_warning
from dermgen.stable_diffusion.instances import DataSets
from dermgen.stable_diffusion.pipeline import DTYPES
from dermgen.stable_diffusion.validation import SampleGrids, held_out_loss
from dermgen.stable_diffusion.weights import FullWeights, LoraWeights
from dermgen.training.checkpoints import checkpoints
from dermgen.training.diffusion import prior_preservation
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run


def train(config: DreamboothConfig) -> None:
    """Fine-tune, and save the trained weights, or their moving average with `ema_decay`, in `output_dir`.

    Raises:
        InputError: for anything wrong with the settings or the data, before the model is loaded where that is possible.
    """
    base, weights = _base(config), _weights(config)
    instances, held_out = _read_images(config, base)
    run = Run(config, weights.save_checkpoint, weights.load_checkpoint)
    _check_sharding(config, weights, run)
    pipeline, prior = _load(config, base, instances, run)

    # Class images need the base model unchanged; the adapters' weights are drawn after this seed.
    set_seed(config.seed)
    _place(pipeline, weights, config.enable_xformers_memory_efficient_attention, run)
    prompts = _prompts(config, [*instances, *prior, *held_out], pipeline, run)
    data_sets = _data_sets(config, prompts, pipeline, run)
    sets = [data_sets(examples) for examples in (instances, prior) if examples]
    weights.attach(pipeline)
    if config.gradient_checkpointing:
        _checkpoint_gradients(weights.models)
    parameters = [p for model in weights.models for p in model.parameters() if p.requires_grad]
    *models, optimizer = run.prepare(*weights.models, adamw(parameters, config), average=weights.models)
    _record(config, base, instances, prior, parameters, run)

    losses = _losses(config, models, prompts, pipeline)
    validate_every = config.validate_every(run.steps_per_epoch(*sets))
    grids = _sample_grids(config, pipeline, run) if validate_every else None
    held_out_set = data_sets(held_out) if held_out else None
    plain_losses = _losses(config, weights.models, prompts, pipeline)
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
            mean = held_out_loss(held_out_set, plain_losses, run, weights.models, config.train_batch_size, config.seed)
            run.write_metrics(held_out_loss=mean)
        if grids is not None and run.due(validate_every):
            grids.save(weights.models)

    _save(weights, base, models, run)


# --- before the model is loaded ---


def examine(config: DreamboothConfig) -> Iterator[Finding]:
    """What can be said of a recipe before it is tried: its base model, the memory it takes, prompts that are cut."""
    base = _base(config)
    try:
        number, weights = recipe.count_weights(base), _weights(config)
    except InputError as error:
        yield Finding("FIX", "model", str(error))
        return
    yield from of_base_model(base.name_or_path, number)
    yield from memory.findings(config, base, weights)
    try:
        prompts = _trained_prompts(config, _instances(config))
    except InputError as error:
        yield Finding("note", "captions", f"not looked at: {error}")
        return
    yield recipe.of_prompts(base, prompts, _all_prompts(config, prompts), config.tokenizer_max_length)


def peak_memory(config: DreamboothConfig, precision: str, gpu: bool) -> memory.Estimate:
    """The memory that a recipe takes; raises `InputError` if its base model must be downloaded first."""
    base = _base(config)
    networks = memory.architecture(base)
    if networks is None:
        raise InputError(f"{base.name_or_path} is not on this machine: hf download {base.name_or_path}")
    return memory.estimate(networks, config, _weights(config), precision, gpu)


def _base(config: DreamboothConfig) -> BaseModel:
    return BaseModel(config.pretrained_model_name_or_path, config.revision, config.variant, config.tokenizer_name)


def _trained_prompts(config: DreamboothConfig, instances: Sequence[Example]) -> set[str]:
    return {e.prompt for e in instances} | (set(config.class_prompt) if config.with_prior_preservation else set())


def _all_prompts(config: DreamboothConfig, trained: set[str]) -> list[str]:
    """With those of the sample grids."""
    return sorted(trained | {*(config.validation_prompt or ())})


def _weights(config: DreamboothConfig) -> FullWeights | LoraWeights:
    if config.adapters is None:
        return FullWeights(config.train_text_encoder, not config.skip_save_text_encoder)
    return LoraWeights(config.train_text_encoder, **config.adapters)


def _read_images(config: DreamboothConfig, base: BaseModel) -> tuple[list[Example], list[Example]]:
    """The instance images and the held-out ones, after all checks that need no model.

    Raises:
        InputError: for a missing package, images that are missing or damaged, or another kind of model.
    """
    if config.enable_xformers_memory_efficient_attention:
        _require_xformers()
    if config.instance_data_dir is not None:
        _check_folders(Path(config.instance_data_dir), config.class_data_dir)
    if not config.with_prior_preservation and (config.class_prompt or config.class_data_dir):
        print("warning: --class_prompt and --class_data_dir are not used without --with_prior_preservation")
    instances, held_out = _instances(config), _held_out(config) if config.held_out_steps else []
    base.check()
    check_readable(files_of(instances + held_out))
    if config.with_prior_preservation:
        own = own_images(Path(config.class_data_dir), config.class_prompt)
        check_readable([str(path) for path in own])
    return instances, held_out


def _instances(config: DreamboothConfig) -> list[Example]:
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


def _held_out(config: DreamboothConfig) -> list[Example]:
    return manifest_examples(
        config.data_dir,
        "val",
        config.instance_class,
        config.exclude_classes or (),
        config.instance_prompt,
        at_most=config.held_out_images,
        seed=config.seed,
    )


def _check_folders(instance_data_dir: Path, class_data_dir: str | None) -> None:
    """Refuse class images that are the instance images, and warn of captions that are not read."""
    if class_data_dir and instance_data_dir.resolve() == Path(class_data_dir).resolve():
        raise InputError(
            f"{instance_data_dir} is given as instance_data_dir and class_data_dir: keep the class images in a folder "
            "of their own"
        )
    texts = [p for p in instance_data_dir.glob("*.txt") if any(p.with_suffix(s).exists() for s in preprocess.FORMATS)]
    if texts:
        files = counted(len(texts), "caption file", "caption files")
        print(
            f"warning: {files} beside the images (such as {min(texts).name}) will not be read, because all images get "
            "--instance_prompt; to train on captions give --data_dir, a manifest with a column caption"
        )


def _require_xformers() -> None:
    if importlib.util.find_spec("xformers") is None:
        raise InputError("xformers is not installed: pip install 'dermgen[xformers]', or leave the option out")
    if not torch.cuda.is_available():
        raise InputError("xformers needs a CUDA GPU: leave --enable_xformers_memory_efficient_attention out")


def _check_sharding(config: DreamboothConfig, weights: FullWeights | LoraWeights, run: Run) -> None:
    if run.accelerator.distributed_type != DistributedType.FSDP:
        return
    if not weights.shardable:
        raise InputError("FSDP shards weights that LoRA does not train: use accelerate_configs/multi_gpu.yaml")
    if config.validation_prompt or config.held_out_steps:
        raise InputError(
            "sample grids and held-out losses need whole weights, which FSDP does not keep: leave them out"
        )


# --- the model and the images ---


def _load(
    config: DreamboothConfig, base: BaseModel, instances: Sequence[Example], run: Run
) -> tuple[StableDiffusionPipeline, list[Example]]:
    """The pipeline, whose scheduler has the prediction type of the training, and the class images."""
    pipeline = base.load()
    prompts = _trained_prompts(config, instances)
    check_prompts(prompts, pipeline.tokenizer)
    if run.is_main:
        base.require_same(run.output_dir)
        texts = _all_prompts(config, prompts)
        if cut := cut_texts(texts, pipeline.tokenizer, config.tokenizer_max_length):
            print(
                f"{cut_warning(cut, len(texts))}; `dermgen prepare --tokenizer MODEL` shows which attributes are lost"
            )
    prior = _class_images(config, base, pipeline, run) if config.with_prior_preservation else []
    if config.prediction_type:
        scheduler = pipeline.scheduler
        pipeline.scheduler = scheduler.from_config(scheduler.config, prediction_type=config.prediction_type)
    return pipeline, prior


def _class_images(
    config: DreamboothConfig, base: BaseModel, pipeline: StableDiffusionPipeline, run: Run
) -> list[Example]:
    return class_images(
        Path(config.class_data_dir),
        config.class_prompt,
        config.num_class_images,
        base,
        pipeline,
        run.accelerator,
        config.sample_batch_size,
        config.seed,
        config.class_guidance_scale,
        config.prior_generation_precision,
        resumed=bool(checkpoints(run.output_dir)),
    )


def _place(pipeline: StableDiffusionPipeline, weights: FullWeights | LoraWeights, xformers: bool, run: Run) -> None:
    """Move the models to the device, frozen ones in the precision of the run.

    The autoencoder stays in float32 under fp16, where Stable Diffusion's overflows.
    """
    device = run.accelerator.device
    half = DTYPES.get(run.accelerator.mixed_precision, torch.float32)
    unet, text_encoder = weights.precisions(half)
    pipeline.vae.to(device, torch.float32 if half == torch.float16 else half).eval()
    pipeline.text_encoder.to(device, text_encoder).eval()
    pipeline.unet.to(device, unet)
    if xformers:
        pipeline.unet.enable_xformers_memory_efficient_attention()


def _prompts(
    config: DreamboothConfig, examples: Sequence[Example], pipeline: StableDiffusionPipeline, run: Run
) -> PromptSource:
    """All distinct prompts, and the empty one for caption dropout last."""
    source = PromptSource(
        [*dict.fromkeys(e.prompt for e in examples), ""],
        pipeline.tokenizer,
        pipeline.text_encoder,
        config.tokenizer_max_length,
        config.text_encoder_use_attention_mask,
    )
    if config.encodes_prompts_once:
        source.cache(_cache_dir(config), run.accelerator)
    return source


def _data_sets(
    config: DreamboothConfig, prompts: PromptSource, pipeline: StableDiffusionPipeline, run: Run
) -> DataSets:
    return DataSets(
        vae=pipeline.vae,
        prompt_numbers={prompt: i for i, prompt in enumerate(prompts.prompts)},
        resolution=config.resolution,
        center_crop=config.center_crop,
        interpolation=config.image_interpolation_mode,
        flip=config.random_flip,
        masks=config.mask_loss_weight > 0,
        cache_dir=_cache_dir(config) if config.cache_latents else None,
        accelerator=run.accelerator,
    )


def _cache_dir(config: DreamboothConfig) -> Path:
    return Path(config.cache_dir) if config.cache_dir else default_cache_dir()


def _checkpoint_gradients(models: Sequence[nn.Module]) -> None:
    unet, *text_encoder = models
    unet.enable_gradient_checkpointing()
    for encoder in text_encoder:
        encoder.gradient_checkpointing_enable()


def _record(
    config: DreamboothConfig,
    base: BaseModel,
    instances: Sequence[Example],
    prior: Sequence[Example],
    parameters: Sequence[nn.Parameter],
    run: Run,
) -> None:
    """Record the real images that the run trains on: instance images, and the user's own class images."""
    own_paths = {str(path) for path in own_images(Path(config.class_data_dir))} if prior else set()
    rows = [{"image_id": e.image_id, "path": e.path} for e in instances]
    rows += [{"image_id": f"class/{Path(e.path).name}", "path": e.path} for e in prior if e.path in own_paths]
    rows = [{**row, "dx": "", "synthetic": "false"} for row in rows]
    if config.data_dir is None:
        data = SetFacts.of_plain_folder(len(instances))
    else:
        data = SetFacts.of(config.data_dir, [e.image_id for e in instances])
    trained_on.write(run.output_dir, run.accelerator, rows, [data], base.name_or_path)
    if run.is_main:
        run.record(
            **base.facts(),
            trained_parameters=sum(p.numel() for p in parameters),
            data_fingerprint=key_of(*(f"{e.image_id} {e.prompt}" for e in instances)),
            instance_images=len(instances),
            class_images=len(prior),
        )


def _losses(
    config: DreamboothConfig, models: Sequence[nn.Module], prompts: PromptSource, pipeline: StableDiffusionPipeline
) -> DenoisingLoss:
    """The loss of `models`: the UNet, and the text encoder if it is trained."""
    unet, *text_encoder = models
    return DenoisingLoss(
        unet=unet,
        unet_dtype=pipeline.unet.dtype,
        text_encoder=text_encoder[0] if text_encoder else None,
        latent_source=LatentSource(pipeline.vae, config.resolution, config.random_flip),
        prompt_source=prompts,
        noise_scheduler=DDPMScheduler.from_config(pipeline.scheduler.config),
        empty_prompt=len(prompts.prompts) - 1,
        caption_dropout=config.caption_dropout,
        offset_noise=config.offset_noise_strength if config.offset_noise else 0.0,
        snr_gamma=config.snr_gamma,
        mask_loss_weight=config.mask_loss_weight,
        timesteps_as_labels=config.class_labels_conditioning is not None,
    )


def _sample_grids(config: DreamboothConfig, pipeline: StableDiffusionPipeline, run: Run) -> SampleGrids:
    return SampleGrids(
        pipeline,
        run,
        config.validation_prompt,
        config.num_validation_images,
        config.seed,
        config.sample_batch_size,
        config.validation_guidance_scale,
        config.validation_scheduler,
        config.resolution,
        config.validation_base_rows,
    )


def _save(weights: FullWeights | LoraWeights, base: BaseModel, models: Sequence[nn.Module], run: Run) -> None:
    """Write the final weights, and check that they load unchanged."""
    if run.accelerator.mixed_precision != "no":
        weights.restore_frozen(base)
    for model in models:
        run.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # compare without autocast's rounding
    if run.accelerator.distributed_type == DistributedType.FSDP:
        states = [run.accelerator.get_state_dict(model) for model in models]
        weights = weights.gathered(base, states if run.is_main else ())
    with run.averaged_weights():
        if run.is_main:
            weights.save(run.output_dir)
            run.record(reloaded_output_difference=weights.verify(run.output_dir, base))
    run.accelerator.wait_for_everyone()
