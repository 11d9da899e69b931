"""The page's section on a compound's concentrations: how well each encoder tells its cells from untreated ones."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ssljax.report import figures, frame, tables
from ssljax.report.tables import Row, Stat
from ssljax.report.workdir import Workdir

HEADING = "Concentration by concentration"
NAME, TARGET = "dose", "treated"

_CLAIM = (
    "No Free Lunch in SSL (2023), Figures 6 and 7: of networks from ImageNet ResNet101 is the best ResNet and VGG16 the best VGG "
    "on Nocodazole; the curves have no values printed."
)


def section(study: Workdir) -> str:
    """The section, HTML; "" where it was not evaluated. Writes figures/dose.png (dose_<n>.png for several compounds).

    Args:
      study: the workdir.
    """
    rows = [row for row in study.per_class if row["evaluation"] == NAME]
    whole = [row for row in tables.summary(rows) if any(key[:2] == (NAME, TARGET) for key in row.stats)]
    by_set: dict[tuple[str, str], list[Row]] = {}  # a compound that was given in a list stands among the swept values
    for row in whole:
        compound = str(dict(row.setting.swept).get("compound", ""))
        by_set.setdefault((row.setting.dataset, compound), []).append(row)
    parts: list[str] = []
    for place, ((dataset, compound), own) in enumerate(by_set.items()):
        ending = f"_{place}" if len(by_set) > 1 else ""
        parts += _of_set(own, study.path / "figures" / f"dose{ending}.png", compound or dataset)
    return frame.section(HEADING, *parts, frame.paragraph(_CLAIM, "Published:")) if parts else ""


def _of_set(rows: Sequence[Row], path: Path, title: str) -> list[str]:
    names = [tables.full_label(label) for label in tables.labels(rows)]
    concentrations = sorted({key[2] for row in rows for key in row.stats}, key=float)
    curves = {name: _curve(row, TARGET, concentrations) for name, row in zip(names, rows, strict=True)}
    learned = [row for row in rows if row.learned] or rows
    chance = _pooled([_curve(row, tables.SHUFFLED, concentrations) for row in learned])
    means = {name: float(np.nanmean([stat.mean for stat in curve])) for name, curve in curves.items()}
    best = max(means, key=lambda name: means[name])
    strongest = max(range(len(concentrations)), key=lambda i: curves[best][i].mean)
    told = (
        f"over all concentrations {best} tells treated cells best (mean AMI {tables.number(means[best])}), and most at "
        f"{concentrations[strongest]} uM (AMI {tables.number(curves[best][strongest].mean)}); shuffled labels give at most "
        f"{tables.number(float(np.nanmax(chance)))}."
    )
    caption = (
        "AMI of two clusters with treated or untreated, of the test cells of each concentration and as many untreated ones: mean "
        "and one standard deviation over seeds. Dashed: the same clusters against labels in random order."
    )
    lines = [
        frame.TableRow(name, [tables.cell(stat, len(row.runs)) for stat in curve])
        for (name, curve), row in zip(curves.items(), rows, strict=True)
    ]
    lines.append(frame.TableRow("Shuffled labels", [tables.number(value) for value in chance], rule=True))
    table = frame.table(["AMI", *(f"{each} uM" for each in concentrations)], lines)
    figure = dose_figure(path, curves, chance, concentrations, title)
    return [frame.paragraph(told, f"{title}:"), frame.figure(figure, caption), table]


def _curve(row: Row, target: str, concentrations: Sequence[str]) -> list[Stat]:
    nothing = Stat(math.nan, None, 0)
    return [row.stats.get((NAME, target, each, "ami"), nothing) for each in concentrations]


def _pooled(curves: Sequence[Sequence[Stat]]) -> list[float]:
    """The mean at each concentration over all curves."""
    return [float(np.nanmean([stat.mean for stat in at])) for at in zip(*curves, strict=True)]


def dose_figure(
    path: Path,
    curves: dict[str, list[Stat]],
    chance: Sequence[float],
    concentrations: Sequence[str],
    title: str,
) -> Path:
    """AMI by concentration on a log scale: a line with bars of one deviation for each encoder, chance dashed."""
    at = np.array([float(each) for each in concentrations])
    with plt.rc_context(figures.STYLE):
        columns = max(1, 80 // (max(map(len, curves)) + 8))
        size = (7.0, 3.2 + 0.2 * math.ceil((len(curves) + 1) / columns))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        for place, (name, curve) in enumerate(curves.items()):
            axis.errorbar(
                at,
                [stat.mean for stat in curve],
                yerr=[stat.deviation or 0.0 for stat in curve],
                color=figures.COLORS[place % len(figures.COLORS)],
                marker=figures.MARKERS[place % len(figures.MARKERS)],
                markersize=5,
                capsize=2,
                label=name,
            )
        axis.plot(at, chance, color="#777777", linestyle="--", label="Shuffled labels")
        if (at > 0).all():
            axis.set_xscale("log")
            axis.set_xticks(at, concentrations)
            axis.minorticks_off()
        axis.set(title=title, xlabel="concentration (micromolar)", ylabel="AMI")
        axis.grid(axis="y", color="#e4e4e4")
        axis.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=columns)
        return figures.save(figure, path)
