"""The tables of a bias study: chance, class trends, opposed pairs, and Tables 3 to 6 of No Free Lunch in SSL (2023).

Each function gives heads and rows for `frame.table`; `csv_lines` holds the numbers of study_tables.csv.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.report import bias_words as words
from ssljax.report.bias_sweeps import FINETUNE, Group, Sweep
from ssljax.report.frame import TableRow
from ssljax.report.tables import NOTHING, Targets, number
from ssljax.study.advice import Compared, advise
from ssljax.study.association import ALPHA
from ssljax.study.bias import Bias, SharedRow, behave_alike, opposed_pairs, shared
from ssljax.study.chance import Chance
from ssljax.study.trend import explained

METHODS_SHARING = 5  # of the paper's Table 5
PAIRS_SHOWN = 10  # most opposed pairs of a method on the page; the rest is in study_pairs.csv (our choice)
TABLE_COLUMNS = (
    *("table", "dataset", "backbone", "swept", "fixed", "evaluation", "metric", "points", "method", "quantity"),
    *("value", "deviation", "chance", "chance_low", "chance_high", "p"),
)


class Table(NamedTuple):
    """What `frame.table` takes."""

    heads: list[str]
    rows: list[TableRow]


def _beside_chance(chance: Chance) -> str:
    if not np.isfinite(chance.measured):
        return NOTHING
    expected = f"chance {words.percent(chance.mean)}\n({words.span(chance)})"
    return f"{words.percent(chance.measured)}\n{expected}\n{words.probability(chance.p)}"


def chance_table(groups: Sequence[Group]) -> Table:
    """Share of classes with an opposite partner by both readings of n, corrected, and of those that move, beside chance."""
    heads = [
        *(
            "Sweep",
            "Values",
            "Seeds",
            "Opposite partner, a point a value and seed",
            "Opposite partner, a point a value",
        ),
        *("Opposite partner, corrected", "Explained by the value", "Rise or fall with the value"),
    ]
    rows = []
    for group in groups:
        for sweep in group.sweeps:
            one = sweep.runs
            shares = (one.share, sweep.mean.share, one.share_corrected, one.moved, one.directed)
            counts = [str(len(one.curves.values)), str(len(one.curves.seeds))]
            rows.append(TableRow(_head(sweep, group, groups), [*counts, *map(_beside_chance, shares)]))
    return Table(heads, rows)


def _head(sweep: Sweep, group: Group, groups: Sequence[Group]) -> str:
    return f"{sweep.label}\n{words.group_name(group)}" if len(groups) > 1 else sweep.label


def trend_table(group: Group) -> Table:
    """Change along the fitted line, direction and explained share of every class, two columns a method."""
    heads = ["Class", *(["Superclass"] if group.superclasses else [])]
    heads += [head for sweep in group.sweeps for head in (f"{sweep.label}: change", f"{sweep.label}: explained")]
    rows = []
    for i, name in enumerate(group.sweeps[0].runs.curves.classes):
        cells = [group.superclasses[name]] if group.superclasses else []
        for sweep in group.sweeps:
            trend, test = sweep.runs.trend, sweep.runs.explained
            change = trend.slope[i] * np.ptp(sweep.runs.curves.values)
            cells.append(f"{number(change, sign=True)}\n{trend.direction[i]}, {words.probability(trend.p[i])}")
            q = words.probability(test.q[i]).replace("p", "q", 1)
            share = test.share[i]
            cells.append(f"{words.percent(share)}\n{q}" if np.isfinite(share) else NOTHING)
        rows.append(TableRow(name, cells))
    return Table(heads, rows)


def pair_table(group: Group) -> Table:
    """The most opposed pairs of each method."""
    rows = []
    for sweep in group.sweeps:
        for one, other, coefficient, p in opposed_pairs(sweep.runs)[:PAIRS_SHOWN]:
            lowest = f"{number(coefficient)}\n{_lowest(sweep.runs, one, other)}"
            rows.append(TableRow(sweep.label, [one, other, lowest, number(p) if p >= 0.001 else "below .001"]))
    return Table(["Method", "Class", "Opposed to", "Lowest coefficient", "p"], rows)


def _lowest(one: Bias, a: str, b: str) -> str:
    """Whose coefficient an opposite pair is listed with: the lowest of those that make it opposite."""
    i, j = (one.curves.classes.index(name) for name in (a, b))
    opposed = {name: found.coefficient[i, j] for name, found in one.found.items() if found.p[i, j] < ALPHA}
    name = min(opposed, key=lambda each: opposed[each])
    return name.capitalize()


def _published(targets: Targets, group: Group, method: str, evaluation: str, metric: str, name: str = "value") -> str:
    """A published value to stand beneath a measured one; "" where there is none. The first target that fits counts."""
    own = {"method": method, "backbone": group.backbone, "dataset": group.dataset, "swept": group.swept}
    for target in targets or ():
        fits = all(target.get(column, "") in ("", value) for column, value in own.items())
        if fits and (target["evaluation"], target["metric"]) == (evaluation, metric) and target.get(name):
            return f"\npaper {_formatted(float(target[name]), metric)}" if group.metric == "accuracy" else ""
    return ""


def _formatted(value: float, metric: str) -> str:
    """97, 16.40, 45 % or .912, as the measured value above it."""
    if metric == "behave_alike":
        return words.percent(value)
    if metric.startswith("anova_"):
        return f"{value:.2f}"
    return f"{value:.0f}" if metric.endswith("_classes") or "_classes_" in metric else number(value)


def table4(groups: Sequence[Group], targets: Targets = None) -> Table:
    """Mean and standard deviation of the overall accuracy over the swept values."""
    rows = []
    for group in groups:
        for sweep in group.sweeps:
            cells = [number(value) for value in overall(sweep)]
            for i, name in enumerate(("value", "deviation")):
                cells[i] += _published(targets, group, sweep.runs.curves.method, group.evaluation, "top1", name)
            rows.append(TableRow(_head(sweep, group, groups), cells))
    return Table(["Sweep", "Mean", "Std"], rows)


def overall(sweep: Sweep) -> tuple[float, float]:
    """Mean and deviation (ddof 1) over the values of the mean overall accuracy over seeds."""
    by_value = np.nanmean(sweep.runs.curves.overall, axis=1)
    return float(by_value.mean()), float(by_value.std(ddof=1))


def table5(groups: Sequence[Group], targets: Targets = None) -> Table:
    """Classes with an opposite partner that methods share, a column a sweep and reading of n; no column with one method."""
    heads, columns = ["Classes with an opposite partner"], []
    for group, found in _shared(groups):
        reading = words.READINGS[found.points]
        beside = targets if len(found.methods) == METHODS_SHARING else ()  # fewer methods share more classes
        where = words.group_name(group) if len(groups) > 1 else ""
        heads.append(", ".join(filter(None, (where, found.part, reading))))
        columns.append(
            {
                _in_how_many(found, k): _count(share, found.classes)
                + _published(beside, group, "", group.evaluation, f"shared_classes_{k}")
                for k, share in found.at_least.items()
            }
        )
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [TableRow(label, [column.get(label, NOTHING) for column in columns]) for label in labels]
    return Table(heads, rows)


def _shared(groups: Sequence[Group]) -> Iterator[tuple[Group, SharedRow]]:
    for group in groups:
        for points in ("runs", "mean"):
            for found in shared([getattr(sweep, points) for sweep in group.sweeps]):
                yield group, found


def _in_how_many(found: SharedRow, k: int) -> str:
    return f"in all {k} methods" if k == len(found.methods) else f"in at least {k} methods"


def _count(counted: Chance, of: int) -> str:
    span = f"{counted.low:.0f}–{counted.high:.0f}"
    return f"{counted.measured:.0f} of {of}\nchance {counted.mean:.1f} ({span})\n{words.probability(counted.p)}"


def table6(groups: Sequence[Group], targets: Targets = None) -> Table:
    """Classes with an opposite partner under linear and fine-tuned evaluation, and the share that behaves alike."""
    rows = []
    for group in groups:
        for sweep in group.sweeps:
            if sweep.finetuned is None:
                continue
            alike = behave_alike(sweep.runs, sweep.finetuned[0])
            method = sweep.runs.curves.method
            counts = []
            for evaluated in ((sweep.runs, sweep.mean), sweep.finetuned):
                for one in evaluated:
                    beside = _published(targets, group, method, one.curves.evaluation, "opposite_classes")
                    counts.append(_opposed(one) + beside)
            match = f"{words.percent(alike.share)}\nchance {words.percent(alike.chance)}"
            match += _published(targets, group, method, FINETUNE, "behave_alike")
            rows.append(TableRow(_head(sweep, group, groups), [*counts, match]))
    heads = ["Sweep"]
    for name in ("Frozen", "Fine-tuned"):
        heads += [f"{name}, {words.READINGS[points]}" for points in ("runs", "mean")]
    return Table([*heads, "Classes that behave alike"], rows)


def _opposed(one: Bias) -> str:
    of = len(one.curves.classes)
    share = one.share
    return _count(
        share._replace(**{name: of * getattr(share, name) for name in ("measured", "mean", "low", "high")}), of
    )


def advice_table(group: Group, choose: Sequence[str]) -> Table:
    """The value best for a group of classes on validation images, and on test images what it gives them and costs the others.

    The groups are the chosen classes, else the superclasses, else those that rise, those that fall, and those that change
    otherwise on validation images.
    """
    rows = []
    for sweep in group.sweeps:
        if sweep.validation is None:
            continue
        for title, classes in _advised(group, sweep, choose):
            found = advise(sweep.validation, sweep.runs.curves, classes)
            changes = [_change(one) for one in (found.group_accuracy, found.others_accuracy, found.overall)]
            values = [f"{found.value:.4g}", f"{found.reference:.4g}"]
            rows.append(TableRow(f"{title}\n{sweep.label}", [*values, *changes]))
    name = words.swept_name(group.swept)
    heads = ["Classes", f"Best {name}", f"Best {name} for all", "Change of these classes", "of the others", "overall"]
    return Table(heads, rows)


def _advised(group: Group, sweep: Sweep, choose: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    assert sweep.validation is not None
    classes = sweep.validation.classes
    if chosen := [name for name in choose if name in classes]:
        yield words.names(chosen, 4), chosen
        return
    if group.superclasses:
        for above in sorted(set(group.superclasses.values())):
            yield above, [name for name in classes if group.superclasses[name] == above]
        return
    test = explained(sweep.validation)
    kinds = {"rise": test.sign > 0, "fall": test.sign < 0, "change, neither up nor down": test.bend}
    for kind, its in kinds.items():
        if moving := [name for name, moves in zip(classes, its, strict=True) if moves]:
            yield f"classes that {kind}: {words.names(moving, 4)}", moving


def _change(one: Compared) -> str:
    if not np.isfinite(one.gain):
        return NOTHING
    deviation = f" ± {number(one.deviation)}" if np.isfinite(one.deviation) else ""
    return f"{number(one.gain, sign=True)}{deviation}\n{number(one.at_reference)} to {number(one.at_value)}"


def table3(tests: Sequence[tuple[Group, Sweep, Sequence[Mapping[str, Any]]]], targets: Targets = None) -> Table:
    """F of the class properties over the trends' groups, a column a sweep; an asterisk where p > .05, as the paper prints it."""
    groups = list({id(group): group for group, _, _ in tests}.values())
    heads = ["Property", *(_head(sweep, group, groups).replace("\n", ", ") for group, sweep, _ in tests)]
    rows = []
    for name in dict.fromkeys(row["property"] for _, _, found in tests for row in found):
        cells = []
        for group, sweep, found in tests:
            row = next((row for row in found if row["property"] == name), None)
            if row is None or not np.isfinite(row["f"]):
                cells.append(NOTHING)
                continue
            star = "*" if row["p"] > ALPHA else ""
            beside = _published(targets, group, sweep.runs.curves.method, group.evaluation, f"anova_{name}")
            cells.append(f"{row['f']:.2f}{star}\n{words.probability(row['p'])}{beside}")
        rows.append(TableRow(name.replace("_", " "), cells))
    return Table(heads, rows)


