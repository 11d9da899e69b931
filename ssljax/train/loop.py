"""The loop around a program: all its runs, epoch by epoch, with progress, logs, checkpoints and exact resume."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from ssljax import preemption, processes, sweeps
from ssljax.config import MESH_AXES, Config
from ssljax.errors import UserError
from ssljax.preemption import Terminated
from ssljax.sweeps import Run
from ssljax.train import execution
from ssljax.train.checkpoints import Checkpoints
from ssljax.train.logs import Writers, append, forget_after, rows_of
from ssljax.train.mesh import laid_out, mesh_of
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


def prepare(
    config: Config, runs: Sequence[Run], data: Data, classes: int = 0, devices: Sequence[jax.Device] | None = None
) -> Trained:
    """The runs of a resolved config before their first step, on these devices or on all; errors as `program_of`.

    Labels stay with the data only where the method learns from them.
    """
    keep_scratch()
    program = program_of(config, data.images.shape[0], data.images.shape[-1], classes)
    data = data if program.labels else data._replace(labels=())
    hyper = sweeps.stack([sweeps.hyper(config, run) for run in runs])
    mesh = mesh_of(config, len(runs), devices)
    hyper = processes.put(hyper, NamedSharding(mesh, _RUN))
    data = processes.put(data, NamedSharding(mesh, PartitionSpec()))
    state = laid_out(over_runs(program.init, (0,)), (0,), mesh)(hyper)
    return Trained(program, tuple(runs), state, hyper, data, 0)


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
    all_runs = over_runs(chunk, axes, config.run_axis)

    def many(*args: Any) -> tuple[State, dict[str, jax.Array]]:
        state, metrics = all_runs(*args)
        return state, jax.tree.map(jnp.transpose, metrics)

    return laid_out(many, axes, mesh, donate=True, metrics=True)


Metrics = dict[str, np.ndarray]
"""Each number of some steps, [steps, runs]."""


def sweep_epoch(config: Config, program: Program, mesh: Mesh) -> Callable[..., tuple[State, Metrics]]:
    """The steps of an epoch of all runs: (state, hyper, data, epoch, progress bar, begun, stop) -> (state, metrics).

    `begun` are the metrics of an epoch's first steps, that are done already. `stop` is asked after each call, with the number of
    steps done since the first epoch; where it says so the epoch ends early, as the metrics' length tells. The state is donated.
    """
    per_call = execution.steps_per_dispatch(config, program.steps_per_epoch)
    order_of = laid_out(over_runs(program.order, (0, None)), (0, None), mesh)

    @cache
    def steps(count: int) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
        return sweep_step(config, program, count, mesh)

    def one(
        state: State,
        hyper: Any,
        data: Data,
        epoch: int,
        bar: tqdm,
        begun: Metrics | None = None,
        stop: Callable[[int], bool] = lambda step: False,
    ) -> tuple[State, Metrics]:
        order = order_of(hyper, epoch)
        collected: list[Any] = [begun] if begun else []
        before, done = epoch * program.steps_per_epoch, steps_in(begun)
        while done < program.steps_per_epoch:
            n = min(per_call, program.steps_per_epoch - done)
            state, metrics = steps(n)(state, hyper, data, order, before + done)
            collected.append(metrics)
            done += n
            if len(collected) > 1:  # waits for the call before, so that the bar tells the truth
                jax.block_until_ready(collected[-2])
            bar.update(n)
            if stop(before + done):
                break
        return state, {k: np.concatenate([np.asarray(m[k]) for m in collected]) for k in collected[0]}

    return one


def steps_in(metrics: Metrics | None) -> int:
    """How many steps some metrics are of."""
    return len(next(iter(metrics.values()))) if metrics else 0


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
        start, state, begun = _resumed(config, trained, store)
        if state is not trained.state:  # both would not fit where one does
            jax.tree.map(lambda leaf: leaf.delete(), trained.state)
        if processes.first():
            forget_after(metrics_file, name, start)
        if start or begun:
            steps = f" and {steps_in(begun)} of {trained.program.steps_per_epoch} steps" if begun else ""
            log.info("%s: resuming after epoch %d of %d%s", name, start, config.epochs, steps)
        if start < config.epochs:
            shown = progress and processes.first()
            trained = trained._replace(state=state)
            state = _epochs(config, trained, name, start, begun, store, metrics_file, tensorboard, shown)
    finally:
        store.close()
    if processes.first():
        shutil.rmtree(_halted(store), ignore_errors=True)  # the last epoch's is newer
    return trained._replace(state=state, epoch=config.epochs)


def _halted(store: Checkpoints) -> Path:
    """Where the state stands that a signal has stopped in the middle of an epoch."""
    return store.folder / "halted"


def _resumed(config: Config, trained: Trained, store: Checkpoints) -> tuple[int, State, Metrics | None]:
    """What training goes on from: (epochs that are finished, state, metrics of what is done of the next)."""
    per_epoch = trained.program.steps_per_epoch
    if _halted(store).is_dir():
        halted = Checkpoints(_halted(store), 1, "step")
        if (halted.newest() or 0) > (store.newest() or 0) * per_epoch:
            order = jax.eval_shape(over_runs(trained.program.order, (0, None)), trained.hyper, 0)
            step = sweep_step(config, trained.program, 1, trained.mesh)
            _, metrics = jax.eval_shape(step, trained.state, trained.hyper, trained.data, order, 0)
            everywhere = NamedSharding(trained.mesh, PartitionSpec())
            shapes = {
                name: jax.ShapeDtypeStruct((per_epoch, *m.shape[1:]), m.dtype, sharding=everywhere)
                for name, m in metrics.items()
            }
            found = halted.restore({"state": trained.state, "metrics": shapes})
            if found:
                epoch, done = divmod(found[0], per_epoch)
                return epoch, found[1]["state"], {k: np.asarray(m)[:done] for k, m in found[1]["metrics"].items()}
        halted.close()
    epoch, state = store.restore(trained.state) or (0, trained.state)
    return epoch, state, None


def _halt(store: Checkpoints, state: State, epoch: int, values: Metrics, per_epoch: int) -> None:
    """Saves what `_resumed` finds."""
    done = steps_in(values)
    padded = {
        name: np.concatenate([m, np.zeros((per_epoch - done, *m.shape[1:]), m.dtype)]) for name, m in values.items()
    }
    halted = Checkpoints(_halted(store), 1, "step")
    halted.save(epoch * per_epoch + done, {"state": state, "metrics": padded})
    halted.close()


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


def here(trained: Trained) -> Trained | None:
    """The same runs with everything on this process's devices, where one process is to do the rest; None in every other.

    All processes call it. What is measured then is no affair of theirs: a program over the devices of one process alone.
    """
    if not processes.several():
        return trained
    state, hyper = processes.fetch((trained.state, trained.hyper))
    if not processes.first():
        return None
    count = max(n for n in range(1, jax.local_device_count() + 1) if len(trained.runs) % n == 0)
    mesh = jax.make_mesh((count, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.local_devices()[:count])
    state, hyper = jax.device_put((state, hyper), NamedSharding(mesh, _RUN))
    data = jax.device_put(jax.tree.map(np.asarray, trained.data), NamedSharding(mesh, PartitionSpec()))
    return trained._replace(state=state, hyper=hyper, data=data)


def _epochs(
    config: Config,
    trained: Trained,
    name: str,
    start: int,
    begun: Metrics | None,
    store: Checkpoints,
    metrics_file: Path,
    tensorboard: Path,
    progress: bool,
) -> State:
    program, runs, state, hyper, data, _ = trained
    steps_of = sweep_epoch(config, program, trained.mesh)
    axes = (0, 0, None)
    on_epoch = laid_out(over_runs(program.on_epoch, axes, config.run_axis), axes, trained.mesh, donate=True)
    images_a_step = config.batch_size * len(runs)
    before = start * program.steps_per_epoch + steps_in(begun)
    with (
        preemption.heard() as stop,
        Writers(tensorboard, runs, start + 1) as writers,
        progress_bar(name, len(runs), program.total_steps, progress, before) as bar,
    ):
        if before == 0:
            state = fill_memory(config, trained, name)
        alive = processes.fetch(state.alive)
        for epoch in range(start, config.epochs):
            began = time.perf_counter()
            if not begun:
                state = on_epoch(state, hyper, epoch)
            state, values = steps_of(state, hyper, data, epoch, bar, begun, stop)
            steps, begun = steps_in(values) - steps_in(begun), None
            if steps_in(values) < program.steps_per_epoch:
                _halt(store, state, epoch, values, program.steps_per_epoch)
                done = f"{epoch * program.steps_per_epoch + steps_in(values)} of {program.total_steps}"
                raise Terminated(f"terminated in epoch {epoch + 1}; the same command goes on after step {done}")
            speed = images_a_step * steps / (time.perf_counter() - began)
            was_alive, alive = alive, processes.fetch(state.alive)
            rows = rows_of(name, runs, epoch + 1, values, alive, speed)
            if processes.first():
                append(metrics_file, rows)
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
            if last or stop.asked or (epoch + 1) % config.checkpoint_every == 0:
                store.save(config.epochs if last else epoch + 1, state)
            if last:
                break
            if stop.asked:
                raise Terminated(f"terminated; the same command goes on after epoch {epoch + 1} of {config.epochs}")
        bar.update(program.total_steps - bar.n if not alive.any() else 0)
    return state


def fill_memory(config: Config, trained: Trained, name: str) -> State:
    """The state before the first epoch: as it is, or with its memory filled by a pass over the images in whole batches."""
    program, _, state, hyper, data, _ = trained
    if program.fill is None:
        return state
    log.info("%s: a pass over the images fills the memory of %s", name, config.method)
    axes = (0, 0, None, 0, None)
    one = laid_out(over_runs(program.fill, axes, config.run_axis), axes, trained.mesh, donate=True)
    order = laid_out(over_runs(program.order, (0, None)), (0, None), trained.mesh)(hyper, 0)
    for step in range(program.steps_per_epoch):
        state = one(state, hyper, data, order, step)
    return state
