"""Classifiers load pretrained weights, replace heads, freeze stages and normalise pixels as they should."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from dermgen.classify import networks
from dermgen.config import InputError

CLASSES = ["mel", "nv", "vasc"]


@pytest.fixture
def resnet_dir(tmp_path):
    model = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", num_labels=5
        )
    )
    model.save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def test_a_checkpoint_gets_a_head_for_our_classes(resnet_dir):
    classifier = networks.load_pretrained(str(resnet_dir), CLASSES)
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert classifier.model.config.id2label == {0: "mel", 1: "nv", 2: "vasc"}


def test_frozen_stages_keep_their_weights_and_batch_statistics_in_training(resnet_dir):
    classifier = networks.load_pretrained(str(resnet_dir), CLASSES)
    networks.widen_head(classifier, 16, 0.5)
    classifier.freeze(2)
    before = {k: v.clone() for k, v in classifier.model.state_dict().items()}
    classifier.train()
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.1)
    classifier(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in classifier.model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(
        k.startswith(("resnet.embedder", "resnet.encoder.stages.0", "resnet.encoder.stages.1")) for k in changed
    )
    assert any(k.startswith("resnet.encoder.stages.2") and "running_mean" in k for k in changed)
    assert {"classifier.2.weight", "classifier.5.weight"} <= changed


def test_layers_of_a_vit_are_frozen_with_its_input(tmp_path):
    classifier = networks.build_small_vit(CLASSES, 32, 8, 32, 3)
    classifier.freeze(2)
    frozen = {name.rsplit(".", 1)[0] for name, p in classifier.model.named_parameters() if not p.requires_grad}
    assert any(n.startswith("vit.embeddings") for n in frozen)
    assert any(n.startswith("vit.layers.1.") for n in frozen)
    assert not any(n.startswith(("vit.layers.2.", "classifier", "vit.layernorm")) for n in frozen)
    with pytest.raises(InputError, match="freeze_stages is 4, but ViTForImageClassification has 3 stages"):
        classifier.freeze(4)


def test_features_are_what_the_head_sees(resnet_dir):
    classifier = networks.load_pretrained(str(resnet_dir), CLASSES).eval()
    images = torch.rand(2, 3, 32, 32)
    features, logits = classifier.features(images)
    assert features.shape == (2, 32)
    torch.testing.assert_close(classifier.model.classifier[-1](features), logits)
    torch.testing.assert_close(classifier(images), logits)


def test_pixels_are_normalised_as_the_checkpoint_says(resnet_dir):
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(resnet_dir)
    classifier = networks.load_pretrained(str(resnet_dir), CLASSES).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(classifier(images), classifier.model((images - mean) / std).logits)


def test_a_checkpoint_that_cannot_be_loaded_names_the_offline_choice():
    with pytest.raises(InputError, match="--from_scratch"):
        networks.load_pretrained("google/no-such-model", CLASSES)


def test_a_folder_that_is_not_a_classifier_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a finished classifier run"):
        networks.load_run(tmp_path)
