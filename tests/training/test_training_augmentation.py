"""Augmentation keeps what it must, draws for each image alone, and passes gradients on."""

import pytest
import torch

from dermgen.training.augmentation import adaptive_augment, augment, diff_augment, turn
from dermgen.training.draws import Draws


def pictures(n=6, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(n=6, first=0):
    return Draws(range(first, first + n))


def test_what_is_off_changes_no_bit_and_draws_no_number():
    x, d = pictures(), draws()
    assert torch.equal(augment(x, d), x)
    assert torch.equal(adaptive_augment(x, d, 0.0), x)
    assert torch.equal(d.uniform(), draws().uniform())


def test_the_eight_orientations_are_all_different_and_those_of_the_square():
    x = pictures(1).expand(8, -1, -1, -1)
    turned = turn(x, torch.arange(8))
    assert len({t.numpy().tobytes() for t in turned}) == 8
    assert torch.equal(turned[1], torch.rot90(x[0], 1, (1, 2)))
    assert torch.equal(turned[4], x[0].flip(-1))


def test_flips_and_turns_happen_to_half_and_to_three_quarters():
    x = pictures(1, 4).expand(400, -1, -1, -1)
    flipped = (augment(x, draws(400), flip=True) != x).flatten(1).any(1).float().mean()
    turned = (augment(x, draws(400), rotate=True) != x).flatten(1).any(1).float().mean()
    assert flipped == pytest.approx(0.5, abs=0.1)
    assert turned == pytest.approx(0.75, abs=0.1)


def test_a_crop_shows_part_of_the_image():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64).expand(50, -1, -1, -1)
    cropped = augment(ramp, draws(50), crop=0.5)
    width = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert (width > 0.9).all()
    assert (width < 2.05).all()
    assert width.std() > 0.1
    assert (cropped.amin() >= -1.01) & (cropped.amax() <= 1.01)


def test_scaled_intensities_keep_black_and_stop_at_white():
    x = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 0.0), torch.full((3, 4, 4), 0.99)])
    scaled = augment(x, draws(3), scale=0.3)
    assert torch.equal(scaled[0], x[0])
    factor = scaled[1, 0, 0, 0] + 1
    assert 0.7 <= factor <= 1.3
    assert factor != 1
    assert scaled.amax() <= 1


@pytest.mark.parametrize("change", [diff_augment, lambda x, d: adaptive_augment(x, d, 0.8)], ids=["diff", "ada"])
def test_an_image_is_changed_by_its_own_numbers_alone(change):
    x = pictures()
    together = change(x, draws())
    alone = torch.cat([change(x[i : i + 1], draws(1, i)) for i in range(6)])
    torch.testing.assert_close(together, alone)
    assert not torch.equal(together, x)


@pytest.mark.parametrize("change", [diff_augment, lambda x, d: adaptive_augment(x, d, 0.8)], ids=["diff", "ada"])
def test_gradients_reach_the_images(change):
    x = pictures().requires_grad_(True)
    change(x, draws()).square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_most_images_have_areas_blanked_by_translation_or_cutout():
    """A constant image stays constant wherever it is not blanked."""
    x = torch.zeros(200, 3, 16, 16)
    augmented = diff_augment(x, draws(200))
    for image in augmented:
        values = image.unique()
        assert len(values) <= 2
        assert 0 in values or len(values) == 1
    share = (augmented == 0).float().mean(dim=(1, 2, 3))
    assert (share > 0).float().mean() > 0.9


def test_the_probability_of_adaptive_augmentation_is_the_share_of_changed_images():
    x = pictures(1, 8).expand(600, -1, -1, -1)
    p = 0.05
    changed = (adaptive_augment(x, draws(600), p) - x).abs().flatten(1).amax(1) > 1e-4
    # Half of the flips and a quarter of the quarter turns leave the image as it is.
    once = 1 - (1 - p) ** 0.5
    kept = (1 - p / 2) * (1 - p * 3 / 4) * (1 - p) ** 2 * (1 - once) ** 2 * (1 - p) ** 2 * (1 - p) ** 5
    assert changed.float().mean().item() == pytest.approx(1 - kept, abs=0.06)


def test_adaptive_augmentation_at_its_geometric_identity_keeps_the_image():
    """A flip and four quarter turns are exact: the changed images are among the eight orientations."""
    x = pictures(1, 8)
    eight = turn(x.expand(8, -1, -1, -1), torch.arange(8))
    augmented = adaptive_augment(x.expand(300, -1, -1, -1), draws(300), 0.03)
    nearest = (augmented[:, None] - eight[None]).abs().flatten(2).amax(2).amin(1)
    assert (nearest < 1e-4).float().mean() > 0.7


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_the_luma_flip_inverts_half_of_the_images_selected_for_it(p):
    """A flip that always happened would invert all of them."""
    bright = torch.full((1000, 3, 4, 4), 0.9)
    dark = adaptive_augment(bright, draws(1000), p).mean(dim=(1, 2, 3)) < 0
    assert dark.float().mean().item() == pytest.approx(p / 2, abs=0.05)


def test_adaptive_augmentation_is_the_same_under_autocast():
    x = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = adaptive_augment(x, draws(), 0.8)
    assert torch.equal(mixed, adaptive_augment(x, draws(), 0.8))


def test_differentiable_augmentation_is_brightness_saturation_contrast_shift_and_hole_pixel_by_pixel():
    size, x = 16, pictures(5)
    augmented = diff_augment(x, draws(5))
    for image, result, u in zip(x, augmented, draws(5).uniform(7), strict=True):
        image = image + u[0] - 0.5
        grey = image.mean(0)
        image = grey + (image - grey) * 2 * u[1]
        image = image.mean() + (image - image.mean()) * (u[2] + 0.5)
        most = size // 8
        down, right = (int(u[i] * (2 * most + 1)) - most for i in (3, 4))
        top, left = (int(u[i] * size) - size // 4 for i in (5, 6))
        expected = torch.zeros_like(image)
        for row in range(size):
            for column in range(size):
                a, b = row + down, column + right
                hole = top <= row < top + size // 2 and left <= column < left + size // 2
                if 0 <= a < size and 0 <= b < size and not hole:
                    expected[:, row, column] = image[:, a, b]
        torch.testing.assert_close(result, expected)
