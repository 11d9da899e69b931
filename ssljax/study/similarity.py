"""How alike encoders are that differ in nothing but their seed: linear CKA of their features of the test images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.evaluate.unlabelled import linear_cka

KEY = ("cka", "", "linear_cka")  # evaluation, target and metric of the rows
IMAGES = 10_000  # compared at most, a fixed random sample of more (our choice)


def settle(rows: list[dict[str, Any]], artifacts: Path) -> None:
    """Fills in the rows of `KEY`: the mean of a run's CKA with each other run of its setting. One that is alone loses its row.

    Args:
      rows: of results.csv, of all programs; changed in place.
      artifacts: folder of the test images' features, `PROGRAM.npz`, the runs in them named `PROGRAM/RUN`.
    """
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if (row["evaluation"], row["target"], row["metric"]) == KEY:
            same = tuple(sorted((k, str(v)) for k, v in row.items() if k not in ("run", "seed", "value")))
            settings.setdefault(same, []).append(row)
    lost: set[int] = set()
    for own in settings.values():
        if len(own) < 2:
            lost |= set(map(id, own))
            continue
        features = _features((row["run"] for row in own), artifacts)
        alike = np.zeros((len(own), len(own)))
        for i, j in zip(*np.triu_indices(len(own), k=1)):
            alike[i, j] = alike[j, i] = linear_cka(features[i], features[j])
        for row, each in zip(own, alike.sum(axis=1) / (len(own) - 1)):
            row["value"] = float(each)
    rows[:] = [
        row for row in rows if id(row) not in lost and (row["evaluation"] != KEY[0] or np.isfinite(row["value"]))
    ]


def _features(runs: Iterable[str], artifacts: Path) -> list[np.ndarray]:
    """[n, d] of each run."""
    files: dict[str, tuple[list[str], np.ndarray]] = {}
    found = []
    for run in runs:
        program = run.partition("/")[0]
        if program not in files:
            with np.load(artifacts / f"{program}.npz", allow_pickle=False) as file:
                names, features = file["runs"].tolist(), file["features"]
            if features.shape[1] > IMAGES:
                features = features[:, np.random.default_rng(0).choice(features.shape[1], IMAGES, replace=False)]
            files[program] = names, features
        names, features = files[program]
        found.append(features[names.index(run)])
    return found