def csv_lines(
    groups: Sequence[Group], tests: Sequence[tuple[Group, Sweep, Sequence[Mapping[str, Any]]]]
) -> list[tuple[Any, ...]]:
    """The numbers of the chance table and of Tables 3 to 6, one a line, in the columns `TABLE_COLUMNS`."""
    lines: list[tuple[Any, ...]] = []

    def head(table: str, group: Group, points: str, method: str, evaluation: str = "") -> tuple[Any, ...]:
        fixed = " ".join(f"{name}={value}" for name, value in group.fixed)
        where = (group.dataset, group.backbone, group.swept, fixed, evaluation or group.evaluation, group.metric)
        return (table, *where, points, method)

    def of_chance(start: tuple[Any, ...], quantity: str, c: Chance) -> None:
        if np.isfinite(c.measured):  # one seed has no F-test
            lines.append((*start, quantity, c.measured, None, c.mean, c.low, c.high, c.p))

    for group in groups:
        for sweep in group.sweeps:
            for points in ("runs", "mean"):
                one: Bias = getattr(sweep, points)
                start = head("chance", group, points, sweep.label)
                of_chance(start, "opposite_partner", one.share)
                of_chance(start, "opposite_partner_corrected", one.share_corrected)
            of_chance(head("chance", group, "runs", sweep.label), "explained", sweep.runs.moved)
            of_chance(head("chance", group, "runs", sweep.label), "rise_or_fall", sweep.runs.directed)
            mean, deviation = overall(sweep)
            lines.append((*head("4", group, "", sweep.label), "overall", mean, deviation, None, None, None, None))
            if sweep.finetuned is not None:
                for points, tuned in zip(("runs", "mean"), sweep.finetuned, strict=True):
                    of_chance(head("6", group, points, sweep.label, "finetune"), "opposite_partner", tuned.share)
                alike = behave_alike(sweep.runs, sweep.finetuned[0])
                start = head("6", group, "runs", sweep.label, "finetune")
                lines.append((*start, "behave_alike", alike.share, None, alike.chance, None, None, None))
    for group, found in _shared(groups):
        for k, counted in found.at_least.items():
            which = f"at least {k} of {len(found.methods)}" + (f", {found.part}" if found.part else "")
            start = head("5", group, found.points, which)
            of_chance(start, "shared_classes", counted)
    for group, sweep, tests_of in tests:
        for test in tests_of:
            start = head("3", group, "runs", sweep.label)
            lines.append((*start, test["property"], test["f"], None, None, None, None, test["p"]))
    return lines
