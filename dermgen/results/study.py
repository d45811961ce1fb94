"""The result of `dermgen study`: classifiers with and without synthetic images compared, `study.json`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermgen.blocks import Block, Picture, Table, Text, Warning, counted, number, p_value
from dermgen.data.prepared import OLD_SPLIT
from dermgen.results.common import Estimate, ImageSet, split_warnings

SHOWN = 0.05  # p, corrected for the number of arms


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """A difference from the baseline, its p-value, and that after Holm's correction over the arms (BMA and focus)."""

    p: float
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A mixture of training images, and the classifiers trained on it.

    Attributes:
        training_images: counts by class, of "real" and "synthetic" images.
        scores: means over seeds, by name.
        of_seeds: BMA and recall of the focus class of each seed.
        confusion: sums over seeds; rows are true classes.
        differences: from the baseline, by name; None for the baseline itself, as are the attributes below.
        mcnemar_p: of McNemar's test on lesions.
        verdict: the result in a sentence.
    """

    arm: str
    training_images: dict[str, dict[str, int]]
    scores: dict[str, Estimate]
    of_seeds: dict[str, list[float]]
    confusion: list[list[int]]
    differences: dict[str, Difference] | None = None
    mcnemar_p: float | None = None
    mcnemar_p_holm: float | None = None
    verdict: str | None = None

    @property
    def mixes(self) -> bool:
        """Whether it has real and synthetic training images."""
        return all(any(self.training_images.get(kind, {}).values()) for kind in ("real", "synthetic"))


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `study.json` holds.

    Attributes:
        same: what all arms have in common, "steps" or "epochs".
        steps: of each training, if all have the same number.
        images: the synthetic set.
        notes: what limits the comparison, on which a reader must act.
    """

    FILE = "study.json"

    baseline: str
    focus_class: str
    seeds: list[int]
    same: str
    steps: int | None
    test_images: int
    test_lesions: int
    leaky: bool
    split_method: str = OLD_SPLIT
    images: ImageSet | None = None
    classes: list[str]
    bootstrap_draws: int
    arms: list[Arm]
    notes: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> list[str]:
        return [arm.verdict for arm in self.arms if arm.verdict]

    def headline(self) -> str:
        """Whether synthetic images help, in a sentence."""
        mixtures = [arm for arm in self.arms if arm.differences and arm.mixes]
        if not mixtures:
            return f"No mixture of real and synthetic images was compared with {self.baseline}."
        changes = {arm.arm: arm.differences["bma"] for arm in mixtures}
        gains, losses = (
            [name for name, change in changes.items() if change.p_holm < SHOWN and sign * change.value > 0]
            for sign in (1, -1)
        )
        verdict = "Synthetic images help" if gains else "Synthetic images harm" if losses else "No benefit shown"
        name = max(gains or losses or changes, key=lambda name: abs(changes[name].value))
        change = changes[name]
        bma, of_baseline = (
            next(arm.scores["bma"].value for arm in self.arms if arm.arm == wanted) for wanted in (name, self.baseline)
        )
        counts = [counted(len(gains), "gain")] * bool(gains) + [counted(len(losses), "loss", "losses")] * bool(losses)
        all_of_them = f"{' and '.join(counts) or 'no difference'} shown in {len(mixtures)} mixtures"
        return (
            f"{verdict}: the classifier's BMA is {bma:.3f} with {name} and {of_baseline:.3f} with {self.baseline} "
            f"({change.value:+.3f}, 95 % CI {change.low:+.3f} to {change.high:+.3f}, {p_value(change.p_holm)}"
            f"{f'; {all_of_them}' if len(mixtures) > 1 else ''})."
        )

    def blocks(self, folder: Path) -> list[Block]:
        """Everything, with the plots in `folder`."""
        folder = folder / "plots"
        plots = [
            Picture(folder / "arms.png", "All arms"),
            Picture(folder / "dose_response.png", "More synthetic images"),
            Picture(folder / "training_curves.png", "Validation during training"),
            *(Picture(path, "Change of recall by class") for path in sorted(folder.glob("recall_changes_*.png"))),
            Picture(folder / "confusion.png", "Confusion matrices, sums over seeds"),
        ]
        return [*self.comparison_blocks(), *plots]

    def comparison_blocks(self) -> list[Block]:
        """Warnings, the verdicts and the table of arms."""
        length = f"{self.steps:,} optimizer steps each" if self.steps else "the same number of epochs each"
        rows = [self._row(arm) for arm in self.arms]
        head = [
            "arm", f"Recall of {self.focus_class}", "BMA", "difference", "p", "p (McNemar)", "AUROC", "F1", "Accuracy",
        ]  # fmt: skip
        return [
            *map(Warning, [*split_warnings(self), *self.notes]),
            Text(self.headline(), "verdict"),
            Text(
                f"The same classifier, trained on each mixture with {counted(len(self.seeds), 'seed')}, {length}, "
                f"tested on the same {self.test_images:,} real images of {self.test_lesions:,} lesions or patients. "
                "Intervals are 95 % confidence intervals over lesions and seeds; p values are corrected for the number "
                "of arms (Holm). BMA is the balanced multiclass accuracy."
            ),
            *map(Text, self.verdicts),
            Table(head, rows, main=[i for i, arm in enumerate(self.arms) if arm.arm == self.baseline]),
        ]

    def _row(self, arm: Arm) -> list[str]:
        difference, p, mcnemar = "baseline", "", ""
        if arm.differences is not None:
            bma = arm.differences["bma"]
            difference = _estimate(bma, "+")
            p, mcnemar = number(bma.p_holm), number(arm.mcnemar_p_holm)
        names = (f"recall_{self.focus_class}", "bma", "macro_auroc", "macro_f1", "accuracy")
        recall, bma_score, *others = (_estimate(arm.scores[name]) for name in names)
        return [arm.arm, recall, bma_score, difference, p, mcnemar, *others]


def _estimate(estimate: Estimate, sign: str = "") -> str:
    """Three decimals and the interval; – where it is unknown."""
    value, low, high = ("–" if v is None else f"{v:{sign}.3f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def arm_of(name: str, training_images: dict[str, dict[str, int]], compared: dict[str, Any]) -> Arm:
    """The arm of that name from the result of `comparison.compare`."""
    differences = compared.get("differences")
    return Arm(
        arm=name,
        training_images=training_images,
        scores={name: Estimate(**values) for name, values in compared["scores"].items()},
        of_seeds=compared["of_seeds"],
        confusion=compared["confusion"],
        differences=differences and {name: Difference(**values) for name, values in differences.items()},
        **{key: compared[key] for key in ("mcnemar_p", "mcnemar_p_holm", "verdict") if key in compared},
    )
