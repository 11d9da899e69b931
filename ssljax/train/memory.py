"""How much memory a program will take on the device, estimated from its shapes before anything is compiled."""

import contextlib
import logging
import math
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssljax import sweeps
from ssljax.config import STREAMED, Config
from ssljax.errors import UserError
from ssljax.train.execution import layout, steps_per_dispatch
from ssljax.train.step import Chunk, Data, Program, State
from ssljax.train.stream import chunk_shape, steps_of

log = logging.getLogger("ssljax")

# What a step needs beside what the backward pass keeps: working space of about a fifth of that, and gradients and updates as
# large as the parameters each. Measured against XLA's own account of compiled steps (benchmarks/README.md, "Memory").
WORKSPACE, PARAMETERS = 1.2, 2.0
# The share of the free memory that a program may plan with: a GPU's limit is already XLA's own pool (three quarters of the
# device by default) and loses some to gaps; a CPU's memory is also the operating system's, the data's and other processes'.
USABLE = {"gpu": 0.9, "cpu": 0.7}
# The share of what can be used that resident images may take; the rest is the runs' (our choice).
ROOM = 0.5


class Memory(NamedTuple):
    """Bytes on the device.

    Attributes:
      weights: parameters, target, batch statistics and optimiser of one run.
      memory: what a method carries besides (queue, bank, centre) of one run.
      activations: what a step of one run keeps for its gradient, with working space.
      shared: the images, once for all runs.
    """

    weights: int
    memory: int
    activations: int
    shared: int

    @property
    def run(self) -> int:
        """Bytes of one run."""
        return self.weights + self.memory + self.activations

    def fits(self, available: int, run_axis: str) -> int:
        """How many runs go into so many bytes.

        `map` executes one after another, so that activations are there once; the states that it has made stand beside those
        that it goes on to.
        """
        carried, once = self.weights + self.memory, self.activations
        if run_axis == "map":
            return max(0, available - self.shared - once) // (2 * carried)
        return max(0, available - self.shared) // (carried + once)

    def __str__(self) -> str:
        parts = (("weights and optimiser", self.weights), ("queue and the like", self.memory))
        each = ", ".join(f"{name} {size_text(n)}" for name, n in (*parts, ("activations", self.activations)))
        return f"about {size_text(self.run)} a run ({each}) and {size_text(self.shared)} of images"


def stream(images: Any, free: int | None = None) -> str:
    """What `--stream=auto` is for some training images: "no" where they fit on the device with `ROOM` to spare, else "cache".

    Args:
      images: with their bytes as `nbytes`.
      free: bytes that can be used on each device; None for what this process finds `available`.
    """
    return "no" if images.nbytes <= ROOM * (available() if free is None else free) else "cache"


def estimate(program: Program, config: Config, images: Any) -> Memory:
    """The memory of a program, from shapes alone: nothing is computed.

    Args:
      program: from `ssljax.train.step.make_program`.
      config: resolved; where its images are streamed, two chunks of them count, the one in use and the next.
      images: the training images, or anything with their shape and dtype.
    """
    hyper = jax.eval_shape(lambda: sweeps.hyper(config, sweeps.runs(config)[0]))
    count, channels = images.shape[0], images.shape[-1]
    streamed = config.stream in STREAMED
    data = jax.eval_shape(
        lambda: Data(
            jnp.zeros((0 if streamed else count, *images.shape[1:]), images.dtype),
            jnp.zeros(channels),
            jnp.zeros(channels),
            labels=jnp.zeros(count, jnp.int32) if program.labels else (),
        )
    )
    state = jax.eval_shape(program.init, hyper)
    if not streamed:
        return needed(program, state, hyper, data)
    per_call = steps_per_dispatch(config, program.steps_per_epoch)
    steps = steps_of(per_call, config.batch_size, images, config.steps_per_dispatch)
    need = needed(program, state, hyper, data, chunk_shape(images, config.batch_size, steps))
    return need._replace(shared=need.shared + 2 * _bytes(chunk_shape(images, config.batch_size, steps)))


