"""How fast the solvers of pseudo-labels converge: MIRA's iteration and Sinkhorn-Knopp on the same scores (MIRA's Figure 2).

Both solvers' labels are softmax(kernel + v) with one number v_j a prototype; m(v) is their marginal. From v = 0,

    MIRA:            kernel = scores / (T (1 - beta)),    v <- beta (v - log k m(v)),
    Sinkhorn-Knopp:  kernel = scores / epsilon,           v <- v - log k m(v),

where v is -beta / (1 - beta) log u in the paper's words, up to a constant, which labels do not see. Sinkhorn-Knopp is MIRA's
iteration without damping, but for its first step, which scales the columns before any rows.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from ssljax import assign
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.evaluate.features import random_scores
from ssljax.evaluate.measure import Measurement
from ssljax.train.loop import Trained

log = logging.getLogger("ssljax")

NAME = "convergence"  # of the evaluation
SHOWN = 100  # steps of a curve: the figure's
CONVERGED = 1000  # steps after which labels count as the solution (section 4.3)
LEVELS = (1e-3, 1e-6, 1e-9)  # errors whose first step is told
COMPARED = LEVELS[1]  # the one by which a solver is called faster
MARKED = (3, 30)  # steps whose errors are told: SwAV's and MIRA's defaults

# The accelerated search in float64 ends here; its labels then are the solution's to some 1e-12.
_RESIDUAL = 1e-12

_matvec = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Problem(NamedTuple):
    """What turns scores into labels: MIRA's temperature and weight of the information, Sinkhorn-Knopp's epsilon."""

    temperature: float = 0.225  # MIRA's paper, section 4.1
    beta: float = 2 / 3
    epsilon: float = 0.05  # Caron et al., 2020


class Curves(NamedTuple):
    """What became of the labels of a batch, or the mean over batches; arrays of float64, in the order of `SOLVERS`.

    Attributes:
      errors: [solvers, SHOWN], sums over a batch of the squared differences of the labels after 1, 2, ... steps from the solution.
      flatness: [solvers], the mean entropy of the rows of softmax(kernel), as a share of the highest: 1 where all scores of a
        row are equal.
    """

    errors: np.ndarray
    flatness: np.ndarray


SOLVERS = ("mira", "sinkhorn", "mira_accelerated")
TITLES = dict(zip(SOLVERS, ("MIRA", "Sinkhorn-Knopp", "MIRA, accelerated")))


def problem_of(hyper: Mapping[str, Any]) -> Problem:
    """The solvers' settings for one run: its own numbers where its method has them, MIRA's weight as at the last step.

    Args:
      hyper: the run's traced numbers.
    """
    default = Problem()
    own = hyper if "beta" in hyper else {}
    return Problem(
        float(own.get("target_temperature", default.temperature)),
        float(own["beta"]["final"]) if own else default.beta,
        float(hyper.get("sinkhorn", {}).get("epsilon", default.epsilon)),
    )


def curves(scores: np.ndarray, problem: Problem) -> Curves:
    """The three solvers on the scores of one batch, in float64.

    The accelerated solver's labels after t steps are those that `assign.mira` gives with `max_iter` t; its solution is the plain
    solver's.

    Args:
      scores: [n, k], such as cosines of samples with prototypes.
      problem: the solvers' settings.
    """
    with jax.enable_x64(True):
        found: tuple[jax.Array, jax.Array] = _curves(
            jnp.asarray(scores, jnp.float64), Problem(*map(jnp.float64, problem))
        )
        return Curves(*map(np.asarray, found))


@jax.jit
def _curves(scores: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array]:
    temperature, beta, epsilon = problem
    of_mira, of_sinkhorn = scores / (temperature * (1 - beta)), scores / epsilon
    scaled = -logsumexp(of_sinkhorn, axis=0)  # Sinkhorn-Knopp's first step: columns, of rows as they are
    damped = -beta * jnp.log(scores.shape[1] * jnp.mean(jax.nn.softmax(of_mira, axis=1), axis=0))
    mira, solution = _errors(of_mira, damped, beta)
    sinkhorn, _ = _errors(of_sinkhorn, scaled, 1.0)

    def accelerated(most: jax.Array) -> jax.Array:
        found = assign.mira(scores, temperature=temperature, beta=beta, tol=_RESIDUAL, max_iter=most)
        return jnp.sum((found.labels - solution) ** 2)

    fast = jax.lax.map(accelerated, jnp.arange(1, SHOWN + 1))
    flat, flat_of_sinkhorn = (
        assign.mutual_information(jax.nn.softmax(kernel, axis=1)).row / jnp.log(scores.shape[1])
        for kernel in (of_mira, of_sinkhorn)
    )
    return jnp.stack([mira, sinkhorn, fast]), jnp.stack([flat, flat_of_sinkhorn, flat])


def _errors(kernel: jax.Array, first: jax.Array, damping: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Squared errors [SHOWN] of the labels of v <- damping (v - log k m(v)), and their solution [n, k].

    Args:
      kernel: [n, k].
      first: v after the first step.
      damping: beta, or 1.
    """
    # Labels at the first step give those of the others by two matrix-vector products, without a new exponential of n x k.
    origin = jax.nn.softmax(kernel + first, axis=1)

    def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        since = v - first
        rows = _matvec(origin, jnp.exp(since))
        excess = since + jnp.log(_matvec(1 / rows, origin) * (kernel.shape[1] / len(kernel)))  # log k m
        return damping * (v - excess), v

    def labels_of(v: jax.Array) -> jax.Array:
        return jax.nn.softmax(kernel + v, axis=1)

    after, shown = jax.lax.scan(step, first, length=SHOWN)
    last, _ = jax.lax.scan(lambda v, _: (step(v, None)[0], None), after, length=CONVERGED - SHOWN - 1)
    solution = labels_of(last)
    return jax.lax.map(lambda v: jnp.sum((labels_of(v) - solution) ** 2), shown), solution


