"""The sections of a bias study's page: what each swept transformation does to each class, beside what chance gives.

Everything is in fixed figures and tables; where the browser runs scripts, `bias.js` puts curves to choose from and a map to
point at in place of the figures, and sorts the tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.errors import unknown
from ssljax.evaluate.results import Row, write_csv
from ssljax.report import bias_data, bias_figures, bias_tables, bias_words, frame
from ssljax.report.bias_sweeps import Group, Sweep, class_means, clustered_order, groups
from ssljax.report.tables import Targets
from ssljax.study.bias import opposed_pairs, pair_rows, rows
from ssljax.study.chance import DRAWS
from ssljax.study.findings import Measured, findings
from ssljax.study.groups import properties_from, property_table

PAIRS = 3  # most opposed pairs in a fixed figure: six curves can still be told apart (our choice)
FOLDED = 20  # a class table of more rows than this is folded (our choice)

HEADING = "How much is more than chance"

Tests = list[tuple[Group, Sweep, list[dict[str, Any]]]]


def sections(
    per_class: Sequence[Row],
    results: Sequence[Row],
    class_names: Sequence[str],
    folder: Path,
    *,
    superclasses: Mapping[str, str] | None = None,
    choose: Sequence[str] = (),
    targets: Targets = None,
    study_of: str = "",
    draws: int = DRAWS,
) -> list[str]:
    """The sections as HTML, of every sweep of three values or more; [] where there is none.

    Args:
      per_class: rows of per_class.csv.
      results: rows of results.csv; without them the overall accuracy is the mean over classes.
      class_names: the order of the classes.
      folder: where the files go.
      superclasses: class -> superclass; None takes the data set's own map where there is one.
      choose: classes, or superclasses for all of theirs, to show first and to advise on; else the most opposed pairs, and the
        superclasses.
      targets: published values, from `tables.read_targets`.
      study_of: the evaluation, or evaluation:metric, that the study is about; "" for linear accuracy, else what there is.
      draws: permutations for each statement on chance.

    Returns:
      As `sections_of`.

    Raises:
      UserError: the rows contradict each other, no sweep has a chosen class or the evaluation asked for, or the superclasses
        fit no sweep.
    """
    found, left_out = groups(per_class, results, class_names, superclasses, draws, study_of)
    return sections_of(found, left_out, per_class, folder, choose=choose, targets=targets)


def sections_of(
    found: Sequence[Group],
    left_out: Sequence[str],
    per_class: Sequence[Row],
    folder: Path,
    *,
    choose: Sequence[str] = (),
    targets: Targets = None,
) -> list[str]:
    """The sections of analysed sweeps, as `groups` gives them; the other arguments are those of `sections`.

    Writes study_classes.csv, study_pairs.csv and study_tables.csv into the folder, and the figures into its figures/.

    Returns:
      The box with the answer first, which belongs at the top of a page; the script last. Where no sweep could be analysed both
      are "", and between them stand the reasons; [] where there are none.

    Raises:
      UserError: no sweep has a chosen class.
    """
    if not found:
        return ["", frame.section(HEADING, _left_out(left_out)), ""] if left_out else []
    choose = _classes(choose, found)
    tests, whose = _property_tests(found, per_class)
    _write_tables(folder, found, tests)
    answer = "".join(frame.paragraph(text, lead) for lead, text in bias_words.answer(found))
    parts = [
        frame.box(answer),
        _chance(found, folder, left_out),
        *(_group(group, index, folder, choose) for index, group in enumerate(found)),
        _papers_tables(found, tests, whose, targets),
        _findings(found, tests),
        bias_data.script(found, choose),
    ]
    return parts


def _left_out(sentences: Sequence[str]) -> str:
    return frame.bullets([f"Left out: {text.rstrip('.')}." for text in sentences]) if sentences else ""


def _classes(names: Sequence[str], found: Sequence[Group]) -> list[str]:
    """Names of classes and superclasses as those of classes."""
    known: dict[str, dict[str, None]] = {}
    for group in found:
        for name in group.sweeps[0].runs.curves.classes:
            known.setdefault(name, {})[name] = None
            if name in group.superclasses:
                known.setdefault(group.superclasses[name], {})[name] = None
    for name in names:
        if name not in known:
            raise unknown("class", name, known, "--focus")
    return list(dict.fromkeys(one for name in names for one in known[name]))


def _property_tests(found: Sequence[Group], per_class: Sequence[Row]) -> tuple[Tests, str]:
    """Table 3's tests of each sweep whose data set's class properties are in the rows, and whose they are."""
    tests, whose = [], {}
    for group in found:
        properties, whose[group.dataset] = properties_from(per_class, group.dataset)
        if properties:
            for sweep in group.sweeps:
                classes = sweep.runs.curves.classes
                tests.append((group, sweep, property_table(sweep.runs.trend, classes, properties)))
    return tests, " ".join(dict.fromkeys(filter(None, whose.values())))


def _write_tables(folder: Path, found: Sequence[Group], tests: Tests) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    every = [one for group in found for sweep in group.sweeps for one in (sweep.runs, sweep.mean)]
    tuned = [one for group in found for sweep in group.sweeps for one in sweep.finetuned or ()]
    _write_rows(folder / "study_classes.csv", rows([*every, *tuned]))
    _write_rows(folder / "study_pairs.csv", pair_rows(every))
    write_csv(folder / "study_tables.csv", bias_tables.TABLE_COLUMNS, bias_tables.csv_lines(found, tests))


def _write_rows(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Floats with six digits: a hundred classes have 4950 pairs a sweep, and nothing is computed from this file."""
    short = ([f"{v:.6g}" if isinstance(v, float) else v for v in line.values()] for line in lines)
    write_csv(path, list(lines[0]), short)


