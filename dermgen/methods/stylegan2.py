"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in plain PyTorch operations.

Two losses: the paper's, non-saturating logistic with lazy R1 and path-length regularisation, with the adaptive
augmentation of arXiv:2006.06676; and WGAN-GP with spectral normalisation and several critic updates.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dermgen.config import InputError
from dermgen.data.loading import collate, to_uint8
from dermgen.data.sheets import save_grid
from dermgen.evaluate.monitoring import monitor, sample_classes, validate
from dermgen.sampling import normal
from dermgen.settings.stylegan2 import Stylegan2Config
from dermgen.training.adversarial import (
    discriminator_loss,
    frozen,
    generator_loss,
    gradient_penalty,
    path_lengths,
    r1_penalty,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from dermgen.training.augmentation import adaptive_augment
from dermgen.training.draws import Draws, derive_seed
from dermgen.training.from_scratch import (
    PICTURES,
    Critic,
    Lesions,
    class_indices,
    discriminator_rate,
    evaluating,
    how_to_ask,
    read_lesions,
    sample_labels,
    save_curves,
    save_samples,
    tell_result,
    training_batch,
    training_set,
)
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run

SQRT2 = math.sqrt(2)


class EqualizedLinear(nn.Module):
    """A linear layer whose weights are all learnt at one scale (Karras et al. 2018, arXiv:1710.10196, section 4.1).

    It works in float32 whatever the autocast, as in NVIDIA's code: a style rounded to half precision is another style.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.gain, self.lr_multiplier = lr_multiplier / math.sqrt(inputs), lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight * self.gain, self.bias * self.lr_multiplier)


class EqualizedConv(nn.Module):
    """A convolution of stride 1 or, after a low-pass filter, 2; equalised, or spectrally normalised."""

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True, spectral=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.kernel, self.down = kernel, down
        self.gain = 1.0 if spectral else 1 / math.sqrt(inputs * kernel**2)
        if spectral:
            spectral_norm(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down:
            x = low_pass(x, padding=self.kernel // 2 + 1)
        padding = 0 if self.down else self.kernel // 2
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=2 if self.down else 1, padding=padding)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by each image's style, and brought back to unit norm (paper, eq. 1 to 3).

    Scaling input and output channels gives what an own set of weights for each image would.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate=True, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.demodulate, self.up, self.padding = demodulate, up, kernel // 2

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """(N, outputs, H, W), or twice the size, of x (N, inputs, H, W) and w (N, style_dim)."""
        style, weight = self.style(w), self.weight * self.gain
        x = x * style[:, :, None, None]
        if self.up:
            x = low_pass(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4)
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            energy = (weight.square().sum((2, 3)) @ style.square().T).T  # (N, outputs)
            x = x * (energy + 1e-8).rsqrt()[:, :, None, None]
        return x


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: bool):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`noise` (N, H, W) at the size of the output."""
        x = self.conv(x, w) + self.noise_strength * noise[:, None] + self.bias[:, None, None]
        return F.leaky_relu(x, 0.2) * SQRT2


class StyleGenerator(ModelMixin, ConfigMixin):
    """Mapping network and skip generator.

    Args:
        resolution: height and width in pixels, a power of 2.
        latent_dim: width of z and w.
        mapping_layers: from z to w.
        channel_base: a layer of H pixels has `channel_base / H` channels,
        channel_max: and at most this many.
        num_classes: 0 is unconditional.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int,
        latent_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_classes: int = 0,
    ):
        super().__init__()
        widths = [_channels(r, channel_base, channel_max) for r in _heights(resolution)]
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        given = [latent_dim * (2 if num_classes else 1)] + [latent_dim] * (mapping_layers - 1)
        self.mapping = nn.ModuleList([EqualizedLinear(width, latent_dim, lr_multiplier=0.01) for width in given])
        self.register_buffer("w_mean", torch.zeros(max(1, num_classes), latent_dim))
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([SynthesisLayer(widths[0], widths[0], latent_dim, up=False)])
        for before, after in pairwise(widths):
            self.layers += [
                SynthesisLayer(before, after, latent_dim, up=True),
                SynthesisLayer(after, after, latent_dim, up=False),
            ]
        self.to_rgb = nn.ModuleList([ModulatedConv(c, 3, 1, latent_dim, demodulate=False) for c in widths])
        self.rgb_bias = nn.Parameter(torch.zeros(len(widths), 3))

    @property
    def noise_sizes(self) -> list[int]:
        """Heights of the noise of each layer."""
        heights = _heights(self.config.resolution)
        return [heights[0], *(h for h in heights[1:] for _ in range(2))]

    @property
    def num_styles(self) -> int:
        """One for each layer, and one for the last conversion to colours."""
        return len(self.layers) + 1

    def map(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """w (N, latent_dim) of z (N, latent_dim); labels (N,) count if conditional."""
        x = _unit(z)
        if self.embedding is not None:
            x = torch.cat([x, _unit(self.embedding(labels))], dim=1)
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2) * SQRT2
        return x

    def truncate(self, w: torch.Tensor, labels: torch.Tensor, psi: float) -> torch.Tensor:
        """w drawn towards the mean of its class: `psi` 1 is w itself, 0 the mean (Karras et al. 2019, eq. in B)."""
        mean = self.w_mean[labels]
        return mean + psi * (w - mean)

    def synthesize(self, styles: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, H), about [-1, 1], of styles (N, num_styles, latent_dim) and noise (N, sum of sizes²)."""
        parts = noise.split([size**2 for size in self.noise_sizes], dim=1)
        maps = [part.view(-1, size, size) for part, size in zip(parts, self.noise_sizes, strict=True)]
        x = self.constant.expand(len(styles), -1, -1, -1)
        image = None
        for i, to_rgb in enumerate(self.to_rgb):
            with _precision(x, self.config.resolution, _heights(self.config.resolution)[i]):
                for k in (2 * i - 1, 2 * i) if i else (0,):
                    x = self.layers[k](x, styles[:, k], maps[k])
                colours = to_rgb(x, styles[:, 2 * i + 1])
            colours = colours.float() + self.rgb_bias[i][:, None, None]
            image = colours if image is None else upsample(image) + colours
        return image

    def forward(self, z: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images of z, with one style for all layers."""
        return self.synthesize(self.map(z, labels)[:, None].expand(-1, self.num_styles, -1), noise)


class StyleDiscriminator(ModelMixin, ConfigMixin):
    """Residual discriminator with minibatch standard deviation; a class is projected onto its last features."""

    @register_to_config
    def __init__(
        self,
        resolution: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_classes: int = 0,
        spectral: bool = False,
    ):
        super().__init__()
        widths = [_channels(r, channel_base, channel_max) for r in reversed(_heights(resolution))]
        self.from_rgb = EqualizedConv(3, widths[0], 1, spectral=spectral)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    EqualizedConv(before, before, 3, spectral=spectral),
                    EqualizedConv(before, after, 3, down=True, spectral=spectral),
                    EqualizedConv(before, after, 1, down=True, bias=False, spectral=spectral),
                ]
            )
            for before, after in pairwise(widths)
        )
        self.last = EqualizedConv(widths[-1] + 1, widths[-1], 3, spectral=spectral)
        self.features = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.head = EqualizedLinear(widths[-1], 1)
        self.projected = EqualizedLinear(widths[-1], num_classes) if num_classes else None

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of images (N, 3, H, H); labels (N,) count if conditional."""
        resolution = self.config.resolution
        with _precision(images, resolution, resolution):
            x = _activate(self.from_rgb(images))
        for height, (first, second, skip) in zip(reversed(_heights(resolution)), self.blocks, strict=False):
            with _precision(x, resolution, height) as x:
                x = (_activate(second(_activate(first(x)))) + skip(x)) / SQRT2
        with _precision(x, resolution, 4) as x:
            x = _activate(self.last(torch.cat([x, minibatch_deviation(x)], dim=1)))
        x = _activate(self.features(x.flatten(1)))
        logits = self.head(x)
        if self.projected is not None:
            logits = logits + self.projected(x).gather(1, labels[:, None])
        return logits.flatten()


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """How much images differ from others of their group, as a channel (N, 1, H, W) (Karras et al. 2018, section 3).

    The batch is dealt out into groups of at most `group`, image i with i + N / group, …; the standard deviation of each
    feature over the group, averaged over the features, is the same everywhere in its images.
    """
    n, _, height, width = x.shape
    size = max(k for k in range(1, min(group, n) + 1) if n % k == 0)
    groups = x.float().reshape(size, n // size, -1)
    deviation = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(1)
    return deviation.repeat(size).view(n, 1, 1, 1).expand(n, 1, height, width).to(x.dtype)


def low_pass(x: torch.Tensor, padding: int, gain: float = 1.0) -> torch.Tensor:
    """Each channel of (N, C, H, W) filtered with [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64 x gain, zeros around it.

    Shifted sums: a convolution of one channel at a time has a backward pass ten times as slow.
    """
    x = F.pad(x, [padding] * 4)
    x = x[..., :-3] + 3 * (x[..., 1:-2] + x[..., 2:-1]) + x[..., 3:]
    return (x[..., :-3, :] + 3 * (x[..., 1:-2, :] + x[..., 2:-1, :]) + x[..., 3:, :]) * (gain / 64)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Twice the size: zeros between the pixels, then the low-pass filter with gain 4."""
    spread = torch.stack([x, torch.zeros_like(x)], dim=-1).flatten(3)
    spread = torch.stack([spread, torch.zeros_like(spread)], dim=-2).flatten(2, 3)
    return low_pass(F.pad(spread, [1, 0, 1, 0]), padding=1, gain=4)


class AdaptiveAugmentation(nn.Module):
    """Augmentation whose probability rises while the discriminator is too sure of real images (arXiv:2006.06676).

    Args:
        target: mean sign of D(real) to be held.
        images: in which the probability can go from 0 to 1.
        interval: updates between two adjustments.
    """

    def __init__(self, target: float, images: float, interval: int = 4):
        super().__init__()
        self.target, self.images, self.interval = target, images, interval
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3))  # sum of signs, images, updates

    def forward(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        return adaptive_augment(images, draws, float(self.p))

    @torch.no_grad()
    def update(self, real_logits: torch.Tensor, accelerator: Accelerator) -> None:
        """Take note of the logits of real images, and adjust every `interval` updates."""
        new = torch.stack([real_logits.sign().sum(), real_logits.new_tensor(len(real_logits))])
        self.seen[:2] += accelerator.reduce(new.float(), "sum")
        self.seen[2] += 1
        if self.seen[2] == self.interval:
            total, count, _ = self.seen
            self.p.copy_((self.p + (total / count - self.target).sign() * count / self.images).clamp(0, 1))
            self.seen.zero_()


class PathLengthPenalty(nn.Module):
    """Squared deviation of path lengths from their running mean (paper, section 3.2)."""

    def __init__(self, decay: float = 0.01):
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, lengths: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
        """(N,) penalties of path lengths (N,); their mean over all processes moves the running mean first."""
        current = accelerator.reduce(lengths.detach().mean(), "mean")
        self.mean.lerp_(current, self.decay)
        return (lengths - self.mean) ** 2


def build(config: Stylegan2Config, num_classes: int) -> tuple[StyleGenerator, StyleDiscriminator]:
    """Generator and discriminator that the config asks for."""
    num_classes = num_classes if config.class_conditional else 0
    widths = (config.channel_base, config.channel_max)
    generator = StyleGenerator(config.resolution, config.latent_dim, config.mapping_layers, *widths, num_classes)
    return generator, StyleDiscriminator(config.resolution, *widths, num_classes, config.spectral_norm)


def train(config: Stylegan2Config) -> StyleGenerator:
    """Train, and save the last and the best generator, the discriminator, and pictures of styles mixed and blended.

    Raises:
        InputError: for wrong settings or data.
    """
    lesions = read_lesions(config)
    run = Run(config)
    dataset = training_set(lesions, config, run, "stylegan2")
    accelerator = run.accelerator
    if accelerator.mixed_precision == "fp16":
        raise InputError("a StyleGAN2's activations outgrow fp16: take --mixed_precision bf16 or no")
    held_out = monitor(lesions.val, config, accelerator)
    generator, discriminator = build(config, len(lesions.classes))
    augmentation = AdaptiveAugmentation(config.ada_target or 0.0, config.ada_kimg * 1000)
    path_length_penalty = PathLengthPenalty()
    *_, g_optimizer, d_optimizer = run.prepare(
        generator,
        discriminator,
        augmentation,
        path_length_penalty,
        adamw(generator.parameters(), config),
        adamw(discriminator.parameters(), config, lr=discriminator_rate(config)),
        average=generator,
        wrap=False,
    )
    run.record(parameters=generator.num_parameters(), discriminator_parameters=discriminator.num_parameters())
    samples = StyleGan2Generator(generator, lesions.classes)
    asked = sample_classes(lesions, config)
    r1_gamma = config.r1_gamma
    if r1_gamma is None:
        r1_gamma = 0.0002 * config.resolution**2 / run.images_per_step

    for batch in run.batches(*[dataset] * config.n_critic, collate_fn=collate):
        batches = (batch,) if config.n_critic == 1 else batch
        for part, draws in zip(batches, run.draws.split([len(b["label"]) for b in batches]), strict=True):
            real, labels = training_batch(part, draws, config)
            with torch.no_grad(), accelerator.autocast():
                styles = draw_styles(generator, labels, draws, config.style_mixing)
                fake = generator.synthesize(styles, draw_noise(generator, draws))
            track_mean_style(generator, styles[:, 0], labels, accelerator)
            real, fake = augmentation(real, draws), augmentation(fake.float(), draws)

            def judged(images: torch.Tensor, labels: torch.Tensor = labels) -> torch.Tensor:
                return discriminator(images, labels)

            with accelerator.autocast():
                real_logits, fake_logits = judged(real), judged(fake)
            if config.loss == "logistic":
                d_loss = discriminator_loss(real_logits, fake_logits)
                if run.step % config.r1_interval == 0 and r1_gamma:
                    # Of what the discriminator sees: a resampling has no second derivative in PyTorch.
                    penalty = r1_penalty(judged, real)
                    d_loss = d_loss + r1_gamma / 2 * config.r1_interval * penalty
                    run.log(r1=penalty.mean())
            else:
                penalty = gradient_penalty(judged, real, fake, draws.uniform(1, 1, 1))
                d_loss = wasserstein_critic_loss(real_logits, fake_logits) + config.gradient_penalty_weight * penalty
                run.log(gradient_penalty=penalty.mean())
            run.update(d_loss.mean(), d_optimizer)
            if config.ada_target is not None:
                augmentation.update(real_logits, accelerator)
            run.log(d_loss=d_loss.mean(), real_logit=real_logits.mean(), fake_logit=fake_logits.mean())
        with frozen(discriminator), accelerator.autocast():
            styles = draw_styles(generator, labels, draws, config.style_mixing)
            fake = generator.synthesize(styles, draw_noise(generator, draws))
            logits = discriminator(augmentation(fake.float(), draws), labels)
        g_loss = generator_loss(logits) if config.loss == "logistic" else wasserstein_generator_loss(logits)
        total = g_loss.mean()
        if config.loss == "logistic" and config.path_length_weight and run.step % config.path_length_interval == 0:
            lengths = style_path_lengths(generator, labels, draws, config.style_mixing)
            penalty = path_length_penalty(lengths, accelerator).mean()
            total = total + config.path_length_weight * config.path_length_interval * penalty
            run.log(path_length=lengths.mean())
        run.update(total, g_optimizer)
        run.log(g_loss=g_loss.mean())
        if config.ada_target is not None:
            run.log(augmentation_p=augmentation.p)
        if run.due(config.validation_steps):
            save_samples(run, samples, lesions, config)
            validate(run, held_out, samples, asked, config, lambda d: generator.save_pretrained(d / "generator"))
            save_curves(run)
    with run.averaged_weights():
        if run.is_main:
            generator.save_pretrained(run.output_dir / "generator")
            discriminator.save_pretrained(run.output_dir / "discriminator")
            _save_style_pictures(run, generator, lesions, config)
    accelerator.wait_for_everyone()
    tell_result(run, how_to_ask(lesions, config))
    return generator


def draw_styles(generator: StyleGenerator, labels: torch.Tensor, draws: Draws, mixing: float) -> torch.Tensor:
    """Styles (N, num_styles, latent_dim); a share `mixing` of images changes to another style at a random layer."""
    dim, count = generator.config.latent_dim, generator.num_styles
    first = generator.map(draws.normal(dim), labels)[:, None].expand(-1, count, -1)
    if not mixing:
        return first
    second = generator.map(draws.normal(dim), labels)[:, None]
    change = 1 + draws.integers(count - 1)
    change = torch.where(draws.uniform() < mixing, change, count)
    keep = torch.arange(count, device=labels.device) < change[:, None]
    return torch.where(keep[:, :, None], first, second)


def draw_noise(generator: StyleGenerator, draws: Draws) -> torch.Tensor:
    return draws.normal(sum(size**2 for size in generator.noise_sizes))


@torch.no_grad()
def track_mean_style(
    generator: StyleGenerator, w: torch.Tensor, labels: torch.Tensor, accelerator: Accelerator, decay: float = 0.995
) -> None:
    """Move the mean style of each class that occurs towards the styles (N, latent_dim) of its images."""
    w, labels = accelerator.gather(w.float()), accelerator.gather(labels)
    if generator.embedding is None:
        labels = torch.zeros_like(labels)
    for label in labels.unique():
        generator.w_mean[label] = w[labels == label].mean(0).lerp(generator.w_mean[label], decay)


def style_path_lengths(generator: StyleGenerator, labels: torch.Tensor, draws: Draws, mixing: float) -> torch.Tensor:
    """Path lengths of half of the batch, in float32 whatever the autocast."""
    half = max(1, len(labels) // 2)
    (part, *_) = draws.split([half, len(labels) - half])
    with torch.autocast(labels.device.type, enabled=False):
        styles = draw_styles(generator, labels[:half], part, mixing).float()
        images = generator.synthesize(styles, draw_noise(generator, part))
        return path_lengths(images, styles, part.normal(*images.shape[1:]))


class StyleGan2Generator:
    """An `ImageGenerator` over a style generator.

    Args:
        generator: on its device.
        classes: codes in the order of its embedding.
        truncation: psi; less than 1 trades variety for typical looks.
    """

    def __init__(self, generator: StyleGenerator, classes: Sequence[str], truncation: float = 1.0):
        self.generator, self.classes, self.truncation = generator, classes, truncation

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Draw one image per class code ("" of an unconditional run) as uint8 (N, 3, H, W)."""
        generator, dim = self.generator, self.generator.config.latent_dim
        asked = class_indices(labels, self.classes, generator.config.num_classes > 0)
        y = torch.tensor(asked, device=generator.device)
        numbers = normal(seeds, dim + sum(size**2 for size in generator.noise_sizes)).to(generator.device)
        with evaluating(generator):
            w = generator.map(numbers[:, :dim], y)
            if not generator.config.num_classes:
                y = torch.zeros_like(y)
            styles = generator.truncate(w, y, self.truncation)[:, None].expand(-1, generator.num_styles, -1)
            return to_uint8(generator.synthesize(styles, numbers[:, dim:]))


def load_generator(weights: Path, classes: Sequence[str], truncation: float, device) -> StyleGan2Generator:
    """The generator of a finished run, from the folder that holds `generator/`."""
    generator = StyleGenerator.from_pretrained(weights, subfolder="generator", use_safetensors=True)
    return StyleGan2Generator(generator.to(device), classes, truncation)


def load_critic(run_dir: Path, classes: Sequence[str], device: torch.device) -> "SingleImageCritic":
    """The discriminator of a finished run."""
    discriminator = StyleDiscriminator.from_pretrained(run_dir, subfolder="discriminator", use_safetensors=True)
    config = discriminator.config
    return SingleImageCritic(discriminator.to(device), config.resolution, classes, config.num_classes > 0)


class SingleImageCritic(Critic):
    """A critic that sees images one at a time: minibatch deviation would make a score depend on its neighbours."""

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        parts = zip(images.split(1), labels, strict=True)
        return torch.cat([super(SingleImageCritic, self).score(image, [label]) for image, label in parts])


def _save_style_pictures(run: Run, generator: StyleGenerator, lesions: Lesions, config: Stylegan2Config) -> None:
    """`style_mixing.png` (rows give the coarse styles, columns the fine ones) and `interpolations.png`."""
    count, dim = 6, generator.config.latent_dim
    device, folder = generator.device, run.output_dir / "samples"
    labels = sample_labels(lesions.classes, config.class_conditional, count)
    y = torch.tensor(class_indices(labels, lesions.classes, config.class_conditional), device=device)
    seeds = [derive_seed(config.seed, PICTURES, i) for i in range(count)]
    numbers = normal(seeds, dim + sum(size**2 for size in generator.noise_sizes)).to(device)
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


def _heights(resolution: int) -> list[int]:
    return [2**i for i in range(2, int(math.log2(resolution)) + 1)]


@contextmanager
def _precision(x: torch.Tensor, resolution: int, height: int) -> Iterator[torch.Tensor]:
    """Within the block autocast, if it is on, holds at the four largest sizes of at least 8 pixels, as in NVIDIA's
    code; at smaller ones `x` is float32."""
    if height >= max(8, resolution // 8):
        yield x
    else:
        with torch.autocast(x.device.type, enabled=False):
            yield x.float()


def _channels(height: int, base: int, most: int) -> int:
    return max(1, min(base // height, most))


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows scaled to a mean square of 1."""
    return x * (x.float().square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _activate(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * SQRT2
