"""DCGAN (Radford et al. 2016, arXiv:1511.06434) and its class-conditional variant."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dermgen.data.loading import to_uint8
from dermgen.evaluate.monitoring import measure_samples, monitor
from dermgen.sampling import Critic, GeneratorOptions, class_indices, evaluating
from dermgen.settings.dcgan import DcganConfig
from dermgen.training import optimizers
from dermgen.training.adversarial import discriminator_loss, frozen, generator_loss, r1_penalty
from dermgen.training.augmentation import diff_augment
from dermgen.training.draws import MONITOR, STATISTICS, Draws, derive_seed
from dermgen.training.from_scratch import Batch, FromScratch
from dermgen.training.run import Run


class DcganGenerator(ModelMixin, ConfigMixin):
    """Latents to images by transposed convolutions with batch norm; a class is an embedding appended to the latents."""

    @register_to_config
    def __init__(self, resolution: int, latent_dim: int = 100, channels: int = 128, num_classes: int = 0):
        super().__init__()
        widths = [channels * 2**i for i in reversed(range(_halvings(resolution)))]
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        inputs = latent_dim * (2 if num_classes else 1)
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], 4, bias=False)]
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(
            *layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh()
        )
        _initialize(self)

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, H) in (-1, 1) of latents (N, latent_dim); labels (N,) are used if conditional."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        return self.layers(latents[:, :, None, None])


class DcganDiscriminator(ModelMixin, ConfigMixin):
    """Images to logits by strided convolutions.

    A class is either projected onto the last features, summed over the image (Miyato and Koyama 2018,
    arXiv:1802.05637), or an embedding as large as the image, its fourth channel.
    """

    @register_to_config
    def __init__(
        self, resolution: int, channels: int = 64, norm: str = "batch", num_classes: int = 0, projection: bool = True
    ):
        super().__init__()
        widths = [channels * 2**i for i in range(_halvings(resolution))]
        self.projected = nn.Embedding(num_classes, widths[-1]) if num_classes and projection else None
        self.channel = nn.Embedding(num_classes, resolution**2) if num_classes and not projection else None
        layers: list[nn.Module] = [nn.Conv2d(3 if self.channel is None else 4, widths[0], 4, 2, 1)]
        for before, after in pairwise(widths):
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(before, after, 4, 2, 1, bias=norm != "batch")]
            layers += [nn.BatchNorm2d(after)] if norm == "batch" else []
        self.features = nn.Sequential(*layers, nn.LeakyReLU(0.2))
        self.head = nn.Conv2d(widths[-1], 1, 4)
        _initialize(self)
        if norm == "spectral":
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d | nn.Embedding):
                    spectral_norm(module)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of images (N, 3, H, H) in [-1, 1]; labels (N,) are used if conditional."""
        if self.channel is not None:
            images = torch.cat([images, self.channel(labels).view(-1, 1, *images.shape[2:])], dim=1)
        features = self.features(images)
        logits = self.head(features).flatten()
        if self.projected is not None:
            logits = logits + (self.projected(labels) * features.sum((2, 3))).sum(1)
        return logits


def build(config: DcganConfig, num_classes: int) -> tuple[DcganGenerator, DcganDiscriminator]:
    """The generator and the discriminator of the config."""
    num_classes = num_classes if config.class_conditional else 0
    generator = DcganGenerator(config.resolution, config.latent_dim, config.generator_channels, num_classes)
    discriminator = DcganDiscriminator(
        config.resolution,
        config.discriminator_channels,
        config.discriminator_norm,
        num_classes,
        config.conditioning == "projection",
    )
    return generator, discriminator


def train(config: DcganConfig) -> DcganGenerator:
    """Train, and save the last and the best generator, and the discriminator.

    Raises:
        InputError: for wrong settings or data.
    """
    training = FromScratch(config, "dcgan")
    run, lesions = training.run, training.lesions
    held_out = monitor(lesions.val, config, run.accelerator)
    generator, discriminator = build(config, len(lesions.classes))
    *_, g_optimizer, d_optimizer = run.prepare(
        generator,
        discriminator,
        *optimizers.adversarial(generator, discriminator, config),
        average=generator,
        wrap=False,
    )
    run.record(parameters=generator.num_parameters(), discriminator_parameters=discriminator.num_parameters())
    sampler = LatentGenerator(generator, lesions.classes)
    monitored = lesions.held_out_labels(config.class_conditional, config.monitor_samples)
    seeds = training.seeds(MONITOR, config.monitor_samples)

    def measure() -> dict[str, float]:
        return measure_samples(held_out, sampler, monitored, seeds, training.warn)

    def save(folder: Path) -> None:
        generator.save_pretrained(folder / "generator")

    def save_result(folder: Path) -> None:
        save(folder)
        discriminator.save_pretrained(folder / "discriminator")

    for batch in training.batches():
        d_loss, fake, logits = critic_step(generator, discriminator, batch, config, run.accelerator)
        run.update(d_loss, d_optimizer)
        g_loss = generator_step(discriminator, fake, batch, config, run.accelerator)
        run.update(g_loss, g_optimizer)
        run.log(d_loss=d_loss, g_loss=g_loss, **logits)
        if run.due(config.validation_steps):
            with averaged(run, generator, training.datasets[0].labels):
                training.save_samples(sampler)
                training.validate(measure, "val_kid", save)
    with averaged(run, generator, training.datasets[0].labels):
        training.finish(save_result)
    return generator


