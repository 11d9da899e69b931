"""The loop around a program: all its runs, epoch by epoch, with progress, logs, checkpoints and exact resume."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from ssljax import sweeps
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.files import replacing
from ssljax.sweeps import Run
from ssljax.train import execution
from ssljax.train.checkpoints import Checkpoints
from ssljax.train.scratch import keep_scratch
from ssljax.train.step import Data, Program, State, make_program, over_runs

log = logging.getLogger("ssljax")

_RUN = PartitionSpec("run")


class Trained(NamedTuple):
    """A program after training: `state` and `hyper` have a leading axis, one entry for each of `runs`."""

    program: Program
    runs: tuple[Run, ...]
    state: State
    hyper: Any
    data: Data
    epoch: int

    @property
    def mesh(self) -> Mesh:
        """The devices that the runs are laid over."""
        return self.hyper["seed"].sharding.mesh


def resident(images: np.ndarray, mean: Sequence[float], std: Sequence[float], labels: np.ndarray | None = None) -> Data:
    """The data set on the device, once for all runs. A channel that never varies is not scaled."""
    deviations = np.asarray(std, np.float32)
    return Data(
        jnp.asarray(images),
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(np.where(deviations > 0, deviations, 1.0), jnp.float32),
        labels=() if labels is None else jnp.asarray(labels, jnp.int32),
    )


def program_of(config: Config, count: int, channels: int, classes: int = 0) -> Program:
    """The functions of one run of a resolved config on `count` images, labelled with so many classes (0: no labels).

    Raises:
      UserError: fewer images than a batch, or settings that do not fit each other.
    """
    if count < config.batch_size:
        raise UserError(
            f"--batch_size: {config.batch_size} is more than the {count} training images of {config.dataset}"
        )
    return make_program(config, count, channels, classes)


def prepare(config: Config, runs: Sequence[Run], data: Data, classes: int = 0) -> Trained:
    """The runs of a resolved config before their first step; errors as `program_of`.

    Labels stay with the data only where the method learns from them.
    """
    keep_scratch()
    program = program_of(config, data.images.shape[0], data.images.shape[-1], classes)
    data = data if program.labels else data._replace(labels=())
    hyper = sweeps.stack([sweeps.hyper(config, run) for run in runs])
    mesh = mesh_of(len(runs))
    hyper = jax.device_put(hyper, NamedSharding(mesh, _RUN))
    data = jax.device_put(data, NamedSharding(mesh, PartitionSpec()))
    state = jax.jit(laid_out(over_runs(program.init, (0,)), (0,), mesh))(hyper)
    return Trained(program, tuple(runs), state, hyper, data, 0)


def mesh_of(runs: int) -> Mesh:
    """As many devices as divide the run axis: each holds whole runs and all images."""
    count = execution.devices_for(runs)
    if count < jax.device_count():
        log.info("%d runs on %d of %d devices: their number must divide the runs", runs, count, jax.device_count())
    # Auto: shardings are the compiler's business, not part of the types that `vmap` sees.
    return jax.make_mesh((count,), ("run",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def laid_out(function: Callable[..., Any], axes: tuple[int | None, ...], mesh: Mesh | None) -> Any:
    """A function of many runs whose every device computes its own runs and nothing else.

    Args:
      function: of many runs, from `over_runs`.
      axes: 0 for each argument that has a run axis, None for what the runs share.
      mesh: with the axis "run"; None for the devices that the arguments are on.
    """
    if mesh is None or mesh.size == 1:
        return function
    specs = tuple(_RUN if axis == 0 else PartitionSpec() for axis in axes)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_RUN, check_vma=False)


def sweep_step(
    config: Config, program: Program, steps: int, mesh: Mesh | None = None
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`steps` steps of all runs as one compiled call: (state, hyper, data, order, first step) -> (state, metrics [steps, runs]).

    The state is donated. A program differs in nothing between one run and a hundred but the leading axis, which is laid over
    the devices of the mesh.
    """
    axes = (0, 0, None, 0, None)

    def chunk(state: State, hyper: Any, data: Data, order: jax.Array, first: jax.Array) -> Any:
        if steps == 1:  # no scan: on CPU XLA's convolution inside one leaves its fast path
            state, metrics = program.step(state, hyper, data, order, first)
            return state, jax.tree.map(lambda m: m[None], metrics)
        return jax.lax.scan(lambda s, i: program.step(s, hyper, data, order, first + i), state, jnp.arange(steps))

    # The runs outside, the steps inside: runs that are executed one after another then keep their state for many steps.
    all_runs = laid_out(over_runs(chunk, axes, config.run_axis), axes, mesh)

    @partial(jax.jit, donate_argnums=0)
    def many(state: State, hyper: Any, data: Data, order: jax.Array, first: jax.Array) -> Any:
        state, metrics = all_runs(state, hyper, data, order, first)
        return state, jax.tree.map(jnp.transpose, metrics)

    return many


