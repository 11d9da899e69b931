"""One page of several finished studies: the sweeps of all of them, and the tables that compare methods across them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssljax.errors import UserError
from ssljax.evaluate.results import Row, read_results, swept_names
from ssljax.files import replacing
from ssljax.report import bias, frame
from ssljax.report.tables import BASELINES, PRETRAINED, Targets

PAGE = "report.html"
_SETTING = ("method", "backbone", "dataset", "transforms", "evaluation", "target", "metric", "class", "epoch", "seed")


def write_joined(
    workdirs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] = (),
    superclasses: dict[str, str] | None = None,
    choose: Sequence[str] = (),
    targets: Targets = None,
    command: str = "",
    draws: int = bias.DRAWS,
) -> Path:
    """Write report.html, its figures and the study's tables into a folder, from the tables of several workdirs.

    A workdir needs per_class.csv alone, which may be another program's; results.csv adds the overall accuracies.

    Args:
      workdirs: two or more.
      folder: where the page goes; it is made if need be.
      class_names, superclasses, choose, targets, draws: as for `bias.sections`.
      command: what reproduces it.

    Returns:
      The page.

    Raises:
      UserError: a workdir has no per_class.csv or stands twice, two workdirs hold the same run, or there is no sweep.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"--workdir: {', '.join(map(str, paths))}: expected each workdir once")
    target = Path(folder)
    if any(target.resolve() == path.resolve() for path in paths):
        raise UserError(f"--workdir: {target} is one of those to join; expected another folder for the joined page")
    per_class, results = _joined(paths, "per_class.csv"), _joined(paths, "results.csv", needed=False)
    parts = bias.sections(
        per_class,
        results,
        class_names,
        target,
        superclasses=superclasses,
        choose=choose,
        targets=targets,
        draws=draws,
    )
    if not parts:
        raise UserError(f"{', '.join(map(str, paths))}: no sweep of three values or more in per_class.csv")
    counts = [(str(path), f"{_runs(path)} runs") for path in paths]
    how = [frame.section("Where it is from", frame.pairs(counts), *([frame.code(command)] if command else []))]
    page = frame.page(f"Bias study of {len(paths)} workdirs", [*parts[:-1], *how, parts[-1]])
    with replacing(target / PAGE, encoding="utf-8") as file:
        file.write(page)
    return target / PAGE


def _joined(paths: Sequence[Path], name: str, needed: bool = True) -> list[Row]:
    """The rows of all workdirs; the rows to compare with, of which each workdir has its own, come from the first."""
    rows: list[Row] = []
    whose: dict[tuple[object, ...], Path] = {}
    for path in paths:
        if not needed and not (path / name).exists():
            continue
        found = read_results(path / name)
        names = swept_names(found)
        for row in found:
            swept = tuple((address, row[address]) for address in names if row[address] is not None)
            key = (*(row.get(column) for column in _SETTING), swept)
            before = whose.setdefault(key, path)
            if before == path:
                rows.append(row)
            elif row["method"] not in (*BASELINES, PRETRAINED):
                raise UserError(
                    f"--workdir: {before} and {path} both hold {_told(row, swept)}; expected each run in one of them"
                )
    return rows


def _told(row: Row, swept: Iterable[tuple[str, object]]) -> str:
    values = "".join(f", {address} {value}" for address, value in swept)
    return f"{row['method']} on {row['dataset']}{values}, seed {row['seed']}"


def _runs(path: Path) -> int:
    return len({row["run"] for row in read_results(path / "per_class.csv") if row["method"] not in BASELINES})
