"""The variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114), convolutional or dense."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from dermgen.config import write_json
from dermgen.data.loading import to_uint8
from dermgen.data.sheets import save_grid
from dermgen.data.subsets import choose
from dermgen.evaluate.pairs import load_lpips, similarities
from dermgen.sampling import GeneratorOptions, class_indices, evaluating
from dermgen.settings.vae import VaeConfig
from dermgen.training.draws import Draws
from dermgen.training.from_scratch import Batch, FromScratch
from dermgen.training.optimizers import adamw
from dermgen.training.variational import kl_to_standard_normal


class Vae(ModelMixin, ConfigMixin):
    """Encoder and decoder; a class is an embedding added to the encoder's features and the decoder's latents.

    Args:
        resolution: height and width in pixels.
        channels: of the strided convolutions; empty for the dense variant.
        hidden_width: of the dense variant's hidden layer.
        latent_dim: width of the latents.
        num_classes: 0 is unconditional.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        hidden_width: int = 256,
        latent_dim: int = 128,
        num_classes: int = 0,
    ):
        super().__init__()
        pixels = 3 * resolution**2
        if channels:
            side = resolution // 2 ** len(channels)
            self.encoder, width = _convolutions(channels), channels[-1] * side**2
            self.decoder = nn.Sequential(
                nn.Linear(latent_dim, width), nn.Unflatten(1, (channels[-1], side, side)), _transposed(channels)
            )
        else:
            width = hidden_width
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU())
            self.decoder = nn.Sequential(
                nn.Linear(latent_dim, width),
                nn.ReLU(),
                nn.Linear(width, pixels),
                nn.Unflatten(1, (3, resolution, resolution)),
            )
        self.moments = nn.Linear(width, 2 * latent_dim)
        self.of_image = nn.Embedding(num_classes, width) if num_classes else None
        self.of_latents = nn.Embedding(num_classes, latent_dim) if num_classes else None

    def encode(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance (N, latent_dim) of images (N, 3, H, W) in [-1, 1]; labels (N,) count if conditional."""
        features = self.encoder(images).flatten(1)
        if self.of_image is not None:
            features = features + self.of_image(labels)
        mean, logvar = self.moments(features).float().chunk(2, dim=1)
        # Bounded smoothly to ±10: for a rare image far from all others it would overflow, and end the training.
        return mean, logvar / (1 + (logvar / 10) ** 2).sqrt()

    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in (-1, 1) of latents (N, latent_dim)."""
        if self.of_latents is not None:
            latents = latents + self.of_latents(labels)
        return torch.tanh(self.decoder(latents))

    def forward(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Reconstructions, mean and log variance; `noise` (N, latent_dim) is standard normal."""
        mean, logvar = self.encode(images, labels)
        return self.decode(mean + (logvar / 2).exp() * noise, labels), mean, logvar


def build(config: VaeConfig, num_classes: int) -> Vae:
    """The network of the config."""
    return Vae(
        config.resolution,
        [] if config.architecture == "dense" else config.channels or [32, 64, 128, 256],
        config.hidden_width,
        config.latent_dim,
        num_classes if config.class_conditional else 0,
    )


def train(config: VaeConfig) -> Vae:
    """Train, and save the last and the best weights and the scores of reconstructions of held-out images.

    Raises:
        InputError: for wrong settings or data.
    """
    lpips = None if config.lpips == "none" else load_lpips(config.lpips)
    training = FromScratch(config, "vae")
    run = training.run
    vae = build(config, len(training.classes))
    model, optimizer = run.prepare(vae, adamw(list(vae.parameters()), config), average=vae)
    run.record(parameters=vae.num_parameters())
    sampler = VaeGenerator(vae, training.classes)

    def held_out_losses(batch: Batch) -> torch.Tensor:
        mse, kl = losses(vae, *batch, config.latent_dim)
        return mse + config.kl_weight * kl

    def save(folder: Path) -> None:
        vae.save_pretrained(folder / "vae")

    def save_result(folder: Path) -> None:
        save(folder)
        _save_reconstructions(training, vae, lpips)

    for images, labels, draws in training.batches():
        mse, kl = losses(model, images, labels, draws, config.latent_dim)
        weight = kl_weight(run.step, config)
        run.update((mse + weight * kl).mean(), optimizer)
        run.log(mse=mse.mean(), kl=kl.mean())
        if run.due(config.validation_steps):
            training.save_samples(sampler)
            training.validate(lambda: training.held_out_loss(vae, held_out_losses), "val_loss", save)
    training.finish(save_result)
    return vae


def losses(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, draws: Draws, latent_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error and KL divergence of each image, (N,), both divided by the number of values in an image.

    Their sum times the number of values is the negative evidence lower bound of a Gaussian with variance 1/2.
    """
    reconstruction, mean, logvar = model(images, labels, draws.normal(latent_dim))
    mse = (reconstruction.float() - images).square().flatten(1).mean(1)
    return mse, kl_to_standard_normal(mean.float(), logvar.float()) / images[0].numel()


def kl_weight(step: int, config: VaeConfig) -> float:
    """Weight of the KL term in that optimizer step, counted from 1."""
    return config.kl_weight * min(1.0, step / max(1, config.kl_warmup_steps))


class VaeGenerator:
    """An `ImageGenerator` that decodes latents drawn from the prior."""

    def __init__(self, vae: Vae, classes: Sequence[str]):
        self.vae, self.classes = vae, classes

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Generate one image per class code ("" of an unconditional run) as uint8 (N, 3, H, W)."""
        vae = self.vae
        indices = class_indices(labels, self.classes, vae.config.num_classes > 0)
        latents = Draws(seeds, vae.device).normal(vae.config.latent_dim)
        with evaluating(vae):
            return to_uint8(vae.decode(latents, torch.tensor(indices, device=vae.device)))


def load_generator(
    weights: Path, classes: Sequence[str], device: torch.device, options: GeneratorOptions
) -> VaeGenerator:
    """The generator of a finished run, from the folder that holds `vae/`."""
    return VaeGenerator(Vae.from_pretrained(weights, subfolder="vae", use_safetensors=True).to(device), classes)


def _convolutions(channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([3, *channels], channels, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers)


def _transposed(channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    reverse = list(reversed(channels))
    for before, after in zip(reverse, [*reverse[1:], reverse[-1]], strict=True):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(reverse[-1], 3, 3, 1, 1))


def _save_reconstructions(training: FromScratch, vae: Vae, lpips: nn.Module | None) -> None:
    """Write `reconstructions.json` (scores of held-out images), and pictures of reconstructions and interpolations."""
    if training.lesions.val.empty:
        return
    folder = training.run.output_dir
    with evaluating(vae):
        parts = []
        for images, labels, _ in training.held_out():
            mean, _ = vae.encode(images, labels)
            parts.append((to_uint8(images).cpu(), to_uint8(vae.decode(mean, labels)).cpu(), mean, labels))
        originals, decoded, latents, labels = map(torch.cat, zip(*parts, strict=True))
        table = training.lesions.val_of_classes
        chosen = choose(table["image_id"], 32, training.config.seed, table["lesion_id"], table["dx"], "turns")
        pairs = torch.stack([originals[chosen], decoded[chosen]], dim=1).flatten(0, 1)
        save_grid(pairs, folder / "samples" / "reconstructions.png", columns=8)
        share = torch.linspace(0, 1, 8, device=latents.device)[:, None]
        ends = list(zip(chosen[::4], chosen[1::4], strict=False))
        rows = [vae.decode((1 - share) * latents[i] + share * latents[j], labels[i].expand(8)) for i, j in ends]
        if rows:
            save_grid(to_uint8(torch.cat(rows)), folder / "samples" / "interpolations.png", columns=8)
    scores = similarities(originals, decoded, lpips)
    spread = {name: {"mean": float(np.mean(v)), "std": float(np.std(v))} for name, v in scores.items()}
    write_json(folder / "reconstructions.json", {"images": len(originals), **spread})
