"""The sentences of a report: what the numbers of a table say, in words that follow the numbers.

"More" and "less" are said only of differences larger than `SAME` and than the two rows' spread over seeds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ssljax.report.tables import PIXELS, RANDOM, SHUFFLED, Row, Stat, full_label, labels, number

SAME = 0.005  # half a unit of the last digit that the papers print: closer values count as equal (our choice)
CHANCE = 0.02  # a shuffled AMI below this is "about 0" (our choice)
ROWS_TOLD = 6  # of a longer sweep only the rows of highest and lowest AMI (or accuracy) are told (our choice)

AMI = ("kmeans", "label", "ami")
SILHOUETTE = ("kmeans", "label", "silhouette")


class _Measure(NamedTuple):
    """How one measure is told: "<subject> <more> <of> raw pixels (<name> .812, +.061)"."""

    key: tuple[str, str, str]
    name: str
    subject: str
    of: str
    words: dict[int, str]


_OFTEN = {1: "more often than", -1: "less often than", 0: "about as often as"}
_MUCH = {1: "more than", -1: "less than", 0: "about as much as"}
_MEASURES = (
    _Measure(AMI, "AMI", "Its clusters agree with the labels", "those of", _MUCH),
    _Measure(("linear", "label", "top1"), "top-1", "A linear probe is right", "on", _OFTEN),
    _Measure(("knn", "label", "top1"), "top-1", "A nearest-neighbour vote is right", "on", _OFTEN),
)
_WHERE = ("plate", "week")  # columns that say where an image was taken
_NAMES = {PIXELS: "raw pixels", RANDOM: "the untrained encoder"}


class Paragraph(NamedTuple):
    """Plain text with a few leading words to stand out."""

    lead: str
    text: str


def compare(a: Stat, b: Stat) -> int:
    """1 or -1: a is larger or smaller than b; 0: they differ by no more than `SAME` or the spread over seeds.

    The spread is the root of the sum of the two squared standard deviations.
    """
    noise = math.hypot(a.deviation or 0.0, b.deviation or 0.0)
    difference = a.mean - b.mean
    # 1e-9: a difference of exactly .005 must not hang on the last bit of a float.
    return 0 if abs(difference) <= max(SAME, noise) + 1e-9 else int(math.copysign(1, difference))


def answer(rows: Sequence[Row]) -> list[Paragraph]:
    """What the learned rows add over raw pixels and the untrained encoder, and what to make of it.

    Args:
      rows: from `tables.summary`.
    """
    names = list(map(full_label, labels(rows)))
    learned = [(row, name) for row, name in zip(rows, names, strict=True) if row.learned]
    if not learned:
        return [Paragraph("No trained run was measured.", "The rows below are only those to compare with.")]
    if not any(_has(row, measure.key) for row, _ in learned for measure in _MEASURES):
        return []  # the study is about something else
    ranked = [pair for pair in learned if _has(pair[0], AMI)]
    ranked.sort(key=lambda pair: -pair[0].stats[AMI].mean)
    told = learned
    if len(learned) > ROWS_TOLD:
        told = [ranked[0], ranked[-1]] if ranked else _extremes(learned)
    paragraphs = _range(ranked)
    paragraphs += [Paragraph(f"{name}.", _gains(row, rows)) for row, name in told]
    paragraphs += [_second_set(row, rows) for row, _ in told if row.setting.transforms == "mnist_second"]
    paragraphs += _batch(learned)
    if any(_has(row, AMI) for row, _ in learned):
        chance = [pair for pair in zip(rows, names, strict=True) if pair[0].setting.method == SHUFFLED]
        paragraphs += [_chance(row, name) for row, name in chance if _has(row, AMI)]
    return paragraphs


def _batch(learned: Sequence[tuple[Row, str]]) -> list[Paragraph]:
    """Whether the clusters tell where an image was taken rather than its label; none where that was not measured."""
    paragraphs = []
    for column in _WHERE:
        key = (AMI[0], column, AMI[2])
        rows = [(row, name) for row, name in learned if _has(row, AMI) and _has(row, key)]
        if not rows:
            continue
        told = [
            f"{number(row.stats[key].mean)} against {number(row.stats[AMI].mean)} ({name})"
            for row, name in rows[:ROWS_TOLD]
        ]
        more = f"; and {len(rows) - ROWS_TOLD} more" if len(rows) > ROWS_TOLD else ""
        values = f"AMI with the {column} against AMI with the label: {'; '.join(told)}{more}."
        effect = [
            row for row, _ in rows if row.stats[key].mean > CHANCE and compare(row.stats[key], row.stats[AMI]) >= 0
        ]
        if effect:
            of = "All rows have" if len(effect) == len(rows) else f"{len(effect)} of {len(rows)} rows have"
            text = f"{of} clusters that follow the {column} as much as the label or more: they tell where a cell was taken."
            paragraphs.append(Paragraph(f"A batch effect: the {column}.", f"{text} {values}"))
        else:
            meaning = f"A high AMI with the {column} would mean a batch effect."
            paragraphs.append(Paragraph(f"No row follows the {column} as much as the label.", f"{meaning} {values}"))
    return paragraphs


def _extremes(learned: Sequence[tuple[Row, str]]) -> list[tuple[Row, str]]:
    """The rows of highest and lowest value of the first measure that any has."""
    for measure in _MEASURES:
        found = [pair for pair in learned if _has(pair[0], measure.key)]
        if found:
            found.sort(key=lambda pair: -pair[0].stats[measure.key].mean)
            return [found[0], found[-1]]
    return list(learned[:ROWS_TOLD])


def _has(row: Row, key: tuple[str, ...]) -> bool:
    return key in row.stats and row.stats[key].n > 0


def _range(ranked: Sequence[tuple[Row, str]]) -> list[Paragraph]:
    """How far apart the learned rows are, when there is more than one."""
    if len(ranked) < 2:
        return []
    (best, best_name), (worst, worst_name) = ranked[0], ranked[-1]
    only_transforms = len({(r.setting.method, r.setting.backbone, r.setting.dataset) for r, _ in ranked}) == 1
    changed = "With nothing changed but the transformations" if only_transforms else "Over all rows"
    high, low = best.stats[AMI], worst.stats[AMI]
    if compare(high, low) == 0:
        text = f"AMI is {number(low.mean)} at least and {number(high.mean)} at most."
        return [Paragraph("The rows do not clearly differ.", f"{changed}, {text}")]
    text = (
        f"{changed}, the agreement of the clusters with the labels goes from AMI {number(low.mean)}, "
        f"{worst_name}, to {number(high.mean)}, {best_name}."
    )
    return [Paragraph("The choice decides what is learned." if only_transforms else "The rows differ.", text)]


def _gains(row: Row, rows: Sequence[Row]) -> str:
    """A sentence a measure: the row against the rows to compare with."""
    sentences = []
    for measure in _MEASURES:
        if not _has(row, measure.key):
            continue
        value = row.stats[measure.key]
        parts: list[str] = []
        for method, name in _NAMES.items():
            base = _baseline(method, row, rows)
            if base is None or not _has(base, measure.key):
                continue
            other = base.stats[measure.key]
            difference = number(value.mean - other.mean, sign=True)
            inside = difference if parts else f"{measure.name} {number(value.mean)}, {difference}"
            parts.append(f"{measure.words[compare(value, other)]} {measure.of} {name} ({inside})")
        if parts:
            sentences.append(f"{measure.subject} {' and '.join(parts)}.")
        else:
            sentences.append(f"{measure.subject}: {measure.name} {number(value.mean)}, nothing to compare with.")
    return " ".join(sentences) or "None of AMI, linear and k-NN accuracy was measured."


def _baseline(method: str, row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of raw pixels or of the untrained encoder that belongs to a learned row."""
    backbone = "" if method == PIXELS else row.setting.backbone
    wanted = (method, backbone, row.setting.dataset)
    # A baseline's own settings are those of its images.
    own = (other for other in rows if set(other.setting.swept) <= set(row.setting.swept))
    return next((other for other in own if other.setting[:3] == wanted), None)


