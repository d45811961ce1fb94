"""The curves of a run, each one drawing that scales with the page."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from dermgen.plots import BLUE
from dermgen.results.common import in_unit, with_unit

MOST_POINTS = 400  # of a line; more cannot be told apart
MANY = 60  # points from which on a noisy line gets its running mean
PALE = "#a9bfcb"


@dataclass(frozen=True)
class Curve:
    """One quantity against the optimizer step; both tables have columns `step` and `value`."""

    title: str
    logged: pd.DataFrame
    running_mean: pd.DataFrame | None


def curves(lines: Sequence[dict]) -> list[Curve]:
    """Of all that was logged at least twice: losses first, then what was measured on held-out images."""
    names = {name for line in lines for name in line} - {"step", "learning_rate"}
    shown = []
    for name in sorted(names, key=_rank):
        values = [(line["step"], in_unit(score_of(name), line[name])) for line in lines if name in line]
        points = pd.DataFrame(values, columns=["step", "value"])
        if len(points) > 1:
            shown.append(_curve(title_of(name), points, noisy=not _is_held_out(name)))
    return shown


def picture(curve: Curve) -> str:
    """The curve as an HTML picture."""
    figure = Figure(figsize=(4.8, 2.6), layout="constrained")
    axes = figure.add_subplot()
    if curve.running_mean is None:
        axes.plot(curve.logged["step"], curve.logged["value"], color=BLUE, marker="." if len(curve.logged) < 40 else "")
    else:
        axes.plot(curve.logged["step"], curve.logged["value"], color=PALE, linewidth=1, label="logged")
        mean = curve.running_mean
        axes.plot(mean["step"], mean["value"], color=BLUE, linewidth=1.8, label="running mean")
        axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("optimizer step", fontsize=10)
    axes.set_ylabel(curve.title, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(curve.title)} against the optimizer step">'


def title_of(name: str) -> str:
    """A name in the log as a reader knows it: `held-out KID x 1000` of `val_kid`."""
    return f"{'held-out ' if name.startswith('val_') else ''}{with_unit(score_of(name))}"


def score_of(name: str) -> str:
    """The score that a name in the log is of."""
    return name.removeprefix("val_")


def _rank(name: str) -> tuple[int, str]:
    if name == "loss":
        return 0, name
    if _is_held_out(name):
        return (1 if "loss" in name else 2), name
    return 3, name


def _is_held_out(name: str) -> bool:
    return name.startswith(("val_", "held_out_"))


def _curve(title: str, points: pd.DataFrame, noisy: bool) -> Curve:
    """At most `MOST_POINTS` points: means of as many neighbours as that takes."""
    bins = points.index // -(-len(points) // MOST_POINTS)
    mean = None
    if noisy and len(points) >= MANY:
        value = points["value"].rolling(len(points) // 10, center=True, min_periods=1).mean()
        mean = points.assign(value=value).groupby(bins).mean()
    return Curve(title, points.groupby(bins).mean(), mean)
