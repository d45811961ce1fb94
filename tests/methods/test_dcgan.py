"""DCGAN: the paper's networks, the projection discriminator, averaged batch statistics, and the warning of collapse."""

import json

import numpy as np
import pytest
import torch
from small import config, train
from torch import nn

from dermgen.evaluate.monitoring import collapse_warning, monitor
from dermgen.methods.dcgan import DcganDiscriminator, DcganGenerator, build
from dermgen.training.lesions import read_lesions


def test_the_generator_has_the_layers_of_the_paper():
    """100 numbers, projected to 4 x 4 x 1024, then 512, 256, 128 and 3 channels at 64 pixels (its figure 1)."""
    generator = DcganGenerator(64)
    layers = [m for m in generator.layers if isinstance(m, nn.ConvTranspose2d)]
    assert [m.in_channels for m in layers] == [100, 1024, 512, 256, 128]
    assert layers[-1].out_channels == 3
    norms = [m for m in generator.layers if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4  # none after the last layer
    assert isinstance(generator.layers[-1], nn.Tanh)
    weights = torch.cat([m.weight.flatten() for m in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_discriminator_has_the_layers_of_the_paper():
    discriminator = DcganDiscriminator(64)
    convolutions = [m for m in discriminator.features if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in convolutions] == [
        (3, 64, (2, 2)), (64, 128, (2, 2)), (128, 256, (2, 2)), (256, 512, (2, 2)),
    ]  # fmt: skip
    assert isinstance(discriminator.features[1], nn.LeakyReLU)  # no batch norm on the input layer
    assert sum(isinstance(m, nn.BatchNorm2d) for m in discriminator.features) == 3
    assert discriminator(torch.randn(2, 3, 64, 64), torch.zeros(2, dtype=torch.long)).shape == (2,)


def test_a_projection_discriminator_adds_the_product_of_class_and_summed_features():
    """Miyato and Koyama's f(x, y) = ψ(φ(x)) + <e(y), Σ φ(x)>: between two classes only the embedding differs."""
    torch.manual_seed(0)
    discriminator = DcganDiscriminator(16, 8, norm="none", num_classes=3)
    images = torch.randn(2, 3, 16, 16)
    one, two = (discriminator(images, torch.full((2,), k)) for k in (1, 2))
    features = discriminator.features(images)
    embedding = discriminator.projected.weight
    expected = torch.stack([sum((embedding[1] - embedding[2])[c] * f[c].sum() for c in range(16)) for f in features])
    torch.testing.assert_close(one - two, expected)
    torch.testing.assert_close(
        one, torch.stack([discriminator.head(f[None]).squeeze() + embedding[1] @ f.sum((1, 2)) for f in features])
    )


def test_an_embedding_discriminator_sees_the_class_as_a_fourth_channel(tmp_path):
    _, discriminator = build(config("dcgan", tmp_path, tmp_path, conditioning="embedding"), 3)
    assert discriminator.features[0].in_channels == 4
    assert discriminator.channel.weight.shape == (3, 256)


def test_spectral_normalisation_brings_every_layer_to_norm_one():
    torch.manual_seed(0)
    discriminator = DcganDiscriminator(16, 8, norm="spectral", num_classes=3)
    for _ in range(100):  # power iteration
        discriminator(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Embedding)]
    assert len(layers) == 4
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_saved_averages_have_batch_statistics_of_their_own(manifest_dir, tmp_path):
    """In evaluation mode the saved generator draws what it does when it normalises by a large batch of its own."""
    train("dcgan", manifest_dir, tmp_path / "run", max_train_steps=6, ema_decay=0.9, learning_rate=5e-3)
    generator = DcganGenerator.from_pretrained(tmp_path / "run", subfolder="generator")
    torch.manual_seed(0)
    z, y = torch.randn(512, 8), torch.randint(7, (512,))
    with torch.no_grad():
        evaluated = generator.eval()(z, y)
        normalised = generator.train()(z, y)
    assert (evaluated - normalised).abs().mean() < 0.05 * normalised.std()


@pytest.mark.slow
def test_a_validation_leaves_the_live_weights_and_batch_statistics_unchanged(manifest_dir, tmp_path):
    settings = {"max_train_steps": 4, "ema_decay": 0.9}
    train("dcgan", manifest_dir, tmp_path / "a", **settings, validation_steps=1)
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    train("dcgan", manifest_dir, tmp_path / "b", **settings)
    from safetensors.torch import load_file

    a, b = (load_file(tmp_path / f / "checkpoint-4" / "model.safetensors") for f in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_collapsed_generator_gets_a_warning_and_a_varied_one_does_not(tested_dir, tmp_path):
    from accelerate import Accelerator

    settings = config("dcgan", tested_dir, tmp_path, monitor_samples=16)
    lesions = read_lesions(settings)
    held_out = monitor(lesions.val, settings, Accelerator(cpu=True))
    classes = lesions.held_out_labels(True, 16)
    assert len(classes) == 16
    from dermgen.data.loading import LesionSet

    by_class = lesions.train.groupby("dx")
    images = {dx: [item["pixels"] for item in LesionSet(part, [dx], 32)] for dx, part in by_class}
    varied = torch.stack([images[dx][i % len(images[dx])] for i, dx in enumerate(classes)])
    collapsed = torch.stack([images[dx][0] for dx in classes])
    good, bad = held_out.measure(varied, classes), held_out.measure(collapsed, classes)
    assert bad["val_variety"] == pytest.approx(0, abs=1e-6)
    assert good["val_variety"] == pytest.approx(1, abs=0.5)
    assert collapse_warning(good) is None
    assert "variety is 0.00, under 0.5" in collapse_warning(bad)


def test_variety_is_measured_within_classes(tested_dir, tmp_path):
    """One image for each class would be varied over all classes together."""
    from dermgen.evaluate.monitoring import _spread

    x = np.array([[0.0], [0.0], [10.0], [10.0]])
    assert _spread(x, ["a", "a", "b", "b"]) == 0
    assert _spread(x, [""] * 4) == pytest.approx(40 / 6)


def test_validation_logs_kid_recall_and_variety(tested_dir, tmp_path):
    train("dcgan", tested_dir, tmp_path / "run", max_train_steps=1, validation_steps=1, monitor_samples=16)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {"val_kid", "val_recall", "val_variety"} <= logged


def test_the_warning_names_what_is_low_and_nothing_else():
    warning = collapse_warning({"val_recall": 0.5, "val_variety": 1.2, "val_lpips_variety": 0.3})
    assert "lpips_variety is 0.30, under 0.5" in warning
    assert "recall" not in warning.split("(")[0]
    assert " variety is" not in warning


def test_batch_statistics_are_measured_in_the_classes_shares(tmp_path, manifest_dir):
    """A generator whose output is its class: its mean is that of the training labels."""
    from dermgen.methods.dcgan import averaged

    class Run:
        config = config("dcgan", manifest_dir, tmp_path, ema_decay=0.5)

        @staticmethod
        def averaged_weights():
            from contextlib import nullcontext

            return nullcontext()

    torch.manual_seed(0)
    generator = DcganGenerator(16, 8, 8, num_classes=2)
    with torch.no_grad():
        generator.embedding.weight.copy_(torch.tensor([[-5.0] * 8, [5.0] * 8]))
    norm = next(m for m in generator.modules() if isinstance(m, nn.BatchNorm2d))
    means = []
    for labels in ([0] * 9 + [1], [0], [1]):
        with averaged(Run(), generator, labels):
            means.append(norm.running_mean.clone())
    expected = 0.9 * means[1] + 0.1 * means[2]
    assert (means[0] - expected).norm() < 0.1 * (means[1] - means[2]).norm()
