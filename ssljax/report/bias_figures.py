"""The figures of a bias study: class curves, correlations of classes, superclasses, and the share that chance gives."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from ssljax.report.figures import COLORS, MARKERS, STYLE, save
from ssljax.study.chance import Chance

NAMED = 40  # a correlation matrix of more classes has no room for their names beside a second one (our choice)
_INK = "#1d2129"


class Lines(NamedTuple):
    """Curves of one panel: values [V], means and deviations [V, C], C names, overall [V]."""

    title: str
    values: NDArray[np.float64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    names: Sequence[str]
    overall: NDArray[np.float64]


def curves_figure(path: str | os.PathLike[str], panels: Sequence[Lines], axis_name: str, quantity: str) -> Path:
    """Class accuracy against the swept value, a panel a method: points with bars of one deviation, all classes dashed."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        size = (7.4 if columns == 1 else 4.6 * columns, 3.9 * lines)
        figure, axes = plt.subplots(lines, columns, squeeze=False, figsize=size, layout="constrained")
        for axis, panel in zip(axes.ravel(), panels, strict=False):
            for index, name in enumerate(panel.names):
                axis.errorbar(
                    panel.values,
                    panel.means[:, index],
                    yerr=panel.deviations[:, index],
                    color=COLORS[index % len(COLORS)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=4,
                    linewidth=1.3,
                    elinewidth=0.9,
                    capsize=2,
                    label=name,
                )
            axis.plot(panel.values, panel.overall, color=_INK, linestyle="--", linewidth=1.6, label="all classes")
            axis.set(title=panel.title, xlabel=axis_name, ylabel=quantity)
            axis.grid(axis="y", color="#e4e4e4")
            axis.set_axisbelow(True)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4 if columns == 1 else 3, fontsize=8)
        for axis in axes.ravel()[len(panels) :]:
            axis.set_visible(False)
        return save(figure, path)


def correlations_figure(
    path: str | os.PathLike[str],
    panels: Sequence[tuple[str, NDArray[np.float64]]],
    names: Sequence[str],
) -> Path:
    """Correlation of every two classes as colour, a panel a method.

    Args:
      panels: (title, coefficients [C, C]), in the order in which the classes are to stand; NaN is grey.
      names: C names, in that order.
    """
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    side = 4.6 if columns == 2 else min(9.0, max(5.0, 0.09 * len(names)))
    named = len(names) <= NAMED or columns == 1
    font = 9 if len(names) <= 20 else 7 if len(names) <= NAMED else 4.5
    with plt.rc_context(STYLE):
        size = (side * columns + 0.8, side * lines + 0.3)
        figure, axes = plt.subplots(lines, columns, squeeze=False, figsize=size, layout="constrained")
        colors = plt.get_cmap("RdBu").with_extremes(bad="#bbbbbb")
        for axis, (title, coefficients) in zip(axes.ravel(), panels, strict=False):
            image = axis.imshow(coefficients, vmin=-1, vmax=1, cmap=colors, interpolation="nearest")
            axis.set_title(title)
            if named:
                axis.set_xticks(range(len(names)), names, rotation=90, fontsize=font)
                axis.set_yticks(range(len(names)), names, fontsize=font)
            else:
                axis.set(xticks=[], yticks=[])
            axis.tick_params(length=0)
        for axis in axes.ravel()[len(panels) :]:
            axis.set_visible(False)
        figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.6 / lines, aspect=15, label="Pearson correlation")
        return save(figure, path)


def superclass_figure(path: str | os.PathLike[str], methods: Sequence[Lines], axis_name: str, quantity: str) -> Path:
    """A small panel a superclass, a line a method; each panel has its own height of the same span."""
    names = methods[0].names
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    tops = np.array([[m.means[:, i] + m.deviations[:, i] for m in methods] for i in range(len(names))])
    bottoms = np.array([[m.means[:, i] - m.deviations[:, i] for m in methods] for i in range(len(names))])
    high, low = tops.max(axis=(1, 2)), bottoms.min(axis=(1, 2))
    span = float((high - low).max()) * 1.08
    with plt.rc_context(STYLE):
        size = (2.35 * columns + 0.3, 1.75 * lines + 0.6)
        figure, axes = plt.subplots(lines, columns, squeeze=False, sharex=True, figsize=size, layout="constrained")
        for index, (axis, name) in enumerate(zip(axes.ravel(), names, strict=False)):
            for number, method in enumerate(methods):
                axis.errorbar(
                    method.values,
                    method.means[:, index],
                    yerr=method.deviations[:, index],
                    color=COLORS[number % len(COLORS)],
                    linewidth=1.2,
                    elinewidth=0.7,
                    marker=".",
                    label=method.title,
                )
            middle = (high[index] + low[index]) / 2
            axis.set_ylim(middle - span / 2, middle + span / 2)
            axis.set_title(name if len(name) <= 30 else f"{name[:29]}…", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(axis="y", color="#e4e4e4")
        for axis in axes.ravel()[len(names) :]:
            axis.set_visible(False)
        figure.supxlabel(axis_name, fontsize=9)
        figure.supylabel(quantity, fontsize=9)
        if len(methods) > 1:
            entries, labels = axes[0, 0].get_legend_handles_labels()
            figure.legend(entries, labels, loc="outside upper center", ncols=min(5, len(labels)))
        return save(figure, path)


def chance_figure(
    path: str | os.PathLike[str], labels: Sequence[str], quantities: Sequence[tuple[str, Sequence[Chance]]]
) -> Path:
    """Shares of classes as points, and as a grey bar where 95 % of what chance gives lies; a panel a quantity.

    A share that was not measured, NaN, has neither, and a quantity without any has no panel.
    """
    places = np.arange(len(labels))
    quantities = [one for one in quantities if any(np.isfinite(share.measured) for share in one[1])]
    with plt.rc_context(STYLE):
        size = (3.2 * len(quantities) + 1.6, 0.3 * len(labels) + 1.3)
        figure, axes = plt.subplots(1, len(quantities), squeeze=False, sharey=True, figsize=size, layout="constrained")
        for axis, (title, shares) in zip(axes[0], quantities, strict=True):
            low, high = (np.array([100 * getattr(s, side) for s in shares]) for side in ("low", "high"))
            axis.barh(places, high - low, left=low, height=0.55, color="#d9dde3", label="95 % of chance")
            means = [100 * share.mean for share in shares]
            axis.plot(means, places, "|", color="#5b6472", markersize=10, label="mean of chance")
            axis.plot([100 * share.measured for share in shares], places, "o", color=COLORS[0], label="measured")
            axis.set(title=title, xlabel="% of the classes", xlim=(-3, 103), ylim=(len(labels) - 0.5, -0.5))
            axis.grid(axis="x", color="#e4e4e4")
            axis.set_axisbelow(True)
        axes[0, 0].set_yticks(places, labels)
        entries, words = axes[0, 0].get_legend_handles_labels()
        figure.legend(entries, words, loc="outside lower center", ncols=3)
        return save(figure, path)
