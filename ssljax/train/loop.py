"""The loop around a program: all its runs, epoch by epoch, with progress, logs, checkpoints and exact resume."""

import contextlib
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
from ssljax.config import MESH_AXES, STREAMED, Config
from ssljax.errors import UserError
from ssljax.preemption import Terminated
from ssljax.sweeps import Run
from ssljax.train import execution
from ssljax.train.checkpoints import Checkpoints
from ssljax.train.logs import Writers, append, forget_after, line, rows_of
from ssljax.train.mesh import laid_out, mesh_of
from ssljax.train.scratch import keep_scratch
from ssljax.train.step import Chunk, Data, Program, State, make_program, over_runs
from ssljax.train.stream import Feed, chunk_shape, steps_of
from ssljax.train.watch import Freezes

log = logging.getLogger("ssljax")

_RUN = PartitionSpec("run")


class Trained(NamedTuple):
    """A program after training: `state` and `hyper` have a leading axis, one entry for each of `runs`.

    `images` are the training images on the host, [n, h, w, c] or a `ssljax.data.files.Decoded`, where the data hold none on the
    device; None where they do.
    """

    program: Program
    runs: tuple[Run, ...]
    state: State
    hyper: Any
    data: Data
    epoch: int
    images: Any = None

    @property
    def n_images(self) -> int:
        """How many training images there are."""
        return len(self.data.images if self.images is None else self.images)

    def some(self, index: jax.Array | np.ndarray) -> jax.Array:
        """The training images that an index array names, on the device."""
        return self.data.images[index] if self.images is None else jnp.asarray(self.images[np.asarray(index)])

    @property
    def mesh(self) -> Mesh:
        """The devices that the runs are laid over."""
        return self.hyper["seed"].sharding.mesh


def resident(images: Any, mean: Sequence[float], std: Sequence[float], labels: np.ndarray | None = None) -> Data:
    """The data set on the device, once for all runs. A channel that never varies is not scaled."""
    deviations = np.asarray(std, np.float32)
    return Data(
        jnp.asarray(images),
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(np.where(deviations > 0, deviations, 1.0), jnp.float32),
        labels=() if labels is None else jnp.asarray(labels, jnp.int32),
    )


def laid_down(
    config: Config, images: Any, mean: Sequence[float], std: Sequence[float], labels: np.ndarray | None = None
) -> tuple[Data, Any]:
    """A resolved config's data, and its training images where they are streamed: None where they are resident."""
    if config.stream not in STREAMED:
        return resident(images, mean, std, labels), None
    return resident(np.zeros((0, *images.shape[1:]), images.dtype), mean, std, labels), images


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
    config: Config,
    runs: Sequence[Run],
    data: Data,
    classes: int = 0,
    devices: Sequence[jax.Device] | None = None,
    images: Any = None,
) -> Trained:
    """The runs of a resolved config before their first step, on these devices or on all; errors as `program_of`.

    Labels stay with the data only where the method learns from them. `images` are the training images where these are streamed.
    """
    keep_scratch()
    count = len(data.images if images is None else images)
    program = program_of(config, count, data.images.shape[-1], classes)
    data = data if program.labels else data._replace(labels=())
    hyper = sweeps.stack([sweeps.hyper(config, run) for run in runs])
    mesh = mesh_of(config, len(runs), devices)
    hyper = processes.put(hyper, NamedSharding(mesh, _RUN))
    data = processes.put(data, NamedSharding(mesh, PartitionSpec()))
    state = laid_out(over_runs(program.init, (0,)), (0,), mesh)(hyper)
    return Trained(program, tuple(runs), state, hyper, data, 0, images)


