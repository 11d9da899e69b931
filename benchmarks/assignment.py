"""Pseudo-labels of one view's batch: the solver's steps, time and bytes against the paper's 30 steps and Sinkhorn-Knopp.

  python benchmarks/assignment.py [--batches=512,4096] [--prototypes=3000] [--betas=.5,.6667,.75,.9,.95] [--repeats=9]
      [--step_batch=512]

Rows are `mira` to r <= 1e-5 (`--tol`), the paper's plain iteration to the same residual and for its 30 steps, and Sinkhorn-Knopp
for SwAV's 3 steps and to convergence, all in one compiled call on the same scores. They take turns, so that a ratio (time
over that of `mira` to its tolerance) is the median over the rounds, with its quartiles. "gap" is the duality gap of equation 4
at MIRA's labels: how far at most their objective is above the least. Bytes a step are what a step must read, the scores once for
each of its two products, and beside them what it would take at the measured bandwidth of a copy.

Last, the share of a training step: MIRA's step with a ResNet-18 (CIFAR stem, 32 px, two views, EMA target) at `--step_batch`
images (0: not measured), in turns with the solves of both views alone, on scores of that batch.

Scores are cosines of 256 dimensions: `random` vectors and prototypes; `peaked`, each vector near one of the prototypes, whose
shares fall as 1/rank; `flat`, cosines a tenth as large.
"""

import argparse
import bisect
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from ssljax import assign, sweeps
from ssljax.config import Config, resolve
from ssljax.train import loop
from ssljax.train.step import over_runs

DIMENSIONS = 256
COLUMNS = (
    "scores", "batch", "beta", "solver", "steps", "residual", "gap", "ms", "low", "high", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip


def scores(kind: str, n: int, k: int) -> jax.Array:
    """Cosines [n, k] of one of the kinds above."""
    rng = np.random.default_rng(0)
    prototypes, noise = rng.normal(size=(k, DIMENSIONS)), rng.normal(size=(n, DIMENSIONS))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (prototypes, noise)]
    share = 1 / np.arange(1, k + 1)
    x = unit[0][rng.choice(k, size=n, p=share / share.sum())] + 0.5 * unit[1] if kind == "peaked" else unit[1]
    cosines = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit[0].T
    return jnp.asarray(0.1 * cosines if kind == "flat" else cosines, jnp.float32)


def plain_steps(x: jax.Array, beta: float, tol: float, most: int = 1000) -> int:
    """The fewest plain steps whose residual meets the tolerance, by halving an interval: the residual falls from step to step."""
    solve = jax.jit(assign.mira)
    return bisect.bisect_left(
        range(most), True, key=lambda steps: bool(solve(x, beta=beta, steps=steps).residual <= tol)
    )


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one after another, round after round."""
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for measured in [False] + [True] * repeats:
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if measured:
                milliseconds[name].append(1e3 * (time.perf_counter() - start))
    return milliseconds


def compare(kind: str, n: int, beta: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a solver."""
    x = scores(kind, n, options.prototypes)
    needed = plain_steps(x, beta, options.tol)
    mira = jax.jit(partial(assign.mira, tol=options.tol, max_iter=1000))
    plain = jax.jit(assign.mira)
    sinkhorn = jax.jit(partial(assign.sinkhorn, tol=options.tol, max_iter=200))
    three = jax.jit(partial(assign.sinkhorn, steps=3))
    calls: dict[str, Callable[[], assign.Assignment]] = {
        "mira": lambda: mira(x, beta=beta),
        "the paper's, to r": lambda: plain(x, beta=beta, steps=needed),
        "the paper's 30": lambda: plain(x, beta=beta, steps=30),
    }
    if beta == options.betas[0]:  # Sinkhorn-Knopp knows no beta
        calls["sinkhorn 3"] = lambda: three(x)
        calls["sinkhorn, to r"] = lambda: sinkhorn(x)
    found = {name: call() for name, call in calls.items()}
    milliseconds = in_turns(calls, options.repeats)
    rows = []
    for name, result in found.items():
        low, median, high = statistics.quantiles(milliseconds[name], n=4)
        ratios = [own / ours for own, ours in zip(milliseconds[name], milliseconds["mira"])]
        ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4)
        gap = None if "sinkhorn" in name else float(assign.duality_gap(result.labels, x, beta=beta))
        rows.append(
            dict(scores=kind, batch=n, beta=round(beta, 4), solver=name, steps=int(result.steps), residual=float(result.residual),
                 gap=gap, ms=median, low=low, high=high, ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high)
        )  # fmt: skip
    return rows


