"""Names at once a run whose loss, gradient or weights stop being finite: with the step, and the first tensor that is not finite."""

import logging
from collections.abc import Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssljax import processes
from ssljax.config import Config
from ssljax.sweeps import Run
from ssljax.train import diagnosis
from ssljax.train.mesh import laid_out
from ssljax.train.step import Chunk, Program, State, over_runs

log = logging.getLogger("ssljax")


class Freezes:
    """Listens to the metrics of each call of the device, and says which runs it has frozen.

    Args:
      config: resolved.
      program, runs, mesh, name: of what is trained.
      alive: [runs], before the first call; runs that are frozen already are not named again.
      chunks: whether images come in chunks.
    """

    def __init__(
        self,
        config: Config,
        program: Program,
        runs: Sequence[Run],
        mesh: Mesh,
        name: str,
        alive: np.ndarray,
        chunks: bool,
    ):
        self._config, self._program, self._runs, self._mesh, self._name = config, program, runs, mesh, name
        self._alive, self._chunks = alive, chunks
        self._found: dict[int, dict[str, Any]] = {}

    def hear(
        self, state: State, hyper: Any, data: Any, order: jax.Array | Chunk, metrics: dict[str, Any], first: int
    ) -> None:
        """Names the runs that a call has frozen.

        A frozen run's state is that before the step which failed, so the step can be taken again and looked into, whatever call
        has been made since.

        Args:
          state: of the newest call.
          hyper, data, order: what the call was given.
          metrics: of the call, [steps, runs].
          first: number of its first step.
        """
        alive = np.asarray(metrics["alive"])
        frozen = np.flatnonzero(self._alive & ~alive[-1])
        if not len(frozen):
            return
        self._alive = alive[-1]
        steps = (first + np.argmin(alive, axis=0)).astype(
            np.int32
        )  # of runs that live: the first, which they have taken too
        tensors = self._tensors(state, hyper, data, order, steps)
        for i in frozen.tolist():
            step, tensor = int(steps[i]), tensors[i]
            told = f": first not finite: {tensor}" if tensor else ""
            log.warning(
                "%s: run %s diverged in epoch %d at step %d (loss or gradient not finite) and is frozen%s",
                self._name, self._runs[i].name, step // self._program.steps_per_epoch + 1, step + 1, told,
            )  # fmt: skip
            self._found[i] = {"diverged_at": step + 1, **({"not_finite": tensor} if tensor else {})}

    def told(self) -> list[dict[str, Any]]:
        """What has been found since the last time this was asked, for each run's row of metrics."""
        found, self._found = self._found, {}
        return [found.get(i, {}) for i in range(len(self._runs))]

    def _tensors(self, state: State, hyper: Any, data: Any, order: Any, steps: np.ndarray) -> list[str]:
        """The first tensor of each run's step that is not finite; "" where all are or it cannot be told."""
        try:
            sound = processes.fetch(self._examine(state, hyper, data, order, steps))
        except jax.errors.JaxRuntimeError as error:  # no memory for one more program: the others train on all the same
            log.debug("%s: the failed step cannot be looked into (%s)", self._name, error)
            return [""] * len(self._runs)
        return [diagnosis.first_not_finite(jax.tree.map(itemgetter(i), sound)) for i in range(len(self._runs))]

    @cached_property
    def _examine(self) -> Any:
        axes = (0, 0, None, None if self._chunks else 0, 0)
        assert self._program.examine is not None
        return laid_out(over_runs(self._program.examine, axes, self._config.run_axis), axes, self._mesh)
