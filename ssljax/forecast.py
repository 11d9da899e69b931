"""What a command would do, before it does it: programs, runs, compilations, memory, disk and time (`--dry_run`).

Nothing is written but what a later command finds ready: decoded images and compiled programs in their caches.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssljax import config as config_lib
from ssljax import sweeps
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.train import execution
from ssljax.train.memory import Memory, size_text

SURPRISE = (
    1000  # runs still to be trained above which a command wants `--yes`: fifty times a table of the papers (our choice)
)
# Images in one call of the device while it is measured, at most: of a larger program some runs alone are timed, since on CPU a call
# takes minutes otherwise. Seconds of the digits preset on two cores, and of CIFAR-10 on a GPU.
_IMAGES = {"cpu": 2**13, "gpu": 2**18}
_MEASURED_FOR = 2.0  # seconds of steps that a time is taken from, at least one call of the device (our choice)


class Forecast(NamedTuple):
    """The programs of one config.

    Attributes:
      name: of the config's programs.
      runs: all that are asked for.
      sizes: runs in each program that is still to be trained, or to be gone on with.
      epochs: of a run.
      epochs_left: of each of those programs.
      steps_per_epoch: of a run.
      compilations: programs that XLA has to compile; those of equal size are one where compilations are cached.
      memory: of a run, estimated from shapes; None where nothing is trained.
      devices: over how many devices the largest program is laid.
      held: bytes on each of them while that program runs.
      disk: bytes of the checkpoints that are kept and of the features of held-out images.
      compile_seconds: of one compilation; NaN where nothing was measured.
      step_seconds: of a step of all runs of the largest program, steps of several in one call being shared out; NaN likewise.
      epoch_seconds: of what comes between epochs, such as a clustering of all images; NaN likewise.
    """

    name: str
    runs: int
    sizes: tuple[int, ...]
    epochs: int
    epochs_left: tuple[int, ...]
    steps_per_epoch: int
    compilations: int
    memory: Memory | None
    devices: int
    held: int
    disk: int
    compile_seconds: float = math.nan
    step_seconds: float = math.nan
    epoch_seconds: float = math.nan

    @property
    def left(self) -> int:
        """Runs that are still to be trained."""
        return sum(self.sizes)

    @property
    def steps(self) -> int:
        """Steps of all programs together, one of all their runs being one."""
        return sum(self.epochs_left) * self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Estimated wall time: compilation, and steps in proportion to the runs of each program; 0 where nothing is left."""
        if not self.sizes:
            return 0.0
        epoch = self.step_seconds * self.steps_per_epoch + self.epoch_seconds
        shares = (epochs * size / max(self.sizes) for epochs, size in zip(self.epochs_left, self.sizes))
        return self.compilations * self.compile_seconds + epoch * sum(shares)


class DryRun(NamedTuple):
    """What `dry_run` finds; `str` of it is what the command prints.

    Attributes:
      forecasts: one a config.
      free: bytes that can be used on each device.
      devices: the devices in words.
    """

    forecasts: tuple[Forecast, ...]
    free: int
    devices: str

    @property
    def seconds(self) -> float:
        """Estimated wall time of all programs, one after another; NaN where one was not measured."""
        return sum(one.seconds for one in self.forecasts)

    @property
    def disk(self) -> int:
        """Bytes of all checkpoints and features."""
        return sum(one.disk for one in self.forecasts)

    def __str__(self) -> str:
        return _text(self)


def dry_run(configs: Config | Sequence[Config], workdir: str | Path | None = None, *, measured: bool = True) -> DryRun:
    """What training and measuring these configs would take, without doing it.

    The images are read, as training would, and each config's largest program is compiled and takes steps for two seconds on
    the device, with its real images, which are thrown away. Evaluations are not timed.

    Args:
      configs: as for `ssljax.run`.
      workdir: a folder that may hold a part of it already; only what is left is counted. It is not written to.
      measured: whether programs are compiled and timed; without, times are NaN and the rest is there at once.

    Raises:
      UserError: whatever would keep the command from starting.

    Example:
      >>> print(ssljax.dry_run(ssljax.Config(seeds=range(100)), measured=False))
    """
    from ssljax import pipeline
    from ssljax.train import memory

    given = [configs] if isinstance(configs, Config) else list(configs)
    with tempfile.TemporaryDirectory() as nothing:  # a folder that holds no run
        folder = Path(workdir or nothing)
        programs = pipeline.planned(given, folder, ("pretrain", "evaluate"))
        forecasts = [
            _forecast(name, list(parts), folder / "checkpoints", measured)
            for name, parts in groupby(programs, lambda program: program.name.partition("~")[0])
        ]
    first = jax.devices()[0]
    devices = f"{jax.device_count()} x {first.device_kind}"
    return DryRun(tuple(forecasts), memory.available(), devices)


