"""A trained StyleGAN2 as a generator of images, and its discriminator as a critic of images."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dermgen.data.loading import to_uint8
from dermgen.methods.stylegan2.networks import StyleDiscriminator, StyleGenerator
from dermgen.sampling import Critic, GeneratorOptions, class_indices, evaluating
from dermgen.training.draws import Draws


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
        """Generate one image per class code ("" of an unconditional run) as uint8 (N, 3, H, W)."""
        generator, dim = self.generator, self.generator.config.latent_dim
        indices = class_indices(labels, self.classes, generator.config.num_classes > 0)
        y = torch.tensor(indices, device=generator.device)
        numbers = Draws(seeds, generator.device).normal(dim + generator.noise_values)
        with evaluating(generator):
            w = generator.map(numbers[:, :dim], y)
            if not generator.config.num_classes:
                y = torch.zeros_like(y)
            styles = generator.truncate(w, y, self.truncation)[:, None].expand(-1, generator.num_styles, -1)
            return to_uint8(generator.synthesize(styles, numbers[:, dim:]))


def load_generator(
    weights: Path, classes: Sequence[str], device: torch.device, options: GeneratorOptions
) -> StyleGan2Generator:
    """The generator of a finished run, from the folder that holds `generator/`."""
    generator = StyleGenerator.from_pretrained(weights, subfolder="generator", use_safetensors=True)
    return StyleGan2Generator(generator.to(device), classes, options.truncation)


def load_critic(
    run_dir: Path, classes: Sequence[str], resolution: int, device: torch.device, domain: None
) -> "SingleImageCritic":
    """The discriminator of a finished run."""
    discriminator = StyleDiscriminator.from_pretrained(run_dir, subfolder="discriminator", use_safetensors=True)
    return SingleImageCritic(discriminator.to(device), resolution, classes, discriminator.config.num_classes > 0)


class SingleImageCritic(Critic):
    """A critic that sees images one at a time: minibatch deviation would make a score depend on its neighbours."""

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        parts = zip(images.split(1), labels, strict=True)
        return torch.cat([super(SingleImageCritic, self).score(image, [label]) for image, label in parts])