def _chance(found: Sequence[Group], folder: Path, left_out: Sequence[str]) -> str:
    every = [(group, sweep) for group in found for sweep in group.sweeps]
    several = len(found) > 1
    labels = [f"{sweep.label}, {bias_words.group_name(group)}" if several else sweep.label for group, sweep in every]
    quantities = [
        ("an opposite partner", [sweep.runs.share for _, sweep in every]),
        ("explained by the value", [sweep.runs.moved for _, sweep in every]),
        ("rise or fall with the value", [sweep.runs.directed for _, sweep in every]),
    ]
    path = bias_figures.chance_figure(folder / "figures" / "bias_chance.png", labels, quantities)
    first = found[0].sweeps[0].runs
    metric = bias_words.metric_of(found)
    rule = (
        "Two classes are opposite, as the papers define it, when Pearson's, Kendall's or Spearman's coefficient of their "
        f"{metric} over the sweep is below −.3 with p < .05, unadjusted. With many classes nearly every one finds such a partner "
        f"by accident: chance is what {len(first.drawn)} permutations of the swept values give, each class on its own within each "
        "seed, as mean and central 95 %. Corrected: p adjusted for the number of pairs (Benjamini and Hochberg). Explained: the "
        "classes for which an F-test of the value, with seeds as blocks, survives a false-discovery rate of .05; they rise or fall "
        "where the test of a line does. Opposite pairs also count classes that trade places from run to run whatever the value; "
        "what is explained is about the value alone."
    )
    caption = "Share of the classes that was measured (points), and where 95 % of what chance gives lies (grey)."
    return frame.section(
        HEADING,
        frame.figure(path, caption),
        frame.table(*bias_tables.chance_table(found), sortable=True),
        frame.caption(rule),
        _left_out(left_out),
    )


