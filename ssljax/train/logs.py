"""What is written down of each epoch: lines of metrics.jsonl, and TensorBoard's event files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax import processes
from ssljax.files import replacing
from ssljax.sweeps import Run


def rows_of(
    name: str, runs: Sequence[Run], epoch: int, values: dict[str, np.ndarray], alive: np.ndarray, speed: float
) -> list[dict[str, Any]]:
    """One row of metrics a run: means over the epoch's steps. JSON has no NaN: what is not finite becomes null."""
    rows = []
    for i, run in enumerate(runs):
        means = {k: float(v[:, i].mean()) for k, v in values.items() if k != "alive"}
        finite = {k: v if math.isfinite(v) else None for k, v in means.items()}
        row = {"program": name, "run": f"{name}/{run.name}", "seed": run.seed, **run.swept, "epoch": epoch, **finite}
        row["images_per_second"] = round(speed, 1)
        if not alive[i]:
            row |= {"loss": None, "diverged": True}
        rows.append(row)
    return rows


# What the progress line shows of watched runs, with its name there; the rest is in the log and on the page.
_SHOWN = {"watch/knn": "k-NN", "watch/ridge": "ridge", "watch/rankme": "RankMe", "watch/collapse": "spread"}


def line(rows: Sequence[dict[str, Any]], epoch: int, epochs: int, speed: float) -> str:
    """The end of the progress line: means over the runs that live, of an epoch's rows."""

    def mean(name: str) -> float | None:
        found = [row[name] for row in rows if row.get(name) is not None and not row.get("diverged")]
        return float(np.mean(found)) if found else None

    loss, gradient = mean("loss"), mean("gradient_norm")
    parts = [f"epoch {epoch}/{epochs}", f"loss {'diverged' if loss is None else f'{loss:.3f}'}"]
    parts += [] if gradient is None else [f"gradient {gradient:.3g}"]
    parts += [f"{row['waiting']:.0%} waiting for data" for row in rows[:1] if "waiting" in row]
    parts += [f"{speed:,.0f} images/s"]
    parts += [f"{title} {value:.3g}" for name, title in _SHOWN.items() if (value := mean(name)) is not None]
    return ", ".join(parts)


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows to a file of JSON lines."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def forget_after(path: Path, name: str, epoch: int) -> None:
    """Drops a program's metrics of epochs that will be trained again, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["program"] != name or row["epoch"] <= epoch:
            kept.append(line + "\n")
    with replacing(path) as file:
        file.writelines(kept)


class Writers:
    """TensorBoard event files, one folder a run."""

    def __init__(self, folder: Path, runs: Sequence[Run], first_epoch: int):
        from tensorboardX import SummaryWriter

        # What a killed process wrote of these epochs and later ones is dropped by the viewer.
        self._writers = [
            SummaryWriter(str(folder / run.name.replace(",", "_")), purge_step=first_epoch)
            for run in (runs if processes.first() else ())
        ]

    def __enter__(self) -> "Writers":
        return self

    def write(self, rows: list[dict[str, Any]]) -> None:
        for writer, row in zip(self._writers, rows):
            for key, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(key, value, row["epoch"])

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
