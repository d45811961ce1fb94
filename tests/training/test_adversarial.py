"""Adversarial losses and penalties against their closed forms, in any precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dermgen.training import adversarial as gan


def test_logistic_losses_are_binary_cross_entropies():
    real, fake = torch.randn(5), torch.randn(5)
    one, zero = torch.ones(5), torch.zeros(5)
    expected = F.binary_cross_entropy_with_logits(real, one) + F.binary_cross_entropy_with_logits(fake, zero)
    torch.testing.assert_close(gan.discriminator_loss(real, fake).mean(), expected)
    torch.testing.assert_close(gan.generator_loss(fake).mean(), F.binary_cross_entropy_with_logits(fake, one))


def test_least_squares_losses_are_means_over_patches_of_each_image():
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    losses = gan.least_squares_discriminator_loss(real, fake)
    for i in range(3):
        assert losses[i].item() == pytest.approx(
            (F.mse_loss(real[i], torch.ones(1, 2, 2)) + F.mse_loss(fake[i], torch.zeros(1, 2, 2))).item() / 2
        )
    torch.testing.assert_close(gan.least_squares_generator_loss(fake).mean(), F.mse_loss(fake, torch.ones_like(fake)))


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    w = torch.randn(12)
    real, fake = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    penalty = gan.gradient_penalty(lambda x: x.flatten(1) @ w, real, fake, torch.rand(4, 1, 1, 1))
    torch.testing.assert_close(penalty, ((w.norm() - 1) ** 2).expand(4))


def test_the_gradient_penalty_is_taken_between_real_and_fake():
    # critic(x) = |x|²/2 has the gradient x, so that the penalty tells where it was taken.
    real, fake, share = (
        torch.randn(3, 1, 2, 2),
        torch.randn(3, 1, 2, 2),
        torch.tensor([0.0, 1.0, 0.25]).view(3, 1, 1, 1),
    )
    penalty = gan.gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, fake, share)
    points = torch.stack([fake[0], real[1], 0.25 * real[2] + 0.75 * fake[2]])
    torch.testing.assert_close(penalty, (points.flatten(1).norm(dim=1) - 1) ** 2)


def test_r1_of_a_quadratic_function_is_the_squared_norm_of_its_input():
    x = torch.randn(4, 3, 2, 2)
    penalty = gan.r1_penalty(lambda x: x.square().flatten(1).sum(1) / 2, x)
    torch.testing.assert_close(penalty, x.square().flatten(1).sum(1))


def test_r1_is_differentiable_with_respect_to_the_discriminators_weights():
    """Of D(x) = a·x², R1 is 4a²x², and its derivative by a is 8ax²."""
    a = torch.tensor(0.7, dtype=torch.float32, requires_grad=True)
    x = torch.tensor([[[[1.5]]]])
    gan.r1_penalty(lambda x: (a * x.square()).flatten(), x).sum().backward()
    assert a.grad.item() == pytest.approx(8 * 0.7 * 1.5**2, rel=1e-5)


@pytest.mark.parametrize("penalty", ["r1", "gp"])
def test_penalties_are_float32_under_autocast(penalty):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))
    real, fake, share = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.rand(4, 1, 1, 1)

    def value(images_type):
        if penalty == "r1":
            return gan.r1_penalty(critic, real.to(images_type))
        return gan.gradient_penalty(critic, real.to(images_type), fake.to(images_type), share)

    plain = value(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = value(torch.float32)
        of_half_images = value(torch.bfloat16)
    assert torch.equal(plain, mixed)
    assert of_half_images.dtype == torch.float32


def test_the_path_length_of_a_linear_generator_is_that_of_its_transposed_matrix():
    torch.manual_seed(0)
    matrix = torch.randn(3 * 4 * 4, 5)
    styles = torch.randn(2, 1, 5, requires_grad=True)
    images = (styles[:, 0] @ matrix.T).view(2, 3, 4, 4)
    noise = torch.randn(2, 3, 4, 4)
    lengths = gan.path_lengths(images, styles, noise)
    expected = (noise.flatten(1) / 4) @ matrix  # Jᵀ y, y scaled by the root of 16 pixels
    torch.testing.assert_close(lengths, expected.norm(dim=1))


def test_path_lengths_average_squares_over_layers():
    styles = torch.randn(1, 2, 3, requires_grad=True)
    a, b = torch.randn(3), torch.randn(3)
    images = (styles[0, 0] @ a + styles[0, 1] @ b).view(1, 1, 1, 1)
    lengths = gan.path_lengths(images, styles, torch.ones(1, 1, 1, 1))
    assert lengths.item() == pytest.approx(((a.square().sum() + b.square().sum()) / 2).sqrt().item(), rel=1e-5)


def test_a_frozen_discriminator_gets_no_gradient_and_passes_it_on():
    discriminator, x = nn.Linear(3, 1), torch.randn(2, 3, requires_grad=True)
    with gan.frozen(discriminator):
        discriminator(x).sum().backward()
    assert discriminator.weight.grad is None
    assert x.grad.abs().sum() > 0
    assert discriminator.weight.requires_grad


def test_weights_that_were_frozen_before_stay_frozen():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with gan.frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
