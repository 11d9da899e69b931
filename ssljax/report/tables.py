"""Tables of results: mean and deviation over seeds, laid out for the terminal or CSV beside published values.

The layout is that of Table 1 of No Free Lunch in SSL (2023), with the rows that say what a score is worth:
raw pixels, the untrained encoder, and (for the clusters) shuffled labels.
"""

import csv
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.miniature import MADE
from ssljax.errors import UserError
from ssljax.evaluate.results import program_of, swept_names, write_csv

# Titles of the sets of Table 1.
SET_TITLES = {
    "mnist_rotation_crop": "Rotation + crop",
    "mnist_rotation_crop_padding": "Rotation + crop + padding",
    "mnist_first": "First set",
    "mnist_rotation_crop_flips": "Rotation + crop + flips",
    "mnist_second": "Second set",
}
PIXELS, CELL_COUNT, RANDOM, SHUFFLED, CHANCE = "pixels", "cell_count", "random", "shuffled", "chance"
PRETRAINED = "pretrained"  # the method of an encoder from a file
NOTHING = "–"  # an empty cell
BASELINES = {
    PIXELS: "Raw pixels",
    CELL_COUNT: "Cell count",
    RANDOM: "Untrained encoder",
    SHUFFLED: "Shuffled labels",
    CHANCE: "Chance",
}
_METHOD_TITLES = {**BASELINES, PRETRAINED: "Encoder from a file"}
TARGET_COLUMNS = ("transforms", "method", "backbone", "evaluation", "target", "metric", "value", "source")

Targets = Sequence[Mapping[str, Any]] | None  # rows from `read_targets`


class Stat(NamedTuple):
    """Mean, sample standard deviation (ddof 1; None for a single value) and number of finite values."""

    mean: float
    deviation: float | None
    n: int


class Setting(NamedTuple):
    """What the runs of one table row share.

    `variant` is the program's name where programs of the same columns differ in something else (their width, say).
    """

    method: str
    backbone: str
    dataset: str
    transforms: str
    swept: tuple[tuple[str, Any], ...] = ()
    variant: str = ""


class Row(NamedTuple):
    """One table row.

    Attributes:
      setting: what its runs share.
      stats: by (evaluation, target, metric), or (evaluation, target, class, metric) for a per-class table.
      runs: the names of its runs, in order.
    """

    setting: Setting
    stats: dict[tuple[str, ...], Stat]
    runs: tuple[str, ...]

    @property
    def learned(self) -> bool:
        """Whether it is a trained model, rather than one of the rows to compare with."""
        return self.setting.method not in BASELINES


class Column(NamedTuple):
    """A column of the table.

    Attributes:
      title: its head.
      key: the measure that it shows.
      absent: what a trained row says that lacks the measure.
      note: a sentence beneath the table, "" for none.
    """

    title: str
    key: tuple[str, str, str]
    absent: str = NOTHING
    note: str = ""


# Table 1's columns, and k-NN.
TABLE1 = (
    Column("Silhouette", ("kmeans", "label", "silhouette")),
    Column("AMI", ("kmeans", "label", "ami")),
    Column("Linear top-1", ("linear", "label", "top1")),
    Column("k-NN top-1", ("knn", "label", "top1")),
)
LPIPS = Column("LPIPS", ("views", "", "lpips"))


