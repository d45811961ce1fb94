"""Feature extractors behind one interface, and features of image sets, cached by the content of the images."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from dermgen.classify import networks
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import cached_array, default_cache_dir, hash_file, hash_weights, key_of
from dermgen.data.loading import PixelSet
from dermgen.data.trained_on import TrainedOn
from dermgen.training.augmentation import turned

SHORT_NAMES = {"dinov2": "facebook/dinov2-base", "clip": "openai/clip-vit-base-patch32"}
RESIZE = "bicubic with antialiasing (Pillow), middle square"
OFFLINE = "offline, use --extractor with a classifier run of train_scripts/classifier.py, or --extractor pixels"


@dataclass(frozen=True)
class Extractor:
    """A network, or a function, from images to features.

    `embed` takes uint8 (N, 3, resolution, resolution) and gives float32 (N, width), of which the last `num_classes`
    columns are logits.
    """

    name: str
    revision: str
    resolution: int
    width: int
    num_classes: int
    embed: Callable[[torch.Tensor], torch.Tensor]
    trained_on: frozenset[str] = frozenset()  # ids of the manifest's images that it was trained on
    classes: tuple[str, ...] = ()  # of the logits, if they are lesion classes


@dataclass(frozen=True)
class FeatureSet:
    """Images with their features (N, D) and logits (N, C), float32, rows in the same order.

    `classes` are those of the logits, if they are lesion classes.
    """

    table: pd.DataFrame
    features: np.ndarray
    logits: np.ndarray
    classes: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> "FeatureSet":
        return FeatureSet(self.table.iloc[rows], self.features[rows], self.logits[rows], self.classes)

    def __len__(self) -> int:
        return len(self.table)


def load(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name; the names are listed in `dermgen.settings.evaluate.EXTRACTORS`.

    Raises:
        InputError: if it cannot be loaded; the message names what works offline.
    """
    if name == "pixels":
        return Extractor("pixels", "pixels-1", 64, 3 * 16 * 16, 0, _pixels)
    if name.partition(":")[0] == "inception":
        return _inception(name.partition(":")[2], device)
    if Path(name, "results.json").exists():
        return load_classifier(name, device)
    return _transformer(SHORT_NAMES.get(name, name), device)


def features(
    extractor: Extractor,
    table: pd.DataFrame,
    accelerator: Accelerator,
    batch_size: int = 64,
    orientation: int = 0,
    cache_dir: Path | None = None,
) -> FeatureSet:
    """Features and logits of the images of `table`; computed once for the same pixels.

    Args:
        extractor: computes them.
        table: with `path` and `image_id`.
        accelerator: its processes share the work.
        batch_size: images at a time.
        orientation: one of 8, see `turned`.
        cache_dir: default `$DERMGEN_CACHE`.

    Raises:
        InputError: if a feature is NaN or infinite.
    """
    hashes = manifest.hashes(table)
    key = key_of("features", extractor.revision, extractor.width, extractor.resolution, RESIZE, orientation, *hashes)
    dataset = PixelSet.of(table, extractor.resolution)

    def compute(rows: Sequence[int]) -> np.ndarray:
        embedded = extractor.embed(turned(dataset.stack(rows), orientation)).float().cpu().numpy()
        bad = table["image_id"].iloc[list(rows)][~np.isfinite(embedded).all(axis=1)]
        if len(bad):
            raise InputError(f"{extractor.name} gives NaN or infinite features for {', '.join(bad.head(3))}")
        return embedded

    path = Path(cache_dir or default_cache_dir()) / "features" / f"{key}.npy"
    array = cached_array(path, len(table), compute, accelerator, batch_size, f"features ({extractor.name})")
    split = extractor.width - extractor.num_classes
    return FeatureSet(table, array[:, :split], array[:, split:], extractor.classes)


