"""Several processes that train as one, on JAX's distributed runtime: who writes, what goes from one to the other, how they agree.

All of them run the same program on the same command. Process 0 alone writes, prints and evaluates.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssljax.errors import UserError

# Seconds that a process which is done, or has failed, waits for the others before it leaves (JAX: 300). They leave together unless
# one has failed, and then there is nothing to wait for.
LEAVING = 20
# Milliseconds that the others wait for process 0 to evaluate: a week. Where it fails, JAX's runtime ends them.
WAITING = 7 * 24 * 3600 * 1000

_waits = itertools.count()


def start(coordinator: str | None = None, number: int | None = None, index: int | None = None) -> None:
    """Joins the processes of a command; before anything asks JAX for a device.

    Args:
      coordinator: address and port of process 0, "host:1234". With None all three are found by JAX: under Slurm, Open MPI, GKE or
        on a TPU.
      number: how many processes there are.
      index: which one this is, from 0.

    Raises:
      UserError: only some of the three are given, JAX does not know where it is, or the others do not come.
    """
    given = (coordinator, number, index)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UserError("--coordinator, --num_processes and --process_id: give all three, or --distributed alone")
    if number is not None and number < 1:
        raise UserError(f"--num_processes: expected 1 or more, given {number}")
    if number is not None and index is not None and not 0 <= index < number:
        raise UserError(f"--process_id: expected 0 to {number - 1} for --num_processes={number}, given {index}")
    try:
        jax.distributed.initialize(coordinator, number, index, shutdown_timeout_seconds=LEAVING)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        flag = "--coordinator" if coordinator else "--distributed"
        raise UserError(f"{flag}: the processes could not be joined: {reason}") from None


def several() -> bool:
    """Whether there are others."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes, prints and evaluates."""
    return jax.process_index() == 0


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Arrays that every process holds alike, laid over the devices of all: each process gives its own devices their part."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def each(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(each, tree)


def fetch(tree: Any) -> Any:
    """Arrays that lie over the devices of all processes, whole and in the memory of each; called by all of them at once."""
    return multihost_utils.process_allgather(tree, tiled=True) if several() else jax.device_get(tree)


def every(good: bool) -> bool:
    """Whether something is so in all processes, which call this at once."""
    return bool(np.all(multihost_utils.process_allgather(np.array(good)))) if several() else good


def least(value: int) -> int:
    """The least value of all processes, which call this at once."""
    if not several():
        return value
    # In two halves: JAX's integers have 32 bits.
    pairs = multihost_utils.process_allgather(np.array(divmod(value, 2**31), np.int32))
    return min(int(high) * 2**31 + int(low) for high, low in pairs)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """A part of the program that all processes get through, or none: where one raises a `UserError`, so do the others."""
    try:
        yield
    except UserError:
        every(False)
        raise
    if not every(True):
        raise UserError("another process cannot go on; its own line says why")


def wait() -> None:
    """Waits until all processes are here, however long one of them takes."""
    if not several():
        return
    from orbax.checkpoint import multihost

    # The runtime's own barrier: one over devices gives up after minutes on some of them.
    name = f"ssljax {next(_waits)}"
    multihost.get_barrier_sync_fn(processes=set(range(jax.process_count())))(key=name, timeout_ms=WAITING)
