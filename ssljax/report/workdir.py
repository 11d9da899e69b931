"""What a finished study left in its workdir, read for the report; what is missing is None or empty."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError
from ssljax.evaluate.results import Row, read_results


class Clusters(NamedTuple):
    """K-means on the held-out features of R runs: the clusters int32 [R, n], and each image's distance to its own centre [R, n]."""

    assignment: NDArray[np.int32]
    distance: NDArray[np.float32]


class Artifact(NamedTuple):
    """Held-out features of a program's R runs, from artifacts/<program>.npz.

    Attributes:
      program: its name.
      runs: R names, as in the column `run` of results.csv.
      features: float32 [R, n, d].
      clusters: by what stands after the @ of the evaluation, "" for plain K-means; those that were evaluated.
      labels: integers [n], or None.
      places: [n], where the images are in the test split.
      columns: what clusters are scored against besides the labels: name -> text [n].
      convergence: float64 [R, solvers, steps], errors of the solvers of pseudo-labels; None when it was not evaluated.
    """

    program: str
    runs: list[str]
    features: NDArray[np.float32]
    clusters: Mapping[str, Clusters]
    labels: NDArray[np.integer] | None
    places: NDArray[np.integer]
    columns: Mapping[str, NDArray[np.str_]] = MappingProxyType({})
    convergence: NDArray[np.float64] | None = None


class Workdir(NamedTuple):
    """Everything that the report is made from."""

    path: Path
    results: list[Row]
    per_class: list[Row]
    run: dict[str, Any]
    metrics: list[dict[str, Any]]
    artifacts: list[Artifact]

    def diverged(self) -> list[dict[str, Any]]:
        """The metrics of each diverged run from the epoch in which it diverged, in order."""
        first: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.metrics:
            if row.get("diverged"):
                first.setdefault((row["program"], row["run"]), row)
        return list(first.values())


def read_workdir(path: Path) -> Workdir:
    """Read a workdir.

    Raises:
      UserError: a file that is there cannot be read as what it should be.
    """
    files = {name: path / name for name in ("results.csv", "per_class.csv", "run.json", "metrics.jsonl")}
    results, per_class = (
        read_results(files[name]) if files[name].exists() else [] for name in ("results.csv", "per_class.csv")
    )
    run = _json(files["run.json"]) if files["run.json"].exists() else {}
    lines = _lines(files["metrics.jsonl"]) if files["metrics.jsonl"].exists() else []
    metrics = [row for row in map(_metric, lines) if row is not None]
    artifacts = [_artifact(file) for file in sorted((path / "artifacts").glob("*.npz"))]
    return Workdir(path, results, per_class, run, metrics, artifacts)


def told_apart(paths: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, with as many of those above it as tell the folders apart: a, or x-a and y-a."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip(os.sep) for part in each[-length:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error


def _metric(line: str) -> dict[str, Any] | None:
    """One line of metrics.jsonl; None for a line cut short by a crash or without the fields of an epoch."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not {"program", "run", "epoch"} <= row.keys():
        return None
    loss = row.get("loss")
    row["loss"] = float(loss) if isinstance(loss, int | float) else math.nan
    return row


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads("\n".join(_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, given {type(content).__name__}")
    return content


def _artifact(path: Path) -> Artifact:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Artifact(
                program=path.stem,
                runs=[str(name) for name in file["runs"]],
                features=file["features"],
                clusters={
                    name.partition("@")[2]: Clusters(file[name], file[name.replace("clusters", "distance")])
                    for name in file
                    if name.partition("@")[0] == "clusters"
                },
                labels=file.get("labels"),
                places=file["index"],
                columns={n.removeprefix("column_"): file[n] for n in file if n.startswith("column_")},
                convergence=file.get("convergence"),
            )
    except Exception as error:  # of zipfile, of its decompressors, or of the tokenizer that NumPy reads headers with
        raise UserError(f"{path}: cannot be read as a program's features ({error})") from error
