"""The page's section on the setting of each sweep that validation images choose: sentences, heat map, table."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ssljax.report import figures, frame
from ssljax.report.workdir import Workdir
from ssljax.study import choice as study_of_choice
from ssljax.study.choice import Choice

HEADING = "The setting that validation chooses"
_MARK = "#CC6677"


def section(study: Workdir, study_of: str = "") -> str:
    """The section, HTML; "" where no sweep was measured on validation and test images. Writes figures/choice_<n>.png.

    Args:
      study: the workdir.
      study_of: evaluation:metric to choose by, where there is such a one on validation images; else the first of the usual ones.
    """
    evaluation, _, metric = study_of.partition(":")
    there = {(row["evaluation"], row["metric"]) for row in study.results}
    asked = (evaluation + study_of_choice.VALIDATION, metric) in there
    found = study_of_choice.choices(study.results, (evaluation, metric) if asked else None)
    parts = []
    for place, one in enumerate(found):
        words = study_of_choice.sentences(one)
        parts += [frame.paragraph(one.title)] if len(found) > 1 else []
        parts += [frame.paragraph(text, lead) for lead, text in words]
        if len(one.addresses) == 2:
            path = heat_map(study.path / "figures" / f"choice_{place}.png", one)
            caption = (
                f"Mean {one.evaluation} {one.metric} over the seeds, by the two swept values. A frame marks the setting that was "
                "chosen on the validation images, a dashed one the best on the test images, by which nothing is chosen."
            )
            parts.append(frame.figure(path, caption))
        parts.append(frame.details(f"All {len(one.settings)} settings", _table(one)))
    return frame.section(HEADING, *parts) if parts else ""


def _table(one: Choice) -> str:
    lines = [
        frame.TableRow(
            study_of_choice.told(one, each) + (" (chosen)" if place == one.chosen else ""),
            [study_of_choice.shown(each.validation), study_of_choice.shown(each.test), str(each.test.n)],
        )
        for place, each in enumerate(one.settings)
    ]
    what = f"{one.evaluation} {one.metric}"
    return frame.table(["Setting", f"{what}, validation", f"{what}, test", "Seeds"], lines)


def heat_map(path: Path, one: Choice) -> Path:
    """Means by two swept values, a panel for validation and one for test images, on one scale of colours."""
    grids = {split: study_of_choice.grid(one, split) for split in ("validation", "test")}
    values: NDArray[np.float64] = np.stack([means for *_, means in grids.values()])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    marks = {"--": one.settings[one.best_on_test], "-": one.settings[one.chosen]}
    with plt.rc_context(figures.STYLE):
        rows, columns = values.shape[1:]
        size = (2 * max(2.4, 0.62 * columns + 0.9) + 0.7, max(2.2, 0.5 * rows + 1.1))
        figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
        for axis, (split, (first, second, means)) in zip(axes, grids.items(), strict=True):
            image = axis.imshow(means, vmin=low, vmax=high, cmap="viridis", aspect="auto")
            axis.set_xticks(range(len(second)), [f"{value:g}" for value in second])
            axis.set_yticks(range(len(first)), [f"{value:g}" for value in first])
            axis.set(title=split, xlabel=one.addresses[1])
            for (i, j), value in np.ndenumerate(means):
                if np.isfinite(value):
                    dark = value < (low + high) / 2
                    axis.text(j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=8,
                              color="white" if dark else "black")  # fmt: skip
            for line, setting in marks.items():
                corner = second.index(setting.values[1]) - 0.44, first.index(setting.values[0]) - 0.44
                axis.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=_MARK, linewidth=2, linestyle=line))
        axes[0].set_ylabel(one.addresses[0])
        figure.colorbar(image, ax=axes, label=f"{one.evaluation} {one.metric}")
        return figures.save(figure, path)