def sweep_epoch(config: Config, program: Program, mesh: Mesh) -> Callable[..., tuple[State, dict[str, np.ndarray]]]:
    """The steps of an epoch of all runs: (state, hyper, data, epoch, progress bar) -> (state, metrics [steps, runs]).

    The state is donated.
    """
    per_call = execution.steps_per_dispatch(config, program.steps_per_epoch)
    sizes = (per_call, program.steps_per_epoch % per_call)  # and what is left over of an epoch
    steps = {n: sweep_step(config, program, n, mesh) for n in sizes if n}
    order_of = jax.jit(laid_out(over_runs(program.order, (0, None)), (0, None), mesh))

    def one(state: State, hyper: Any, data: Data, epoch: int, bar: tqdm) -> tuple[State, dict[str, np.ndarray]]:
        order = order_of(hyper, epoch)
        collected: list[dict[str, jax.Array]] = []
        done = 0
        while done < program.steps_per_epoch:
            n = min(per_call, program.steps_per_epoch - done)
            state, metrics = steps[n](state, hyper, data, order, epoch * program.steps_per_epoch + done)
            collected.append(metrics)
            done += n
            if len(collected) > 1:  # waits for the call before, so that the bar tells the truth
                jax.block_until_ready(collected[-2])
            bar.update(n)
        return state, {k: np.concatenate([np.asarray(m[k]) for m in collected]) for k in collected[0]}

    return one


def progress_bar(name: str, runs: int, steps: int, shown: bool, done: int = 0) -> tqdm:
    """A bar on standard error over so many steps, some of which are done."""
    return tqdm(
        total=steps,
        initial=done,
        desc=f"{name}, {runs} run{'s' if runs > 1 else ''}",
        unit="step",
        disable=not shown,
        mininterval=0.5 if sys.stderr.isatty() else 15,
        dynamic_ncols=True,
    )


def pretrain(
    config: Config,
    trained: Trained,
    *,
    name: str,
    checkpoints: Path,
    metrics_file: Path,
    tensorboard: Path,
    progress: bool = True,
) -> Trained:
    """Trains from the newest checkpoint (or from the start) to the last epoch.

    A run whose loss or gradient is not finite is frozen where it was, named, and marked in the metrics; the others go on untouched.

    Args:
      config: resolved.
      trained: from `prepare`.
      name: the program's name, in progress, logs and metrics.
      checkpoints: folder of this program's checkpoints.
      metrics_file: JSON lines, one a run and epoch; shared by the programs of a workdir.
      tensorboard: folder of event files, one below it a run.
      progress: whether to draw a progress bar on standard error.
    """
    store = Checkpoints(checkpoints, config.keep)
    try:
        restored = store.restore(trained.state)
        start, state = restored if restored else (0, trained.state)
        if restored:  # both would not fit where one does
            jax.tree.map(lambda leaf: leaf.delete(), trained.state)
        _forget_after(metrics_file, name, start)
        if start:
            log.info("%s: resuming after epoch %d of %d", name, start, config.epochs)
        if start < config.epochs:
            state = _epochs(
                config, trained._replace(state=state), name, start, store, metrics_file, tensorboard, progress
            )
    finally:
        store.close()
    return trained._replace(state=state, epoch=config.epochs)


def restore(trained: Trained, checkpoints: Path, keep: int) -> Trained:
    """The newest checkpoint of a program.

    Raises:
      UserError: there is none that can be read.
    """
    found = None
    if checkpoints.is_dir():
        store = Checkpoints(checkpoints, keep)
        found = store.restore(trained.state)
        store.close()
    if found is None:
        raise UserError(f"{checkpoints}: no readable checkpoint; run the pretrain stage first")
    return trained._replace(epoch=found[0], state=found[1])