def of_same_mix(source: FeatureSet, like: FeatureSet, seed: int, at_most: int | None = None) -> FeatureSet:
    """The largest random subset of `source` with the class shares of `like`, so that scores do not reflect the mix of
    classes. Classes that `source` lacks are left out."""
    available, shares = source.table["dx"].value_counts(), like.table["dx"].value_counts()
    shares = shares[shares.index.isin(available.index)]
    if shares.empty:
        return source.take(np.arange(0))
    total = min(np.inf if at_most is None else at_most, (available[shares.index] * shares.sum() / shares).min())
    rng = np.random.default_rng(seed)
    rows = []
    for dx, count in shares.items():
        of_class = rng.permutation(np.flatnonzero(source.table["dx"] == dx))
        rows.append(of_class[: int(total * count / shares.sum() + 1e-6)])
    return source.take(np.sort(np.concatenate(rows)))


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Thumbnails without their mean colour, (N, 768), so that overall brightness and tint have little effect."""
    small = torch.nn.functional.interpolate(images.float() / 255, size=(16, 16), mode="area")
    return (small - small.mean(dim=(2, 3), keepdim=True)).flatten(1)


def _inception(weights: str, device) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = Path(weights) if weights else Path(torch.hub.get_dir(), "checkpoints", URL_INCEPTION_V3.rsplit("/", 1)[1])
    try:
        if not weights and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
        torch.load(path, weights_only=True)  # torch-fidelity unpickles whatever is in the file; this refuses code
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path)).to(device)
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:  # network, file, its content
        raise InputError(
            f"cannot load Inception's weights ({type(error).__name__}: {str(error).splitlines()[0][:120]}); download "
            f"{URL_INCEPTION_V3.rsplit('/', 1)[1]} of torch-fidelity's releases and give inception:FILE, or, {OFFLINE}"
        ) from error

    @torch.inference_mode()
    def embed(images: torch.Tensor) -> torch.Tensor:
        return torch.cat(network(images.to(device)), dim=1)

    return Extractor("inception-v3 (FID)", hash_file(path)[:12], 299, 2048 + 1008, 1008, embed)


def load_classifier(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of a classifier run of dermgen; raises `InputError` for any other folder."""
    classifier, classes, resolution = networks.load_run(name)
    classifier.to(device)

    @torch.inference_mode()
    def embed(images: torch.Tensor) -> torch.Tensor:
        return torch.cat(classifier.features(images.to(device).float() / 255), dim=1)

    width = embed(torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)).shape[1]
    return Extractor(
        f"classifier {name}",
        hash_weights(classifier)[:12],
        resolution,
        width,
        len(classes),
        embed,
        TrainedOn.ids(name),
        tuple(classes),
    )


def _transformer(name: str, device) -> Extractor:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection, logging

    logging.disable_progress_bar()
    try:
        is_clip = AutoConfig.from_pretrained(name).model_type in ("clip", "clip_vision_model")
        model_class = CLIPVisionModelWithProjection if is_clip else AutoModel
        model, loading = model_class.from_pretrained(name, use_safetensors=True, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise InputError(f"cannot load the extractor {name!r} ({first_line}); {OFFLINE}") from error
    missing = loading["missing_keys"]
    if any(not key.startswith("pooler") for key in missing):
        raise InputError(f"{name!r} lacks weights ({sorted(missing)[0]}, …), which would be random: use another model")
    # A classification checkpoint has no pooler of its own; its class token is the feature then.
    pooled = not missing
    model.eval().to(device)
    size = dict(processor.crop_size or {} if getattr(processor, "do_center_crop", False) else processor.size)
    resolution = int(size.get("height") or size.get("shortest_edge"))
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))

    @torch.inference_mode()
    def embed(images: torch.Tensor) -> torch.Tensor:
        output = model(pixel_values=(images.to(device).float() / 255 - mean) / std)
        if is_clip:
            return output.image_embeds
        return output.pooler_output.flatten(1) if pooled else output.last_hidden_state[:, 0]

    width = embed(torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)).shape[1]
    commit = getattr(model.config, "_commit_hash", None) or ""
    return Extractor(name, commit[:12] or hash_weights(model)[:12], resolution, width, 0, embed)
