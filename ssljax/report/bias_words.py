"""The sentences of a bias study: what is more than chance, which classes a transformation helps, and what it costs."""

from collections.abc import Sequence

import numpy as np

from ssljax.report.bias_sweeps import Group, Sweep
from ssljax.report.tables import number
from ssljax.report.words import Paragraph
from ssljax.study.association import ALPHA
from ssljax.study.bias import Bias
from ssljax.study.chance import Chance

SWEEPS_TOLD = 6  # of more sweeps the table alone tells (our choice)
NAMED = 8  # classes named in a sentence before the rest is counted (our choice)

# The papers' words for what they sweep.
_NAMES = {
    "color_jitter.hue": "hue intensity",
    "color_jitter.hue_probability": "hue probability",
    "color_jitter.probability": "colour jitter probability",
    "random_resized_crop.area_low": "crop size",
    "horizontal_flip.probability": "flip probability",
    "rotation.degrees": "maximal rotation",
}
READINGS = {"runs": "a point a value and seed", "mean": "a point a value"}  # of n, which the papers leave open
_EVALUATIONS = {"linear": "linear evaluation", "knn": "nearest-neighbour evaluation"}


def swept_name(address: str) -> str:
    """What a swept address is called: "hue intensity" for color_jitter.hue, else the address itself."""
    return _NAMES.get(address, address)


def quantity(group: Group) -> str:
    """linear evaluation, accuracy."""
    return f"{_EVALUATIONS.get(group.evaluation, group.evaluation)}, {group.metric}"


def group_name(group: Group) -> str:
    """ "hue intensity on cifar100, resnet18 (temperature 0.2)"; what it is measured by where that is not linear accuracy."""
    fixed = ", ".join(f"{swept_name(name)} {value}" for name, value in group.fixed)
    by = "" if (group.evaluation, group.metric) == ("linear", "accuracy") else quantity(group)
    where = ", ".join(filter(None, (group.dataset, group.backbone)))
    return ", ".join(filter(None, (f"{swept_name(group.swept)} on {where}" + (f" ({fixed})" if fixed else ""), by)))


def metric_of(groups: Sequence[Group]) -> str:
    """accuracy, f1, or both of them."""
    return " or ".join(dict.fromkeys(group.metric for group in groups))


def percent(share: float) -> str:
    """97 %, 0.4 %, with a space that does not break; an en dash for NaN."""
    if not np.isfinite(share):
        return "–"
    digits = 1 if 0.0005 <= share < 0.01 else 0
    return f"{100 * share:.{digits}f}\u00a0%"


def probability(p: float) -> str:
    """p = .012, p < .001, with spaces that do not break."""
    if not np.isfinite(p):
        return "p unknown"
    return "p\u00a0<\u00a0.001" if p < 0.001 else f"p\u00a0=\u00a0{number(p)}"


def span(chance: Chance) -> str:
    """The central 95 % of what chance gives: 10–80 %."""
    return f"{percent(chance.low)[:-2]}–{percent(chance.high)}"


def against_chance(chance: Chance) -> str:
    """80 % where chance alone gives 42 % (10–80 %), p = .005."""
    expected = f"{percent(chance.mean)} ({span(chance)})"
    return f"{percent(chance.measured)} where chance alone gives {expected}, {probability(chance.p)}"


def more_than_chance(chance: Chance) -> bool:
    """Whether a statistic is above the mean of its permutations with p < .05; not where it could not be tested."""
    return bool(chance.p < ALPHA and chance.measured > chance.mean)


def answer(groups: Sequence[Group]) -> list[Paragraph]:
    """How much more than chance there is, of all sweeps together, and of each where they are few."""
    every = [(group, sweep) for group in groups for sweep in group.sweeps]
    if len(every) == 1:
        return [_excess(*every[0], _capital(group_name(every[0][0])))]
    opposed = sum(more_than_chance(sweep.runs.share) for _, sweep in every)
    moved = [more_than_chance(sweep.runs.moved) for _, sweep in every if np.isfinite(sweep.runs.moved.measured)]
    excess = [100 * (sweep.runs.share.measured - sweep.runs.share.mean) for _, sweep in every]
    what = f"{_capital(group_name(groups[0]))}: " if len(groups) == 1 else ""
    lead = f"{what}In {opposed} of {len(every)} sweeps more classes have an opposite partner than by chance"
    lead += f", and in {sum(moved)} of {len(moved)} more change with the swept value than by chance." if moved else "."
    text = (
        f"The share of classes with an opposite partner differs from that of chance by {_points(float(np.mean(excess)))} points "
        f"on average (between {_points(min(excess))} and {_points(max(excess))})."
    )
    told = every if len(every) <= SWEEPS_TOLD else []
    labels = [sweep.label if len(groups) == 1 else f"{sweep.label}, {group_name(group)}" for group, sweep in told]
    return [Paragraph(lead, text)] + [_excess(*one, label) for one, label in zip(told, labels, strict=True)]


