"""Plots of results, each written as one PNG: dots with intervals, curves, matrices, histograms, bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermgen.config import whole_file

BLUE, ORANGE, GREY = "#1f6f8b", "#d1603d", "#8a8f98"


class Dot(NamedTuple):
    """One line of `dots`: its name, a value and its interval."""

    label: str
    value: float
    low: float
    high: float


def dots(path: Path, title: str, xlabel: str, groups: Mapping[str, Sequence[Dot]], zero: float | None = None) -> None:
    """Values with their intervals, a line for each label; groups (entries of the legend) are plotted side by side."""
    labels = list(dict.fromkeys(d.label for ds in groups.values() for d in ds))
    figure, axes = _axes(7, 1 + 0.38 * len(labels), title)
    colors = [BLUE, ORANGE, GREY]
    for g, (name, ds) in enumerate(groups.items()):
        y = [len(labels) - 1 - labels.index(d.label) + 0.22 * ((len(groups) - 1) / 2 - g) for d in ds]
        values = np.array([d.value for d in ds])
        errors = np.abs([[d.value - d.low for d in ds], [d.high - d.value for d in ds]])
        axes.errorbar(values, y, xerr=errors, fmt="o", color=colors[g % 3], capsize=3, markersize=5, label=name)
    if zero is not None:
        axes.axvline(zero, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(labels)), labels[::-1])
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)
    if len(groups) > 1:
        axes.legend(frameon=False)
    _save(figure, path)


def dose_response(path: Path, title: str, xlabel: str, ylabel: str, doses: Sequence[float], ds: Sequence[Dot]) -> None:
    """A measure against the share of synthetic images, with intervals."""
    figure, axes = _axes(6, 4, title)
    order = np.argsort(doses)
    x = np.array(doses)[order]
    chosen = [ds[i] for i in order]
    axes.plot(x, [d.value for d in chosen], "o-", color=BLUE)
    axes.fill_between(x, [d.low for d in chosen], [d.high for d in chosen], color=BLUE, alpha=0.15)
    for dose, d in zip(x, chosen, strict=True):
        axes.annotate(d.label, (dose, d.value), textcoords="offset points", xytext=(4, 6), fontsize=8)
    axes.margins(x=0.2)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    _save(figure, path)


def curves(path: Path, title: str, ylabel: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Named lines of (step, value) points."""
    figure, axes = _axes(7, 4, title)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.4, marker="." if len(points) < 40 else None)
    axes.set(xlabel="optimizer step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def confusions(path: Path, classes: Sequence[str], matrices: Mapping[str, np.ndarray]) -> None:
    """Confusion matrices side by side, rows true, as shares of each true class."""
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.4 * rows), layout="constrained")
    for i, (name, counts) in enumerate(matrices.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        counts = np.asarray(counts, float)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for (r, c), share in np.ndenumerate(shares):
            if share >= 0.005:
                axes.text(c, r, f"{share:.0%}", ha="center", va="center", fontsize=6, color="w" if share > 0.5 else "k")
        axes.set_xticks(range(len(classes)), classes, rotation=60, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_title(name, fontsize=9)
        axes.set(xlabel="predicted", ylabel="true")
    _save(figure, path)


def histogram(path: Path, title: str, xlabel: str, groups: Mapping[str, np.ndarray], mark: float | None = None) -> None:
    """Distributions over shared bins, each scaled to area 1; `mark` is a vertical line."""
    figure, axes = _axes(6.5, 3.6, title)
    everything = np.concatenate([np.asarray(v, float) for v in groups.values()])
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    for (name, values), color in zip(groups.items(), [BLUE, ORANGE, GREY], strict=False):
        axes.hist(values, bins, density=True, alpha=0.55, label=f"{name} ({len(values)})", color=color)
    if mark is not None:
        axes.axvline(mark, color="k", linewidth=1, linestyle="--")
    axes.set(xlabel=xlabel, ylabel="density")
    axes.legend(frameon=False)
    _save(figure, path)


def bars(path: Path, title: str, ylabel: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Grouped bars, given as group name to label to value."""
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    figure, axes = _axes(max(5, 0.7 * len(labels) + 2), 3.6, title)
    width = 0.8 / len(groups)
    for g, (name, values) in enumerate(groups.items()):
        x = np.arange(len(labels)) + (g - (len(groups) - 1) / 2) * width
        axes.bar(x, [values.get(label, 0) for label in labels], width, label=name, color=[BLUE, ORANGE, GREY][g % 3])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(ylabel)
    if len(groups) > 1:
        axes.legend(frameon=False, ncols=len(groups), loc="lower right", bbox_to_anchor=(1, 1))
    _save(figure, path)


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110)
