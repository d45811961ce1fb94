"""StyleGAN2's operations against brute force: one image, one layer, one number at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from small import config, train

from dermgen.methods.stylegan2 import steps
from dermgen.methods.stylegan2.generation import StyleGan2Generator
from dermgen.methods.stylegan2.networks import (
    EqualizedConv,
    EqualizedLinear,
    ModulatedConv,
    StyleDiscriminator,
    StyleGenerator,
    low_pass,
    minibatch_deviation,
    upsample,
)
from dermgen.methods.stylegan2.steps import AdaptiveAugmentation, PathLengthPenalty, draw_styles, track_mean_style
from dermgen.methods.stylegan2.training import lazy_weights
from dermgen.training.draws import Draws


def test_a_modulated_convolution_is_a_convolution_with_separate_weights_for_each_image():
    """The paper's equations 1 and 3, weight by weight."""
    torch.manual_seed(0)
    layer = ModulatedConv(4, 5, 3, 6)
    x, w = torch.randn(3, 4, 8, 8), torch.randn(3, 6)
    outputs = layer(x, w)
    for n in range(3):
        style = layer.style(w[n : n + 1])[0]
        weight = layer.weight / math.sqrt(4 * 9) * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(outputs[n], F.conv2d(x[n : n + 1], weight, padding=1)[0], rtol=1e-4, atol=1e-5)


def test_demodulated_outputs_have_unit_variance_for_unit_inputs():
    torch.manual_seed(0)
    layer = ModulatedConv(64, 8, 3, 6)
    out = layer(torch.randn(4, 64, 32, 32), 3 * torch.randn(4, 6))
    assert out.var().item() == pytest.approx(1, abs=0.1)


def test_an_upsampling_modulated_convolution_is_zeros_between_pixels_convolution_and_filter():
    torch.manual_seed(0)
    layer = ModulatedConv(2, 3, 3, 4, up=True)
    x, w = torch.randn(1, 2, 4, 4), torch.randn(1, 4)
    style = layer.style(w)[0]
    weight = layer.weight / math.sqrt(2 * 9) * style[None, :, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    spread = torch.zeros(1, 2, 7, 7)
    spread[..., ::2, ::2] = x
    # A transposed convolution is a plain one with the kernel turned by 180 degrees.
    wide = F.conv2d(spread, weight.flip(2, 3), padding=2)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64 * 4
    expected = torch.cat([F.conv2d(c[None, None], kernel[None, None], padding=1) for c in wide[0]], dim=1)
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)


def brute_force_filter(x, padding, gain):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    padded = F.pad(x, [padding] * 4)
    height, width = padded.shape[-2] - 3, padded.shape[-1] - 3
    out = torch.zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            window = padded[..., i : i + 4, j : j + 4]
            out[..., i, j] = (window * torch.outer(taps, taps) / 64 * gain).sum((-2, -1))
    return out


@pytest.mark.parametrize(("padding", "gain"), [(1, 4.0), (2, 1.0)])
def test_the_low_pass_filter_is_its_weighted_sum(padding, gain):
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(low_pass(x, padding, gain), brute_force_filter(x, padding, gain))


def test_upsampling_keeps_a_constant_image_inside():
    up = upsample(torch.full((1, 1, 6, 6), 3.0))
    assert up.shape == (1, 1, 12, 12)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], torch.full((1, 1, 10, 10), 3.0))


def test_minibatch_deviation_is_that_of_each_group():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 2, 2)
    deviations = minibatch_deviation(x, group=4)
    for i in range(8):
        members = x[[j for j in range(8) if j % 2 == i % 2]]
        expected = members.var(dim=0, correction=0).add(1e-8).sqrt().mean()
        torch.testing.assert_close(deviations[i], expected.expand(1, 2, 2))


def test_equal_images_have_no_deviation_and_odd_batches_work():
    same = torch.randn(1, 3, 2, 2).expand(6, -1, -1, -1)
    assert minibatch_deviation(same).abs().max() < 2e-4
    assert minibatch_deviation(torch.randn(5, 3, 2, 2)).shape == (5, 1, 2, 2)