def setting_of(row: Mapping[str, Any], names: Sequence[str] = ()) -> Setting:
    """The setting of one result row; a baseline has no transforms, pixels no backbone.

    Args:
      row: a dict with the columns of results.csv.
      names: the swept columns.
    """
    method, backbone, dataset = row["method"], row["backbone"], row["dataset"]
    swept = tuple((name, row[name]) for name in names if row.get(name) is not None)
    if method in BASELINES:
        return Setting(method, "" if method == PIXELS else backbone, dataset, "", swept)
    return Setting(method, backbone, dataset, row["transforms"], swept)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a setting, over the seeds, from a table of `evaluate.results`.

    Each run counts with its last epoch. Values that are not finite are left out; `n` tells how many remain.

    Args:
      rows: results.csv or per_class.csv as read.

    Returns:
      The learned rows in the order of their first appearance, those of a sweep by its values, then raw pixels, the number of cells,
      the untrained encoder, and for each data set a row of method "shuffled", the AMI of the learned rows' clusters by chance, and
      of "chance", what their profiles would give by chance.
    """
    names = swept_names(rows)
    settings = [setting_of(row, names) for row in rows]
    programs: dict[Setting, set[str]] = {}
    for setting, row in zip(settings, rows, strict=True):
        programs.setdefault(setting, set()).add(program_of(row["run"]))
    kept = [
        (setting._replace(variant=program_of(row["run"])) if _needs_variant(setting, programs) else setting, row)
        for setting, row in zip(settings, rows, strict=True)
    ]
    last: dict[tuple[Setting, str], int] = {}
    for setting, row in kept:
        last[setting, row["run"]] = max(last.get((setting, row["run"]), 0), row["epoch"] or 0)
    values: dict[Setting, dict[tuple[str, ...], dict[str, float]]] = {}
    chance: dict[Setting, dict[tuple[str, ...], list[float]]] = {}
    runs: dict[Setting, dict[str, None]] = {}
    for setting, row in kept:
        if (row["epoch"] or 0) < last[setting, row["run"]]:
            continue
        key = tuple(row[name] for name in ("evaluation", "target", "class", "metric") if name in row)
        runs.setdefault(setting, {})[row["run"]] = None
        values.setdefault(setting, {}).setdefault(key, {})[row["run"]] = row["value"]
        if row["target"] == SHUFFLED and setting.method not in BASELINES:
            shuffled = Setting(SHUFFLED, "", setting.dataset, "")
            against = (row["evaluation"], "label", row["metric"])
            chance.setdefault(shuffled, {}).setdefault(against, []).append(row["value"])
        if (row["target"], row["metric"]) in _BY_CHANCE and setting.method not in BASELINES:
            of = (row["evaluation"], row["target"], _BY_CHANCE[row["target"], row["metric"]])
            pooled_chance = chance.setdefault(Setting(CHANCE, "", setting.dataset, ""), {})
            pooled_chance.setdefault(of, []).append(row["value"])
    table = [
        Row(setting, {key: stat(by_run.values()) for key, by_run in by_key.items()}, tuple(runs[setting]))
        for setting, by_key in values.items()
    ]
    for setting, pooled in chance.items():
        table.append(Row(setting, {key: stat(v) for key, v in pooled.items()}, ()))
    sweeps = list(dict.fromkeys(row.setting._replace(swept=()) for row in table))

    def place(row: Row) -> tuple[int, int, list[tuple[str, bool, Any]]]:
        setting = row.setting
        values = [(name, isinstance(value, str), value) for name, value in setting.swept]
        kind = -1 if row.learned else list(BASELINES).index(setting.method)
        return kind, sweeps.index(setting._replace(swept=())), values

    return sorted(table, key=place)


# Target and metric of a measure's chance, and the metric that it is the chance of.
_BY_CHANCE = {
    ("moa", "nsc_chance"): "nsc",
    ("moa", "nscb_chance"): "nscb",
    ("plate", "chance"): "accuracy",
    ("batch", "chance"): "accuracy",
}


def _needs_variant(setting: Setting, programs: Mapping[Setting, set[str]]) -> bool:
    """Whether the columns do not tell whose row it is; an encoder from a file is known by the file."""
    return len(programs[setting]) > 1 or setting.method == PRETRAINED


def stat(values: Iterable[float]) -> Stat:
    """Mean, deviation and number of the finite values."""
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not len(finite):
        return Stat(math.nan, None, 0)
    return Stat(float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else None, len(finite))


def labels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """For each row a title ("First set") and what else tells it from the others ("mnist_first, byol").

    A transform set without a title of its own is named only where it tells rows of a sweep apart.
    """
    sets = {row.setting.transforms for row in rows if row.learned}
    methods = {row.setting.method for row in rows if row.learned}
    backbones = {row.setting.backbone for row in rows if row.setting.backbone}
    datasets = {row.setting.dataset for row in rows}
    result = []
    for row in rows:
        setting, detail = row.setting, []
        title = _METHOD_TITLES.get(setting.method) or SET_TITLES.get(setting.transforms) or setting.transforms
        if row.learned and setting.swept and len(sets) == 1 and setting.transforms not in SET_TITLES:
            title = setting.method
        if row.learned:
            if setting.transforms in SET_TITLES:
                detail.append(setting.transforms)
            detail += [setting.method] if len(methods) > 1 and setting.method not in (PRETRAINED, title) else []
            detail += [setting.backbone] if len(backbones) > 1 else []
        elif setting.method == RANDOM and len(backbones) > 1:
            detail.append(setting.backbone)
        detail += [
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in setting.swept
        ]
        detail += [setting.variant] if setting.variant else []
        if len(datasets) > 1:
            detail.append(setting.dataset)
        result.append((title, ", ".join(detail)))
    return result


def full_label(label: tuple[str, str]) -> str:
    """A label on one line: "First set (mnist_first)"."""
    return f"{label[0]} ({label[1]})" if label[1] else label[0]


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """A number as tables show it: .812, −.004, 1.000, 73.5, 1380; with `sign` +.050; an en dash for NaN or infinity."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10:  # seconds and gigabytes
        digits = min(digits, 1 if abs(value) < 100 else 0)
    rounded = round(value, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{rounded:+.{digits}f}" if sign else f"{rounded:.{digits}f}"
    text = text.replace("-", "−")
    return text.replace("0.", ".", 1) if abs(rounded) < 1 else text


def read_targets(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Published values, from a CSV whose columns are `TARGET_COLUMNS`, perhaps with more.

    Values are in the units of results.csv: accuracies are fractions. An empty cell of the first three columns
    fits any, and so does one of a further column: `dataset`, or a swept or listed setting (`epochs`, `local_crops`, ...).

    Raises:
      UserError: no such file, a column is missing, or a value is not a number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            targets = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV table ({error})") from error
    for line, target in enumerate(targets, start=2):
        if missing := [name for name in TARGET_COLUMNS if name not in target]:
            expected = ", ".join(TARGET_COLUMNS)
            raise UserError(f"{path}: column {', '.join(missing)} is missing, expected {expected}")
        try:
            float(target["value"])
        except ValueError:
            given = target["value"]
            raise UserError(f"{path}: row {line}, column value: given '{given}', expected a number") from None
    return targets


def published(row: Row, key: tuple[str, ...], targets: Targets) -> tuple[float, str] | None:
    """The published value of a learned row's measure and its source, or None; the first that fits counts."""
    for target in targets or ():
        fits = all(_fits(target.get(name, ""), getattr(row.setting, name)) for name in _SETTING_CELLS)
        fits &= all(_fits(target.get(name, ""), value) for name, value in row.setting.swept)
        if row.learned and fits and tuple(target[name] for name in TARGET_COLUMNS[3:6]) == key:
            return float(target["value"]), target["source"]
    return None


_SETTING_CELLS = ("transforms", "method", "backbone", "dataset")


def _fits(cell: str, value: Any) -> bool:
    """Whether a cell of a target is empty or says the value; a made miniature goes by the name of its set."""
    try:
        return cell in ("", str(value).removeprefix(MADE)) or float(cell) == float(value)
    except ValueError:
        return False


def elsewhere(targets: Targets, columns: Sequence[Column]) -> list[tuple[str, list[tuple[float, str] | None]]]:
    """The published values of methods that this project does not have: a method's name, and by column a value and its source.

    A method whose values the targets' further columns tell apart has a line for each.
    """
    from ssljax.methods import METHODS

    keys = [column.key for column in columns]
    found: dict[tuple[str, ...], list[tuple[float, str] | None]] = {}
    for target in targets or ():
        key = tuple(target[name] for name in TARGET_COLUMNS[3:6])
        ours = {"", *METHODS}.issuperset(target["method"].split(" & "))  # two losses' methods have an & between
        if ours or "swept" in target or key not in keys:
            continue
        further = [f"{name} {cell}" for name, cell in target.items() if name not in _KNOWN_CELLS and cell]
        line = found.setdefault((target["method"], *further), [None] * len(keys))
        line[keys.index(key)] = float(target["value"]), target["source"]
    return [(", ".join(name), line) for name, line in found.items()]


_KNOWN_CELLS = (*TARGET_COLUMNS, "dataset", "deviation")


def format_text(
    rows: Sequence[Row],
    targets: Targets = None,
    columns: Sequence[Column] = TABLE1,
) -> str:
    """The table for a terminal: a line a row, `mean ± deviation` a cell, published values on a line beneath.

    Args:
      rows: from `summary`.
      targets: published values, from `read_targets`.
      columns: what to show; their notes stand beneath the table.
    """
    lines = [["", *(column.title for column in columns), "seeds"]]
    for row, label in zip(rows, labels(rows), strict=True):
        cells = [cell_of(row, column) for column in columns]
        # A value without a deviation keeps the room for one, so that the means stand under each other; words need none.
        padded = [text if "±" in text or text[0].isalpha() else text.rjust(4) + " " * _TAIL for text in cells]
        lines.append([full_label(label), *padded, str(len(row.runs) or "")])
        values = [published(row, column.key, targets) for column in columns]
        if any(values):
            lines.append(["  published", *map(_published_text, values), ""])
    lines += [
        [f"{name} (published)", *map(_published_text, values), ""] for name, values in elsewhere(targets, columns)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    drawn = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]
    width = max(72, *map(len, drawn))  # of the notes; what is to be copied from them stays whole
    notes = (textwrap.fill(c.note, width, break_long_words=False, break_on_hyphens=False) for c in columns if c.note)
    return "\n".join([*drawn, *notes])


_TAIL = len(" ± .000")


def _published_text(value: tuple[float, str] | None) -> str:
    return f"{number(value[0])}{' ' * _TAIL}" if value else ""


def cell_of(row: Row, column: Column) -> str:
    """A row's cell of a column: its value, else for a trained row what the column says of an absent one."""
    absent = row.learned and column.key not in row.stats
    return column.absent if absent else cell(row.stats.get(column.key), len(row.runs))


def cell(value: Stat | None, runs: int) -> str:
    """ ".812 ± .013"; with " (n=2)" when fewer than `runs` values are finite; an en dash when none is."""
    if value is None or not value.n:
        return NOTHING
    tail = "" if value.deviation is None else f" ± {number(value.deviation)}"
    return number(value.mean) + tail + (f" (n={value.n})" if value.n < runs else "")


def write_table_csv(
    path: str | os.PathLike[str], rows: Sequence[Row], targets: Targets = None, columns: Sequence[Column] = TABLE1
) -> None:
    """Every mean of the rows as CSV, one a line, with its deviation, n, and the published value if any.

    A measure that a trained row lacks and whose column says why has a line too, without a mean, that says it under "note".
    """
    names = list(dict.fromkeys(name for row in rows for name, _ in row.setting.swept))
    fixed = ("method", "backbone", "dataset", "transforms")
    lines = []
    for row in rows:
        swept = dict(row.setting.swept)
        head = [*(swept.get(name) for name in names), *(getattr(row.setting, name) for name in fixed)]
        for key, value in row.stats.items():
            line = [*head, *key, value.mean, value.deviation, value.n]
            lines.append([*line, *(published(row, key, targets) or (None, None)), None])
        for column in columns:
            if column.absent != NOTHING and row.learned and column.key not in row.stats:
                line = [*head, *column.key, None, None, 0]
                lines.append([*line, *(published(row, column.key, targets) or (None, None)), column.absent])
    measured = ("evaluation", "target", "metric", "mean", "deviation", "n", "published", "source", "note")
    write_csv(path, (*names, *fixed, *measured), lines)