def refuse_surprise(configs: Sequence[Config], workdir: Path) -> None:
    """Raises if more runs than `SURPRISE` are still to be trained; reads no image.

    Args:
      configs: as given.
      workdir: runs whose last epoch is there are not counted.

    Raises:
      UserError: they are too many, or a config is wrong.
    """
    left = runs_left(configs, workdir)
    if left > SURPRISE:
        raise UserError(
            f"--sweep, --seeds: {left:,} runs are to be trained, more than {SURPRISE:,}; look at them with --dry_run, and "
            "start them with --yes"
        )


def runs_left(configs: Sequence[Config], workdir: Path) -> int:
    """How many runs of some configs, as given, have no last epoch in a workdir; encoders that are only measured have none."""
    from ssljax.planning import program_names

    resolved = [config_lib.resolve(config) for config in configs]
    checkpoints = workdir / "checkpoints"
    there = execution.read(checkpoints)
    left = 0
    for name, config in zip(program_names(configs, resolved), resolved):
        if config.pretrained:
            continue
        parts = there[name].programs if name in there else {}
        done = {run for part, held in parts.items() if epochs_done(checkpoints / part) >= config.epochs for run in held}
        left += sum(run.name not in done for run in sweeps.runs(config))
    return left


def epochs_done(folder: Path) -> int:
    """The epoch of the newest checkpoint in a program's folder, 0 without one; nothing is made."""
    if not folder.is_dir():
        return 0
    return max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)


def _forecast(name: str, parts: Sequence[Any], checkpoints: Path, measured: bool) -> Forecast:
    """Of the programs that a config's runs are trained as."""
    from ssljax.train import loop, memory

    config, dataset = parts[0].config, parts[0].dataset
    runs = sum(len(part.runs) for part in parts)
    if config.pretrained:
        return Forecast(name, runs, (), 0, (), 0, 0, None, 1, 0, 0)
    images = dataset.splits["train"].images
    program = loop.program_of(config, len(images), images.shape[-1], dataset.classes)
    need = memory.estimate(program, config, images)
    left = {part.name: config.epochs - epochs_done(checkpoints / part.name) for part in parts}
    going = [part for part in parts if left[part.name] > 0]
    sizes = tuple(len(part.runs) for part in going)
    per_call = _per_call(config, program.steps_per_epoch, images)
    kinds = 2 if program.steps_per_epoch % per_call else 1
    layout = execution.layout(config, max(sizes)) if sizes else execution.Layout(1, 1)
    held = _held(need, config.run_axis, math.ceil(max(sizes, default=0) / layout.run), layout.data)
    kept = min(config.keep, math.ceil(config.epochs / config.checkpoint_every))
    disk = runs * (kept * (need.weights + need.memory) + _features(config, dataset, program))
    made = Forecast(
        name,
        runs,
        sizes,
        config.epochs,
        tuple(left[part.name] for part in going),
        program.steps_per_epoch,
        kinds * len(set(sizes)),
        need,
        layout.run * layout.data,
        held,
        disk,
    )
    if not measured or not going:
        return made
    most = _IMAGES.get(jax.default_backend(), _IMAGES["gpu"]) // (config.batch_size * per_call * layout.run)
    taken = min(max(sizes), layout.run * max(1, most))
    largest = max(going, key=lambda part: len(part.runs))
    compiling, *each = _timed(largest._replace(runs=largest.runs[:taken]))
    step, epoch = (seconds * max(sizes) / taken for seconds in each)
    return made._replace(compile_seconds=compiling, step_seconds=step, epoch_seconds=epoch)


def _held(need: Memory, run_axis: str, runs: int, data: int) -> int:
    """Bytes of so many runs on a device, of so many that share a batch: the inverse of `Memory.fits`."""
    if not runs:
        return 0
    carried, activations = need.weights + need.memory, need.activations // data
    if run_axis == "map":
        return need.shared + activations + 2 * carried * runs
    return need.shared + (carried + activations) * runs


def _features(config: Config, dataset: Any, program: Any) -> int:
    """Bytes of one run's features of the held-out images in artifacts/."""
    test = dataset.splits.get("test")
    if not config.evaluations or test is None:
        return 0
    hyper = jax.eval_shape(lambda: sweeps.hyper(config, sweeps.runs(config)[0]))
    state = jax.eval_shape(program.init, hyper)
    channels = test.images.shape[-1]
    shape = (1, config.image_size, config.image_size, channels)
    data = jax.eval_shape(lambda: _stand_in(channels))
    encoded = jax.eval_shape(program.encode, state, jax.ShapeDtypeStruct(shape, jnp.float32), data)
    return int(len(test.images) * encoded.shape[-1] * encoded.dtype.itemsize)


def _stand_in(channels: int) -> Any:
    from ssljax.train.step import Data

    return Data(jnp.zeros((1, 1, 1, channels), jnp.uint8), jnp.zeros(channels), jnp.ones(channels))