def needed(program: Program, state: State, hyper: Any, data: Data, chunk: Chunk | None = None) -> Memory:
    """As `estimate`, from the shapes of one run's state and values and of the data, and of a chunk where images are streamed."""
    step = jax.ShapeDtypeStruct((), jnp.int32)
    order = jax.eval_shape(program.order, hyper, step) if chunk is None else chunk
    kept = jax.tree.leaves(jax.eval_shape(lambda *args: program.forward(*args)[1], state, hyper, data, order, step))
    # Weights that the gradient needs are among what it keeps; they are there anyway.
    there = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state))
    own = Counter((leaf.shape, leaf.dtype) for leaf in kept) - there
    saved = sum(math.prod(shape) * dtype.itemsize * count for (shape, dtype), count in own.items())
    carried = {name: part for name, part in state.memory.items() if name != "target"} if state.memory else {}
    memory = _bytes(carried)
    return Memory(
        _bytes(state) - memory,
        memory,
        round(WORKSPACE * saved + PARAMETERS * _bytes(state.params)),
        _bytes(data),
    )


def available() -> int:
    """Bytes that a program may plan with on each device: of what the device reports, or of the machine's or container's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return round(USABLE["gpu"] * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):  # pages that hold files are free too; not every system says how many
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        free = next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), free)
    with contextlib.suppress(OSError, ValueError):  # "max" where a container has no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return round(USABLE["cpu"] * free)


def split(
    config: Config,
    memory: Memory,
    runs: int,
    flag: str = "--batch_size",
    *,
    free: int | None = None,
    devices: int | None = None,
) -> tuple[int, ...]:
    """How many runs of a config go into each of its programs: as few programs as fit, of sizes as equal as can be.

    Args:
      config: resolved, its run axis chosen; its `max_runs_per_program` is kept to.
      memory: of one of its runs.
      runs: how many there are.
      flag: what their batch is set by, for messages.
      free: bytes that can be used on each device; None for what this process finds `available`.
      devices: as for `ssljax.train.execution.layout`.

    Raises:
      UserError: not even one run fits, or fewer than asked for.
    """
    free = available() if free is None else free
    asked = even(runs, config.max_runs_per_program)
    for size in asked:
        layout(config, size, devices)  # refuses what cannot be laid out, however much memory there is

    @cache
    def held(size: int) -> int:
        """How many runs the devices of a program of so many hold; 0 for a program that cannot be laid out."""
        try:
            each = layout(config, size, devices)
        except UserError:
            return 0
        own = memory._replace(activations=memory.activations // each.data)
        return each.run * own.fits(free, config.run_axis)

    def fits(sizes: tuple[int, ...]) -> bool:
        return all(size <= held(size) for size in set(sizes))

    if fits(asked):
        return asked
    if not any(held(size) for size in range(1, runs + 1)):
        raise UserError(
            f"{flag}: not even one run fits: {memory}; {size_text(free)} can be used; give a smaller {flag}, "
            "--image_size or --width, or --remat=blocks"
        )
    if config.max_runs_per_program:
        raise UserError(
            f"--max_runs_per_program: {config.max_runs_per_program} runs do not fit: {memory}; {size_text(free)} can be used; "
            f"at most {held(asked[0])} fit"
        )
    sizes = next(sizes for most in range(runs, 0, -1) if fits(sizes := even(runs, most)))
    log.info(
        "%d runs do not fit into %s: %d programs of at most %d, one after another",
        runs, size_text(free), len(sizes), max(sizes),
    )  # fmt: skip
    return sizes


def even(runs: int, most: int) -> tuple[int, ...]:
    """So many runs in parts of at most `most` (0: one part) that differ by one at most, the larger first."""
    parts = math.ceil(runs / most) if most else 1
    return tuple(runs // parts + (i < runs % parts) for i in range(parts))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size_text(count: float) -> str:
    """So many bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
