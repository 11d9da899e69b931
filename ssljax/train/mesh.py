"""The devices of a program, and how its functions are laid over them: runs along one axis, a batch of images along the other."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ssljax.config import MESH_AXES, Config
from ssljax.train import execution

log = logging.getLogger("ssljax")

_RUN = PartitionSpec("run")


def mesh_of(config: Config, runs: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices of a program with the axes "run" and "data": each holds whole runs, all images, and its share of a batch.

    Args:
      config: resolved.
      runs: of the program.
      devices: to choose from, of this process; None for those of all processes.
    """
    sizes = execution.layout(config, runs, len(devices) if devices else None)
    there, count = devices or jax.devices(), sizes.run * sizes.data
    if len(there) > 1:
        how = f"{sizes.run} for the runs, {sizes.data} for the images of a batch"
        log.info("%d runs on %d of %d devices: %s", runs, count, len(there), how)
    # Auto: shardings are the compiler's business, not part of the types that `vmap` sees.
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 2, devices=there[:count])


def laid_out(
    function: Callable[..., Any],
    axes: tuple[int | None, ...],
    mesh: Mesh | None,
    *,
    donate: bool = False,
    metrics: bool = False,
) -> Any:
    """A function of many runs, compiled, whose every device computes its own runs and nothing else.

    Only the run axis is laid out by hand. Along "data" the compiler partitions what `ssljax.train.step.spread` spreads, with the
    meaning of the whole batch, and leaves each device with all of the result.

    Args:
      function: of many runs, from `over_runs`.
      axes: 0 for each argument that has a run axis, None for what the runs share.
      mesh: with the axes "run" and "data"; None for the devices that the arguments are on.
      donate: whether the first argument's memory is given up.
      metrics: whether the result is a state and metrics [steps, runs], of which every device is to hold all.
    """
    donated = (0,) if donate else ()
    if mesh is None or mesh.size == 1:
        return jax.jit(function, donate_argnums=donated)
    specs = tuple(_RUN if axis == 0 else PartitionSpec() for axis in axes)
    results: Any = (_RUN, PartitionSpec(None, "run")) if metrics else _RUN
    kept: Any = NamedSharding(mesh, _RUN)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=results, axis_names={"run"}, check_vma=False)
    out = (kept, NamedSharding(mesh, PartitionSpec())) if metrics else kept
    return jax.jit(mapped, donate_argnums=donated, out_shardings=out)
