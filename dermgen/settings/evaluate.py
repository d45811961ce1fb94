"""Settings of `dermgen evaluate`, `audit` and `filter`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import SEEDS, InputError, check, option

# On each side: density needs 5 neighbours, and a covariance of fewer images means nothing.
MIN_IMAGES = 7
EXTRACTORS = (
    "inception (the FID network), inception:WEIGHTS.pth, dinov2, clip, a transformers vision model (Hub id or folder), "
    "a dermgen classifier run, or pixels (no network, always available)"
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a synthetic set against held-out real images, overall, by class and by subgroup."""

    real: str = option(None, "manifest folder of real images, or a plain folder", required=True)
    synthetic: str = option(None, "manifest folder of synthetic images, or a plain folder", required=True)
    output_dir: str = option(None, "folder of evaluation.json, scores.csv and plots", required=True, free=True)
    extractor: str = option("inception", EXTRACTORS)
    lpips: Literal["alex", "vgg", "none"] = option(
        "alex", "backbone of LPIPS; none leaves it out and needs no download"
    )
    min_images: int = option(
        10,
        "smallest number of images, real and synthetic each, of a class or subgroup that is scored separately",
        at_least=MIN_IMAGES,
    )
    max_pairs: int = option(1000, "largest number of image pairs to compare pixel by pixel", at_least=1)
    batch_size: int = option(64, "images at a time", at_least=1, free=True)
    seed: int = option(0, "seed of the random pairs and of the images of the real reference", within=SEEDS)
    cache_dir: str | None = option(
        None, "folder of cached features; default $DERMGEN_CACHE or ~/.cache/dermgen", free=True
    )

    __post_init__ = check


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Find synthetic images that copy a training image; exit status 2: too many, 3: cannot tell.

    An image counts as a copy if it is nearer to a training image than almost all held-out real images are. With few
    held-out images, chance alone puts many other images as near.
    """

    real: str = option(
        None, "manifest folder of the real images that the model was trained on (its train split)", required=True
    )
    synthetic: str = option(None, "manifest folder of synthetic images, or a plain folder", required=True)
    output_dir: str = option(
        None,
        "folder of audit.csv, audit.json, the closest pairs, and the manifest with its new columns",
        required=True,
        free=True,
    )
    extractor: str = option("pixels", f"features by which candidates for the nearest images are found: {EXTRACTORS}")
    candidates: int = option(8, "nearest training images in feature space to compare pixel by pixel", at_least=1)
    false_alarms: float = option(
        0.002, "share of held-out real images that may be called copies; sets the threshold", within="[0, 1)"
    )
    max_copy_rate: float = option(
        0.01, "largest share of copies with which an audit passes", within="[0, 1)", free=True
    )
    index: Literal["auto", "exact", "faiss"] = option(
        "auto", "search for the nearest images; auto is exact up to 100,000 training images, then faiss"
    )
    batch_size: int = option(256, "images at a time", at_least=1, free=True)
    cache_dir: str | None = option(
        None, "folder of cached features; default $DERMGEN_CACHE or ~/.cache/dermgen", free=True
    )

    __post_init__ = check


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Score every synthetic image and keep the best; writes a new manifest, and moves or deletes no image."""

    synthetic: str = option(None, "manifest folder of synthetic images", required=True)
    real: str = option(
        None,
        "manifest folder of real images: train split for --scorer features, test split for the cost",
        required=True,
    )
    output_dir: str = option(
        None,
        "folder of the manifest with `quality_score` and `kept`, filter.json, sheets and plots",
        required=True,
        free=True,
    )
    scorer: Literal["classifier", "features", "discriminator"] = option(
        "features",
        "score by a classifier's probability of the class, nearness to real images of it, or a GAN run's discriminator",
    )
    run: str | None = option(None, "classifier run for --scorer classifier, or GAN run for --scorer discriminator")
    kind: Literal["a", "b"] | None = option(
        None, "domain whose discriminator scores, for a CycleGAN between two manifests"
    )
    keep: float = option(0.3, "share of each class that is kept", within="(0, 1]")
    threshold: float | None = option(None, "keep images that score at least this, instead of a share of each class")
    extractor: str = option("inception", f"features for --scorer features and for the cost: {EXTRACTORS}")
    batch_size: int = option(64, "images at a time", at_least=1, free=True)
    cache_dir: str | None = option(
        None, "folder of cached features; default $DERMGEN_CACHE or ~/.cache/dermgen", free=True
    )

    def __post_init__(self):
        check(self)
        if self.scorer == "discriminator" and not self.run:
            raise InputError("--scorer discriminator needs --run: a run of dcgan.py, stylegan2.py or cyclegan.py")
        if self.scorer == "classifier" and not self.run:
            raise InputError("--scorer classifier needs --run: a classifier run of train_scripts/classifier.py")