def critic_step(
    generator: DcganGenerator,
    discriminator: DcganDiscriminator,
    batch: Batch,
    config: DcganConfig,
    accelerator: Accelerator,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The discriminator's loss, the generated images with the generator's graph, and mean logits to log."""
    real, labels, draws = batch
    with accelerator.autocast():
        fake = generator(draws.normal(config.latent_dim), labels)
        real_logits = discriminator(_seen(real, draws, config), labels)
        fake_logits = discriminator(_seen(fake.detach(), draws, config), labels)
    loss = discriminator_loss(real_logits, fake_logits)
    if config.r1_gamma:
        penalty = r1_penalty(lambda images: discriminator(images, labels), _seen(real, draws, config))
        loss = loss + config.r1_gamma / 2 * penalty
    return loss.mean(), fake, {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}


def generator_step(
    discriminator: DcganDiscriminator, fake: torch.Tensor, batch: Batch, config: DcganConfig, accelerator: Accelerator
) -> torch.Tensor:
    """The generator's loss on the images of `critic_step`, by the updated discriminator."""
    with frozen(discriminator), accelerator.autocast():
        return generator_loss(discriminator(_seen(fake, batch.draws, config), batch.labels)).mean()


def _seen(images: torch.Tensor, draws: Draws, config: DcganConfig) -> torch.Tensor:
    """The images as the discriminator sees them."""
    return diff_augment(images, draws) if config.diff_augment else images


@contextmanager
def averaged(run: Run, generator: DcganGenerator, labels: Sequence[int]) -> Iterator[None]:
    """Within the block the generator has its EMA weights, and batch statistics measured with them.

    The statistics of the training belong to the activations of other weights. Classes are drawn with their frequencies
    among `labels`, those of the training images.
    """
    if not run.config.ema_decay:
        yield
        return
    classes = torch.tensor(labels, device=generator.device)
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    with run.averaged_weights():
        kept = [(n.running_mean.clone(), n.running_var.clone(), n.num_batches_tracked.clone()) for n in norms]
        momenta = [n.momentum for n in norms]
        for n in norms:
            n.reset_running_stats()
            n.momentum = None  # a plain mean over the batches
        with torch.no_grad():
            for i in range(16):
                draws = Draws([derive_seed(run.config.seed, STATISTICS, i, j) for j in range(64)], generator.device)
                generator(draws.normal(generator.config.latent_dim), classes[draws.integers(len(classes))])
        try:
            yield
        finally:
            for n, momentum, (mean, var, count) in zip(norms, momenta, kept, strict=True):
                n.momentum = momentum
                n.running_mean.copy_(mean)
                n.running_var.copy_(var)
                n.num_batches_tracked.copy_(count)


class LatentGenerator:
    """An `ImageGenerator` that maps latents of a normal distribution to images."""

    def __init__(self, generator: DcganGenerator, classes: Sequence[str]):
        self.generator, self.classes = generator, classes

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Generate one image per class code ("" of an unconditional run) as uint8 (N, 3, H, W)."""
        generator = self.generator
        indices = class_indices(labels, self.classes, generator.config.num_classes > 0)
        latents = Draws(seeds, generator.device).normal(generator.config.latent_dim)
        with evaluating(generator):  # batch norm by its own statistics: no image depends on its neighbours
            return to_uint8(generator(latents, torch.tensor(indices, device=generator.device)))


def load_generator(
    weights: Path, classes: Sequence[str], device: torch.device, options: GeneratorOptions
) -> LatentGenerator:
    """The generator of a finished run, from the folder that holds `generator/`."""
    generator = DcganGenerator.from_pretrained(weights, subfolder="generator", use_safetensors=True)
    return LatentGenerator(generator.to(device), classes)


def load_critic(run_dir: Path, classes: Sequence[str], resolution: int, device: torch.device, domain: None) -> Critic:
    """The discriminator of a finished run."""
    discriminator = DcganDiscriminator.from_pretrained(run_dir, subfolder="discriminator", use_safetensors=True)
    return Critic(discriminator.to(device), resolution, classes, discriminator.config.num_classes > 0)


def _halvings(resolution: int) -> int:
    """How many halvings make an image 4 pixels high."""
    return int(math.log2(resolution)) - 2


def _initialize(model: nn.Module) -> None:
    """Draw weights from N(0, 0.02), as in the paper, and scales of batch norm from N(1, 0.02).

    This includes embeddings: if classes start as large as latents, a generator is trained to ignore the latents.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