def test_equalised_layers_have_outputs_of_unit_variance_whatever_their_width():
    torch.manual_seed(0)
    assert EqualizedLinear(300, 2000)(torch.randn(16, 300)).var().item() == pytest.approx(1, abs=0.1)
    assert EqualizedConv(64, 64, 3)(torch.randn(4, 64, 20, 20)).var().item() == pytest.approx(1, abs=0.15)
    slow = EqualizedLinear(300, 2000, lr_multiplier=0.01)
    assert slow(torch.randn(16, 300)).var().item() == pytest.approx(1, abs=0.1)
    assert slow.weight.std().item() == pytest.approx(100, rel=0.05)


def test_parameter_counts_are_those_of_the_architecture():
    """At 256 pixels with the paper's widths for that size (channel_base 16384, 8 mapping layers of 512)."""
    generator, discriminator = StyleGenerator(256), StyleDiscriminator(256)
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    heights = sorted(widths)
    mapping = 8 * (512 * 512 + 512)
    synthesis = 512 * 16
    for i, h in enumerate(heights):
        c = widths[h]
        inputs = [c] if i == 0 else [widths[heights[i - 1]], c]
        for before in inputs:  # weight, style, bias, noise strength
            synthesis += before * c * 9 + (512 * before + before) + c + 1
        synthesis += c * 3 + (512 * c + c) + 3  # to colours
    assert generator.num_parameters() == mapping + synthesis == 24_767_458
    expected = 3 * 64 + 64
    for h in heights[:0:-1]:
        before, after = widths[h], widths[h // 2]
        expected += before * before * 9 + before + before * after * 9 + after + before * after
    expected += 513 * 512 * 9 + 512 + 512 * 16 * 512 + 512 + 512 + 1
    assert discriminator.num_parameters() == expected == 24_001_089


def test_noise_changes_an_image_only_where_its_strength_is_not_zero():
    torch.manual_seed(0)
    generator = StyleGenerator(16, 8, 2, 128, 8)
    z, y = torch.randn(1, 8), torch.zeros(1, dtype=torch.long)
    count = sum(size**2 for size in generator.noise_sizes)
    assert generator.noise_sizes == [4, 8, 8, 16, 16]
    a, b = torch.randn(1, count), torch.randn(1, count)
    assert torch.equal(generator(z, y, a), generator(z, y, b))
    with torch.no_grad():
        generator.layers[-1].noise_strength.fill_(1.0)
    assert not torch.equal(generator(z, y, a), generator(z, y, b))


def test_mixed_styles_change_once_from_one_to_another():
    torch.manual_seed(0)
    generator = StyleGenerator(32, 8, 2, 128, 8)
    labels = torch.zeros(64, dtype=torch.long)
    styles = draw_styles(generator, labels, Draws(range(64)), 0.5)
    changes = (styles[:, 1:] != styles[:, :-1]).any(2).sum(1)
    assert set(changes.tolist()) == {0, 1}
    assert changes.float().mean().item() == pytest.approx(0.5, abs=0.2)
    plain = draw_styles(generator, labels, Draws(range(64)), 0.0)
    assert (plain == plain[:, :1]).all()


def test_truncation_interpolates_to_the_mean_style_of_the_class():
    torch.manual_seed(0)
    generator = StyleGenerator(16, 8, 2, 128, 8, num_classes=2)
    generator.w_mean.copy_(torch.randn(2, 8))
    w, y = torch.randn(2, 8), torch.tensor([0, 1])
    torch.testing.assert_close(generator.truncate(w, y, 1.0), w)
    torch.testing.assert_close(generator.truncate(w, y, 0.0), generator.w_mean)
    torch.testing.assert_close(generator.truncate(w, y, 0.5), (w + generator.w_mean) / 2)


def test_truncated_samples_of_a_class_are_alike():
    torch.manual_seed(0)
    generator = StyleGenerator(16, 8, 2, 128, 8, num_classes=2)
    spread = [
        StyleGan2Generator(generator, ["a", "b"], psi).sample(["a"] * 8, range(8)).float().std(0).mean()
        for psi in (1.0, 0.3, 0.0)
    ]
    assert spread[0] > spread[1] > spread[2] == 0


def test_the_mean_style_follows_each_class_alone():
    generator = StyleGenerator(16, 4, 1, 128, 8, num_classes=3)
    accelerator = Accelerator(cpu=True)
    w, labels = torch.tensor([[1.0] * 4, [3.0] * 4, [5.0] * 4]), torch.tensor([0, 0, 2])
    for _ in range(2):
        track_mean_style(generator, w, labels, accelerator, decay=0.5)
    assert generator.w_mean[:, 0].tolist() == [1.5, 0.0, 3.75]


def test_the_path_length_penalty_is_the_squared_distance_to_a_running_mean():
    penalty, accelerator = PathLengthPenalty(decay=0.1), Accelerator(cpu=True)
    first = penalty(torch.tensor([10.0, 20.0]), accelerator)
    assert penalty.mean.item() == pytest.approx(1.5)
    assert first.tolist() == pytest.approx([8.5**2, 18.5**2])
    penalty(torch.tensor([1.5]), accelerator)
    assert penalty.mean.item() == pytest.approx(1.5)


def test_the_augmentation_probability_rises_while_the_discriminator_overfits_and_falls_otherwise():
    augmentation, accelerator = AdaptiveAugmentation(0.6, images=1000, interval=2), Accelerator(cpu=True)
    for _ in range(4):
        augmentation.update(torch.ones(25), accelerator)
    assert augmentation.p.item() == pytest.approx(0.1)
    for _ in range(2):
        augmentation.update(torch.tensor([1.0] * 10 + [-1.0] * 15), accelerator)
    assert augmentation.p.item() == pytest.approx(0.05)
    for _ in range(40):
        augmentation.update(-torch.ones(25), accelerator)
    assert augmentation.p.item() == 0


def test_spectral_normalisation_brings_every_convolution_of_the_discriminator_to_norm_one():
    torch.manual_seed(0)
    discriminator = StyleDiscriminator(16, 128, 8, spectral=True)
    for _ in range(100):
        discriminator(torch.randn(2, 3, 16, 16), torch.zeros(2, dtype=torch.long))
    for layer in discriminator.modules():
        if isinstance(layer, EqualizedConv):
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() * layer.gain
            assert norm == pytest.approx(1, abs=0.03)


def test_the_wgan_recipe_updates_its_critic_n_times_a_step_with_images_of_its_own(manifest_dir, tmp_path, monkeypatch):
    seen = []
    real = steps.gradient_penalty

    def spy(critic, images, fake, share):
        seen.append(images.clone())
        return real(critic, images, fake, share)

    monkeypatch.setattr(steps, "gradient_penalty", spy)
    settings = {"loss": "wgan_gp", "n_critic": 3, "ada_target": None, "spectral_norm": True}
    settings |= {"r1_interval": 16, "path_length_interval": 4}
    train("stylegan2", manifest_dir, tmp_path / "run", max_train_steps=2, **settings)
    assert len(seen) == 6
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_styles_and_small_feature_maps_are_float32_under_autocast():
    torch.manual_seed(0)
    generator = StyleGenerator(128, latent_dim=8, mapping_layers=2, channel_base=256, channel_max=8)
    discriminator = StyleDiscriminator(128, channel_base=256, channel_max=8)
    rounded = set()

    def note(module, args, output):
        if torch.is_autocast_enabled("cpu"):
            rounded.add((type(module).__name__, args[0].shape[-1]))

    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, ModulatedConv | EqualizedConv):
                module.register_forward_hook(note)
    z, y = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
    noise = torch.randn(4, sum(size**2 for size in generator.noise_sizes))
    exact = generator.map(z, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.map(z, y), exact)
        images = generator(z, y, noise)
        logits = discriminator(images, y)
    assert images.dtype == logits.dtype == torch.float32
    # The four largest sizes; an upsampling convolution has the size before it.
    assert rounded == {("ModulatedConv", size) for size in (8, 16, 32, 64, 128)} | {
        ("EqualizedConv", size) for size in (16, 32, 64, 128)
    }


def test_pictures_of_mixed_and_interpolated_styles_are_written(manifest_dir, tmp_path):
    train("stylegan2", manifest_dir, tmp_path / "run", max_train_steps=1)
    assert {"style_mixing.png", "interpolations.png"} <= {p.name for p in (tmp_path / "run" / "samples").iterdir()}


def test_the_default_weight_of_r1_is_the_rule_of_the_adaptive_augmentation_paper(tmp_path):
    settings = config("stylegan2", tmp_path, tmp_path)  # R1 in every second step
    assert settings.r1_gamma is None
    weights = [lazy_weights(settings, step, batch=4)[0] for step in (1, 2)]
    assert weights == [0, pytest.approx(0.0002 * 16**2 / 4 / 2 * 2)]  # gamma / 2, times the interval
