"""The networks of StyleGAN2: mapping network, skip generator and residual discriminator, in plain operations."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

SQRT2 = math.sqrt(2)


class EqualizedLinear(nn.Module):
    """A linear layer with equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1).

    It computes in float32 even under autocast, as in NVIDIA's code: rounding a style to half precision changes it.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.gain, self.lr_multiplier = lr_multiplier / math.sqrt(inputs), lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight * self.gain, self.bias * self.lr_multiplier)


class EqualizedConv(nn.Module):
    """A convolution of stride 1 or, after a low-pass filter, 2; equalised, or spectrally normalised."""

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True, spectral=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.kernel, self.down = kernel, down
        self.gain = 1.0 if spectral else 1 / math.sqrt(inputs * kernel**2)
        if spectral:
            spectral_norm(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down:
            x = low_pass(x, padding=self.kernel // 2 + 1)
        padding = 0 if self.down else self.kernel // 2
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=2 if self.down else 1, padding=padding)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by each image's style and normalised to unit norm (paper, eq. 1 to 3).

    Scaling input and output channels is equivalent to separate weights for each image.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate=True, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.demodulate, self.up, self.padding = demodulate, up, kernel // 2

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """(N, outputs, H, W), or twice the size, of x (N, inputs, H, W) and w (N, style_dim)."""
        style, weight = self.style(w), self.weight * self.gain
        x = x * style[:, :, None, None]
        if self.up:
            x = low_pass(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4)
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            energy = (weight.square().sum((2, 3)) @ style.square().T).T  # (N, outputs)
            x = x * (energy + 1e-8).rsqrt()[:, :, None, None]
        return x


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: bool):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`noise` (N, H, W) at the size of the output."""
        x = self.conv(x, w) + self.noise_strength * noise[:, None] + self.bias[:, None, None]
        return F.leaky_relu(x, 0.2) * SQRT2


class StyleGenerator(ModelMixin, ConfigMixin):
    """Mapping network and skip generator.

    Args:
        resolution: height and width in pixels, a power of 2.
        latent_dim: width of z and w.
        mapping_layers: from z to w.
        channel_base: a layer of H pixels has `channel_base / H` channels,
        channel_max: and at most this many.
        num_classes: 0 is unconditional.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int,
        latent_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_classes: int = 0,
    ):
        super().__init__()
        widths = [_channels(r, channel_base, channel_max) for r in _heights(resolution)]
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        inputs = [latent_dim * (2 if num_classes else 1)] + [latent_dim] * (mapping_layers - 1)
        self.mapping = nn.ModuleList([EqualizedLinear(width, latent_dim, lr_multiplier=0.01) for width in inputs])
        self.register_buffer("w_mean", torch.zeros(max(1, num_classes), latent_dim))
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([SynthesisLayer(widths[0], widths[0], latent_dim, up=False)])
        for before, after in pairwise(widths):
            self.layers += [
                SynthesisLayer(before, after, latent_dim, up=True),
                SynthesisLayer(after, after, latent_dim, up=False),
            ]
        self.to_rgb = nn.ModuleList([ModulatedConv(c, 3, 1, latent_dim, demodulate=False) for c in widths])
        self.rgb_bias = nn.Parameter(torch.zeros(len(widths), 3))

    @property
    def noise_sizes(self) -> list[int]:
        """Heights of the noise of each layer."""
        heights = _heights(self.config.resolution)
        return [heights[0], *(h for h in heights[1:] for _ in range(2))]

    @property
    def noise_values(self) -> int:
        """Noise values of an image, over all layers."""
        return sum(size**2 for size in self.noise_sizes)

    @property
    def num_styles(self) -> int:
        """One for each layer, and one for the last conversion to colours."""
        return len(self.layers) + 1

    def map(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """w (N, latent_dim) of z (N, latent_dim); labels (N,) are used if conditional."""
        x = _unit(z)
        if self.embedding is not None:
            x = torch.cat([x, _unit(self.embedding(labels))], dim=1)
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2) * SQRT2
        return x

    def truncate(self, w: torch.Tensor, labels: torch.Tensor, psi: float) -> torch.Tensor:
        """w moved towards the mean of its class: `psi` 1 is w itself, 0 the mean (Karras et al. 2019, eq. in B)."""
        mean = self.w_mean[labels]
        return mean + psi * (w - mean)

    def synthesize(self, styles: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, H), about [-1, 1], of styles (N, num_styles, latent_dim) and noise (N, sum of sizes²)."""
        parts = noise.split([size**2 for size in self.noise_sizes], dim=1)
        maps = [part.view(-1, size, size) for part, size in zip(parts, self.noise_sizes, strict=True)]
        x = self.constant.expand(len(styles), -1, -1, -1)
        image = None
        for i, to_rgb in enumerate(self.to_rgb):
            with _precision(x, self.config.resolution, _heights(self.config.resolution)[i]):
                for k in (2 * i - 1, 2 * i) if i else (0,):
                    x = self.layers[k](x, styles[:, k], maps[k])
                colours = to_rgb(x, styles[:, 2 * i + 1])
            colours = colours.float() + self.rgb_bias[i][:, None, None]
            image = colours if image is None else upsample(image) + colours
        return image

    def forward(self, z: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images of z, with one style for all layers."""
        return self.synthesize(self.map(z, labels)[:, None].expand(-1, self.num_styles, -1), noise)


