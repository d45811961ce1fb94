"""Augmentation moves and recolours images within its limits, each image by its own random numbers."""

import pytest
import torch

from dermgen.classify.augmentation import augment, mixup
from dermgen.training.draws import Draws


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_with_all_strengths_at_zero_an_image_stays_or_is_mirrored(images):
    changed = augment(images, Draws(range(6)), rotation=0, crop=1, color_jitter=0)
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(changed, images, strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(changed, images, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert any(mirrored)
    assert any(same)


def test_an_image_is_changed_by_its_own_numbers_whatever_else_is_in_the_batch(images):
    whole = augment(images, Draws(range(6)), 180, 0.7, 0.2)
    alone = augment(images[4:5], Draws([4]), 180, 0.7, 0.2)
    torch.testing.assert_close(whole[4:5], alone)
    assert not torch.allclose(whole[4], images[4], atol=0.01)


def test_pixels_stay_in_range_and_a_grey_image_only_changes_its_brightness():
    grey = torch.full((8, 3, 16, 16), 0.5)
    changed = augment(grey, Draws(range(8)), 180, 0.5, 0.3)
    assert changed.min() >= 0
    assert changed.max() <= 1
    spread = changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert spread.max() < 1e-5
    assert changed.amax(dim=(1, 2, 3)).std() > 0.02


def test_a_crop_shows_a_smaller_part_larger():
    ramp = torch.linspace(0, 1, 64).expand(16, 3, 64, 64).contiguous()
    changed = augment(ramp, Draws(range(16)), rotation=0, crop=0.5, color_jitter=0)
    spread = changed[:, 0].amax(dim=(1, 2)) - changed[:, 0].amin(dim=(1, 2))
    assert spread.min() > 0.48
    assert spread.max() < 1.0
    assert spread.std() > 0.05


def test_mixup_blends_images_and_targets_by_the_same_share():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    targets = torch.eye(2)
    mixed, mixed_targets = mixup(images, targets, 0.4, Draws([1, 2]))
    torch.testing.assert_close(mixed[:, 0, 0, 0], mixed_targets[:, 1])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(2))
    assert 0 < mixed_targets[0, 1] < 1
