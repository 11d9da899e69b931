"""The page's section on how fast the solvers of pseudo-labels converge (MIRA's Figure 2): figure, sentences, convergence.csv."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ssljax.evaluate.results import program_of, write_csv
from ssljax.report import figures, frame
from ssljax.report.workdir import Workdir
from ssljax.study.convergence import (
    COMPARED,
    CONVERGED,
    LEVELS,
    MARKED,
    NAME,
    SHOWN,
    SOLVERS,
    TITLES,
    level_text,
    steps_to,
)

HEADING = "Convergence of the pseudo-labels"
FLAT = 0.95  # share of the highest entropy from which scores are called flat (our choice)
_FLOOR = 1e-20  # below it float64 leaves nothing but rounding (our choice)

# The paper's blue and yellow, as in Paul Tol's "vibrant" scheme.
_LOOK = {
    "mira": dict(color="#0077BB"),
    "sinkhorn": dict(color="#EE7733"),
    "mira_accelerated": dict(color="#33BBEE", linestyle="--"),
}
_MARKS = {MARKED[0]: "SwAV's", MARKED[1]: "MIRA's"}

_CLAIM = (
    "MIRA's paper (section 4.3, Figure 2), on ImageNet: its iteration converges faster than Sinkhorn-Knopp on trained models of "
    "both MIRA and SwAV, and 30 steps are enough."
)


class Shown(NamedTuple):
    """One program: its title, the errors [runs, solvers, steps] of its runs, and how flat each solver's problem is, by solver."""

    title: str
    errors: NDArray[np.float64]
    flatness: dict[str, float]

    @property
    def mean(self) -> dict[str, NDArray[np.float64]]:
        """The mean curve over the runs, by solver."""
        return dict(zip(SOLVERS, self.errors.mean(axis=0), strict=True))


def section(study: Workdir, titles: Mapping[str, str]) -> str:
    """The section, HTML; "" where nothing of it was evaluated. Writes figures/convergence.png and convergence.csv.

    Args:
      study: the workdir.
      titles: of programs; others go by their own name.
    """
    programs: dict[str, list[NDArray[np.float64]]] = {}  # the parts of a split one together
    named: dict[str, str] = {}
    lines: list[tuple[str, str, int, float]] = []
    for artifact in study.artifacts:
        if artifact.convergence is None:
            continue
        program = program_of(artifact.runs[0])
        programs.setdefault(program, []).append(artifact.convergence)
        named.setdefault(program, titles.get(artifact.program, program))
        for run, curves in zip(artifact.runs, artifact.convergence, strict=True):
            for solver, curve in zip(SOLVERS, curves, strict=True):
                lines += [(run, solver, step, float(error)) for step, error in enumerate(curve, start=1)]
    if not programs:
        return ""
    shown = [
        Shown(named[name], np.concatenate(parts), {solver: _flatness(study, name, solver) for solver in SOLVERS})
        for name, parts in programs.items()
    ]
    write_csv(study.path / "convergence.csv", ("run", "solver", "step", "sse"), lines)
    path = convergence_figure(study.path / "figures" / "convergence.png", shown)
    caption = (
        "Sum-squared error of a batch's labels against those after "
        f"{CONVERGED:,} steps, by step, mean over batches; a thin line each run, the thick one their mean. In float64. "
        "All values are in convergence.csv."
    )
    words = [frame.paragraph(text, lead) for lead, text in sentences(shown)]
    return frame.section(HEADING, *words, frame.figure(path, caption))


def _flatness(study: Workdir, program: str, solver: str) -> float:
    found = [
        row["value"]
        for row in study.results
        if (row["evaluation"], row["metric"]) == (f"{NAME}@{solver}", "flatness") and program_of(row["run"]) == program
    ]
    return float(np.mean(found)) if found else math.nan