def _timed(program: Any) -> tuple[float, float, float]:
    """Measured seconds of compiling a program, of one of its steps, and of what it does between epochs."""
    from ssljax import pipeline
    from ssljax.train import loop
    from ssljax.train.mesh import laid_out
    from ssljax.train.step import over_runs

    config, trained, axes = program.config, pipeline.untrained(program), (0, 0, None)
    functions, hyper, data = trained.program, trained.hyper, trained.data
    between_epochs = over_runs(functions.on_epoch, axes, config.run_axis)
    on_epoch = laid_out(between_epochs, axes, trained.mesh, donate=True)
    state = jax.block_until_ready(on_epoch(trained.state, hyper, 0))  # compiles
    began = time.perf_counter()
    state = jax.block_until_ready(on_epoch(state, hyper, 0))
    epoch_seconds = time.perf_counter() - began
    with loop.feeding(config, trained) as feed:
        if feed is None:
            order: Any = laid_out(over_runs(functions.order, (0, None)), (0, None), trained.mesh)(hyper, 0)
            length = _per_call(config, functions.steps_per_epoch)
        else:
            order = feed.next(state.alive)
            length = len(order.numbers)
        step = loop.sweep_step(config, functions, length, trained.mesh, chunks=feed is not None)
        began = time.perf_counter()
        compiled = step.lower(state, hyper, data, order, 0).compile()  # type: ignore[attr-defined]
        compile_seconds = time.perf_counter() - began
        state, _ = jax.block_until_ready(compiled(state, hyper, data, order, 0))  # reads the memory in
        began, seen, timed = time.perf_counter(), length, 0
        while timed == 0 or (time.perf_counter() < began + _MEASURED_FOR and seen + length <= functions.total_steps):
            if feed is not None and seen < functions.total_steps:
                order = feed.next(state.alive)
                seen += len(order.numbers)
                if len(order.numbers) < length:  # the end of an epoch, another program
                    continue
            state, _ = jax.block_until_ready(compiled(state, hyper, data, order, 0))
            timed += length
        return compile_seconds, (time.perf_counter() - began) / timed, epoch_seconds


def _per_call(config: Config, steps_per_epoch: int, images: Any = None) -> int:
    """Steps in one call of the device; of images that are streamed as many as a chunk holds."""
    from ssljax.train.stream import steps_of

    steps = execution.steps_per_dispatch(config, steps_per_epoch)
    if config.stream not in config_lib.STREAMED or images is None:
        return steps
    return steps_of(steps, config.batch_size, images, config.steps_per_dispatch)


def _text(found: DryRun) -> str:
    """The table of a dry run, and what must be known to read it."""
    heads = [
        "",
        "programs",
        "runs",
        "epochs",
        "steps",
        "compiled",
        "a run",
        "on a device",
        "disk",
        "compiling",
        "in all",
    ]
    lines = [heads, *map(_line, found.forecasts)]
    if len(found.forecasts) > 1:
        lines.append(_total(found))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    table = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    ]
    left, runs = sum(one.left for one in found.forecasts), sum(one.runs for one in found.forecasts)
    said = [f"{_many(left, 'run')} to train" + (f"; {_many(runs - left, 'other')} done" if left < runs else "")]
    said[0] += f" on {found.devices}, of each of which {size_text(found.free)} can be used."
    if math.isfinite(found.seconds) and left:
        said.append(
            f"Training takes about {duration(found.seconds)}: an estimate from {_MEASURED_FOR:g} s of steps of each line's "
            "largest program, or of some of its runs; evaluations come on top."
        )
    said.append("Memory is estimated from shapes; disk is checkpoints and held-out features at the end.")
    said.append("Nothing was written but images and compiled programs into their caches.")
    if left > SURPRISE:
        said.append(f"More than {SURPRISE:,} runs: the command starts them with --yes only.")
    return "\n".join([*table, "", *said])


def _line(one: Forecast) -> list[str]:
    if one.memory is None:
        return [one.name, "measured only", f"{one.runs:,}", *[""] * 8]
    sizes = sorted({*one.sizes}, reverse=True)
    programs = f"{len(one.sizes)} of {' or '.join(map(str, sizes))}" if one.sizes else "done"
    return [
        one.name,
        programs,
        f"{one.left:,}" if one.left == one.runs else f"{one.left:,} of {one.runs:,}",
        str(one.epochs),
        f"{one.steps:,}",
        str(one.compilations),
        size_text(one.memory.run),
        size_text(one.held) + (f" x {one.devices}" if one.devices > 1 else ""),
        size_text(one.disk),
        duration(one.compilations * one.compile_seconds if one.sizes else 0.0),
        duration(one.seconds),
    ]


def _total(found: DryRun) -> list[str]:
    every = found.forecasts
    compiling = sum(one.compilations * one.compile_seconds for one in every if one.sizes)
    return [
        "all, one after another",
        str(sum(len(one.sizes) for one in every)),
        f"{sum(one.left for one in every):,}",
        "",
        f"{sum(one.steps for one in every):,}",
        str(sum(one.compilations for one in every)),
        "",
        size_text(max(one.held for one in every)),
        size_text(found.disk),
        duration(compiling),
        duration(found.seconds),
    ]


def duration(seconds: float) -> str:
    """Wall time in words: 0.4 s, 12 s, 3.5 min, 7.2 h, 12 days; "?" for NaN."""
    if math.isnan(seconds):
        return "?"
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds < most * size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
