"""Reading and writing the JSON file of a result folder, and the parts that several results share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dermgen import typed
from dermgen.blocks import number
from dermgen.config import write_json
from dermgen.data.prepared import Split

LABELS = {
    "kid": "KID", "fid": "FID", "inception_score": "Inception Score", "vendi": "Vendi score",
    "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage",
    "mean_cosine": "Mean cosine similarity", "mse": "MSE", "psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS", "bma": "BMA (mean recall)", "auroc": "AUROC", "macro_auroc": "AUROC (macro)", "f1": "F1",
    "macro_f1": "F1 (macro)", "accuracy": "Accuracy", "specificity": "Specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity", "calibration_error": "Calibration error",
    "held_out_loss": "held-out loss", "d_loss": "discriminator loss", "g_loss": "generator loss",
    "real_logit": "mean logit of real images", "fake_logit": "mean logit of generated images",
    "recognised": "Recognised",
}  # fmt: skip
# Which values of a score of synthetic images are better.
BETTER = {
    "kid": "↓", "fid": "↓", "precision": "↑", "recall": "↑", "density": "↑", "coverage": "↑", "inception_score": "↑",
    "vendi": "≈", "mean_cosine": "≈", "recognised": "↑",
}  # fmt: skip
NEGATIVE_KID = "KID is an unbiased estimate and may be slightly negative where the sets hardly differ"
ARROWS = "↓: lower is better; ↑: higher is better; ≈: closer to the real reference is better."
TIMES = {"kid": 1000}  # by which a score is multiplied where it is shown


class Result(Protocol):
    """A dataclass with the result of a stage; `FILE` is the name of its JSON file."""

    FILE: str


Kind = TypeVar("Kind", bound=Result)


def is_one(kind: type[Result], folder: str | Path) -> bool:
    """Whether a folder holds a result of that kind."""
    return Path(folder, kind.FILE).exists()


def read(kind: type[Kind], folder: str | Path) -> Kind:
    """The result in a folder.

    Raises:
        InputError: if the file is missing or damaged.
    """
    return typed.read(kind, Path(folder) / kind.FILE)


def write(result: Result, folder: Path) -> None:
    """Write a result into its folder."""
    write_json(folder / result.FILE, typed.to_value(result))


def split_warnings(result: Any) -> list[str]:
    """Warnings about the split that a result (with `leaky` and `split_method`) was measured on."""
    return Split(result.leaky, result.split_method).warnings()


def label(score: str) -> str:
    """The usual name of a score."""
    return LABELS.get(score, score.replace("_", " "))


def with_unit(score: str) -> str:
    """The usual name of a score, and by what it is multiplied where it is shown, as in `KID x 1000`."""
    return f"{label(score)} x {TIMES[score]}" if score in TIMES else label(score)


def heading(score: str) -> str:
    """`with_unit`, and which values are better, as in `KID x 1000 ↓`."""
    return f"{with_unit(score)} {BETTER.get(score, '')}".rstrip()


def in_unit(score: str, value: float) -> float:
    """A value of a score in the unit that `with_unit` names."""
    return value * TIMES.get(score, 1)


def shown(score: str, value: float | None) -> str:
    """A value of a score in the unit that `with_unit` names, with three significant digits; – for None."""
    return number(None if value is None else in_unit(score, value))


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that a result is about, identified by content.

    Attributes:
        sha256: of each image file, sorted.
        models: SHA-256 of the weights that generated them, sorted.
    """

    sha256: list[str]
    models: list[str]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; None where it is unknown or infinite."""

    value: float | None
    low: float | None
    high: float | None