def sweep_step(
    config: Config, program: Program, steps: int, mesh: Mesh | None = None, chunks: bool = False
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`steps` steps of all runs as one compiled call: (state, hyper, data, order, first step) -> (state, metrics [steps, runs]).

    The state is donated. A program differs in nothing between one run and a hundred but the leading axis, which is laid over
    the devices of the mesh. With `chunks` the order is a `Chunk`, the same for all runs.
    """
    axes = (0, 0, None, None if chunks else 0, None)

    def chunk(state: State, hyper: Any, data: Data, order: jax.Array | Chunk, first: jax.Array) -> Any:
        if steps == 1:  # no scan: on CPU XLA's convolution inside one leaves its fast path
            state, metrics = program.step(state, hyper, data, order, first)
            return state, jax.tree.map(lambda m: m[None], metrics)
        return jax.lax.scan(lambda s, i: program.step(s, hyper, data, order, first + i), state, jnp.arange(steps))

    # The runs outside, the steps inside: runs that are executed one after another then keep their state for many steps.
    # The convolutions of several runs at once are grouped ones, which the compiler does not divide along "data": each device would
    # compute the whole batch.
    divided = mesh is not None and mesh.shape["data"] > 1
    all_runs = over_runs(chunk, axes, "map" if divided and config.run_axis == "vmap" else config.run_axis)

    def many(*args: Any) -> tuple[State, dict[str, jax.Array]]:
        state, metrics = all_runs(*args)
        return state, jax.tree.map(jnp.transpose, metrics)

    return laid_out(many, axes, mesh, donate=True, metrics=True)


Metrics = dict[str, np.ndarray]
"""Each number of some steps, [steps, runs]."""


def sweep_epoch(
    config: Config, program: Program, mesh: Mesh, feed: Feed | None = None, freezes: Freezes | None = None
) -> Callable[..., tuple[State, Metrics]]:
    """The steps of an epoch of all runs: (state, hyper, data, epoch, progress bar, begun, stop) -> (state, metrics).

    `begun` are the metrics of an epoch's first steps, that are done already. `stop` is asked after each call, with the number of
    steps done since the first epoch; where it says so the epoch ends early, as the metrics' length tells. The state is donated.
    Where images are not resident, `feed` gives them, from the step that is done first on. `freezes` hears of each call.
    """
    per_call = execution.steps_per_dispatch(config, program.steps_per_epoch)
    order_of = laid_out(over_runs(program.order, (0, None)), (0, None), mesh)

    @cache
    def steps(count: int) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
        return sweep_step(config, program, count, mesh, feed is not None)

    def one(
        state: State,
        hyper: Any,
        data: Data,
        epoch: int,
        bar: tqdm,
        begun: Metrics | None = None,
        stop: Callable[[int], bool] = lambda step: False,
    ) -> tuple[State, Metrics]:
        order = order_of(hyper, epoch) if feed is None else None
        collected: list[Any] = [begun] if begun else []
        before, done = epoch * program.steps_per_epoch, steps_in(begun)
        unheard: tuple[Any, ...] = ()
        while done < program.steps_per_epoch:
            n = min(per_call, program.steps_per_epoch - done)
            if feed is not None:
                order = feed.next(collected[-1:])
                n = len(order.numbers)
            state, metrics = steps(n)(state, hyper, data, order, before + done)
            collected.append(metrics)
            done += n
            if len(collected) > 1:  # waits for the call before, so that the bar tells the truth
                jax.block_until_ready(collected[-2])
            bar.update(n)
            if freezes is not None:
                if unheard:
                    freezes.hear(state, hyper, data, *unheard)
                unheard = order, metrics, before + done - n
            if stop(before + done):
                break
        if freezes is not None and unheard:
            freezes.hear(state, hyper, data, *unheard)
        return state, {k: np.concatenate([np.asarray(m[k]) for m in collected]) for k in collected[0]}

    return one


def order_shape(config: Config, trained: Trained, steps: int = 1) -> Any:
    """Shapes, types and shardings of what a step of a resolved config's runs takes as their order, in a call of so many steps."""
    if trained.images is not None:
        return chunk_shape(trained.images, config.batch_size, steps, trained.mesh)
    shape = (len(trained.runs), trained.n_images)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=trained.hyper["seed"].sharding)


def feeding(
    config: Config, trained: Trained, first: int = 0, last: int | None = None
) -> contextlib.AbstractContextManager[Feed | None]:
    """What gives the images of some steps, of all that are left by default, to `sweep_epoch`; None where they are resident."""
    images, program = trained.images, trained.program
    if images is None:
        return contextlib.nullcontext()
    per_call = execution.steps_per_dispatch(config, program.steps_per_epoch)
    return Feed(
        images,
        trained.mesh,
        batch_size=config.batch_size,
        steps_per_epoch=program.steps_per_epoch,
        first=first,
        last=program.total_steps if last is None else last,
        per_call=steps_of(per_call, config.batch_size, images, config.steps_per_dispatch),
        workers=config.workers,
    )


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


Watch = Callable[[State, int, Metrics], list[dict[str, Any]]]
"""Looks on while runs are trained, in every process: given the state after so many epochs and the last one's metrics ({} before the
first), it gives what each run's row of metrics is to hold besides. It changes nothing of the training."""


