"""The VAE's loss against closed forms and PyTorch's distributions; its reconstructions; its prior."""

import json

import pytest
import torch
from small import config, train
from torch.distributions import Normal, kl_divergence

from dermgen.methods.vae import Vae, VaeGenerator, build, kl_weight, losses
from dermgen.training.draws import Draws
from dermgen.training.variational import kl_to_standard_normal


def test_the_kl_divergence_is_pytorchs():
    mean, logvar = torch.randn(4, 6), torch.randn(4, 6)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0, 1)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), expected)
    assert kl_to_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


def test_the_loss_is_the_evidence_bound_of_a_gaussian_of_variance_one_half():
    torch.manual_seed(0)
    vae, images = Vae(16, [8, 16], latent_dim=4), torch.rand(3, 3, 16, 16)
    labels = torch.zeros(3, dtype=torch.long)
    mse, kl = losses(vae, images, labels, Draws(range(3)), 4)
    mean, logvar = vae.encode(images, labels)
    z = mean + (logvar / 2).exp() * Draws(range(3)).normal(4)
    decoded = Normal(vae.decode(z, labels), 0.5**0.5)
    bound = -decoded.log_prob(images).flatten(1).sum(1) + kl_divergence(
        Normal(mean, (logvar / 2).exp()), Normal(0, 1)
    ).sum(1)
    constant = 768 * 0.5 * torch.log(torch.tensor(torch.pi))
    torch.testing.assert_close((mse + kl) * 768 + constant, bound, rtol=1e-4, atol=1e-2)


def test_the_weight_of_the_kl_term_rises_linearly(tmp_path):
    settings = config("vae", tmp_path, tmp_path, kl_weight=2.0, kl_warmup_steps=4)
    assert [kl_weight(step, settings) for step in (1, 2, 4, 9)] == [0.5, 1.0, 2.0, 2.0]
    assert kl_weight(1, config("vae", tmp_path, tmp_path)) == 1.0


@pytest.mark.parametrize("architecture", ["convolutional", "dense"])
def test_both_architectures_reconstruct_at_the_size_of_the_input_and_decode_by_class(architecture, tmp_path):
    vae = build(config("vae", tmp_path, tmp_path, architecture=architecture), 3)
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 2])
    decoded, mean, logvar = vae(images, labels, torch.zeros(2, 8))
    assert decoded.shape == images.shape
    assert mean.shape == logvar.shape == (2, 8)
    other = vae.decode(mean, torch.tensor([1, 1]))
    assert not torch.allclose(decoded, other)


def test_the_dense_variant_has_one_hidden_layer_of_256():
    vae = Vae(64, [], latent_dim=128)
    layers = [m for m in vae.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted({m.out_features for m in layers}) == [256, 12288]  # 256 is also twice the 128 latents
    assert sum(p.numel() for p in vae.parameters()) == 12288 * 256 + 256 + 128 * 256 + 256 + 256 * 12288 + 12288 + (
        256 * 256 + 256
    )


def test_training_writes_scores_and_pictures_of_reconstructions(manifest_dir, tmp_path):
    train("vae", manifest_dir, tmp_path / "run", max_train_steps=1)
    scores = json.loads((tmp_path / "run" / "reconstructions.json").read_text())
    assert {"images", "mse", "psnr", "ssim"} == set(scores)
    assert -1 <= scores["ssim"]["mean"] <= 1
    for name in ("reconstructions", "interpolations"):
        assert (tmp_path / "run" / "samples" / f"{name}.png").exists()


def test_samples_are_decoded_from_the_prior():
    torch.manual_seed(0)
    vae = Vae(16, [8, 16], latent_dim=4).eval()
    image = VaeGenerator(vae, []).sample([""], [7])
    z = torch.randn(4, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = vae.decode(z[None], torch.zeros(1, dtype=torch.long))
    assert torch.equal(image, (expected * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))


def test_an_image_far_from_all_others_has_a_finite_loss():
    """Log variances of 100 from a dense encoder would make the variance NaN."""
    vae = Vae(16, [], latent_dim=4)
    with torch.no_grad():
        vae.moments.bias.fill_(1000.0)
    images, labels = torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.long)
    mse, kl = losses(vae, images, labels, Draws(range(2)), 4)
    assert torch.isfinite(mse + kl).all()
    (mse + kl).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters())
    small = Vae(16, [], latent_dim=4)
    with torch.no_grad():
        small.moments.weight.zero_()
        small.moments.bias.fill_(0.5)
    assert small.encode(images, labels)[1].mean().item() == pytest.approx(0.5, abs=1e-3)