def of_runs(config: Config, trained: Trained) -> list[Curves]:
    """The mean curves of each run over `config.convergence_batches` random batches of its training images.

    Args:
      config: resolved.
      trained: runs of a method with `scores`.
    """
    problems = [problem_of(jax.tree.map(lambda leaf, i=i: leaf[i], trained.hyper)) for i in range(len(trained.runs))]
    count, told = config.convergence_batches, time.monotonic()
    sums: list[Curves] = []
    batches = random_scores(config, trained, batches=count, batch_size=config.convergence_batch_size)
    for number, scores in enumerate(batches):
        if time.monotonic() - told > 15:
            log.info("convergence: %d of %d batches", number, count)
            told = time.monotonic()
        found = list(map(curves, scores, problems))
        sums = [Curves(*map(np.add, *each)) for each in zip(sums, found)] if sums else found
    return [Curves(each.errors / count, each.flatness / count) for each in sums]


def measurements(found: Curves) -> list[Measurement]:
    """Rows `convergence@SOLVER`: steps_to_LEVEL (where it is reached within `SHOWN` steps), sse_STEP, flatness."""
    rows = []
    for solver, errors, flatness in zip(SOLVERS, found.errors, found.flatness, strict=True):
        values: dict[str, float | None] = {f"steps_to_{level_text(level)}": steps_to(errors, level) for level in LEVELS}
        values |= {f"sse_{step}": float(errors[step - 1]) for step in MARKED}
        values["flatness"] = float(flatness)
        rows += [
            Measurement(f"{NAME}@{solver}", "", metric, float(value))
            for metric, value in values.items()
            if value is not None and np.isfinite(value)
        ]
    return rows


def check(config: Config, scored: bool) -> None:
    """Raises `UserError` if the evaluation is asked for of what has no scores to solve.

    Args:
      config: resolved.
      scored: whether the method has `scores`.
    """
    if NAME in config.evaluations and not scored:
        what = f"--pretrained={config.pretrained}" if config.pretrained else f"--method={config.method}"
        what += " with a second loss" if config.second is not None else ""
        raise UserError(f"--evaluations: {NAME} is of a method that solves for its labels (mira, swav), given {what}")


def level_text(level: float) -> str:
    """A power of ten as it is called here: 1e-6."""
    return f"{level:.0e}".replace("e-0", "e-")


def steps_to(errors: np.ndarray, level: float) -> int | None:
    """The first step whose error, and every later one, is at most `level`; None where the last one is above."""
    above = np.flatnonzero(~(errors <= level))
    first = int(above[-1]) + 2 if len(above) else 1
    return first if first <= len(errors) else None
