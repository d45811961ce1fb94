"""Image classifiers from transformers: loading, a small one from scratch, heads, frozen stages, saving."""

import json
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPImageProcessor,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    logging,
)

from dermgen.config import InputError
from dermgen.job import saved_settings


class Classifier(nn.Module):
    """A transformers image classifier that takes pixels in [0, 1] and normalises them itself.

    Args:
        model: takes normalised images as `pixel_values`.
        mean: of each channel, as fractions of white; subtracted.
        std: of each channel; divided by.
    """

    def __init__(self, model: PreTrainedModel, mean: list[float], std: list[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._frozen: list[nn.Module] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, H, W) in [0, 1]."""
        return self.model(pixel_values=(images - self.mean) / self.std).logits

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of the classifier's head, (N, D), and logits, (N, classes), of images (N, 3, H, W) in [0, 1]."""
        inputs = []
        hook = self.model.classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(1)))
        try:
            logits = self(images)
        finally:
            hook.remove()
        return inputs[0], logits

    def freeze(self, stages: int) -> None:
        """Freeze the input layer and the first stages (of a ResNet) or layers (of a ViT).

        Raises:
            InputError: if the network has fewer stages.
        """
        if stages == 0:
            return
        body = self.model.base_model
        blocks = next(m for m in body.modules() if isinstance(m, nn.ModuleList))
        if stages > len(blocks):
            raise InputError(f"freeze_stages is {stages}, but {type(self.model).__name__} has {len(blocks)} stages")
        self._frozen = [m for name, m in body.named_children() if "embed" in name] + list(blocks[:stages])
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode, except for frozen stages, whose batch statistics must not change either."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def check_pretrained(name_or_path: str, revision: str | None, resolution: int) -> None:
    """Raise `InputError` if a checkpoint cannot be loaded or takes another resolution; only its config is read."""
    try:
        image_size = getattr(AutoConfig.from_pretrained(name_or_path, revision=revision), "image_size", None)
    except (OSError, ValueError) as error:
        raise _unavailable(name_or_path, error) from error
    if image_size is not None and image_size != resolution:  # of a ViT; convolutional networks take any
        raise InputError(f"{name_or_path!r} takes images of {image_size} px: give --resolution {image_size}")


def num_weights(name_or_path: str, revision: str | None = None) -> int | None:
    """Weights of a checkpoint by its config; None where it must be downloaded."""
    if not Path(name_or_path).is_dir():
        try:
            cached = try_to_load_from_cache(name_or_path, "config.json", revision=revision)
        except HFValidationError:  # a path, and nothing is there
            return None
        if not isinstance(cached, str):
            return None
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(name_or_path, revision=revision))
    return model.num_parameters()


def load_pretrained(name_or_path: str, classes: list[str], revision: str | None = None) -> Classifier:
    """A checkpoint of the Hub or a folder, with a new head for `classes`.

    Raises:
        InputError: if it cannot be loaded or is not an image classifier.
    """
    try:
        model = AutoModelForImageClassification.from_pretrained(
            name_or_path,
            revision=revision,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={c: i for i, c in enumerate(classes)},
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
        processor = AutoImageProcessor.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise _unavailable(name_or_path, error) from error
    if not isinstance(getattr(model, "classifier", None), nn.Module):
        raise InputError(f"{name_or_path!r} is a {type(model).__name__}, which has no head named `classifier`")
    return Classifier(model, processor.image_mean, processor.image_std)


def _unavailable(name_or_path: str, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0]
    return InputError(
        f"cannot load the classifier {name_or_path!r}: {first_line} (give a folder, a Hub id that can be reached, or "
        "--from_scratch for a small ViT that needs no download)"
    )


def build_small_vit(classes: list[str], resolution: int, patch_size: int, width: int, layers: int) -> Classifier:
    """A ViT with random weights, small enough for a CPU."""
    model = ViTForImageClassification(
        ViTConfig(
            image_size=resolution,
            patch_size=patch_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32),
            intermediate_size=2 * width,
            id2label=dict(enumerate(classes)),
            label2id={c: i for i, c in enumerate(classes)},
        )
    )
    return Classifier(model, [0.5] * 3, [0.5] * 3)


def widen_head(classifier: Classifier, width: int, dropout: float) -> None:
    """Replace the last linear layer by dropout, linear, ReLU, dropout, linear."""
    head = classifier.model.classifier
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    layers = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(last.in_features, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, last.out_features),
    )
    classifier.model.classifier = layers


def save(classifier: Classifier, folder: Path, resolution: int) -> None:
    """Write weights, config and preprocessing in transformers' own format.

    A transformers pipeline reads them, except for a wide head, which only `load_run` knows.
    """
    logging.disable_progress_bar()
    classifier.model.save_pretrained(folder)
    CLIPImageProcessor(  # resizes the shorter side (bicubic) and crops the middle
        size={"shortest_edge": resolution},
        crop_size={"height": resolution, "width": resolution},
        do_convert_rgb=True,
        image_mean=classifier.mean.flatten().tolist(),
        image_std=classifier.std.flatten().tolist(),
    ).save_pretrained(folder)


def load_run(run_dir: str | Path) -> tuple[Classifier, list[str], int]:
    """A finished classifier run: the network, its class codes and its resolution in pixels.

    Raises:
        InputError: if the folder is not such a run.
    """
    folder = Path(run_dir)
    needed = [folder / name for name in ("config.yaml", "config.json", "model.safetensors")]
    missing = [p.name for p in needed if not p.exists()]
    if missing:
        raise InputError(
            f"{folder} is not a finished classifier run ({', '.join(missing)} missing): train one with "
            "train_scripts/classifier.py"
        )
    settings = saved_settings(folder)
    labels = json.loads(needed[1].read_text())["id2label"]
    classes = [labels[str(i)] for i in range(len(labels))]
    logging.set_verbosity_error()  # transformers would report the weights of a wide head as unused
    # transformers renames weights on saving, so only transformers can read them back; the head is ours.
    model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
    classifier = Classifier(model, *_normalization(folder))
    if settings["head_width"]:
        widen_head(classifier, settings["head_width"], settings["head_dropout"])
    head = {k.split(".", 1)[1]: v for k, v in load_file(needed[2]).items() if k.startswith("classifier.")}
    classifier.model.classifier.load_state_dict(head)
    return classifier.eval(), classes, settings["resolution"]


def _normalization(folder: Path) -> tuple[list[float], list[float]]:
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    return processor["image_mean"], processor["image_std"]
