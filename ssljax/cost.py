"""What a program's training costs: memory by XLA's own account of the compiled step, and wall time by the log of its epochs."""

import json
from pathlib import Path

import numpy as np

from ssljax.config import Config
from ssljax.evaluate.measure import Measurement
from ssljax.train import execution
from ssljax.train.loop import Trained, order_shape, sweep_step
from ssljax.train.stream import steps_of


def measurements(config: Config, trained: Trained, name: str, metrics_file: Path) -> list[Measurement]:
    """Memory in GB and seconds an epoch, each a run's share of its program; what the log does not tell is left out."""
    seconds = seconds_per_epoch(config, trained, name, metrics_file)
    found = {"memory_gb": memory(config, trained) / 1e9, **({"seconds_per_epoch": seconds} if seconds else {})}
    return [Measurement("cost", "", metric, value / len(trained.runs)) for metric, value in found.items()]


def memory(config: Config, trained: Trained) -> int:
    """Bytes on all devices together while the runs take a step: images, states, activations and working space.

    Args:
      config: resolved.
      trained: the runs with their optimiser's state.
    """
    steps, chunks = execution.steps_per_dispatch(config, trained.program.steps_per_epoch), trained.images is not None
    if chunks:
        steps = steps_of(steps, config.batch_size, trained.images, config.steps_per_dispatch)
    order = order_shape(config, trained, steps)
    step = sweep_step(config, trained.program, steps, trained.mesh, chunks)
    account = step.lower(trained.state, trained.hyper, trained.data, order, 0).compile().memory_analysis()  # type: ignore[attr-defined]
    held = account.argument_size_in_bytes + account.output_size_in_bytes - account.alias_size_in_bytes
    return int(trained.mesh.size * (held + account.temp_size_in_bytes))


def seconds_per_epoch(config: Config, trained: Trained, name: str, metrics_file: Path) -> float | None:
    """Median wall seconds of an epoch of all runs together, from a log of training; the first, in which XLA compiles, left out.

    Args:
      config: resolved.
      trained: the runs.
      name: their program's, in the log.
      metrics_file: the log.

    Returns:
      None where the log has no line of the program.
    """
    speed: dict[int, float] = {}
    for line in metrics_file.read_text().splitlines() if metrics_file.exists() else ():
        row = json.loads(line)
        if row["program"] == name:
            speed[row["epoch"]] = row["images_per_second"]
    later = [value for epoch, value in speed.items() if epoch > min(speed)] or list(speed.values())
    images = config.batch_size * trained.program.steps_per_epoch * len(trained.runs)
    return float(images / np.median(later)) if later else None