class StyleDiscriminator(ModelMixin, ConfigMixin):
    """Residual discriminator with minibatch standard deviation; a class is projected onto its last features."""

    @register_to_config
    def __init__(
        self,
        resolution: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_classes: int = 0,
        spectral: bool = False,
    ):
        super().__init__()
        widths = [_channels(r, channel_base, channel_max) for r in reversed(_heights(resolution))]
        self.from_rgb = EqualizedConv(3, widths[0], 1, spectral=spectral)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    EqualizedConv(before, before, 3, spectral=spectral),
                    EqualizedConv(before, after, 3, down=True, spectral=spectral),
                    EqualizedConv(before, after, 1, down=True, bias=False, spectral=spectral),
                ]
            )
            for before, after in pairwise(widths)
        )
        self.last = EqualizedConv(widths[-1] + 1, widths[-1], 3, spectral=spectral)
        self.features = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.head = EqualizedLinear(widths[-1], 1)
        self.projected = EqualizedLinear(widths[-1], num_classes) if num_classes else None

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of images (N, 3, H, H); labels (N,) count if conditional."""
        resolution = self.config.resolution
        with _precision(images, resolution, resolution):
            x = _activate(self.from_rgb(images))
        for height, (first, second, skip) in zip(reversed(_heights(resolution)), self.blocks, strict=False):
            with _precision(x, resolution, height) as x:
                x = (_activate(second(_activate(first(x)))) + skip(x)) / SQRT2
        with _precision(x, resolution, 4) as x:
            x = _activate(self.last(torch.cat([x, minibatch_deviation(x)], dim=1)))
        x = _activate(self.features(x.flatten(1)))
        logits = self.head(x)
        if self.projected is not None:
            logits = logits + self.projected(x).gather(1, labels[:, None])
        return logits.flatten()


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """How much images differ from others of their group, as a channel (N, 1, H, W) (Karras et al. 2018, section 3).

    The batch is split into groups of at most `group`, image i with i + N / group, …; the standard deviation of each
    feature over the group, averaged over the features, is the same everywhere in its images.
    """
    n, _, height, width = x.shape
    size = max(k for k in range(1, min(group, n) + 1) if n % k == 0)
    groups = x.float().reshape(size, n // size, -1)
    deviation = (groups.var(dim=0, correction=0) + 1e-8).sqrt().mean(1)
    return deviation.repeat(size).view(n, 1, 1, 1).expand(n, 1, height, width).to(x.dtype)


def low_pass(x: torch.Tensor, padding: int, gain: float = 1.0) -> torch.Tensor:
    """Each channel of (N, C, H, W) filtered with [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64 x gain, zeros around it.

    Shifted sums: a convolution of one channel at a time has a backward pass ten times as slow.
    """
    x = F.pad(x, [padding] * 4)
    x = x[..., :-3] + 3 * (x[..., 1:-2] + x[..., 2:-1]) + x[..., 3:]
    return (x[..., :-3, :] + 3 * (x[..., 1:-2, :] + x[..., 2:-1, :]) + x[..., 3:, :]) * (gain / 64)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Twice the size: zeros between the pixels, then the low-pass filter with gain 4."""
    spread = torch.stack([x, torch.zeros_like(x)], dim=-1).flatten(3)
    spread = torch.stack([spread, torch.zeros_like(spread)], dim=-2).flatten(2, 3)
    return low_pass(F.pad(spread, [1, 0, 1, 0]), padding=1, gain=4)


def _heights(resolution: int) -> list[int]:
    return [2**i for i in range(2, int(math.log2(resolution)) + 1)]


@contextmanager
def _precision(x: torch.Tensor, resolution: int, height: int) -> Iterator[torch.Tensor]:
    """Within the block autocast, if it is on, holds at the four largest sizes of at least 8 pixels, as in NVIDIA's
    code; at smaller ones `x` is float32."""
    if height >= max(8, resolution // 8):
        yield x
    else:
        with torch.autocast(x.device.type, enabled=False):
            yield x.float()


def _channels(height: int, base: int, most: int) -> int:
    return max(1, min(base // height, most))


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows scaled to a mean square of 1."""
    return x * (x.float().square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _activate(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * SQRT2