def _group(group: Group, index: int, folder: Path, choose: Sequence[str]) -> str:
    name = bias_words.group_name(group)
    sentences = [bias_words.helps_and_hurts(sweep, group) for sweep in group.sweeps]
    ranges = [bias_words.overall_range(sweep, group.metric) for sweep in group.sweeps]
    trends, pairs = bias_tables.trend_table(group), bias_tables.pair_table(group)
    table = frame.table(*trends, sortable=True)
    caption = frame.caption(
        f"Change: of the {group.metric} along the line fitted to all runs, from the lowest {bias_words.swept_name(group.swept)} "
        "to the highest; ascending or descending where the p of its slope is below .05, else random, so that about 5 % of the "
        "classes get a direction by chance. Explained: share of the variance that the value explains (eta squared), with the q of "
        f"its F-test.{bias_words.noise_explains(group)}"
    )
    folded = len(trends.rows) > FOLDED
    return frame.section(
        f"{name[0].upper()}{name[1:]}",
        *(frame.paragraph(text, lead) for lead, text in sentences),
        frame.bullets(ranges),
        frame.interactive(bias_data.place(index), _figures(group, index, folder, choose)),
        frame.details(f"The trend of each of {len(trends.rows)} classes", table + caption)
        if folded
        else table + caption,
        _pairs(pairs),
        _superclasses(group, index, folder),
        _advice(group, choose),
    )


def _figures(group: Group, index: int, folder: Path, choose: Sequence[str]) -> str:
    """The class curves and the map of correlations as fixed figures."""
    panels = [_lines(sweep, _shown(sweep, choose)) for sweep in group.sweeps]
    path = folder / "figures" / f"bias_curves_{index}.png"
    bias_figures.curves_figure(path, panels, bias_words.swept_name(group.swept), bias_words.quantity(group))
    which = "the chosen classes" if set(choose) & set(group.sweeps[0].runs.curves.classes) else "the most opposed pairs"
    curves = frame.figure(
        path,
        f"Mean and one standard deviation over seeds of {which}, by method; dashed, the {group.metric} over all classes.",
    )
    order = clustered_order(group)
    names = [group.sweeps[0].runs.curves.classes[i] for i in order]
    matrices = [(s.label, s.runs.found["pearson"].coefficient[np.ix_(order, order)]) for s in group.sweeps]
    path = folder / "figures" / f"bias_correlations_{index}.png"
    bias_figures.correlations_figure(path, matrices, names)
    listed = "" if len(names) <= bias_figures.NAMED or len(matrices) == 1 else " All pairs are in study_pairs.csv."
    text = f"Pearson correlation of every two classes' {group.metric} over all runs, classes of like curves side by side.{listed}"
    return curves + frame.figure(path, text)


def _shown(sweep: Sweep, choose: Sequence[str]) -> list[int]:
    """The classes of a fixed figure: the chosen ones, else those of the most opposed pairs, else of the steepest slopes."""
    classes = sweep.runs.curves.classes
    if chosen := [classes.index(name) for name in choose if name in classes]:
        return chosen[: len(bias_figures.COLORS)]
    pairs = opposed_pairs(sweep.runs)[:PAIRS]
    if pairs:
        return [classes.index(name) for name in dict.fromkeys(name for pair in pairs for name in pair[:2])]
    return [int(i) for i in np.argsort(-np.abs(sweep.runs.trend.slope), kind="stable")[: 2 * PAIRS]]


def _lines(sweep: Sweep, shown: Sequence[int]) -> bias_figures.Lines:
    one = sweep.runs.curves
    means, deviations = class_means(one)
    names = [one.classes[i] for i in shown]
    overall = np.nanmean(one.overall, axis=1)
    return bias_figures.Lines(sweep.label, one.values, means[:, shown], deviations[:, shown], names, overall)


def _pairs(pairs: bias_tables.Table) -> str:
    if not pairs.rows:
        return frame.paragraph("No two classes are opposite by the papers' rule.")
    caption = frame.caption(
        "The most opposed pairs of each method by the papers' rule, p unadjusted; all pairs are in study_pairs.csv."
    )
    table = frame.table(*pairs, sortable=True) + caption
    return frame.details(f"The {len(pairs.rows)} most opposed pairs", table) if len(pairs.rows) > FOLDED else table


