"""Random augmentation of image batches, each image by its own random numbers: rotations, crops, colours, mixup."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from dermgen.training.draws import Draws

LUMA = (0.299, 0.587, 0.114)


def augment(images: torch.Tensor, draws: Draws, rotation: float, crop: float, color_jitter: float) -> torch.Tensor:
    """Flip, rotate, crop and recolour each image; flip, rotation and crop share one resampling.

    Args:
        images: (N, 3, H, W) in [0, 1].
        draws: one stream per image.
        rotation: largest rotation in either direction, in degrees.
        crop: smallest side of the crop, as a fraction of the image's; 1 crops nothing.
        color_jitter: brightness, contrast and saturation each change by a factor in 1 ± this.

    Returns:
        (N, 3, H, W) in [0, 1]; areas that a rotation brings in from outside are filled by reflection.
    """
    u = draws.uniform(9) * 2 - 1  # (N, 9) in [-1, 1)
    flip = torch.where(u[:, 0] < 0, -1.0, 1.0)
    angle = u[:, 1] * math.radians(rotation)
    side = crop + (1 - crop) * (u[:, 2] + 1) / 2
    shift = (1 - side)[:, None] * u[:, 3:5]
    cos, sin = side * angle.cos(), side * angle.sin()
    theta = torch.stack([flip * cos, -sin, shift[:, 0], flip * sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    factors = (1 + color_jitter * u[:, 5:8]).view(-1, 3, 1, 1, 1)
    images = images * factors[:, 0]
    images = _blend(images, images.mean(dim=(1, 2, 3), keepdim=True), factors[:, 1])
    grey = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    return _blend(images, grey, factors[:, 2]).clamp(0, 1)


def mixup(images: torch.Tensor, targets: torch.Tensor, alpha: float, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image, and its target, with that of its neighbour in the batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: (N, 3, H, W).
        targets: (N, C) class probabilities.
        alpha: both parameters of the Beta distribution of the share that the image itself keeps.
        draws: one stream per image.
    """
    seeds = draws.integers(2**62).tolist()  # torch has no Beta variates from a generator
    shares = images.new_tensor([np.random.default_rng(seed).beta(alpha, alpha) for seed in seeds])
    mixed = shares.view(-1, 1, 1, 1) * images + (1 - shares).view(-1, 1, 1, 1) * images.roll(1, 0)
    return mixed, shares[:, None] * targets + (1 - shares)[:, None] * targets.roll(1, 0)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return other + factor * (images - other)
