"""Random augmentation of image batches, each image by its own random numbers: of the data, or of a GAN's images."""

import math

import torch
import torch.nn.functional as F

from dermgen.training.draws import Draws


def augment(
    images: torch.Tensor, draws: Draws, flip: bool = False, rotate: bool = False, crop: float = 1.0, scale: float = 0.0
) -> torch.Tensor:
    """Flip, rotate by quarter turns, crop and brighten each image; a step that is off draws nothing and changes no bit.

    Args:
        images: (N, 3, H, H) in [-1, 1].
        draws: one stream per image.
        flip: mirror half of the images left to right.
        rotate: by 0, 90, 180 or 270 degrees.
        crop: smallest side of a random square that is cut out and resized, as a fraction; 1 does not crop.
        scale: multiply intensities, counted from black, by a factor in 1 ± this; white stays the limit.
    """
    if flip or rotate:
        turns = 4 * draws.integers(2) if flip else torch.zeros(len(images), dtype=torch.int64, device=images.device)
        images = turn(images, turns + draws.integers(4) if rotate else turns)
    if crop < 1:
        side = crop + (1 - crop) * draws.uniform()
        shift = (1 - side)[:, None] * (2 * draws.uniform(2) - 1)
        zero = torch.zeros_like(side)
        theta = torch.stack([side, zero, shift[:, 0], zero, side, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, images.shape, align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if scale:
        factors = 1 + scale * (2 * draws.uniform(1, 1, 1) - 1)
        images = ((images + 1) * factors - 1).clamp(max=1)
    return images


def turn(images: torch.Tensor, orientations: torch.Tensor) -> torch.Tensor:
    """Each square image of (N, C, H, H) in its own orientation, (N,) numbers as of `turned`."""
    return torch.cat([turned(image[None], k) for image, k in zip(images, orientations.tolist(), strict=True)])


def turned(images: torch.Tensor, orientation: int) -> torch.Tensor:
    """(N, 3, H, H) images in one of 8 orientations: `orientation` % 4 quarter turns, then a mirror from 4 on."""
    images = torch.rot90(images, orientation % 4, (2, 3))
    return images.flip(-1) if orientation >= 4 else images


def diff_augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change colours, translate and cut out, for real and generated images alike (Zhao et al. 2020, arXiv:2006.10738).

    Brightness changes by up to 0.5, saturation by a factor in [0, 2), contrast in [0.5, 1.5), images shift by up to an
    eighth, and a square of half the height is blanked. Gradients pass through to the generator.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        draws: one stream per image.
    """
    n, _, height, width = images.shape
    u = draws.uniform(7).to(images.dtype)
    images = images + (u[:, 0] - 0.5).view(n, 1, 1, 1)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * u[:, 1]).view(n, 1, 1, 1)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * (u[:, 2] + 0.5).view(n, 1, 1, 1)
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    dy, dx = ((u[:, i] * (2 * (size // 8) + 1)).floor().long() - size // 8 for i, size in ((3, height), (4, width)))
    rows, columns = y + dy[:, None], x + dx[:, None]  # (N, H), (N, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    moved = images[
        torch.arange(n, device=images.device)[:, None, None],
        :,
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ].permute(0, 3, 1, 2)
    top, left = ((u[:, i] * size).floor() - size // 4 for i, size in ((5, height), (6, width)))
    hole_y = (y >= top[:, None]) & (y < top[:, None] + height // 2)
    hole_x = (x >= left[:, None]) & (x < left[:, None] + width // 2)
    keep = inside & ~(hole_y[:, :, None] & hole_x[:, None, :])
    return moved * keep[:, None].to(images.dtype)


def adaptive_augment(images: torch.Tensor, draws: Draws, p: float) -> torch.Tensor:
    """The geometric and colour changes of StyleGAN2-ADA, each with probability `p` (Karras et al. 2020,
    arXiv:2006.06676, appendix B): flips, quarter turns, shifts, scales, rotations; brightness, contrast, luma flip,
    hue, saturation.

    All geometry is one bilinear resampling with mirrored edges, where the paper filters with wavelets.

    Args:
        images: (N, 3, H, W), about [-1, 1].
        draws: one stream per image.
        p: probability of each change, in [0, 1]; 0 changes no bit.

    Returns:
        (N, 3, H, W) float32.
    """
    if p == 0:
        return images
    with torch.autocast(images.device.type, enabled=False):  # half precision moves a grid by parts of a pixel
        return _adaptive_augment(images.float(), draws, p)


def _adaptive_augment(images: torch.Tensor, draws: Draws, p: float) -> torch.Tensor:
    u, normal = draws.uniform(21), draws.normal(7)

    def gated(i: int, value: torch.Tensor, neutral: float, chance: float = p) -> torch.Tensor:
        return torch.where(u[:, i] < chance, value, torch.full_like(value, neutral))

    # Each rotation is made twice, before and after the uneven scaling, so that together they have probability p.
    once = 1 - math.sqrt(1 - p)
    matrices = [
        _scaling(gated(0, 1 - 2 * (u[:, 1] < 0.5).float(), 1.0), torch.ones_like(u[:, 0])),
        _rotation(gated(2, (4 * u[:, 3]).floor() * (math.pi / 2), 0.0)),
        _translation(gated(4, 0.25 * (2 * u[:, 5] - 1), 0.0), gated(4, 0.25 * (2 * u[:, 6] - 1), 0.0)),
        _scaling(*[gated(7, 2 ** (0.2 * normal[:, 0]), 1.0)] * 2),
        _rotation(gated(8, math.pi * (2 * u[:, 9] - 1), 0.0, once)),
        _scaling(gated(10, 2 ** (0.2 * normal[:, 1]), 1.0), gated(10, 2 ** (-0.2 * normal[:, 1]), 1.0)),
        _rotation(gated(11, math.pi * (2 * u[:, 12] - 1), 0.0, once)),
        _translation(gated(13, 0.25 * normal[:, 2], 0.0), gated(13, 0.25 * normal[:, 3], 0.0)),
    ]
    transform = matrices[0]
    for matrix in matrices[1:]:
        transform = transform @ matrix
    grid = F.affine_grid(transform[:, :2], images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    axis = torch.ones(3, device=images.device) / math.sqrt(3)
    luma = torch.outer(axis, axis)
    eye = torch.eye(3, device=images.device)
    brightness = gated(14, 0.2 * normal[:, 4], 0.0)
    color = eye * gated(15, 2 ** (0.5 * normal[:, 5]), 1.0).view(-1, 1, 1)
    # A reflection that swaps light and dark: Householder's, at the luma axis.
    color = (eye - 2 * luma * gated(16, (u[:, 20] < 0.5).float(), 0.0).view(-1, 1, 1)) @ color
    color = _about_axis(axis, gated(17, math.pi * (2 * u[:, 18] - 1), 0.0)) @ color
    color = (luma + (eye - luma) * gated(19, 2 ** normal[:, 6], 1.0).view(-1, 1, 1)) @ color
    flat = color @ (images.flatten(2) + brightness.view(-1, 1, 1))
    return flat.view_as(images)


def _matrix(*entries: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) from six (N,) entries of the first two rows."""
    zero, one = torch.zeros_like(entries[0]), torch.ones_like(entries[0])
    return torch.stack([*entries, zero, zero, one], dim=1).view(-1, 3, 3)


def _scaling(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros_like(x)
    return _matrix(1 / x, zero, zero, zero, 1 / y, zero)


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    zero, cos, sin = torch.zeros_like(angle), angle.cos(), angle.sin()
    return _matrix(cos, -sin, zero, sin, cos, zero)


def _translation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(one, zero, x, zero, one, y)


def _about_axis(axis: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotation of colours about `axis` (3,) by angles (N,), as (N, 3, 3): Rodrigues' formula."""
    zero = axis.new_zeros(())
    cross = torch.stack([zero, -axis[2], axis[1], axis[2], zero, -axis[0], -axis[1], axis[0], zero]).view(3, 3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return cos * torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * torch.outer(axis, axis)
