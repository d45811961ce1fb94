"""Settings of `dermgen study`, and what the name of an arm means."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from dermgen.config import SEEDS, InputError, check, option

DEFAULT_ARMS = (
    "real real+augment real+augment+oversample real+augment+synthetic:0.5 real+augment+synthetic:1 "
    "real+augment+synthetic synthetic+augment"
).split()


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Train the same classifier on several mixtures (arms) with several seeds, and report which gains are real.

    An arm is a sum of `real`, `synthetic` (all of them), `synthetic:R` (R per real image of a class; 1 is 50/50),
    `filtered` and `filtered:R` (likewise, of those that `dermgen filter` kept), `augment` (flips, rotations, crops,
    colour changes) and `oversample` (rare classes repeated).
    """

    real: str = option(None, "manifest folder of real images", required=True)
    synthetic: str = option(None, "manifest folder of synthetic images", required=True)
    output_dir: str = option(None, "folder of the study; finished arms are not repeated", required=True, free=True)
    classifier: str = option(None, "recipe of the classifier, e.g. classifier_vit", required=True)
    arms: list[str] | None = option(None, f"arms to compare; default {' '.join(DEFAULT_ARMS)}", free=True)
    baseline: str = option("real+augment", "arm that the others are compared with", free=True)
    seeds: list[int] | None = option(None, "seeds of the trainings, at least 3; default 0 1 2", within=SEEDS, free=True)
    synthetic_classes: list[str] | None = option(
        None, "classes that get synthetic images in addition to real ones; default all that have any"
    )
    same: Literal["steps", "epochs"] = option(
        "steps", "give all arms the same number of steps, or of epochs, which favours larger sets"
    )
    max_train_steps: int = option(1000, "optimizer steps of each training, for --same steps", at_least=1)
    num_train_epochs: int = option(10, "passes of each training over its images, for --same epochs", at_least=1)
    num_validations: int = option(
        10, "validations per training with --same steps; the best of them is measured on the test split", at_least=1
    )
    focus_class: str = option("mel", "the class whose recall is reported first", free=True)
    bootstrap_draws: int = option(2000, "resampled test sets behind each interval", at_least=100, free=True)

    def __post_init__(self):
        check(self)
        if self.seeds is not None and len(set(self.seeds)) < 3:
            raise InputError(
                f"seeds must be at least 3 different numbers, got {self.seeds}: fewer do not show what chance does"
            )
        if self.baseline not in (self.arms or DEFAULT_ARMS):
            raise InputError(
                f"the baseline {self.baseline!r} is not among the arms {' '.join(self.arms or DEFAULT_ARMS)}: add it, "
                "or choose another one"
            )
        for arm in self.arms or DEFAULT_ARMS:
            arm_settings(arm)
        if self.arms and len(set(self.arms)) < len(self.arms):
            raise InputError(f"each arm can be given only once, got {' '.join(self.arms)}")


def arm_settings(arm: str) -> dict[str, Any]:
    """The classifier's settings that make an arm, from its name.

    >>> arm_settings("real+augment+synthetic:0.5")["synthetic_ratio"]
    0.5

    Raises:
        InputError: if a part of the name is unknown, or there is nothing to train on.
    """
    parts = arm.split("+")
    settings: dict[str, Any] = {
        "no_real": "real" not in parts,
        "no_augmentation": "augment" not in parts,
        "oversample": "oversample" in parts,
        "synthetic": False,
        "synthetic_ratio": None,
        "only_kept": False,
    }
    sources = [part for part in parts if part.startswith(("synthetic", "filtered"))]
    if len(sources) > 1 or len(set(parts)) < len(parts):
        raise InputError(f"the arm {arm!r} names a part twice: at most one synthetic or filtered, and each other once")
    for part in parts:
        match = re.fullmatch(r"(synthetic|filtered)(?::(\d+\.?\d*))?", part)
        if match:
            settings["synthetic"] = True
            settings["only_kept"] = match[1] == "filtered"
            settings["synthetic_ratio"] = float(match[2]) if match[2] else None
        elif part not in ("real", "augment", "oversample"):
            raise InputError(
                f"unknown part {part!r} of the arm {arm!r}: an arm is a sum of real, synthetic, synthetic:R, filtered, "
                "filtered:R, augment, oversample"
            )
    if settings["no_real"] and not settings["synthetic"]:
        raise InputError(f"the arm {arm!r} has nothing to train on: add real or synthetic")
    return settings
