"""The autoencoder of a small Stable Diffusion, trained from scratch: images to latents and back."""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
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

SIZE_WEIGHT = 1e-3  # of the latents' mean square, which keeps them from outgrowing the noise


def build(config: AutoencoderConfig) -> AutoencoderTiny:
    """A small AutoencoderTiny that begins as an average of colours and gets its details by training."""
    levels = config.downsampling.bit_length()
    blocks = [1, *[2] * (levels - 2), 4]  # a block costs a quarter at each level
    channels = [config.channels] * levels
    vae = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        latent_channels=config.latent_channels,
    )
    _begin_with_colors(vae)
    return vae


@torch.no_grad()
def _begin_with_colors(vae: AutoencoderTiny) -> None:
    """Weights by which the first three channels carry red, green and blue through, averaged on the way down.

    Every block begins as the identity. From random weights a short training finds shapes, but gives colours that it
    rarely saw as those that it often saw: red lesions as brown ones.
    """
    for block in (m for m in vae.modules() if isinstance(m, AutoencoderTinyBlock)):
        nn.init.zeros_(block.conv[-1].weight)
        nn.init.zeros_(block.conv[-1].bias)
    first, *down, to_latents = (m for m in vae.encoder.layers if isinstance(m, nn.Conv2d))
    from_latents, *up = (m for m in vae.decoder.layers if isinstance(m, nn.Conv2d))
    for conv in (first, *down, to_latents, from_latents, *up):
        conv.weight[:3] = 0
        if conv.bias is not None:
            conv.bias[:3] = 0
    for color in range(3):
        for conv in (first, *up):
            conv.weight[color, color, 1, 1] = 1
        for conv in down:
            conv.weight[color, color, 1:, 1:] = 1 / 4  # the four pixels that become one
        # From [0, 1] to [-1.5, 1.5], where the decoder's tanh(x / 3) is nearly linear, and back.
        to_latents.weight[color, color, 1, 1], to_latents.bias[color] = 3, -1.5
        from_latents.weight[color, color, 1, 1], from_latents.bias[color] = 1 / 3, 0.5


def train(config: AutoencoderConfig) -> AutoencoderTiny:
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
    side = config.resolution // config.downsampling
    latent_shape = (config.latent_channels, side, side)
    model, optimizer = run.prepare(Autoencoding(vae), adamw(vae.parameters(), config), average=vae)
    for batch in run.batches(dataset, collate_fn=collate):
        images = to_unit_range(turn(batch["pixels"], run.draws.integers(8)))
        images = _swap_colors(images, run.draws.uniform(), run.draws.integers(6))
        reconstruction, size = model(images, config.latent_noise * run.draws.normal(*latent_shape))
        l1, edges, size = F.l1_loss(reconstruction, images), edge_loss(reconstruction, images), size.mean()
        run.update(l1 + config.edge_weight * edges + SIZE_WEIGHT * size, optimizer)
        run.log(l1=l1, edges=edges, latent_size=size)
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
    """Encode, add noise and decode in one forward pass, where several processes average their gradients."""

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstructions of (N, 3, H, W) images, and the mean square of the latents of each, (N,).

        `noise` is added to the latents, and has their shape.
        """
        latents = self.vae.encode(images).latents
        return self.vae.decode(latents + noise).sample.float(), latents.float().square().flatten(1).mean(1)


def edge_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the horizontal and vertical neighbour differences of (N, C, H, W) images."""
    return F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))


def _swap_colors(images: torch.Tensor, chance: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Half of the images with their channels in one of 6 orders, so that colours of classes to come can be kept too."""
    orders = torch.tensor(list(itertools.permutations(range(3))), device=images.device)
    order = torch.where(chance < 0.5, order, 0)
    return torch.stack([image[orders[k]] for image, k in zip(images, order, strict=True)])


def _scaling_factor(vae: AutoencoderTiny, dataset: PixelSet, num_images: int = 256) -> float:
    """1 / standard deviation of the latents, which gives the diffusion model unit variance (Rombach et al. 2022)."""
    step = max(1, len(dataset) // num_images)
    pixels = dataset.stack(range(0, len(dataset), step))
    with evaluating(vae):
        latents = [vae.encode(to_unit_range(part).to(vae.device)).latents for part in pixels.split(32)]
    return 1 / float(torch.cat(latents).std())
