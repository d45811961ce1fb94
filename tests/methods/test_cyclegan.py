"""CycleGAN: a PatchGAN that sees 70 pixels, an image pool with the paper's statistics, decay, and its inputs."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small import colours, config, train

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.generation.generate import generate
from dermgen.methods.cyclegan import (
    ImagePool,
    PatchDiscriminator,
    TranslationGenerator,
    linear_decay,
    read_sides,
)
from dermgen.settings.generate import GenerateConfig
from dermgen.training.draws import Draws


def test_one_number_of_the_discriminator_sees_70_by_70_pixels():
    discriminator = PatchDiscriminator(4).double()
    for module in discriminator.modules():  # instance norm looks at the whole image
        if isinstance(module, torch.nn.Sequential):
            for i, layer in enumerate(module):
                if isinstance(layer, torch.nn.InstanceNorm2d):
                    module[i] = torch.nn.Identity()
    images = torch.randn(1, 3, 192, 192, dtype=torch.float64, requires_grad=True)
    patches = discriminator(images)
    patches[0, 0, 10, 11].backward()
    touched = images.grad.abs().sum((0, 1))
    rows, columns = touched.sum(1).nonzero().flatten(), touched.sum(0).nonzero().flatten()
    assert len(rows) == rows[-1] - rows[0] + 1 == 70
    assert len(columns) == columns[-1] - columns[0] + 1 == 70


def test_the_discriminators_output_has_the_documented_size():
    assert PatchDiscriminator(4)(torch.randn(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert PatchDiscriminator(4)(torch.randn(2, 3, 256, 256)).shape == (2, 1, 30, 30)


def test_parameter_counts_are_those_of_the_paper():
    """What the authors' code prints: 11.378 M a generator with 9 blocks, 2.765 M a discriminator."""
    assert round(TranslationGenerator(64, 9).num_parameters() / 1e6, 3) == 11.378
    assert round(PatchDiscriminator(64).num_parameters() / 1e6, 3) == 2.765


def marked(first, count):
    """Images that hold their own number."""
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_a_pool_hands_out_new_images_until_it_is_full():
    pool, accelerator = ImagePool(5, 4), Accelerator(cpu=True)
    shown = pool.exchange(marked(0, 5), Draws(range(5)), accelerator)
    assert torch.equal(shown, marked(0, 5))
    assert torch.equal(pool.images, marked(0, 5))


def test_a_full_pool_hands_out_an_old_image_half_of_the_time_and_each_image_once():
    pool, accelerator = ImagePool(10, 4), Accelerator(cpu=True)
    pool.exchange(marked(0, 10), Draws(range(10)), accelerator)
    shown = []
    for i in range(10, 1010, 2):
        shown += pool.exchange(marked(i, 2), Draws([i, i + 1]), accelerator)[:, 0, 0, 0].tolist()
    old = np.array([value < number for value, number in zip(shown, range(10, 1010), strict=True)])
    assert old.mean() == pytest.approx(0.5, abs=0.06)
    handed_out = [value for value, was_old in zip(shown, old, strict=True) if was_old]
    assert len(set(handed_out)) == len(handed_out)  # what was handed out is in the pool no more
    age = np.array([number - value for value, number in zip(shown, range(10, 1010), strict=True)])[old]
    assert age.mean() == pytest.approx(20, rel=0.25)  # 10 places, one of them renewed in every second image


def test_a_pool_of_size_0_shows_the_new_images():
    pool = ImagePool(0, 4)
    assert torch.equal(pool.exchange(marked(3, 2), Draws([0, 1]), Accelerator(cpu=True)), marked(3, 2))


def test_the_learning_rate_is_constant_and_then_falls_in_a_line_to_almost_zero():
    factors = [linear_decay(step, 8, 0.5) for step in range(1, 9)]
    assert factors == [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [linear_decay(step, 4, 1.0) for step in (1, 4)] == [1.0, 1.0]


def test_a_translation_between_two_manifests_keeps_the_class_of_its_source(tmp_path):
    a, b = colours(tmp_path / "a", 32), colours(tmp_path / "b", 48)  # of other sizes: both are resized
    table = manifest.read(b)
    manifest.write(table.assign(image_id="b" + table["image_id"], lesion_id="b" + table["lesion_id"]), b)
    settings = {"class_a": None, "class_b": None, "data_dir_b": str(b), "max_train_steps": 1}
    train("cyclegan", a, tmp_path / "run", **settings)
    folder = generate(
        GenerateConfig(
            model=str(tmp_path / "run"), output_dir=str(tmp_path / "back"), init_images=str(b), direction="b_to_a",
            num_images=6,
        )
    )  # fmt: skip
    made = manifest.read(folder)
    source = manifest.read(b).set_index("image_id")
    assert list(made["dx"]) == list(source.loc[made["source_image_id"], "dx"])
    assert set(source.loc[made["source_image_id"], "split"]) == {"train"}


def test_two_manifests_with_images_in_common_are_refused(tmp_path):
    a = colours(tmp_path / "a", 32)
    settings = config("cyclegan", a, tmp_path, class_a=None, class_b=None, data_dir_b=str(tmp_path / "b"))
    b = colours(tmp_path / "b", 32)
    with pytest.raises(InputError, match="80 image_ids are in both manifests"):
        read_sides(settings)
    # One lesion that one side is trained on and the other holds out is enough.
    table = manifest.read(b)
    own = table.assign(image_id="b" + table["image_id"], lesion_id="b" + table["lesion_id"])
    own.loc[own["split"] == "val", "lesion_id"] = ["l0", *own.loc[own["split"] == "val", "lesion_id"].iloc[1:]]
    manifest.write(own, b)
    with pytest.raises(InputError, match=r"1 lesion_id is in both manifests \(such as l0\)"):
        read_sides(settings)


def test_an_image_of_a_plain_folder_can_be_translated(tested_dir, tmp_path):
    train("cyclegan", tested_dir, tmp_path / "run", max_train_steps=1)
    folder = tmp_path / "photos"
    folder.mkdir()
    from PIL import Image

    Image.new("RGB", (50, 40), (200, 150, 120)).save(folder / "one.jpg")
    made = manifest.read(
        generate(GenerateConfig(model=str(tmp_path / "run"), output_dir=str(tmp_path / "m"), init_images=str(folder)))
    )
    assert list(made["source_image_id"]) == ["one"]
    assert list(made["dx"]) == ["mel"]


def test_training_works_without_a_pool(tested_dir, tmp_path):
    train("cyclegan", tested_dir, tmp_path / "run", max_train_steps=1, pool_size=0)
    assert (tmp_path / "run" / "generator_a_to_b").is_dir()


def test_too_few_validation_images_give_a_warning_and_do_not_stop_the_training(tmp_path, capsys):
    data = colours(tmp_path / "data", 32)
    table = manifest.read(data)
    blue_val = (table["dx"] == "blue") & (table["split"] == "val")
    manifest.write(table[~blue_val | (blue_val.cumsum() <= 3)], data)
    settings = {"class_a": "blue", "class_b": "red", "max_train_steps": 1, "validation_steps": 1}
    train("cyclegan", data, tmp_path / "run", **settings)
    assert "has 3 validation images to compare with, fewer than 7" in capsys.readouterr().err
