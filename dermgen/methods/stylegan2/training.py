"""The training of a StyleGAN2, and pictures of mixed and interpolated styles."""

from pathlib import Path

import torch

from dermgen.config import InputError
from dermgen.data.loading import to_uint8
from dermgen.data.sheets import save_grid
from dermgen.evaluate.monitoring import measure_samples, monitor
from dermgen.methods.stylegan2.generation import StyleGan2Generator
from dermgen.methods.stylegan2.networks import StyleDiscriminator, StyleGenerator
from dermgen.methods.stylegan2.steps import AdaptiveAugmentation, PathLengthPenalty, critic_step, generator_step
from dermgen.sampling import class_indices, evaluating
from dermgen.settings.stylegan2 import Stylegan2Config
from dermgen.training import optimizers
from dermgen.training.draws import MONITOR, PICTURES, Draws
from dermgen.training.from_scratch import FromScratch


def build(config: Stylegan2Config, num_classes: int) -> tuple[StyleGenerator, StyleDiscriminator]:
    """The generator and the discriminator of the config."""
    num_classes = num_classes if config.class_conditional else 0
    widths = (config.channel_base, config.channel_max)
    generator = StyleGenerator(config.resolution, config.latent_dim, config.mapping_layers, *widths, num_classes)
    return generator, StyleDiscriminator(config.resolution, *widths, num_classes, config.spectral_norm)


def train(config: Stylegan2Config) -> StyleGenerator:
    """Train, and save the last and the best generator, the discriminator, and pictures of mixed styles.

    Raises:
        InputError: for wrong settings or data.
    """
    training = FromScratch(config, "stylegan2")
    run, lesions, accelerator = training.run, training.lesions, training.run.accelerator
    if accelerator.mixed_precision == "fp16":
        raise InputError("a StyleGAN2's activations overflow in fp16: use --mixed_precision bf16 or no")
    held_out = monitor(lesions.val, config, accelerator)
    generator, discriminator = build(config, len(lesions.classes))
    augmentation = AdaptiveAugmentation(config.ada_target or 0.0, config.ada_kimg * 1000)
    path_length_penalty = PathLengthPenalty()
    *_, g_optimizer, d_optimizer = run.prepare(
        generator,
        discriminator,
        augmentation,
        path_length_penalty,
        *optimizers.adversarial(generator, discriminator, config),
        average=generator,
        wrap=False,
    )
    run.record(parameters=generator.num_parameters(), discriminator_parameters=discriminator.num_parameters())
    sampler = StyleGan2Generator(generator, lesions.classes)
    labels = lesions.held_out_labels(config.class_conditional, config.monitor_samples)
    seeds = training.seeds(MONITOR, config.monitor_samples)

    def measure() -> dict[str, float]:
        return measure_samples(held_out, sampler, labels, seeds, training.warn)

    def save(folder: Path) -> None:
        generator.save_pretrained(folder / "generator")

    def save_result(folder: Path) -> None:
        save(folder)
        discriminator.save_pretrained(folder / "discriminator")
        _save_style_pictures(training, generator)

    networks = (generator, discriminator, augmentation)
    for batches in training.joint_batches(*training.datasets * config.n_critic):
        r1_weight, path_weight = lazy_weights(config, run.step, run.images_per_step)
        for batch in batches:
            d_loss, real_logits, logged = critic_step(*networks, batch, config, r1_weight, accelerator)
            run.update(d_loss, d_optimizer)
            run.log(**logged)
            if config.ada_target is not None:
                augmentation.update(real_logits, accelerator)
        g_loss, logged = generator_step(*networks, path_length_penalty, batches[-1], config, path_weight, accelerator)
        run.update(g_loss, g_optimizer)
        run.log(**logged)
        if config.ada_target is not None:
            run.log(augmentation_p=augmentation.p)
        if run.due(config.validation_steps):
            training.save_samples(sampler)
            training.validate(measure, "val_kid", save)
    training.finish(save_result)
    return generator


def lazy_weights(config: Stylegan2Config, step: int, batch: int) -> tuple[float, float]:
    """Weights of R1 and of the path-length penalty in that step, counted from 1: 0 in the steps between (paper, 3.1).

    R1's default is that of NVIDIA's code, for images of `resolution` pixels in batches of `batch`.
    """
    if config.loss != "logistic":
        return 0.0, 0.0
    r1_gamma = 0.0002 * config.resolution**2 / batch if config.r1_gamma is None else config.r1_gamma
    return (
        0.0 if step % config.r1_interval else r1_gamma / 2 * config.r1_interval,
        0.0 if step % config.path_length_interval else config.path_length_weight * config.path_length_interval,
    )


def _save_style_pictures(training: FromScratch, generator: StyleGenerator) -> None:
    """Write `style_mixing.png` (coarse styles of the row, fine styles of the column) and `interpolations.png`."""
    count, dim = 6, generator.config.latent_dim
    device, folder = generator.device, training.run.output_dir / "samples"
    conditional, classes = training.config.class_conditional, training.classes
    labels = training.lesions.sample_labels(conditional, count)
    y = torch.tensor(class_indices(labels, classes, conditional), device=device)
    numbers = Draws(training.seeds(PICTURES, count), device).normal(dim + generator.noise_values)
    noise = numbers[:1, dim:]
    with evaluating(generator):
        w = generator.map(numbers[:, :dim], y)
        styles = w[:, None].expand(-1, generator.num_styles, -1)
        coarse = torch.arange(generator.num_styles, device=device)[:, None] < generator.num_styles // 2
        sources = to_uint8(generator.synthesize(styles, noise.expand(count, -1)))
        rows = [torch.cat([torch.full_like(sources[:1], 255), sources])]
        for i in range(count):
            mixed = torch.where(coarse, styles[i : i + 1], styles)
            rows.append(torch.cat([sources[i : i + 1], to_uint8(generator.synthesize(mixed, noise.expand(count, -1)))]))
        save_grid(torch.cat(rows), folder / "style_mixing.png", columns=count + 1)
        share = torch.linspace(0, 1, 8, device=device)[:, None]
        blends = torch.cat([(1 - share) * w[i] + share * w[(i + 1) % count] for i in range(count)])
        images = [
            to_uint8(generator.synthesize(part[:, None].expand(-1, generator.num_styles, -1), noise.expand(8, -1)))
            for part in blends.split(8)
        ]
        save_grid(torch.cat(images), folder / "interpolations.png", columns=8)
