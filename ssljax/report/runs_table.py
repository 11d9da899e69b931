"""The runs of several workdirs, a row each: the settings in which they differ, and their measures, to sort and to plot.

`table` gives the section of a page and writes runs.csv. Where the browser runs scripts, `runs.js` draws any two columns against
each other; without it the page shows the table alone.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.errors import UserError
from ssljax.evaluate.results import Row, read_results, swept_names, write_csv
from ssljax.report import frame
from ssljax.report.figures import COLORS
from ssljax.report.tables import BASELINES, NOTHING, PIXELS, PRETRAINED, number
from ssljax.report.workdir import told_apart

CSV = "runs.csv"
HEADING = "Every run"
FOLDED = 30  # a table of more rows is folded (our choice)
SHOWN = 2000  # rows that a page can carry and a browser sort at once (our choice); runs.csv has them all

_TOLD = ("method", "backbone", "dataset", "transforms", "epoch")
# What says where and how a run was computed, or what the report shows, rather than what was trained and measured; and what is
# told by other columns: the seed, the swept values, the epoch.
_NO_SETTING = frozenset((
    "seeds", "sweep", "set", "epochs", "second_method", "second_transforms", "data_dir", "manual_dir", "cache_dir",
    "run_axis", "mesh", "max_runs_per_program", "steps_per_dispatch", "remat", "checkpoint_every", "eval_every", "keep",
    "evaluations", "focus", "superclasses", "study_of", "compare", "targets",
))  # fmt: skip


class Run(NamedTuple):
    """One run of one workdir.

    Attributes:
      workdir: a name that tells its workdir from the others.
      name: as in the column `run` of results.csv.
      seed: None where the run has none.
      trained: False for raw pixels and the untrained encoder.
      settings: by name, as far as results.csv and run.json tell them.
      given: names of the settings that a --sweep or --set of the run gave: of another run they are its transforms' own.
      measures: at the run's last epoch, by `evaluation metric`, with a target other than the label between the two.
    """

    workdir: str
    name: str
    seed: int | None
    trained: bool
    settings: dict[str, Any]
    given: frozenset[str]
    measures: dict[str, float]


class Columns(NamedTuple):
    """What a table of runs has columns for: the settings in which trained runs differ, and all measures."""

    settings: tuple[str, ...]
    measures: tuple[str, ...]


def table(workdirs: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]) -> str:
    """The section of a page that shows every run of some workdirs; writes runs.csv into a folder.

    Args:
      workdirs: each with results.csv; the settings that its columns do not tell come from run.json, where there is one.
      folder: an existing one, for runs.csv.

    Returns:
      HTML, for `frame.page`.

    Raises:
      UserError: no workdir, one that stands twice or lacks results.csv, or a file that cannot be read as what it should be.
    """
    found = runs(workdirs)
    columns = differing(found)
    several = len({run.workdir for run in found}) > 1
    write_csv(Path(folder) / CSV, *_csv(found, columns))
    heads = ["Run", *(["workdir"] if several else []), *columns.settings, "seed", *columns.measures]
    lines = [
        frame.TableRow(
            run.name,
            [
                *([run.workdir] if several else []),
                *(_text(run.settings.get(name)) or NOTHING for name in columns.settings),
                NOTHING if run.seed is None else str(run.seed),
                *(number(run.measures.get(name, math.nan)) for name in columns.measures),
            ],
            rule=not run.trained and i > 0 and found[i - 1].trained,
        )
        for i, run in enumerate(found[:SHOWN])
    ]
    shown = frame.table(heads, lines, sortable=True)
    last = 1 + several + len(columns.settings)  # of the tinted columns, counted from 1
    tint = f"<style>.runs tr > :nth-child(n+2):nth-child(-n+{last}) {{ background: var(--tint); text-align: left; }}</style>"
    shown = f'{tint}<div class="runs">{shown}</div>'
    if len(lines) > FOLDED:
        which = f"All {len(lines)}" if len(lines) == len(found) else f"The first {len(lines):,} of {len(found):,}"
        shown = frame.details(f"{which} runs", shown)
    caption = (
        f"{_count(found)}. Settings that are the same in all trained runs are left out; the others are tinted. Measures are those "
        f"of each run's last epoch, with all digits in {CSV}. A click on a head sorts, where the browser runs scripts."
    )
    parts = [_plot(found, columns), shown, frame.caption(caption)]
    return frame.section(HEADING, *parts)


def runs(workdirs: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Every run of some workdirs, trained ones first, each in the order of its results.csv.

    Raises:
      UserError: as for `table`.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if not paths:
        raise UserError("runs table: given no workdir, expected at least one")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"runs table: {', '.join(map(str, paths))}: expected each workdir once")
    found = [run for path, label in zip(paths, told_apart(paths)) for run in _runs(path, label)]
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: results.csv has no row, expected measured runs")
    return sorted(found, key=lambda run: not run.trained)


def differing(found: Sequence[Run]) -> Columns:
    """The settings that differ between trained runs, and the measures.

    A setting differs that has two values among the runs that have it: of a method's own numbers the others have none. One that
    a sweep or --set gave differs also from none.
    """
    trained = [run for run in found if run.trained]
    given = {name for run in trained for name in run.given}
    values: dict[str, set[str]] = {}
    for name in dict.fromkeys(name for run in trained for name in run.settings):
        values[name] = {_text(run.settings.get(name)) for run in trained if name in given or name in run.settings}
    settings = tuple(name for name, each in values.items() if len(each) > 1)
    return Columns(settings, tuple(dict.fromkeys(name for run in found for name in run.measures)))


def _runs(path: Path, label: str) -> list[Run]:
    rows, configs = read_results(path / "results.csv"), _configs(path / "run.json")
    swept = swept_names(rows)
    by_run: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_run.setdefault((row["run"], row["method"], row["backbone"], row["dataset"]), []).append(row)
    found = []
    for (name, *_), own in by_run.items():
        last = max(row["epoch"] or 0 for row in own)
        own = [row for row in own if (row["epoch"] or 0) == last]
        row, method = own[0], own[0]["method"]
        trained = method not in BASELINES
        settings: dict[str, Any] = {key: row[key] for key in _TOLD if row[key] not in (None, "")}
        given: dict[str, Any] = {}
        if trained:
            columns = {address: row[address] for address in swept if row[address] is not None}
            fitting = [config for config in configs if _fits(config, row, columns)]
            given = _agreed([_set(config) for config in fitting]) | columns
            settings |= {k: v for k, v in _agreed([_own(config) for config in fitting]).items() if k not in settings}
            settings |= given
        else:
            told = ("method", "dataset") if method == PIXELS else ("method", "backbone", "dataset")
            settings = {key: settings[key] for key in told if key in settings}
        measures = {_measure(each): each["value"] for each in own}
        found.append(Run(label, name, row["seed"], trained, settings, frozenset(given), measures))
    return found


def _configs(path: Path) -> list[dict[str, Any]]:
    """The resolved settings of a workdir's programs; none where there is no run.json."""
    if not path.exists():
        return []
    try:
        configs = json.loads(path.read_text(encoding="utf-8")).get("configs", [])
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a JSON object ({error})") from error
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise UserError(f"{path}: configs is no list of objects, expected what a study writes")
    return configs