def per_step(n: int, options: argparse.Namespace) -> dict[str, Any]:
    """The time of one step by the difference of 60 and 10 steps, and of reading its bytes by that of a copy."""
    x = scores("random", n, options.prototypes)
    solve = jax.jit(assign.mira)
    copy = jax.jit(lambda x, c: x + c)
    calls = {"10": lambda: solve(x, steps=10), "60": lambda: solve(x, steps=60), "copy": lambda: copy(x, 1.0)}
    milliseconds = in_turns(calls, options.repeats)
    step = [(long - short) / 50 for long, short in zip(milliseconds["60"], milliseconds["10"])]
    low, median, high = statistics.quantiles(step, n=4)
    size = 4 * n * options.prototypes
    bandwidth = 2 * size / (1e-3 * statistics.median(milliseconds["copy"]))
    return dict(
        batch=n, solver="one step", ms=median, low=low, high=high, bytes_per_step=2 * size,
        gigabytes_per_second=2 * size / median / 1e6, gigabytes_per_second_of_a_copy=bandwidth / 1e9,
    )  # fmt: skip


def share_of_a_step(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The time of both views' solves over that of a whole training step, one row a kind of scores."""
    n = options.step_batch
    config = Config(
        method="mira",
        preset="solo",
        batch_size=n,
        prototypes=options.prototypes,
        evaluations=(),
        width=options.step_width,
    )
    config = resolve(config)
    images = np.random.default_rng(0).integers(0, 256, (n, config.image_size, config.image_size, 3), dtype=np.uint8)
    trained = loop.prepare(config, sweeps.runs(config), loop.resident(images, (0.5,) * 3, (0.25,) * 3))
    step = loop.sweep_step(config, trained.program, 1)
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    state = trained.state

    def train() -> Any:
        nonlocal state
        state, metrics = step(state, trained.hyper, trained.data, order, 0)
        return metrics

    solve = jax.jit(jax.vmap(partial(assign.mira, tol=options.tol)))
    views = {kind: jnp.stack([scores(kind, n, options.prototypes)] * 2) for kind in options.kinds}
    calls: dict[str, Callable[[], Any]] = {kind: partial(solve, x) for kind, x in views.items()}
    milliseconds = in_turns({**calls, "step": train}, options.repeats)
    rows = []
    for kind, call in calls.items():
        shares = [own / whole for own, whole in zip(milliseconds[kind], milliseconds["step"])]
        low, share, high = statistics.quantiles(shares, n=4)
        rows.append(
            dict(scores=kind, batch=n, beta=round(2 / 3, 4), solver="share of a step", steps=int(call().steps.max()),
                 ms=statistics.median(milliseconds[kind]), step_ms=statistics.median(milliseconds["step"]), share=share,
                 share_low=low, share_high=high, width=options.step_width)
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[512, 4096])
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument(
        "--betas", type=lambda text: [float(beta) for beta in text.split(",")], default=[2 / 3, 0.5, 0.75, 0.9, 0.95]
    )
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=["random", "peaked", "flat"])
    parser.add_argument("--tol", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--step_batch", type=int, default=512)
    parser.add_argument("--step_width", type=float, default=1.0)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for n in options.batches:
        one = per_step(n, options)
        print({name: round(value, 3) if isinstance(value, float) else value for name, value in one.items()})
        rows.append(one)
        for kind in options.kinds:
            for beta in options.betas:
                found = compare(kind, n, beta, options)
                rows += found
                common.show(found, COLUMNS)
    if options.step_batch:
        found = share_of_a_step(options)
        rows += found
        common.show(found, ("scores", "batch", "steps", "ms", "step_ms", "share", "share_low", "share_high"))
    common.write("assignment", rows, vars(options))


if __name__ == "__main__":
    main()
