"""One page of several finished studies: the sweeps of all of them, and the tables that compare methods across them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.errors import UserError
from ssljax.evaluate.results import Row, read_results, swept_names
from ssljax.files import replacing
from ssljax.report import bias, comparisons, frame, runs_table
from ssljax.report.bias_sweeps import groups
from ssljax.report.tables import BASELINES, PRETRAINED, Targets
from ssljax.report.workdir import told_apart
from ssljax.study.chance import DRAWS
from ssljax.study.curves import last_epochs

PAGE = "report.html"
_RUN = ("run", "method", "backbone", "dataset", "transforms")
_SETTING = (*_RUN[1:], "evaluation", "target", "metric", "class", "epoch", "seed")


def write_joined(
    workdirs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] = (),
    superclasses: dict[str, str] | None = None,
    choose: Sequence[str] = (),
    targets: Targets = None,
    study_of: str = "",
    compare: str = "",
    command: str = "",
    draws: int = DRAWS,
) -> Path:
    """Write report.html, its figures and the study's tables into a folder, from the tables of several workdirs.

    A workdir needs per_class.csv alone, which may be another program's; results.csv adds the overall accuracies, pairs of
    settings compared, and the table of runs, runs.csv. Without a sweep the page has these alone.

    Args:
      workdirs: one or more.
      folder: where the page goes; it is made if need be.
      class_names, superclasses, choose, targets, study_of, draws: as for `bias.sections`.
      compare: as for `report.page.write_page`.
      command: what reproduces it.

    Returns:
      The page.

    Raises:
      UserError: a workdir has no per_class.csv or stands twice, two workdirs hold the same run, or there is neither a sweep that
        can be analysed nor a results.csv.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"--workdir: {', '.join(map(str, paths))}: expected each workdir once")
    target = Path(folder)
    if any(target.resolve() == path.resolve() for path in paths):
        raise UserError(f"--workdir: {target} is one of those to join; expected another folder for the joined page")
    per_class, results = _joined(paths, "per_class.csv"), _joined(paths, "results.csv", needed=False)
    found, left_out = groups(per_class, results, class_names, superclasses, draws, study_of)
    if not found and not results:
        reason = left_out[0] if left_out else "no sweep of three values or more in per_class.csv"
        raise UserError(f"{', '.join(map(str, paths))}: {reason}")
    # Before anything is written: what is to be compared may not be there.
    compared = [comparisons.pairs(results, compare, study_of), comparisons.reliabilities(results)]
    answer, *parts, script = bias.sections_of(found, left_out, per_class, target, choose=choose, targets=targets) or (
        "",
        "",
    )
    target.mkdir(parents=True, exist_ok=True)
    measured = [path for path in paths if (path / "results.csv").exists()]
    runs = runs_table.table(measured, target) if measured else ""
    counts = [(str(path), f"{_runs(path)} runs") for path in paths]
    how = [frame.section("Where it is from", frame.pairs(counts), *([frame.code(command)] if command else []))]
    of = told_apart(paths)[0] if len(paths) == 1 else f"{len(paths)} workdirs"
    title = f"{'Bias study' if found else 'Runs'} of {of}"
    page = frame.page(title, filter(None, [answer, *parts, *compared, runs, *how, script]))
    with replacing(target / PAGE, encoding="utf-8") as file:
        file.write(page)
    return target / PAGE


def _joined(paths: Sequence[Path], name: str, needed: bool = True) -> list[Row]:
    """The last rows of each run of all workdirs.

    The rows to compare with, of which each workdir has its own, stand once where they are equal. What another workdir has under
    the same name, a run that ends at another epoch or another encoder from a file, goes by its folder's name besides.
    """
    rows: list[Row] = []
    whose: dict[tuple[object, ...], tuple[Path, float]] = {}
    ends: dict[tuple[object, ...], tuple[Path, int | None]] = {}
    for path, label in zip(paths, told_apart(paths), strict=True):
        if not needed and not (path / name).exists():
            continue
        found = last_epochs(read_results(path / name))
        names = swept_names(found)
        for row in found:
            swept = tuple((address, row[address]) for address in names if row[address] is not None)
            before, value = whose.setdefault((*(row.get(c) for c in _SETTING), swept), (path, row["value"]))
            if before != path and row["method"] not in (*BASELINES, PRETRAINED):
                raise UserError(_twice(before, path, row, swept))
            if before != path and np.isclose(value, row["value"], rtol=1e-6, atol=0, equal_nan=True):
                continue
            first, epoch = ends.setdefault(tuple(row[column] for column in _RUN), (path, row["epoch"]))
            again = before != path or (first != path and epoch != row["epoch"])
            rows.append({**row, "run": f"{label}/{row['run']}" if again else row["run"]})
    return rows


def _twice(before: Path, path: Path, row: Mapping[str, Any], swept: Sequence[tuple[str, object]]) -> str:
    values = "".join(f", {address} {value}" for address, value in swept)
    return (
        f"--workdir: {before} and {path} both hold {row['method']} on {row['dataset']}{values}, seed {row['seed']}; expected each "
        "run once: workdirs to join differ in method, backbone, data set, transforms, epochs, seeds or swept values, and what "
        "differs in another setting is made in one workdir"
    )


def _runs(path: Path) -> int:
    return len({row["run"] for row in read_results(path / "per_class.csv") if row["method"] not in BASELINES})
