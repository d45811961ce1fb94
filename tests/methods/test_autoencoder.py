"""The small autoencoder's losses against closed forms, and its training."""

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.distributions import Normal, kl_divergence

from dermgen.data import manifest
from dermgen.data.loading import PixelSet, to_unit_range
from dermgen.methods import autoencoder
from dermgen.methods.autoencoder import AutoencoderConfig, edge_loss
from dermgen.training.augmentation import turn
from dermgen.training.variational import kl_to_standard_normal


def test_the_kl_term_is_that_of_torch_distributions():
    mean, logvar = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), expected)


def test_the_edge_loss_is_zero_for_a_shift_of_brightness_and_counts_neighbour_differences():
    image = torch.rand(1, 1, 2, 3)
    torch.testing.assert_close(edge_loss(image, image + 0.3), torch.tensor(0.0), atol=1e-6, rtol=0)
    other = torch.rand(1, 1, 2, 3)
    across = [abs((image - other)[0, 0, y, x + 1] - (image - other)[0, 0, y, x]) for y in range(2) for x in range(2)]
    down = [abs((image - other)[0, 0, 1, x] - (image - other)[0, 0, 0, x]) for x in range(3)]
    torch.testing.assert_close(edge_loss(image, other), torch.stack(across).mean() + torch.stack(down).mean())


def test_turns_and_colour_swaps_only_move_pixels():
    pixels = torch.arange(8 * 3 * 4 * 4).reshape(8, 3, 4, 4)
    turned = turn(pixels, torch.arange(8))
    assert torch.equal(turned[0], pixels[0])
    assert len({tuple((t - t.min()).flatten().tolist()) for t in turned}) == 8
    swapped = autoencoder._swap_colors(pixels, torch.tensor([0.1, 0.9, *[0.1] * 6]), torch.tensor([5, 5, *range(6)]))
    assert torch.equal(swapped[0], pixels[0].flip(0))
    assert torch.equal(swapped[1], pixels[1])
    assert all(torch.equal(a.sort(0).values, b.sort(0).values) for a, b in zip(swapped, pixels, strict=True))


@pytest.mark.parametrize("downsampling", [2, 4, 8])
def test_before_any_training_every_colour_is_kept_and_averaged_over_squares(downsampling):
    config = AutoencoderConfig(data_dir="-", output_dir="-", channels=8, downsampling=downsampling)
    vae = autoencoder.build(config)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        reconstructed = vae.decode(vae.encode(images).latents).sample
    means = torch.nn.functional.avg_pool2d(images, downsampling)
    clamped = 2 * (torch.tanh(means / 2) + 0.5) - 1  # the decoder's tanh(x / 3) of latents 1.5 times the colours
    assert torch.allclose(reconstructed, torch.nn.functional.interpolate(clamped, scale_factor=downsampling), atol=1e-5)


def test_the_epsilon_of_adam_is_used(manifest_dir, tmp_path):
    settings = {
        "data_dir": str(manifest_dir), "resolution": 16, "channels": 8, "downsampling": 2, "train_batch_size": 2,
        "max_train_steps": 1, "learning_rate": 1e-2, "lr_warmup_steps": 0, "adam_weight_decay": 0.0, "report_to": "none",
    }  # fmt: skip
    moved = []
    for epsilon in (1e-8, 1e6):  # Adam divides a step by the second moment's root plus epsilon
        run = tmp_path / str(epsilon)
        vae = autoencoder.train(AutoencoderConfig(output_dir=str(run), adam_epsilon=epsilon, **settings))
        torch.manual_seed(0)
        start = autoencoder.build(AutoencoderConfig(output_dir=str(run), **settings))
        weights = zip(vae.parameters(), start.parameters(), strict=True)
        moved.append(max(float((a - b).abs().max()) for a, b in weights))
    assert moved[0] == pytest.approx(1e-2, rel=0.01)
    assert moved[1] < 1e-6


@pytest.mark.slow
def test_training_improves_reconstructions_and_scales_the_latents_to_unit_variance(manifest_dir, tmp_path):
    config = AutoencoderConfig(
        data_dir=str(manifest_dir),
        output_dir=str(tmp_path / "run"),
        resolution=32,
        channels=8,
        downsampling=2,
        latent_channels=8,
        train_batch_size=8,
        max_train_steps=100,
        learning_rate=1e-3,
        lr_warmup_steps=10,
        lr_scheduler="cosine",
        report_to="none",
    )
    table = manifest.select(manifest.read_real(manifest_dir), split="val")
    pixels = to_unit_range(PixelSet(table["path"], table["image_id"], 32, "lanczos").stack())

    @torch.no_grad()
    def error(vae):
        return float((vae.eval().decode(vae.encode(pixels).latents).sample - pixels).abs().mean())

    torch.manual_seed(0)
    before = error(autoencoder.build(config))
    vae = autoencoder.train(config)
    assert error(vae) < 0.95 * before  # of averages over squares, which are a good beginning
    saved = AutoencoderTiny.from_pretrained(tmp_path / "run" / "vae")
    with torch.no_grad():
        spread = (saved.encode(pixels).latents * saved.config.scaling_factor).std()
    assert 0.7 < spread < 1.4


def test_the_edge_weight_changes_the_training(manifest_dir, tmp_path):
    def weights(name, edge_weight):
        settings = {"channels": 8, "downsampling": 2, "resolution": 32, "train_batch_size": 2, "max_train_steps": 1}
        settings |= {"edge_weight": edge_weight, "lr_warmup_steps": 0, "report_to": "none"}
        vae = autoencoder.train(
            AutoencoderConfig(data_dir=str(manifest_dir), output_dir=str(tmp_path / name), **settings)
        )
        return torch.cat([p.detach().flatten() for p in vae.parameters()])

    assert torch.equal(weights("a", 0.0), weights("b", 0.0))
    assert not torch.equal(weights("a", 0.0), weights("c", 10.0))
