"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): translation between two domains of images, without pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data.loading import PixelSet, to_uint8, to_unit_range
from dermgen.data.subsets import subset
from dermgen.evaluate.monitoring import measure_samples, monitor
from dermgen.sampling import Critic, GeneratorOptions, ImageCritic, evaluating, taken_in_turn
from dermgen.settings.cyclegan import CycleganConfig
from dermgen.training import optimizers
from dermgen.training.adversarial import frozen, least_squares_discriminator_loss, least_squares_generator_loss
from dermgen.training.draws import Draws
from dermgen.training.from_scratch import FromScratch
from dermgen.training.lesions import Lesions, read_lesions

if TYPE_CHECKING:
    import pandas as pd


class TranslationGenerator(ModelMixin, ConfigMixin):
    """Two halvings, residual blocks, two doublings, with instance norm and mirrored edges (paper, appendix 7.2)."""

    @register_to_config
    def __init__(self, channels: int = 64, residual_blocks: int = 9):
        super().__init__()
        c = channels
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), nn.InstanceNorm2d(c), nn.ReLU()]
        for before, after in ((c, 2 * c), (2 * c, 4 * c)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.InstanceNorm2d(after), nn.ReLU()]
        layers += [_Residual(4 * c) for _ in range(residual_blocks)]
        for before, after in ((4 * c, 2 * c), (2 * c, c)):
            layers += [nn.ConvTranspose2d(before, after, 3, 2, 1, 1), nn.InstanceNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh())
        _initialize(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Translated images (N, 3, H, W) in (-1, 1)."""
        return self.layers(images)


class PatchDiscriminator(ModelMixin, ConfigMixin):
    """Scores overlapping patches of 70 x 70 pixels (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2)."""

    @register_to_config
    def __init__(self, channels: int = 64):
        super().__init__()
        c = channels
        layers: list[nn.Module] = [nn.Conv2d(3, c, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after, stride in ((c, 2 * c, 2), (2 * c, 4 * c, 2), (4 * c, 8 * c, 1)):
            layers += [nn.Conv2d(before, after, 4, stride, 1), nn.InstanceNorm2d(after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * c, 1, 4, 1, 1))
        _initialize(self)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """One score for each patch, (N, 1, H / 8 - 2, W / 8 - 2); there are no classes."""
        return self.layers(images)


class ImagePool(nn.Module):
    """The last translated images: half of the time the discriminator is shown one of them instead of a new one.

    (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3.) All processes keep the same pool, which is part of a
    checkpoint.

    Args:
        size: images kept; 0 always shows the new ones.
        resolution: their height and width.
    """

    def __init__(self, size: int, resolution: int):
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, 3, resolution, resolution))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: torch.Tensor, draws: Draws, accelerator: Accelerator) -> torch.Tensor:
        """Images (N, 3, H, W) to show instead of these.

        Args:
            images: this process's translated images.
            draws: one stream for each of them.
            accelerator: gathers the images of all processes, in the order in which they were drawn.
        """
        if self.size == 0:
            return images.detach()
        n, world, rank = len(images), accelerator.num_processes, accelerator.process_index
        chances, positions = draws.uniform(), draws.uniform()
        gathered = [accelerator.gather(x) for x in (images.float(), chances, positions)]
        # The k-th image of the run is on process k % world: back to that order.
        images, chances, positions = (x.view(world, n, *x.shape[1:]).transpose(0, 1).flatten(0, 1) for x in gathered)
        shown = images.clone()
        for i, (chance, position) in enumerate(zip(chances.tolist(), positions.tolist(), strict=True)):
            if self.count < self.size:
                self.images[self.count] = images[i]
                self.count += 1
            elif chance < 0.5:
                k = int(position * self.size)
                shown[i] = self.images[k]
                self.images[k] = images[i]
        return shown[rank::world]


def build(config: CycleganConfig) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Generators `a_to_b` and `b_to_a`, and discriminators `a` and `b`."""
    blocks = config.residual_blocks or (6 if config.resolution < 256 else 9)
    generators = {k: TranslationGenerator(config.generator_channels, blocks) for k in ("a_to_b", "b_to_a")}
    discriminators = {k: PatchDiscriminator(config.discriminator_channels) for k in ("a", "b")}
    return nn.ModuleDict(generators), nn.ModuleDict(discriminators)


def train(config: CycleganConfig) -> nn.ModuleDict:
    """Train, and save the last and the best generators, and the discriminators.

    Raises:
        InputError: for wrong settings or data.
    """
    sides = read_sides(config)
    training = FromScratch(config, "cyclegan", sides, classes=config.domains)
    run, accelerator = training.run, training.run.accelerator
    held_out = monitor(sides[1].val, config, accelerator, len(sides[0].val))
    generators, discriminators = build(config)
    pools = [ImagePool(config.pool_size, config.resolution) for _ in range(2)]
    *_, g_optimizer, d_optimizer = run.prepare(
        generators,
        discriminators,
        *pools,
        *optimizers.adversarial(generators, discriminators, config),
        average=generators,
        wrap=False,
    )
    run.record(
        parameters=sum(p.numel() for p in generators.parameters()),
        discriminator_parameters=sum(p.numel() for p in discriminators.parameters()),
    )
    # Of the val split if it has any: the model was not trained on those.
    sources = [side.val if len(side.val) else side.train for side in sides]

    def measure() -> dict[str, float]:
        pixels = _pixels(sources[0], config, config.monitor_samples)
        translator = Translator(generators["a_to_b"], pixels)
        return measure_samples(held_out, translator, [""] * len(pixels), range(len(pixels)), training.warn)

    def save_result(folder: Path) -> None:
        save(generators, folder)
        for domain, discriminator in discriminators.items():
            discriminator.save_pretrained(folder / f"discriminator_{domain}")

    steps = config.max_train_steps or config.num_train_epochs * run.steps_per_epoch(*training.datasets)
    run.resume()
    run.lr_factor = linear_decay(run.step + 1, steps, config.decay_start)
    for a, b in training.joint_batches(*training.datasets):
        with frozen(discriminators), accelerator.autocast():
            translated = translate(generators, discriminators, a.images, b.images, config.identity_weight > 0)
        consistency = translated.cycle + config.identity_weight * translated.identity
        run.update(translated.adversarial + config.cycle_weight * consistency, g_optimizer)
        pooled_a = pools[0].exchange(translated.fake_a, b.draws, accelerator)
        pooled_b = pools[1].exchange(translated.fake_b, a.draws, accelerator)
        with accelerator.autocast():
            d_loss = patch_loss(discriminators["a"], a.images, pooled_a)
            d_loss = d_loss + patch_loss(discriminators["b"], b.images, pooled_b)
        run.update(d_loss, d_optimizer)
        run.log(g_loss=translated.adversarial, d_loss=d_loss, cycle=translated.cycle, identity=translated.identity)
        if run.due(config.validation_steps):
            _save_samples(training, generators, sources)
            training.validate(measure, "val_kid", lambda folder: save(generators, folder))
        run.lr_factor = linear_decay(run.step + 1, steps, config.decay_start)
    training.finish(save_result, request=f"--init_images {config.data_dir}")
    return generators


class Translations(NamedTuple):
    """Translated images (N, 3, H, W), and the terms of the generators' loss (paper, section 3)."""

    fake_a: torch.Tensor
    fake_b: torch.Tensor
    adversarial: torch.Tensor
    cycle: torch.Tensor
    identity: torch.Tensor  # 0 if it has no weight


def translate(
    generators: nn.ModuleDict,
    discriminators: nn.ModuleDict,
    real_a: torch.Tensor,
    real_b: torch.Tensor,
    with_identity: bool,
) -> Translations:
    """Translate real images (N, 3, H, W) of both domains to the other domain and back, and compute the losses."""
    a_to_b, b_to_a = generators["a_to_b"], generators["b_to_a"]
    fake_b, fake_a = a_to_b(real_a), b_to_a(real_b)
    adversarial = least_squares_generator_loss(discriminators["b"](fake_b)).mean()
    adversarial = adversarial + least_squares_generator_loss(discriminators["a"](fake_a)).mean()
    cycle = F.l1_loss(b_to_a(fake_b).float(), real_a) + F.l1_loss(a_to_b(fake_a).float(), real_b)
    identity = torch.zeros_like(cycle)
    if with_identity:
        identity = F.l1_loss(a_to_b(real_b).float(), real_b) + F.l1_loss(b_to_a(real_a).float(), real_a)
    return Translations(fake_a, fake_b, adversarial, cycle, identity)


def patch_loss(discriminator: PatchDiscriminator, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The loss of one discriminator."""
    return least_squares_discriminator_loss(discriminator(real), discriminator(fake)).mean()


def linear_decay(step: int, steps: int, start: float) -> float:
    """Factor of the learning rate in that step of `steps`, counted from 1: 1 up to the share `start`, then to 0."""
    rest = steps * (1 - start)
    return 1.0 if rest == 0 else min(1.0, (steps - step + 1) / rest)


def read_sides(config: CycleganConfig) -> tuple[Lesions, Lesions]:
    """The images of both domains.

    Raises:
        InputError: as `read_lesions`, or if both manifests have a lesion in common.
    """
    if config.data_dir_b is None:
        sides = tuple(read_lesions(config, only=[code]) for code in (config.class_a, config.class_b))
    else:
        sides = read_lesions(config), read_lesions(config, folder=config.data_dir_b)
        for name in ("image_id", "lesion_id"):
            ids_a, ids_b = (set(side.train[name]) | set(side.val[name]) for side in sides)
            shared = (ids_a & ids_b) - {""}
            if shared:
                number = counted(len(shared), f"{name} is", f"{name}s are")
                raise InputError(
                    f"{number} in both manifests (such as {min(shared)}), so that one side could be trained on what "
                    "the other holds out: give manifests of different lesions"
                )
    return sides


def save(generators: nn.ModuleDict, folder: Path) -> None:
    """Write both generators, `generator_a_to_b/` and `generator_b_to_a/`."""
    for name, generator in generators.items():
        generator.save_pretrained(folder / f"generator_{name}")


class Translator:
    """An `ImageGenerator` that translates its source images, chosen in turn by the seed.

    Args:
        generator: on its device.
        sources: uint8 (M, 3, H, W).
    """

    def __init__(self, generator: TranslationGenerator, sources: torch.Tensor):
        self.generator, self.sources = generator, sources

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Translated images, uint8 (N, 3, H, W); the labels have no effect."""
        device = self.generator.device
        sources = torch.stack([taken_in_turn(self.sources, seed) for seed in seeds])
        with evaluating(self.generator):
            return to_uint8(self.generator(to_unit_range(sources).to(device)))


def load_generator(
    weights: Path, classes: Sequence[str], device: torch.device, options: GeneratorOptions
) -> Translator:
    """The translator of a finished run in the requested direction."""
    name = f"generator_{options.direction}"
    generator = TranslationGenerator.from_pretrained(weights, subfolder=name, use_safetensors=True)
    return Translator(generator.to(device), options.sources)


def load_critic(
    run_dir: Path, classes: Sequence[str], resolution: int, device: torch.device, domain: Literal["a", "b"] | None
) -> ImageCritic:
    """The discriminator of one domain of a finished run, or both discriminators if the domains are classes.

    Raises:
        InputError: if the domains are manifests, and none is chosen.
    """
    if domain is None and list(classes) == ["a", "b"]:
        raise InputError(
            f"{run_dir} translates between two manifests: choose whose discriminator scores, --kind a or b"
        )

    def critic_of(domain: str) -> Critic:
        name = f"discriminator_{domain}"
        network = PatchDiscriminator.from_pretrained(run_dir, subfolder=name, use_safetensors=True)
        return Critic(network.to(device), resolution, [], conditional=False)

    if list(classes) == ["a", "b"]:
        return critic_of(domain)
    return ClassCritic(classes[0], critic_of("a"), critic_of("b"))


class ClassCritic:
    """The two discriminators of a CycleGAN between two classes, each for the images of its class."""

    def __init__(self, class_a: str, critic_a: Critic, critic_b: Critic):
        self.class_a, self.critics = class_a, (critic_a, critic_b)

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        parts = zip(images.split(1), labels, strict=True)
        return torch.cat([self.critics[label != self.class_a].score(image, [label]) for image, label in parts])


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        first = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        second = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        self.layers = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def _initialize(model: nn.Module) -> None:
    """Draw weights from N(0, 0.02), as in the paper."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            nn.init.zeros_(module.bias)


def _pixels(rows: "pd.DataFrame", config: CycleganConfig, count: int) -> torch.Tensor:
    """A random subset of a manifest's rows, uint8 (N, 3, H, W)."""
    return PixelSet.of(subset(rows, count, config.seed), config.resolution).stack()


def _save_samples(training: FromScratch, generators: nn.ModuleDict, sources: "Sequence[pd.DataFrame]") -> None:
    """Rows of originals, their translations and the translations back, in both directions.

    Each side has a quarter of `num_sample_images` originals.
    """
    run, config = training.run, training.config
    if not run.is_main:
        return
    columns, device = 8, run.accelerator.device
    rows = []
    with run.averaged_weights(), evaluating(*generators.values()):
        for side, forward, backward in ((0, "a_to_b", "b_to_a"), (1, "b_to_a", "a_to_b")):
            pixels = _pixels(sources[side], config, max(1, config.num_sample_images // 4))
            for originals in to_unit_range(pixels).to(device).split(columns):
                translated = generators[forward](originals)
                for images in (originals, translated, generators[backward](translated)):
                    blank = torch.ones(columns - len(images), *images.shape[1:], device=device)
                    rows.append(to_uint8(torch.cat([images, blank])))
    run.sample_grid(torch.cat(rows), columns=columns)