def _epochs(
    config: Config,
    trained: Trained,
    name: str,
    start: int,
    store: Checkpoints,
    metrics_file: Path,
    tensorboard: Path,
    progress: bool,
) -> State:
    program, runs, state, hyper, data, _ = trained
    steps_of = sweep_epoch(config, program, trained.mesh)
    axes = (0, 0, None)
    on_epoch = jax.jit(
        laid_out(over_runs(program.on_epoch, axes, config.run_axis), axes, trained.mesh), donate_argnums=0
    )
    if start == 0:
        state = fill_memory(config, trained, name)
    alive = np.asarray(state.alive)
    writers = _Writers(tensorboard, runs, start + 1)
    images_a_step = config.batch_size * len(runs)
    before = start * program.steps_per_epoch
    with progress_bar(name, len(runs), program.total_steps, progress, before) as bar:
        for epoch in range(start, config.epochs):
            began = time.perf_counter()
            state = on_epoch(state, hyper, epoch)
            state, values = steps_of(state, hyper, data, epoch, bar)
            speed = images_a_step * program.steps_per_epoch / (time.perf_counter() - began)
            was_alive, alive = alive, np.asarray(state.alive)
            rows = _rows(name, runs, epoch + 1, values, alive, speed)
            _append(metrics_file, rows)
            writers.write(rows)
            for run in (r for r, before, now in zip(runs, was_alive, alive) if before and not now):
                log.warning(
                    "%s: run %s diverged in epoch %d (loss or gradient not finite) and is frozen",
                    name,
                    run.name,
                    epoch + 1,
                )
            losses = [row["loss"] for row in rows if row["loss"] is not None]
            shown = f"{np.mean(losses):.3f}" if losses else "diverged"
            bar.set_postfix_str(
                f"epoch {epoch + 1}/{config.epochs}, loss {shown}, {speed:,.0f} images/s", refresh=False
            )
            last = epoch + 1 == config.epochs or not alive.any()
            if last or (epoch + 1) % config.checkpoint_every == 0:
                store.save(config.epochs if last else epoch + 1, state)
            if last:
                break
        bar.update(program.total_steps - bar.n if not alive.any() else 0)
    writers.close()
    return state


def fill_memory(config: Config, trained: Trained, name: str) -> State:
    """The state before the first epoch: as it is, or with its memory filled by a pass over the images in whole batches."""
    program, _, state, hyper, data, _ = trained
    if program.fill is None:
        return state
    log.info("%s: a pass over the images fills the memory of %s", name, config.method)
    axes = (0, 0, None, 0, None)
    one = jax.jit(laid_out(over_runs(program.fill, axes, config.run_axis), axes, trained.mesh), donate_argnums=0)
    order = jax.jit(laid_out(over_runs(program.order, (0, None)), (0, None), trained.mesh))(hyper, 0)
    for step in range(program.steps_per_epoch):
        state = one(state, hyper, data, order, step)
    return state


def _rows(
    name: str, runs: Sequence[Run], epoch: int, values: dict[str, np.ndarray], alive: np.ndarray, speed: float
) -> list[dict[str, Any]]:
    """One row of metrics a run: means over the epoch's steps. JSON has no NaN: what is not finite becomes null."""
    rows = []
    for i, run in enumerate(runs):
        means = {k: float(v[:, i].mean()) for k, v in values.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in means.items()}
        row = {"program": name, "run": f"{name}/{run.name}", "seed": run.seed, **run.swept, "epoch": epoch, **finite}
        row["images_per_second"] = round(speed, 1)
        if not alive[i]:
            row |= {"loss": None, "diverged": True}
        rows.append(row)
    return rows


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _forget_after(path: Path, name: str, epoch: int) -> None:
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


class _Writers:
    """TensorBoard event files, one folder a run."""

    def __init__(self, folder: Path, runs: Sequence[Run], first_epoch: int):
        from tensorboardX import SummaryWriter

        # What a killed process wrote of these epochs and later ones is dropped by the viewer.
        self._writers = [
            SummaryWriter(str(folder / run.name.replace(",", "_")), purge_step=first_epoch) for run in runs
        ]

    def write(self, rows: list[dict[str, Any]]) -> None:
        for writer, row in zip(self._writers, rows):
            for key, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(key, value, row["epoch"])

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