def sentences(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """What the curves say, as (lead, text): which solver is faster and where, then each program, then the paper's claim."""
    steps = [{name: steps_to(curve, COMPARED) or math.inf for name, curve in one.mean.items()} for one in shown]
    faster = [one.title for one, own in zip(shown, steps) if own["mira"] < own["sinkhorn"]]
    slower = [one.title for one, own in zip(shown, steps) if own["mira"] > own["sinkhorn"]]
    equal = [one.title for one, own in zip(shown, steps) if own["mira"] == own["sinkhorn"]]
    parts = [
        f"{what} on {'; '.join(names)}"
        for what, names in (
            ("MIRA's iteration converges faster", faster),
            ("Sinkhorn-Knopp converges faster", slower),
            ("the two are equally fast", equal),
        )
        if names
    ]
    said = ", ".join(parts)
    found = [("Measured:", f"{said[0].upper()}{said[1:]} (steps to an error of {level_text(COMPARED)}).")]
    for one in shown:
        ways = [f"{TITLES[name]} {_steps(curve)}" for name, curve in one.mean.items()]
        text = (
            f"{'; '.join(ways)}. After {MARKED[1]} steps MIRA's error is {one.mean['mira'][MARKED[1] - 1]:.1e}, after "
        )
        text += f"{MARKED[0]} Sinkhorn-Knopp's {one.mean['sinkhorn'][MARKED[0] - 1]:.1e}."
        found.append((f"{one.title}:", f"{text} {_flat(one.flatness)}".strip()))
    return [*found, ("Published:", _CLAIM)]


def _flat(flatness: Mapping[str, float]) -> str:
    """How flat the two problems are; "" where it is not known."""
    mira, sinkhorn = flatness["mira"], flatness["sinkhorn"]
    if not math.isfinite(mira + sinkhorn):
        return ""
    verdict = "its scores are flat, so that it needs few steps" if sinkhorn >= FLAT else "its scores are not flat"
    return (
        f"A row that MIRA's iteration starts from has {100 * mira:.0f} % of the highest entropy, Sinkhorn-Knopp's "
        f"{100 * sinkhorn:.0f} %: {verdict}."
    )


def _steps(curve: NDArray[np.float64]) -> str:
    """ "4, 9 and 14 steps to 1e-3, 1e-6 and 1e-9" of a curve."""
    each = [str(steps_to(curve, level) or f"more than {SHOWN}") for level in LEVELS]
    levels = list(map(level_text, LEVELS))
    return f"{', '.join(each[:-1])} and {each[-1]} steps to {', '.join(levels[:-1])} and {levels[-1]}"


def convergence_figure(path: Path, shown: Sequence[Shown]) -> Path:
    """Errors by step on a log scale, a panel a program, marked at SwAV's 3 and MIRA's 30 steps."""
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    lines = -(-len(shown) // columns)
    with plt.rc_context(figures.STYLE):
        size = (3.4 * columns + 0.4, 2.9 * lines + 0.4)
        figure, axes = plt.subplots(
            lines, columns, squeeze=False, sharex=True, sharey=True, figsize=size, layout="constrained"
        )
        for axis, one in zip(axes.ravel(), shown, strict=False):
            _panel(axis, one)
        for axis in axes.ravel()[len(shown) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("sum-squared error of the labels")
        for axis in axes[-1]:
            axis.set_xlabel("step")
        steps = [int(step) for one in shown for step in np.nonzero(one.errors > _FLOOR)[-1]]
        axes[0, 0].set_xlim(0, min(max(*MARKED, *steps) * 1.2, SHOWN))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SOLVERS))
        return figures.save(figure, path)


def _panel(axis: Axes, one: Shown) -> None:
    steps = np.arange(1, SHOWN + 1)
    for number, (name, mean) in enumerate(one.mean.items()):
        look = {**_LOOK[name], "label": TITLES[name]}
        for curve in one.errors[:, number] if len(one.errors) > 1 else ():
            axis.semilogy(steps, _above_floor(curve), color=look["color"], linewidth=0.5, alpha=0.5)
        axis.semilogy(steps, _above_floor(mean), linewidth=1.8, **look)
    for step, whose in _MARKS.items():
        axis.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
        axis.annotate(f"{whose} {step}", (step, 1), xycoords=("data", "axes fraction"), xytext=(2, -8),
                      textcoords="offset points", fontsize=7, color="#666666")  # fmt: skip
    axis.set(title=one.title.replace(" (", "\n("), ylim=(_FLOOR, None))


def _above_floor(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(curve > _FLOOR, curve, np.nan)