def _superclasses(group: Group, index: int, folder: Path) -> str:
    if not group.superclasses:
        return ""
    methods = []
    for sweep in group.sweeps:
        assert sweep.superclass is not None
        one = sweep.superclass
        means, deviations = class_means(one)
        overall = np.nanmean(one.overall, axis=1)
        methods.append(bias_figures.Lines(sweep.label, one.values, means, deviations, one.classes, overall))
    path = folder / "figures" / f"bias_superclasses_{index}.png"
    bias_figures.superclass_figure(path, methods, bias_words.swept_name(group.swept), bias_words.quantity(group))
    caption = (
        f"{group.metric.capitalize()} of each superclass, the mean over its classes: mean and one standard deviation over seeds. "
        "Every panel spans the same height, each around its own middle."
    )
    return frame.figure(path, caption)


def _advice(group: Group, choose: Sequence[str]) -> str:
    if all(sweep.validation is None for sweep in group.sweeps):
        text = (
            "The value that suits a group of classes best is chosen on validation images, and there are none here: add "
            "--validation_fraction=0.1."
        )
        return frame.paragraph(text, "No advice.")
    table = bias_tables.advice_table(group, choose)
    if not table.rows:
        return frame.paragraph(
            "On validation images this test tells no class's change with the value from noise. What suits the classes that "
            "matter to you: name them with --focus.",
            "No advice.",
        )
    caption = frame.caption(
        "Both values are chosen on validation images: the best for these classes, and the best for all. The changes from the "
        f"second to the first are of test {group.metric}, mean ± standard deviation over seeds; below 0 is the cost."
    )
    content = frame.table(*table, sortable=True) + caption
    summary = f"Advice: which {bias_words.swept_name(group.swept)} suits which classes"
    if len(table.rows) > FOLDED:
        return frame.details(summary, content)
    return frame.paragraph("", f"{summary}.") + content


def _papers_tables(found: Sequence[Group], tests: Tests, whose: str, targets: Targets) -> str:
    parts: list[str] = []

    def add(title: str, table: bias_tables.Table, note: str, missing: str = "") -> None:
        if table.rows and len(table.heads) > 1:
            parts.extend((frame.paragraph("", title), frame.table(*table, sortable=True), frame.caption(note)))
        elif missing:
            parts.append(frame.paragraph(missing, title))

    add(
        "Table 3: class properties against class trends.",
        bias_tables.table3(tests, targets),
        f"F over the ascending, descending and random classes; * where p > .05, as in the paper. {whose} The MANOVA is of the "
        "paper's four properties together (Wilks' lambda).",
        "Not measured: the evaluation properties was not made (--evaluations=...,properties).",
    )
    add(
        f"Table 4: overall {bias_words.metric_of(found)} over the sweep.",
        bias_tables.table4(found, targets),
        "Mean and standard deviation over the swept values, of means over seeds.",
    )
    add(
        "Table 5: classes with an opposite partner that methods share.",
        bias_tables.table5(found, targets),
        "Beside each count what chance gives: mean and central 95 % of the same permutations.",
        "Needs sweeps of two methods or more; join workdirs with --stages=report --workdir=A,B.",
    )
    add(
        "Table 6: frozen encoder against fine-tuning.",
        bias_tables.table6(found, targets),
        "Classes with an opposite partner, beside chance; and the share of classes whose trend has the same direction in both, "
        "beside that of two independent sets of trends with the same margins.",
        "Not measured: no fine-tuned evaluation (--evaluations=...,finetune).",
    )
    caption = frame.caption("All numbers are in study_tables.csv.")
    return frame.section("The papers' tables", *parts, caption)


def _findings(found: Sequence[Group], tests: Tests) -> str:
    properties = {id(sweep): test for _, sweep, test in tests}
    sweeps = [Measured(sweep.runs, properties.get(id(sweep), ())) for group in found for sweep in group.sweeps]
    lines = [frame.TableRow(f"{one.claim}\n{one.source}", [one.verdict, one.measured]) for one in findings(sweeps)]
    table = frame.table(["Claim", "Verdict", "Measured"], lines, prose=True)
    return frame.section("What the papers say, and what was seen here", table)
