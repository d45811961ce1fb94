"""Similarity of pairs of images: squared error, PSNR, SSIM, MS-SSIM, LPIPS."""

import torch
from torch import nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from dermgen.config import InputError

MS_SSIM_PIXELS = 161  # five halvings of a window of 11 pixels


def similarities(
    a: torch.Tensor, b: torch.Tensor, lpips: nn.Module | None = None, batch_size: int = 64
) -> dict[str, list]:
    """Scores of N pairs by name, each a list of N; `ms_ssim` is left out under 161 pixels.

    Args:
        a: uint8 (N, 3, H, W).
        b: uint8 (N, 3, H, W).
        lpips: network from `load_lpips`; None leaves LPIPS out.
        batch_size: pairs at a time.

    Returns:
        `mse` of values in [0, 1], `psnr` in dB (infinite for equal images), `ssim`, `ms_ssim` up to 1, `lpips` from 0.
    """
    result: dict[str, list] = {}
    for x, y in zip(a.split(batch_size), b.split(batch_size), strict=True):
        x, y = x.float() / 255, y.float() / 255
        mse = (x - y).square().mean(dim=(1, 2, 3))
        batch = {
            "mse": mse,
            "psnr": -10 * mse.log10(),
            "ssim": structural_similarity_index_measure(x, y, data_range=1.0, reduction="none").reshape(-1),
        }
        if x.shape[-1] >= MS_SSIM_PIXELS:
            scores = multiscale_structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
            batch["ms_ssim"] = scores.reshape(-1)
        if lpips is not None:
            with torch.inference_mode():
                batch["lpips"] = lpips(x, y).reshape(-1)
                lpips.reset()
        for name, values in batch.items():
            result.setdefault(name, []).extend(values.tolist())
    return result


def load_lpips(backbone: str) -> nn.Module:
    """The network of LPIPS (Zhang et al. 2018, arXiv:1801.03924) on the backbone "alex" or "vgg".

    Raises:
        InputError: if the backbone cannot be downloaded.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=backbone, reduction="none", normalize=True)
    except OSError as error:  # a URLError is one
        raise InputError(
            f"LPIPS needs the weights of torchvision's {backbone}, which cannot be downloaded ({error}): offline, use "
            "--lpips none"
        ) from error
