"""The page's sections on pairs of settings, and on which measures without labels go with accuracy."""

from collections.abc import Sequence

import numpy as np

from ssljax.evaluate.results import Row
from ssljax.report import frame
from ssljax.report.tables import NOTHING, number
from ssljax.study import pairings
from ssljax.study.comparison import number as exact
from ssljax.study.curves import BASELINES
from ssljax.study.pairings import MEASURES, Pair
from ssljax.study.reliability import Reliability, paired_measures, reliability

PAIRS, RELIABILITY = "Two settings against each other", "Which measure without labels goes with accuracy"
FOLDED = 30  # a table of more rows is folded (our choice)
LEAST_RUNS = (
    5  # of which a rank correlation is shown: four runs can be in the same order by chance once in 24 (our choice)
)
SEEDS = 8  # from which on whole seeds are drawn, since a bootstrap over fewer has too few samples (our choice)


def pairs(results: Sequence[Row], compare: str = "", study_of: str = "") -> str:
    """The section on pairs of settings, paired over seeds, HTML; "" where no two share two seeds.

    Args:
      results: rows of results.csv.
      compare: pairs that are asked for, as `study.pairings.parse` reads them; "" for every value against the first of its kind.
      study_of: evaluation, or evaluation:metric, to compare by; "" for the first of linear accuracy, k-NN and AMI that there is.

    Raises:
      UserError: what is asked for cannot be compared.
    """
    evaluation, _, metric = study_of.partition(":")
    there = {(row["evaluation"], row["metric"]) for row in results if row["target"] == "label"}
    asked = (evaluation, metric or "top1")
    measures = [each for each in ([asked] if asked in there else MEASURES) if each in there]
    if compare:
        found = pairings.asked_for(results, compare, measures)
    elif measures:
        found = pairings.of_study(results, *measures[0])
    else:
        return ""
    if not found.pairs:
        return ""
    table = _pairs_table(found.pairs)
    rest = f" {found.left_out} more are not shown: --compare names those that matter." if found.left_out else ""
    clear = sum(pair.found.low > 0 or pair.found.high < 0 for pair in found.pairs)
    several = "" if len(found.pairs) == 1 else (
        f"Of {len(found.pairs)} differences {clear} have an interval that leaves out 0; without any effect one in twenty would."
    )  # fmt: skip
    note = (
        "Each seed's run of one setting against the same seed's of the other: mean difference with Student's t interval, and the "
        "two-sided sign-flip test, whose p is never below 2^(1−seeds). Intervals and p are of single pairs, not adjusted for how "
        f"many there are.{rest}"
    )
    said = (
        [frame.bullets([pair.found.sentence for pair in found.pairs])] if compare and len(found.pairs) <= FOLDED else []
    )
    words = [frame.paragraph(several)] if several else []
    return frame.section(PAIRS, *said, *words, table, frame.caption(note))


def _pairs_table(found: Sequence[Pair]) -> str:
    several = len({pair.found.measure for pair in found}) > 1
    held = any(pair.held for pair in found)
    heads = ["Setting", "against", *(["both with"] if held else []), *(["Measure"] if several else [])]
    heads += ["Difference" if several else f"Difference in {found[0].found.measure}", "95 % interval", "p", "Seeds"]
    lines = []
    for pair in found:
        one = pair.found
        interval = f"{exact(one.low)} to {exact(one.high)}" if len(one.seeds) > 1 else NOTHING
        p = exact(one.p, 4) if len(one.seeds) > 1 else NOTHING
        told = [pair.b, *([pair.held or NOTHING] if held else []), *([one.measure] if several else [])]
        lines.append(frame.TableRow(pair.a, [*told, number(one.mean), interval, p, str(len(one.seeds))]))
    table = frame.table(heads, lines, sortable=True)
    return frame.details(f"All {len(lines)} pairs", table) if len(lines) > FOLDED else table


def reliabilities(results: Sequence[Row]) -> str:
    """The section on the rank correlation of each measure without labels with accuracy, HTML; "" where too few runs have both.

    Methods stand apart: RankMe, for one, ranks the runs of one method only.
    """
    trained = [row for row in results if row["method"] not in BASELINES and row["seed"] is not None]
    accuracy = next((each for each in MEASURES[:2] if any(_is(row, *each) for row in trained)), None)
    if accuracy is None or not any(row["evaluation"] == "unlabelled" for row in trained):
        return ""
    kinds = dict.fromkeys((row["method"], row["backbone"], row["dataset"]) for row in trained)
    lines: list[tuple[str, list[str]]] = []
    for kind in kinds:
        own = [row for row in trained if (row["method"], row["backbone"], row["dataset"]) == kind]
        name = ", ".join(
            dict.fromkeys(part for parts in zip(kind, *kinds) for part in parts[:1] if len(set(parts)) > 1)
        )
        found = _reliability_of(own, accuracy)
        lines += [_line(one, name) for one in found]
    if not lines:
        return ""
    several = len(kinds) > 1
    heads = ["Measure", *(["Runs of"] if several else []), "Spearman's rho", "95 % interval", "Runs", "Verdict"]
    caption = (
        f"Rank correlation with {' '.join(accuracy)} over the trained runs, at each one's last epoch, with a bootstrap interval "
        f"over runs, or over seeds where there are {SEEDS}. A measure whose interval holds 0 should not choose between runs here; "
        "another data set may say otherwise."
    )
    rows = [frame.TableRow(head, cells if several else cells[1:]) for head, cells in lines]
    return frame.section(RELIABILITY, frame.table(heads, rows, sortable=True), frame.caption(caption))


def _reliability_of(rows: Sequence[Row], accuracy: tuple[str, str]) -> list[Reliability]:
    """Of the measures that enough runs have."""
    evaluation, metric = accuracy
    if not any(_is(row, evaluation, metric) for row in rows) or not any(
        row["evaluation"] == "unlabelled" for row in rows
    ):
        return []
    measures, truth, seeds = paired_measures(rows, evaluation=evaluation, metric=metric)
    enough = {name: v for name, v in measures.items() if np.isfinite(v + truth).sum() >= LEAST_RUNS}
    blocks = seeds if len(set(seeds)) >= SEEDS else None
    return reliability(enough, truth, blocks=blocks) if enough else []


def _line(one: Reliability, name: str) -> tuple[str, list[str]]:
    verdict = {1: "larger goes with more accurate", -1: "smaller goes with more accurate", 0: "not told from chance"}
    interval = f"{exact(one.low)} to {exact(one.high)}" if np.isfinite(one.low) else NOTHING
    rho = exact(one.rho) if np.isfinite(one.rho) else NOTHING
    return one.measure, [name, rho, interval, str(one.n), verdict[one.sign]]


def _is(row: Row, evaluation: str, metric: str) -> bool:
    return (row["evaluation"], row["target"], row["metric"]) == (evaluation, "label", metric)