def pretrain(
    config: Config,
    trained: Trained,
    *,
    name: str,
    checkpoints: Path,
    metrics_file: Path,
    tensorboard: Path,
    progress: bool = True,
    watch: Watch | None = None,
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
      watch: see `Watch`.
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
            state = _epochs(config, trained, name, start, begun, store, metrics_file, tensorboard, shown, watch)
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
        try:
            if (halted.newest() or 0) > (store.newest() or 0) * per_epoch:
                step = sweep_step(config, trained.program, 1, trained.mesh, trained.images is not None)
                shapes_in = trained.state, trained.hyper, trained.data, order_shape(config, trained), 0
                _, metrics = jax.eval_shape(step, *shapes_in)
                everywhere = NamedSharding(trained.mesh, PartitionSpec())
                shapes = {
                    name: jax.ShapeDtypeStruct((per_epoch, *m.shape[1:]), m.dtype, sharding=everywhere)
                    for name, m in metrics.items()
                }
                found = halted.restore({"state": trained.state, "metrics": shapes}, needed=False)
                if found:
                    epoch, done = divmod(found[0], per_epoch)
                    return epoch, found[1]["state"], {k: np.asarray(m)[:done] for k, m in found[1]["metrics"].items()}
        finally:
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
    try:
        halted.save(epoch * per_epoch + done, {"state": state, "metrics": padded})
    finally:
        halted.close()


def restore(trained: Trained, checkpoints: Path, keep: int) -> Trained:
    """The newest checkpoint of a program.

    Raises:
      UserError: there is none that can be read.
    """
    found = None
    if checkpoints.is_dir():
        store = Checkpoints(checkpoints, keep)
        try:
            found = store.restore(trained.state)
        finally:
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
    watch: Watch | None,
) -> State:
    program, runs, state, hyper, data, _, _ = trained
    axes = (0, 0, None)
    on_epoch = laid_out(over_runs(program.on_epoch, axes, config.run_axis), axes, trained.mesh, donate=True)
    images_a_step = config.batch_size * len(runs)
    before = start * program.steps_per_epoch + steps_in(begun)
    with (
        preemption.heard() as stop,
        Writers(tensorboard, runs, start + 1) as writers,
        progress_bar(name, len(runs), program.total_steps, progress, before) as bar,
        contextlib.ExitStack() as within,
    ):
        if before == 0:
            state = fill_memory(config, trained, name)
            if watch is not None:
                watch(state, 0, {})
        feed = within.enter_context(feeding(config, trained, before))
        alive = processes.fetch(state.alive)
        freezes = Freezes(config, program, runs, trained.mesh, name, alive, feed is not None)
        one_epoch = sweep_epoch(config, program, trained.mesh, feed, freezes)
        for epoch in range(start, config.epochs):
            began = time.perf_counter()
            if not begun:
                state = on_epoch(state, hyper, epoch)
            state, values = one_epoch(state, hyper, data, epoch, bar, begun, stop)
            steps, begun = steps_in(values) - steps_in(begun), None
            if steps_in(values) < program.steps_per_epoch:
                _halt(store, state, epoch, values, program.steps_per_epoch)
                done = f"{epoch * program.steps_per_epoch + steps_in(values)} of {program.total_steps}"
                raise Terminated(f"terminated in epoch {epoch + 1}; the same command goes on after step {done}")
            seconds = time.perf_counter() - began
            speed = images_a_step * steps / seconds
            alive = processes.fetch(state.alive)
            rows = rows_of(name, runs, epoch + 1, values, alive, speed)
            further = [freezes.told(), *([watch(state, epoch + 1, values)] if watch is not None else [])]
            rows = [{**row, **{k: v for each in own for k, v in each.items()}} for row, *own in zip(rows, *further)]
            if feed is not None:
                share, feed.waited = feed.waited / seconds, 0.0
                rows = [{**row, "waiting": round(share, 4)} for row in rows]
                feed.tell()
            if processes.first():
                append(metrics_file, rows)
                writers.write(rows)
            bar.set_postfix_str(line(rows, epoch + 1, config.epochs, speed), refresh=False)
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
    program, _, state, hyper, data, _, _ = trained
    if program.fill is None:
        return state
    log.info("%s: a pass over the images fills the memory of %s", name, config.method)
    axes = (0, 0, None, 0 if trained.images is None else None, None)
    one = laid_out(over_runs(program.fill, axes, config.run_axis), axes, trained.mesh, donate=True)
    with feeding(config, trained, 0, program.steps_per_epoch) as feed:
        order, left = None, 0
        if feed is None:
            order = laid_out(over_runs(program.order, (0, None)), (0, None), trained.mesh)(hyper, 0)
        for step in range(program.steps_per_epoch):
            if feed is not None and not left:
                order = feed.next(state.alive)
                left = len(order.numbers)
            state, left = one(state, hyper, data, order, step), left - 1
    return state
