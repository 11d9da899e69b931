"""The page's section on what was measured while runs were trained: a curve of each measure, and what was said to be wrong."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssljax.evaluate.unlabelled import BANK, COLLAPSED, PREFIX
from ssljax.report import figures, frame
from ssljax.report.workdir import Workdir

HEADING = "While it trained"
NAMED = 8  # programs that have a colour of their own and stand in the legend (our choice)

_TITLES = {
    "knn": "k-NN top-1",
    "ridge": "Ridge top-1",
    "rankme": "RankMe",
    "lidar": "LiDAR",
    "alpha": "alpha-ReQ",
    "alpha_r2": "R2 of alpha-ReQ",
    "alignment": "Alignment",
    "uniformity": "Uniformity",
    "collapse": "Spread (0: collapsed)",
}
_CAPTION = (
    "Measured on the same training images throughout, not on test images, and not by the protocols of the table. k-NN and ridge: "
    f"the share of them that gets its label from at most {BANK:,} others. LiDAR and alignment from views drawn as in training. A "
    "thin line each run, a thick one the mean of those of one program that last."
)


def section(study: Workdir, titles: Mapping[str, str]) -> str:
    """The section, HTML; "" where nothing was watched. Writes figures/watched.png.

    Args:
      study: the workdir.
      titles: of programs; others go by their own name.
    """
    shown = [name for name in _TITLES if any(_value(row, name) is not None for row in study.metrics)]
    if not shown:
        return ""
    path = _figure(study.path / "figures" / "watched.png", study.metrics, shown, titles)
    return frame.section(HEADING, frame.figure(path, _CAPTION))


def collapsed(study: Workdir) -> str:
    """A box that names the runs whose features collapsed; "" where none did."""
    first: dict[str, int] = {}
    last: dict[str, bool] = {}
    for row in study.metrics:
        run = f"{row['program']}, {row['run'].partition('/')[2] or row['run']}"
        last[run] = bool(row.get("collapsed"))
        if row.get("collapsed"):
            first.setdefault(run, row["epoch"])
    if not first:
        return ""
    runs = "; ".join(f"{run} (epoch {epoch}{'' if last[run] else ', not to the end'})" for run, epoch in first.items())
    lead = f"{len(first)} {'run' if len(first) == 1 else 'runs'} collapsed:"
    text = f"{runs}. The features of all images all but shared one direction (spread below {COLLAPSED:g})."
    return frame.box(frame.paragraph(text, lead), "warning")


def _value(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(f"{PREFIX}{name}")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _figure(path: Path, metrics: Sequence[Mapping[str, Any]], shown: Sequence[str], titles: Mapping[str, str]) -> Path:
    programs = list(dict.fromkeys(row["program"] for row in metrics))
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    with plt.rc_context(figures.STYLE):
        size = (3.1 * columns, 2.3 * lines + 0.4)
        figure, axes = plt.subplots(lines, columns, squeeze=False, figsize=size, layout="constrained", sharex=True)
        for axis, name in zip(axes.ravel(), shown, strict=False):
            _panel(axis, metrics, name, programs)
        for axis in axes.ravel()[len(shown) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        if 1 < len(programs) <= NAMED:
            entries = [Line2D([], [], color=_color(i, programs), linewidth=1.8) for i in range(len(programs))]
            figure.legend(entries, [titles.get(p, p) for p in programs], loc="outside lower center", ncols=2)
        return figures.save(figure, path)


def _panel(axis: Axes, metrics: Sequence[Mapping[str, Any]], name: str, programs: Sequence[str]) -> None:
    for number, program in enumerate(programs):
        curves: dict[str, dict[int, float]] = {}
        for row in metrics:
            value = _value(row, name) if row["program"] == program else None
            if value is not None:
                curves.setdefault(row["run"], {})[row["epoch"]] = value
        color = _color(number, programs)
        for curve in curves.values():
            mark = "." if len(curve) < 3 else ""
            axis.plot(list(curve), list(curve.values()), color=color, linewidth=0.7, alpha=0.45, marker=mark)
        epochs = sorted({epoch for curve in curves.values() for epoch in curve})
        whole = [curve for curve in curves.values() if len(curve) == len(epochs)]
        if whole:
            axis.plot(
                epochs, [np.mean([curve[epoch] for curve in whole]) for epoch in epochs], color=color, linewidth=1.8
            )
    axis.set_title(_TITLES[name])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _color(number: int, programs: Sequence[str]) -> str:
    return figures.COLORS[number] if len(programs) <= NAMED else figures.COLORS[0]