def _fits(config: Mapping[str, Any], row: Row, given: Mapping[str, Any]) -> bool:
    """Whether a config may be a run's: run.json does not say whose it is, so every column must be as it would have it."""
    if row["seed"] not in config.get("seeds", [row["seed"]]) or config.get("dataset") != row["dataset"]:
        return False
    swept = {text.partition("=")[0].strip() for text in config.get("sweep", [])}
    if any(key not in swept and key in config and _text(config[key]) != _text(value) for key, value in given.items()):
        return False
    if config.get("pretrained"):
        return bool(row["method"] == PRETRAINED)
    method, transforms = config.get("method", ""), config.get("transforms", "")
    if second := config.get("second_transforms"):
        method, transforms = f"{method} & {config.get('second_method') or method}", f"{transforms} & {second}"
    return (method, transforms, config.get("backbone")) == (row["method"], row["transforms"], row["backbone"])


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _NO_SETTING and value not in (None, "", [])}


def _set(config: Mapping[str, Any]) -> dict[str, Any]:
    """What --set gave, by address."""
    parts = (text.partition("=") for text in config.get("set", []))
    return {address.strip(): _plain(value) for address, _, value in parts}


def _agreed(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that several configs have in common."""
    first, *others = each or ({},)
    return {k: v for k, v in first.items() if all(k in other and _text(other[k]) == _text(v) for other in others)}


def _plain(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _measure(row: Row) -> str:
    return " ".join(part for part in (row["evaluation"], _target(row["target"]), row["metric"]) if part)


def _target(target: str) -> str:
    return "" if target == "label" else target


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.12g}"
    return "" if value is None else str(value)


def _csv(found: Sequence[Run], columns: Columns) -> tuple[list[str], list[list[Any]]]:
    heads = ["workdir", "run", "seed", *columns.settings, *columns.measures]
    lines = [
        [
            *(run.workdir, run.name, run.seed),
            *(_text(run.settings.get(name)) for name in columns.settings),
            *(run.measures.get(name) for name in columns.measures),
        ]
        for run in found
    ]
    return heads, lines


def _count(found: Sequence[Run]) -> str:
    trained = sum(run.trained for run in found)
    rest = len(found) - trained
    beside = f", and {rest} to compare with" if rest else ""
    return f"{trained} trained run{'' if trained == 1 else 's'}{beside}"


def _plot(found: Sequence[Run], columns: Columns) -> str:
    """Where the scatter goes, with what it draws."""
    settings = {name: [run.settings.get(name) for run in found] for name in columns.settings}
    measures = {name: [run.measures.get(name) for run in found] for name in columns.measures}
    values = {**settings, "seed": [run.seed for run in found], **measures}
    if len({run.workdir for run in found}) > 1:
        values["workdir"] = [run.workdir for run in found]
    numeric = [name for name in settings if _is_numeric(settings[name])]
    text = [name for name in values if not _is_numeric(values[name])]
    y = "linear top1" if "linear top1" in measures else next(iter(measures))
    color = next((name for name in ("method", *text) if name in settings), "method")
    data = {
        "runs": [f"{run.workdir}: {run.name}" if "workdir" in values else run.name for run in found],
        "columns": [{"name": name, "values": _drawn(each)} for name, each in values.items()],
        "groups": [
            (_text(run.settings.get(color)) if run.trained else BASELINES[run.settings["method"]]) for run in found
        ],
        "settings": numeric,
        "x": _across(found, numeric, columns, y),
        "y": y,
        "colors": COLORS,
    }
    # "<" inside JSON strings is escaped, so that no name can end the element.
    carried = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div data-runs></div>\n<script type="application/json" id="runs-data">{carried}</script>\n'
        f"{frame.script('runs.js')}"
    )


def _across(found: Sequence[Run], numeric: Sequence[str], columns: Columns, y: str) -> str:
    """The column that the plot starts with: what most runs swept, else a setting that all have, else another measure."""
    trained = [run for run in found if run.trained]
    swept = [name for name in numeric if 2 * sum(name in run.given for run in trained) >= len(trained)]
    whole = [name for name in columns.settings if all(name in run.settings for run in trained)]
    other = [name for name in columns.measures if name != y]
    return next(iter([*swept, *whole, *other]), "seed")


def _is_numeric(values: Iterable[Any]) -> bool:
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)


def _drawn(values: Sequence[Any]) -> list[float | str | None]:
    """Six digits, more than a plot can show; None where there is nothing to draw."""
    if not _is_numeric(values):
        return [_text(value) or None for value in values]
    return [float(f"{value:.6g}") if value is not None and math.isfinite(value) else None for value in values]
