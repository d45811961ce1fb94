"""One update of the critic and one of the generator, and the state that both keep from step to step."""

import torch
from accelerate import Accelerator
from torch import nn

from dermgen.methods.stylegan2.networks import StyleDiscriminator, StyleGenerator
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
from dermgen.training.draws import Draws
from dermgen.training.from_scratch import Batch


class AdaptiveAugmentation(nn.Module):
    """Augmentation whose probability rises while the discriminator overfits the real images (arXiv:2006.06676).

    Args:
        target: mean sign of D(real) that is aimed at.
        images: number of images over which the probability can rise from 0 to 1.
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
        """Record the logits of real images, and adjust the probability every `interval` updates."""
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


def critic_step(
    generator: StyleGenerator,
    discriminator: StyleDiscriminator,
    augmentation: AdaptiveAugmentation,
    batch: Batch,
    config: Stylegan2Config,
    r1_weight: float,
    accelerator: Accelerator,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The critic's loss, its logits of the real images, and the scalars to log; updates the mean styles.

    `r1_weight` is 0 in the steps without lazy regularisation.
    """
    real, labels, draws = batch
    with torch.no_grad(), accelerator.autocast():
        styles = draw_styles(generator, labels, draws, config.style_mixing)
        fake = generator.synthesize(styles, draw_noise(generator, draws))
    track_mean_style(generator, styles[:, 0], labels, accelerator)
    real, fake = augmentation(real, draws), augmentation(fake.float(), draws)

    def critic(images: torch.Tensor) -> torch.Tensor:
        return discriminator(images, labels)

    with accelerator.autocast():
        real_logits, fake_logits = critic(real), critic(fake)
    logged = {}
    if config.loss == "logistic":
        loss = discriminator_loss(real_logits, fake_logits)
        if r1_weight:
            # Of the augmented images: PyTorch has no second derivative of the resampling.
            penalty = r1_penalty(critic, real)
            loss = loss + r1_weight * penalty
            logged["r1"] = penalty.mean()
    else:
        penalty = gradient_penalty(critic, real, fake, draws.uniform(1, 1, 1))
        loss = wasserstein_critic_loss(real_logits, fake_logits) + config.gradient_penalty_weight * penalty
        logged["gradient_penalty"] = penalty.mean()
    loss = loss.mean()
    logged |= {"d_loss": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
    return loss, real_logits, logged


def generator_step(
    generator: StyleGenerator,
    discriminator: StyleDiscriminator,
    augmentation: AdaptiveAugmentation,
    path_length_penalty: PathLengthPenalty,
    batch: Batch,
    config: Stylegan2Config,
    path_length_weight: float,
    accelerator: Accelerator,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The generator's loss, and the scalars to log; `path_length_weight` is 0 in steps without regularisation."""
    _, labels, draws = batch
    with frozen(discriminator), accelerator.autocast():
        styles = draw_styles(generator, labels, draws, config.style_mixing)
        fake = generator.synthesize(styles, draw_noise(generator, draws))
        logits = discriminator(augmentation(fake.float(), draws), labels)
    losses = generator_loss(logits) if config.loss == "logistic" else wasserstein_generator_loss(logits)
    loss, logged = losses.mean(), {}
    if path_length_weight:
        lengths = style_path_lengths(generator, labels, draws, config.style_mixing)
        loss = loss + path_length_weight * path_length_penalty(lengths, accelerator).mean()
        logged["path_length"] = lengths.mean()
    return loss, logged | {"g_loss": losses.mean()}


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
    """The noise of all layers, (N, noise_values)."""
    return draws.normal(generator.noise_values)


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
    """Path lengths of half of the batch, in float32 even under autocast."""
    half = max(1, len(labels) // 2)
    (part, *_) = draws.split([half, len(labels) - half])
    with torch.autocast(labels.device.type, enabled=False):
        styles = draw_styles(generator, labels[:half], part, mixing).float()
        images = generator.synthesize(styles, draw_noise(generator, part))
        return path_lengths(images, styles, part.normal(*images.shape[1:]))
