"""The term of a variational autoencoder's loss that keeps its latents near a standard normal distribution."""

import torch


def kl_to_standard_normal(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of (N, …), summed to (N,) (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)
