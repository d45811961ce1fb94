"""The autoencoder of a small Stable Diffusion, trained from scratch: images to latents and back."""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from dermgen.data import trained_on
from dermgen.data.examples import files_of, manifest_examples
from dermgen.data.image_files import check_readable
from dermgen.data.loading import PixelSet, collate, to_uint8, to_unit_range
from dermgen.data.set_facts import SetFacts
from dermgen.sampling import evaluating
from dermgen.settings.autoencoder import AutoencoderConfig
from dermgen.training.augmentation import turn
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run
from dermgen.training.variational import kl_to_standard_normal


def build(config: AutoencoderConfig) -> AutoencoderKL:
    """A small AutoencoderKL with random weights; it shrinks by 2 at each level but the first."""
    channels = config.channels or [16, 32, 64]
    return AutoencoderKL(
        sample_size=config.resolution,
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        # Groups of one channel are instance norm, which lets a network hide a spike in an image to set its scale.
        norm_num_groups=channels[0] // 4,
        scaling_factor=1.0,
    )


def train(config: AutoencoderConfig) -> AutoencoderKL:
    """Train, and save the weights as `output_dir/vae` with the scaling factor measured on the training images."""
    examples = manifest_examples(config.data_dir, "train", exclude=config.exclude_classes or ())
    paths, ids = [e.path for e in examples], [e.image_id for e in examples]
    check_readable(files_of(examples))
    dataset = PixelSet(paths, ids, config.resolution, interpolation="lanczos")
    run = Run(config)
    rows = [{"image_id": i, "path": p, "dx": "", "synthetic": "false"} for i, p in zip(ids, paths, strict=True)]
    data = [SetFacts.of(config.data_dir, ids)]
    trained_on.write(run.output_dir, run.accelerator, rows, data)
    vae = build(config)
    side = config.resolution // 2 ** (len(vae.config.block_out_channels) - 1)
    latent_shape = (config.latent_channels, side, side)
    model, optimizer = run.prepare(Autoencoding(vae), adamw(vae.parameters(), config), average=vae)
    for batch in run.batches(dataset, collate_fn=collate):
        images = to_unit_range(turn(batch["pixels"], run.draws.integers(8)))
        images = _swap_colors(images, run.draws.uniform(), run.draws.integers(6))
        reconstruction, kl = model(images, run.draws.normal(*latent_shape))
        l1, edges = F.l1_loss(reconstruction, images), edge_loss(reconstruction, images)
        kl = kl.mean() / images[0].numel()  # the weight is for sums over an image, the other terms are means
        run.update(l1 + config.edge_weight * edges + config.kl_weight * kl, optimizer)
        run.log(l1=l1, edges=edges, kl=kl)
        if run.due(config.validation_steps) and run.is_main:
            pairs = torch.stack([images[:16], reconstruction[:16].detach()], dim=1).flatten(0, 1)
            run.sample_grid(to_uint8(pairs), columns=8)
    with run.averaged_weights():
        vae.register_to_config(scaling_factor=_scaling_factor(vae, dataset))
        if run.is_main:
            vae.save_pretrained(Path(config.output_dir, "vae"))
    run.accelerator.wait_for_everyone()
    return vae


class Autoencoding(nn.Module):
    """Encode, sample and decode in one forward pass, where several processes average their gradients."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstructions of (N, 3, H, W) images and the KL term of each, (N,); `noise` is shaped like the latents."""
        latents = self.vae.encode(images).latent_dist
        decoded = self.vae.decode(latents.mean + latents.std * noise).sample
        return decoded.float(), kl_to_standard_normal(latents.mean.float(), latents.logvar.float())


def edge_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the horizontal and vertical neighbour differences of (N, C, H, W) images."""
    return F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))


def _swap_colors(images: torch.Tensor, chance: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Half of the images with their channels in one of 6 orders, so that colours of classes to come can be kept too."""
    orders = torch.tensor(list(itertools.permutations(range(3))), device=images.device)
    order = torch.where(chance < 0.5, order, 0)
    return torch.stack([image[orders[k]] for image, k in zip(images, order, strict=True)])


def _scaling_factor(vae: AutoencoderKL, dataset: PixelSet, num_images: int = 256) -> float:
    """1 / standard deviation of the latents, which gives the diffusion model unit variance (Rombach et al. 2022)."""
    step = max(1, len(dataset) // num_images)
    pixels = dataset.stack(range(0, len(dataset), step))
    with evaluating(vae):
        latents = [vae.encode(to_unit_range(part).to(vae.device)).latent_dist.mean for part in pixels.split(32)]
    return 1 / float(torch.cat(latents).std())
