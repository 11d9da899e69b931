"""One encoder to embed with: a run of a workdir, chosen by name, or the file of an encoder."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from ssljax import encoders, flags, planning, sweeps
from ssljax import workdir as workdir_lib
from ssljax.config import Config
from ssljax.data import Dataset, Split
from ssljax.errors import UserError, unknown
from ssljax.models import weights
from ssljax.planning import Program
from ssljax.sweeps import Run
from ssljax.train import loop
from ssljax.train.loop import Trained
from ssljax.train.step import State, over_runs

_LISTED = 20  # runs named in a line


class Served(NamedTuple):
    """An encoder that is ready.

    Attributes:
      name: its run's, a file name too.
      trained: that run alone, without images.
      image_size: side in pixels that it sees.
      channels: of the images that it takes.
      repeats_grey: whether a network of three channels is given grey images, repeated.
      seed: of the run; 0 of a file.
      about: what tells it from every other encoder, as JSON.
      source: the workdir or file that it is from.
    """

    name: str
    trained: Trained
    image_size: int
    channels: int
    repeats_grey: bool
    seed: int
    about: dict[str, Any]
    source: str


def chosen(programs: Sequence[Program], run: str, where: str | Path) -> tuple[Program, Run]:
    """The run of some programs that is meant: by its name in the tables, or without the program's where that tells it.

    Args:
      programs: of a workdir. Of an encoder from a file the seeds are one.
      run: "" for the only one.
      where: the workdir, for messages.

    Raises:
      UserError: no such run, or none given where there are several.
    """
    found = {
        f"{program.name}/{one.name}": (program, one)
        for program in programs
        for one in (program.runs[:1] if program.encoder and program.config.pretrained else program.runs)
    }
    if not run and len(found) == 1:
        return next(iter(found.values()))
    meant = [both for name, both in found.items() if run in (name, name.partition("/")[2])]
    if len(meant) == 1:
        return meant[0]
    names = ", ".join(list(found)[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
    if not run or meant:
        given = f"; given {run}" if run else ""
        raise UserError(f"--run: {where} has {len(found)} runs, give one of {names}{given}")
    if len(found) <= _LISTED:
        raise UserError(f"--run: {where} has no run '{run}'; it has {names}")
    raise unknown("run", run, found, "--run")


@contextlib.contextmanager
def opened(where: Path, run: str, dataset: Dataset, image_size: int = 0) -> Iterator[Served]:
    """An encoder for other images than its own; of a workdir, which nobody else uses in the meantime.

    Args:
      where: a workdir, or a file.
      run: of the workdir; "" for the only one.
      dataset: the images: what an encoder's file that says nothing is normalised by, and what size it sees.
      image_size: side in pixels that the encoder sees; 0 for that of its training.

    Raises:
      UserError: neither, or no such run.
    """
    if not where.is_dir():
        yield of_file(where, run, dataset, image_size)
        return
    with studied(where) as programs:
        program, one = chosen(programs, run, where)
        found = of_run(program, one, where)
        yield found._replace(image_size=image_size or found.image_size)


@contextlib.contextmanager
def studied(workdir: Path) -> Iterator[list[Program]]:
    """The programs of a workdir, which nobody else uses in the meantime.

    Raises:
      UserError: nothing was trained there, or another process uses it.
    """
    flagfile = workdir / "flagfile.cfg"
    if not flagfile.exists():
        raise UserError(f"{workdir}: has no flagfile.cfg, so nothing was trained there")
    made = flags.read_flagfile(flagfile)
    with workdir_lib.claimed(workdir, made):
        # What was measured on which devices is of no interest here.
        bare = [dataclasses.replace(config, evaluations=(), mesh="", targets="") for config in made]
        yield planning.plan(bare, checkpoints=workdir / "checkpoints")


def of_run(program: Program, run: Run, workdir: Path) -> Served:
    """A run of a workdir's program as its newest checkpoint has it, or as its file does where it was not trained.

    Raises:
      UserError: no checkpoint, or the run diverged.
    """
    config, train = program.config, program.dataset.splits["train"]
    nothing = program.dataset._replace(splits={"train": Split(train.images[:0], None)})
    if program.config.pretrained:
        if program.encoder is None:
            trained = encoders.untrained(config, [run], nothing)
        else:
            trained = encoders.from_file(program.encoder, config, [run], nothing)
    else:
        trained = _restored(program, run, workdir / "checkpoints", nothing)
    channels = program.encoder.channels if program.encoder else train.images.shape[-1]
    return Served(
        f"{program.name}-{run.name.replace(',', '_')}",
        trained,
        config.image_size,
        channels,
        bool(program.encoder and config.pretrained),
        run.seed,
        {"run": f"{program.name}/{run.name}", "epoch": trained.epoch, "weights": _digest(trained)},
        config.pretrained or str(workdir),
    )


def _digest(trained: Trained) -> str:
    """sha256 (hex) of the weights of a run, and of what its images are normalised by."""
    seen = (trained.state.params, trained.state.stats, trained.data.shared, trained.data.mean, trained.data.std)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(seen):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _restored(program: Program, run: Run, checkpoints: Path, nothing: Dataset) -> Trained:
    """One run of a trained program; the other runs are read from the disk with it and never reach the device."""
    config, train = program.config, program.dataset.splits["train"].images
    functions = loop.program_of(config, len(train), train.shape[-1], program.dataset.classes)
    hyper = sweeps.stack([sweeps.hyper(config, one) for one in program.runs])
    host = SingleDeviceSharding(_host())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host),
        jax.eval_shape(over_runs(functions.init, (0,)), hyper),
    )
    mean, std = encoders.seen_as(program)
    data = loop.resident(nothing.splits["train"].images, mean, std)
    whole = loop.restore(
        Trained(functions, program.runs, like, hyper, data, 0), checkpoints / program.name, config.keep
    )
    index = program.runs.index(run)
    if not whole.state.alive[index]:
        raise UserError(f"--run: {program.name}/{run.name} diverged in training; choose another run")
    device = jax.local_devices()[0]
    params, stats, alive = jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf[index : index + 1]), device),
        (whole.state.params, whole.state.stats, whole.state.alive),
    )
    state = State(params, stats, (), (), alive)
    return whole._replace(runs=(run,), state=state, hyper={"seed": hyper["seed"][index : index + 1]})


def _host() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to see accelerators alone
        return jax.local_devices()[0]


def of_file(path: Path, run: str, dataset: Dataset, image_size: int = 0, precision: str = "float32") -> Served:
    """The encoder in a file.

    Args:
      path: an export of ours, or another project's checkpoint.
      run: is none of a file: expected "".
      dataset: the images.
      image_size: side in pixels that it sees; 0 for what the file says, else the images' own.
      precision: compute type of the network.

    Raises:
      UserError: as `ssljax.models.weights.load`; a run.
    """
    if run:
        raise UserError(f"--run: {path} is one encoder, given the run {run}")
    images = next(iter(dataset.splits.values())).images
    name = encoders.short_names([str(path)])[str(path)]
    encoder = weights.load(path, flag="--checkpoint")
    side = image_size or encoder.image_size or min(images.shape[1:3])
    config = Config(
        backbone=encoder.backbone, width=encoder.width, stem=encoder.stem, stem_padding=encoder.stem_padding,
        image_size=max(8, side), precision=precision, pretrained=str(path),
    )  # fmt: skip
    nothing = dataset._replace(splits={"train": Split(images[:0], None)})
    trained = encoders.from_file(encoder, config, [Run(name, 0, {})], nothing)
    whose = encoders.normalisation(encoder, dataset).whose
    about = {"backbone": encoder.backbone, "normalised_by": whose, "weights": _digest(trained)}
    return Served(name, trained, config.image_size, encoder.channels, True, 0, about, str(path))
