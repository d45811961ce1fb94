"""The quality of a generator during training, against held-out images: KID, recall, variety, mode collapse."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.spatial.distance
import torch
from accelerate import Accelerator

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data.loading import PixelSet
from dermgen.evaluate import features, scores
from dermgen.evaluate.pairs import load_lpips
from dermgen.sampling import ImageGenerator
from dermgen.settings.training import AdversarialConfig

COLLAPSED_RECALL = 0.05
COLLAPSED_VARIETY = 0.5
PAIRS = 64


@dataclass(frozen=True)
class Monitor:
    """Held-out images in feature space, to compare samples with.

    Args:
        extractor: computes the features.
        real: (N, D) features of held-out images.
        spread: mean distance between two of them, of the same class if samples have classes.
        lpips: network of the perceptual distance; None leaves it out.
        real_lpips: mean perceptual distance of two held-out images.
    """

    extractor: features.Extractor
    real: np.ndarray
    spread: float
    lpips: torch.nn.Module | None
    real_lpips: float

    def measure(self, images: torch.Tensor, classes: Sequence[str]) -> dict[str, float]:
        """`val_kid`, `val_recall`, `val_variety` and, with LPIPS, `val_lpips_variety` of uint8 samples (N, 3, H, W).

        Variety is the mean distance between two samples of a class, divided by that between two held-out images of a
        class: 1 is ideal, 0 means that all samples are the same image.
        """
        resized = torch.stack([_resize(image, self.extractor.resolution) for image in images.cpu()])
        embedded = [self.extractor.embed(part).float().cpu().numpy() for part in resized.split(64)]
        sampled = np.concatenate(embedded)[:, : self.real.shape[1]]
        compared, _ = scores.compare(self.real, sampled)
        result = {
            "val_kid": compared["kid"].value,
            "val_recall": compared["recall"].value,
            "val_variety": _spread(sampled, classes) / self.spread,
        }
        if self.lpips is not None:
            result["val_lpips_variety"] = _pairwise_lpips(images.cpu(), classes, self.lpips) / self.real_lpips
        return result


def monitor(
    table: pd.DataFrame, config: AdversarialConfig, accelerator: Accelerator, num_samples: int | None = None
) -> Monitor | None:
    """A monitor over held-out images; None, and a warning, if there are too few of them.

    Args:
        table: rows of a manifest, with `path`.
        config: the run's settings.
        accelerator: its processes share the work.
        num_samples: number of samples to compare with; default `config.monitor_samples`.

    Raises:
        InputError: if the extractor or LPIPS cannot be loaded, or the extractor was trained on these images.
    """
    fewest = min(len(table), config.monitor_samples if num_samples is None else num_samples)
    if fewest < scores.MIN_IMAGES:
        if accelerator.is_main_process:
            print(
                f"warning: {config.data_dir} has {counted(fewest, 'validation image')} to compare with, fewer than "
                f"{scores.MIN_IMAGES}: KID, mode-collapse checks and best-weight selection are disabled",
                file=sys.stderr,
            )
        return None
    extractor = features.load(config.monitor, accelerator.device)
    if extractor.trained_on & set(table["image_id"]):
        raise InputError(f"--monitor {config.monitor} was trained on validation images of {config.data_dir}")
    network = None if config.lpips == "none" else load_lpips(config.lpips)
    cache_dir = Path(config.cache_dir) if config.cache_dir else None
    real = features.features(extractor, table, accelerator, cache_dir=cache_dir).features
    classes = table["dx"] if config.class_conditional else [""] * len(table)
    real_lpips = 0.0
    if network is not None:
        pixels = PixelSet.of(table, config.resolution).stack()
        real_lpips = _pairwise_lpips(pixels, list(classes), network)
    return Monitor(extractor, np.asarray(real), _spread(real, classes), network, real_lpips)


def measure_samples(
    held_out: Monitor | None,
    generator: ImageGenerator,
    labels: Sequence[str],
    seeds: Sequence[int],
    warn: Callable[[str], None],
) -> dict[str, float]:
    """`Monitor.measure` of images that a generator samples; {} without held-out images.

    Args:
        held_out: what the samples are compared with.
        generator: samples the images.
        labels: the class of each sample, "" if the generator takes no classes.
        seeds: one for each sample.
        warn: called with a sentence if the samples show mode collapse.
    """
    if held_out is None:
        return {}
    parts = range(0, len(seeds), 64)
    images = torch.cat([generator.sample(labels[i : i + 64], seeds[i : i + 64]).cpu() for i in parts])
    measured = held_out.measure(images, labels)
    if warning := collapse_warning(measured):
        warn(warning)
    return measured


def collapse_warning(measured: dict[str, float]) -> str | None:
    """A warning if recall or variety is too low, else None."""
    limits = {"val_recall": COLLAPSED_RECALL, "val_variety": COLLAPSED_VARIETY, "val_lpips_variety": COLLAPSED_VARIETY}
    low = [
        f"{name.removeprefix('val_')} is {measured[name]:.2f}, under {limit}"
        for name, limit in limits.items()
        if name in measured and measured[name] < limit
    ]
    if not low:
        return None
    return (
        f"warning: mode collapse? {', '.join(low)} (real images have 1, except for recall): look at the samples; more "
        "augmentation or regularisation, or another discriminator learning rate, may help"
    )


def _spread(x: np.ndarray, classes: Sequence[str]) -> float:
    """Mean distance of two rows of the same class."""
    rows, columns = _pairs(classes)
    distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(np.asarray(x, np.float64)))
    return float(distances[rows, columns].mean())


def _pairwise_lpips(images: torch.Tensor, classes: Sequence[str], network: torch.nn.Module) -> float:
    """Mean LPIPS of 64 random pairs of the same class in uint8 (N, 3, H, W)."""
    rows, columns = _pairs(classes)
    chosen = np.random.default_rng(0).permutation(len(rows))[:PAIRS]
    a, b = images[rows[chosen]].float() / 255, images[columns[chosen]].float() / 255
    with torch.inference_mode():
        values = network(a, b).reshape(-1)
        network.reset()
    return float(values.mean())


def _pairs(classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of the same class; all pairs if no class has two images."""
    names = np.asarray(classes)
    rows, columns = np.triu_indices(len(names), 1)
    same = names[rows] == names[columns]
    return (rows[same], columns[same]) if same.any() else (rows, columns)


def _resize(image: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (3, H, H) to (3, size, size) as `features.features` resizes images on disk: bicubic, by Pillow."""
    from PIL import Image
    from torchvision.transforms import functional as TF

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return TF.pil_to_tensor(TF.resize(picture, size, TF.InterpolationMode.BICUBIC))
