"""DDPM (Ho et al. 2020, arXiv:2006.11239) in pixels, with or without classes and classifier-free guidance."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ConsistencyModelPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

from dermgen.config import InputError
from dermgen.data.loading import to_uint8
from dermgen.sampling import GeneratorOptions, class_indices, evaluating
from dermgen.settings.ddpm import DdpmConfig
from dermgen.training import diffusion
from dermgen.training.checkpoints import checkpoints
from dermgen.training.draws import Draws
from dermgen.training.from_scratch import Batch, FromScratch
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run
from dermgen.training.run_record import RunRecord
from dermgen.training.schedulers import check_steps, noise_scheduler


def build(config: DdpmConfig, num_classes: int) -> tuple[UNet2DModel, DDPMScheduler]:
    """The UNet, which has an extra class for "any class" if it is conditional, and its noise schedule."""
    channels = config.channels or [64, 128, 256, 256]
    attended = [config.resolution // 2**i in (config.attention_resolutions or [16, 8]) for i in range(len(channels))]
    unet = UNet2DModel(
        sample_size=config.resolution,
        block_out_channels=tuple(channels),
        layers_per_block=config.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attended),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)),
        attention_head_dim=32,
        # Groups of one channel would be instance norm, through which no colour of a whole image passes.
        norm_num_groups=math.gcd(*channels) // 4,
        dropout=config.dropout,
        num_class_embeds=num_classes + 1 if config.class_conditional else None,
    )
    # The paper's betas are for 1000 steps; others must end in noise as well (Nichol and Dhariwal 2021, their code).
    scale = 1000 / config.num_train_timesteps if config.beta_schedule == "linear" else 1.0
    schedule = DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
    )
    return unet, schedule


def train(config: DdpmConfig) -> UNet2DModel:
    """Train, and save the last and the best weights as diffusers pipelines in `output_dir` and `best/`.

    Raises:
        InputError: for wrong settings or data.
    """
    training = FromScratch(config, "ddpm")
    run, classes = training.run, training.classes
    unet, schedule = build(config, len(classes))
    _keep_to_schedule(schedule, run)
    model, optimizer = run.prepare(unet, adamw(list(unet.parameters()), config), average=unet)
    run.record(parameters=unet.num_parameters())
    sampler = DdpmGenerator(
        unet, schedule, classes, config.validation_inference_steps, config.validation_guidance_scale, scheduler="ddim"
    )

    def held_out_losses(batch: Batch) -> torch.Tensor:
        return denoising_losses(unet, schedule, *batch, config.snr_gamma)

    def save_to(folder: Path) -> None:
        save(unet, schedule, folder)

    for images, labels, draws in training.batches():
        if config.class_conditional:
            labels = torch.where(draws.uniform() < config.class_dropout, len(classes), labels)
        loss = denoising_losses(model, schedule, images, labels, draws, config.snr_gamma).mean()
        run.update(loss, optimizer)
        run.log(loss=loss)
        if run.due(config.validation_steps):
            training.save_samples(sampler)
            training.validate(lambda: training.held_out_loss(unet, held_out_losses), "val_loss", save_to)
    training.finish(save_to)
    return unet


def denoising_losses(
    model: nn.Module,
    schedule: DDPMScheduler,
    images: torch.Tensor,
    labels: torch.Tensor,
    draws: Draws,
    snr_gamma: float | None = None,
) -> torch.Tensor:
    """Squared error of the noise or velocity predicted at a random timestep, (N,).

    Args:
        model: the UNet; it is given the labels if it has a class embedding.
        schedule: its noise schedule and prediction type.
        images: (N, 3, H, W) in [-1, 1].
        labels: (N,) class indices.
        draws: one stream per image, for timestep and noise.
        snr_gamma: of min-SNR weights; None for none.
    """
    timesteps = draws.integers(schedule.config.num_train_timesteps)
    noise = draws.normal(*images.shape[1:])
    class_labels = labels if _is_conditional(model) else None
    return diffusion.denoising_losses(
        lambda noisy: model(noisy, timesteps, class_labels=class_labels).sample,
        schedule,
        images,
        noise,
        timesteps,
        snr_gamma,
    )


def save(unet: UNet2DModel, schedule: DDPMScheduler, folder: Path) -> None:
    """Write a pipeline that `diffusers.DiffusionPipeline.from_pretrained` loads and samples from without dermgen.

    diffusers' only pipeline for a UNet2DModel with classes is that of consistency models, which runs any scheduler:
    `pipeline(class_labels=[4], num_inference_steps=1000)`; guidance needs dermgen.
    """
    pipeline_class = ConsistencyModelPipeline if _is_conditional(unet) else DDPMPipeline
    pipeline_class(unet=unet, scheduler=schedule).save_pretrained(folder)


class DdpmGenerator:
    """An `ImageGenerator` over a UNet in pixels.

    Args:
        unet: on its device.
        schedule: the one that it was trained with.
        classes: codes in the order of the UNet's class embedding; the index after the last stands for any class.
        num_inference_steps: denoising steps.
        guidance_scale: weight of the class (Ho and Salimans 2022, arXiv:2207.12598); 1 is none.
        scheduler: one of `schedulers.SCHEDULERS`.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        schedule: DDPMScheduler,
        classes: Sequence[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        scheduler: str = "ddpm",
    ):
        self.unet, self.classes = unet, classes
        self.conditional = _is_conditional(unet)
        self.scheduler = noise_scheduler(scheduler, schedule.config)
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        check_steps(scheduler, schedule.config, num_inference_steps)
        if guidance_scale != 1 and not self.conditional:
            raise InputError(
                "guidance_scale steers towards a class, but this run was trained without classes: leave it out"
            )

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Generate one image per class code ("" of an unconditional run) as uint8 (N, 3, H, W)."""
        device, config = self.unet.device, self.unet.config
        requested = torch.tensor(class_indices(labels, self.classes, self.conditional), device=device)
        any_class = torch.full_like(requested, len(self.classes))
        draws = Draws(seeds, device)
        images = draws.normal(config.in_channels, config.sample_size, config.sample_size)
        scheduler = self.scheduler
        scheduler.set_timesteps(self.num_inference_steps, device=device)
        images = images * scheduler.init_noise_sigma
        noise = {"generator": draws.rngs} if "generator" in inspect.signature(scheduler.step).parameters else {}
        with evaluating(self.unet):
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(images, t)
                if not self.conditional:
                    prediction = self.unet(scaled, t).sample
                else:
                    prediction = self.unet(scaled, t, class_labels=requested).sample
                    if self.guidance_scale != 1:
                        unguided = self.unet(scaled, t, class_labels=any_class).sample
                        prediction = unguided + self.guidance_scale * (prediction - unguided)
                images = scheduler.step(prediction, t, images, **noise).prev_sample
        return to_uint8(images)


def load_generator(
    weights: Path, classes: Sequence[str], device: torch.device, options: GeneratorOptions
) -> DdpmGenerator:
    """The generator of a finished run, from a folder that `save` wrote."""
    unet = UNet2DModel.from_pretrained(weights, subfolder="unet", use_safetensors=True).to(device)
    schedule = DDPMScheduler.from_pretrained(weights, subfolder="scheduler")
    return DdpmGenerator(
        unet, schedule, classes, options.num_inference_steps, options.guidance_scale, options.scheduler
    )


def _keep_to_schedule(schedule: DDPMScheduler, run: Run) -> None:
    """Refuse to resume a run that was started with other betas: those of 1000 steps, whatever the number of steps."""
    recorded = RunRecord.read(run.output_dir).beta_end or 0.02
    if checkpoints(run.output_dir) and recorded != schedule.config.beta_end:
        raise InputError(
            f"{run.output_dir} was started by an older version, whose linear schedule does not reach noise in "
            f"{schedule.config.num_train_timesteps} steps: train again in a new output_dir"
        )
    run.record(beta_end=schedule.config.beta_end)


def _is_conditional(model: nn.Module) -> bool:
    unet = getattr(model, "module", model)  # several processes wrap it
    return unet.config.num_class_embeds is not None
