"""Losses of adversarial training: pure functions of tensors, of a discriminator's logits or a critic's scores."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-log D(real) - log(1 - D(fake)) of logits (N, …), as (N,) (Goodfellow et al. 2014, arXiv:1406.2661)."""
    return _per_image(F.softplus(-real) + F.softplus(fake))


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating -log D(fake) of logits (N, …), as (N,): binary cross-entropy with the label "real"."""
    return _per_image(F.softplus(-fake))


def wasserstein_critic_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """critic(fake) - critic(real), (N,) (Arjovsky et al. 2017, arXiv:1701.07875)."""
    return _per_image(fake - real)


def wasserstein_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """-critic(fake), (N,)."""
    return _per_image(-fake)


def least_squares_discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """((D(real) - 1)² + D(fake)²) / 2, the mean over patches, (N,) (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
    return _per_image((real - 1) ** 2 + fake**2) / 2


def least_squares_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """(D(fake) - 1)², the mean over patches, (N,); twice the half of eq. 9, as CycleGAN weighs it."""
    return _per_image((fake - 1) ** 2)


def gradient_penalty(
    critic: Callable[[torch.Tensor], torch.Tensor], real: torch.Tensor, fake: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """WGAN-GP's (|∇critic(x)| - 1)² at points x between real and fake (Gulrajani et al. 2017, arXiv:1704.00028).

    Computed in float32 even under autocast: a squared norm of half-precision gradients is not exact.

    Args:
        critic: images to one number each.
        real: (N, C, H, W).
        fake: (N, C, H, W).
        share: (N, 1, 1, 1) in [0, 1], how much of each point is real.

    Returns:
        (N,), differentiable with respect to the critic's weights.
    """
    between = share * real.detach().float() + (1 - share) * fake.detach().float()
    norms = _input_gradient(critic, between).flatten(1).norm(dim=1)
    return (norms - 1) ** 2


def r1_penalty(discriminator: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """|∇D(x)|² at real images (N, C, H, W), as (N,) (Mescheder et al. 2018, arXiv:1801.04406, eq. 9 without γ/2).

    Computed in float32 even under autocast.
    """
    return _input_gradient(discriminator, images.detach().float()).square().flatten(1).sum(1)


def path_lengths(images: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """|J_wᵀ y| of each image (Karras et al. 2020, arXiv:1912.04958, section 3.2).

    Args:
        images: (N, C, H, W), generated from `latents`, with the graph kept.
        latents: (N, L, D), one for each of the L layers; squared lengths are averaged over layers.
        noise: (N, C, H, W), standard normal numbers y; divided here by the root of the number of pixels.

    Returns:
        (N,), differentiable with respect to the generator's weights.
    """
    y = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images.float() * y).sum(), latents, create_graph=True)
    return gradient.float().square().sum(2).mean(1).sqrt()


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Within the block the models' weights receive no gradients, which still flow through to the models' inputs."""
    parameters = [p for model in models for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def _input_gradient(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, enabled=False):
        images = images.requires_grad_(True)
        return torch.autograd.grad(network(images).sum(), images, create_graph=True)[0]


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.float().flatten(1).mean(1) if values.dim() > 1 else values.float()