def _second_set(row: Row, rows: Sequence[Row]) -> Paragraph:
    """The set that is meant to lose the digit: whether it did, and whether there are still clusters."""
    thing = "digit" if row.setting.dataset.split(":")[0] in ("digits", "mnist") else "label"
    lead = f"The second set is meant to lose the {thing}."
    why = (
        f"Its flips, strong rotations and erasing change what tells one {thing} from another and leave the "
        "stroke and the handwriting style, so those are what an encoder that ignores such changes can keep."
    )
    first = row.setting._replace(transforms="mnist_first")
    reference = next((other for other in rows if other.setting == first), None)
    against = "the first set"
    if reference is None or not _has(reference, AMI):
        reference, against = _baseline(PIXELS, row, rows), "raw pixels"
    if reference is None or not _has(reference, AMI) or not _has(row, AMI):
        return Paragraph(lead, f"{why} Whether it did cannot be told here: no AMI to compare with.")
    ours, theirs = row.stats[AMI], reference.stats[AMI]
    values = f"(AMI {number(ours.mean)} against {number(theirs.mean)} for {against})"
    if compare(ours, theirs) >= 0:
        return Paragraph(lead, f"{why} Here it did not: its clusters agree with the labels no less {values}.")
    text = f"{why} It did: its clusters agree with the labels less {values}."
    if not (_has(row, SILHOUETTE) and _has(reference, SILHOUETTE)):
        return Paragraph(lead, text)
    s_ours, s_theirs = row.stats[SILHOUETTE], reference.stats[SILHOUETTE]
    values = f"({number(s_ours.mean)} against {number(s_theirs.mean)})"
    if compare(s_ours, s_theirs) >= 0:
        seen = f"The silhouette does not fall {values}: the clusters are still there, but of something else."
    elif _fall(s_ours, s_theirs) < _fall(ours, theirs):
        seen = f"The silhouette falls less in proportion {values}: the clusters are of something else."
    else:
        seen = f"The silhouette falls at least as much {values}: the clusters are also less well separated."
    return Paragraph(lead, f"{text} {seen}")


def _fall(new: Stat, old: Stat) -> float:
    """The part of the old value that is gone; infinite where there was nothing to lose."""
    return (old.mean - new.mean) / old.mean if old.mean > 0 else math.inf


def _chance(row: Row, name: str) -> Paragraph:
    """What the clusters' AMI is against labels that mean nothing."""
    value = row.stats[AMI]
    text = f"The same clusters against labels in random order give an AMI of {number(value.mean)}: "
    if abs(value.mean) < CHANCE:
        text += "about 0, as chance should."
    else:
        text += "not about 0 as chance should, so there are too few images for these AMI values to be trusted."
    return Paragraph(f"{name}.", text)