def _points(value: float) -> str:
    text = f"{value:+.0f}" if abs(value) >= 1 else f"{value:+.1f}"
    return text.replace("-", "−").replace("+0.0", "0").replace("−0.0", "0")


def _above(chance: Chance, what: str) -> str:
    if not more_than_chance(chance):
        return f"not clearly more classes {what} than by chance"
    return f"{_points(100 * (chance.measured - chance.mean)).removeprefix('+')} points more of the classes {what} than by chance"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _excess(group: Group, sweep: Sweep, name: str) -> Paragraph:
    share, moved = sweep.runs.share, sweep.runs.moved
    tested = np.isfinite(moved.measured)
    lead = f"{name}: {_above(share, 'have an opposite partner')}"
    lead += f", and {_above(moved, 'change with the value')}." if tested else "."
    text = f"Classes with an opposite partner are {against_chance(share)}."
    if tested:
        text += f" Classes whose {group.metric} the value explains (F-test over seeds) are {against_chance(moved)}."
    else:
        text += " With a single seed the F-test over seeds cannot be made."
    return Paragraph(lead, text)


def names(classes: Sequence[str], most: int = NAMED) -> str:
    """cat, dog and 3 more."""
    if len(classes) > most:
        return f"{', '.join(classes[:most])} and {len(classes) - most} more"
    return " and ".join(filter(None, (", ".join(classes[:-1]), classes[-1]))) if classes else "no class"


def by_sign(one: Bias, sign: int) -> list[str]:
    """The classes that rise (1) or fall (-1) with the swept value by the F-test of a line, steepest first."""
    slopes = np.abs(one.trend.slope)
    chosen = np.flatnonzero(one.explained.sign == sign)
    return [one.curves.classes[int(i)] for i in chosen[np.argsort(-slopes[chosen], kind="stable")]]


def bent(one: Bias) -> dict[str, float]:
    """The classes that change, neither up nor down, most explained first, and the value at which each is best."""
    chosen = np.flatnonzero(one.explained.bend)
    best = one.curves.values[one.curves.accuracy.mean(axis=1).argmax(axis=0)]
    order = chosen[np.argsort(-one.explained.share[chosen], kind="stable")]
    return {one.curves.classes[int(i)]: float(best[i]) for i in order}


def helps_and_hurts(sweep: Sweep, group: Group) -> Paragraph:
    """Raising hue intensity helps cat and dog; hurts truck; changes ship, neither up nor down (best near 0.2)."""
    one, name = sweep.runs, swept_name(group.swept)
    if len(one.curves.seeds) < 2:
        text = "One seed does not tell a class's change from noise; two or more are needed."
        return Paragraph(f"{sweep.label}.", text)
    helped, hurt, bends = by_sign(one, 1), by_sign(one, -1), bent(one)
    rest = len(one.curves.classes) - len(helped) - len(hurt) - len(bends)
    runs = f"({len(one.curves.values) * len(one.curves.seeds)} runs)"
    parts = [f"helps {names(helped)}"] if helped else []
    parts += [f"hurts {names(hurt)}"] if hurt else []
    if len(bends) == 1:
        parts.append("changes {}, neither up nor down (best near {:.3g})".format(*next(iter(bends.items()))))
    elif bends:
        told = names([f"{each} (best near {value:.3g})" for each, value in bends.items()])
        parts.append(f"changes, neither up nor down, {told}")
    if not parts:
        return Paragraph(f"{sweep.label}.", f"This test tells no class's change with the value from noise {runs}.")
    text = f"Raising {name} {'; '.join(parts)}."
    if rest:
        text += (
            f" Of the other {'class' if rest == 1 else f'{rest} classes'} this test tells no change from noise {runs}."
        )
    return Paragraph(f"{sweep.label}.", text)


def overall_range(sweep: Sweep, metric: str) -> str:
    """Overall accuracy lies between .571 and .602; a class's moves by .043 in the median and by .211, plate, at most."""
    one = sweep.runs.curves
    overall = np.nanmean(one.overall, axis=1)
    moves = np.ptp(one.accuracy.mean(axis=1), axis=0)
    largest = int(np.nanargmax(moves))
    low, high, median = (number(float(value)) for value in (overall.min(), overall.max(), np.median(moves)))
    return (
        f"{sweep.label}: overall {metric} lies between {low} and {high}; a class's mean over seeds moves by {median} in the "
        f"median and by {number(moves[largest])}, {one.classes[largest]}, at most."
    )


def noise_explains(group: Group) -> str:
    """What share of the variance the value would explain if it did nothing: (V - 1) / (V S - 1) of V values and S seeds."""
    shares: dict[str, None] = {}
    for sweep in group.sweeps:
        values, seeds = len(sweep.runs.curves.values), len(sweep.runs.curves.seeds)
        if seeds > 1:
            share = percent((values - 1) / (values * seeds - 1))
            shares[f"{share} for {values} values and {seeds} seeds"] = None
    return f" Noise alone gives (V − 1) / (V S − 1) on average: {names(list(shares))}." if shares else ""
