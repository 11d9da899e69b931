"""Soft pseudo-labels of a batch: MIRA's and Sinkhorn-Knopp's, each with a certificate of how far it has converged."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

# Earlier steps that an accelerated one combines. Measured on six kinds of scores, 256 x 600, to a residual of 1e-5: at beta
# 2/3 and .9, 1 needs up to 13 and 47 steps, 2 up to 11 and 40, 3 up to 11 and 35, 5 up to 11 and 34, none 22 and 104.
_DEPTH = 3

_matvec = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Assignment(NamedTuple):
    """Soft labels of a batch, in float32, or in float64 for float64 scores.

    labels: [n, k]; rows sum to 1.
    marginal: [k], the mean row, over all shards of the batch.
    steps: int32, the solver's steps; each reads all n x k scores. Forming the labels at the end is not counted.
    residual: the certificate: the L1 distance of `marginal` from what it would be at the solution, sum_j |marginal_j - u_j|
      for MIRA, whose labels are a function of u, and sum_j |marginal_j - 1/k| for Sinkhorn-Knopp.
    """

    labels: jax.Array
    marginal: jax.Array
    steps: jax.Array
    residual: jax.Array


class _Search(NamedTuple):
    """Where the search for MIRA's marginal stands; all but the scalars are logarithms of [k] probabilities or changes of such.

    log_u, defect, residual: the point the search is at, log marginal(w(u)) - log u there, and its residual.
    moves, turns: [depth, k], differences of log_u and of defect between successive points, newest first; zero where unused.
    candidate: the next point to evaluate. steps: evaluations so far.
    """

    log_u: jax.Array
    defect: jax.Array
    residual: jax.Array
    moves: jax.Array
    turns: jax.Array
    candidate: jax.Array
    steps: jax.Array


def mira(
    logits: jax.Array,
    *,
    temperature: jax.Array | float = 0.225,
    beta: jax.Array | float = 2 / 3,
    tol: jax.Array | float = 1e-5,
    max_iter: jax.Array | int = 50,
    steps: jax.Array | int | None = None,
    axis_name: str | None = None,
) -> Assignment:
    """Soft labels that tell more about which sample they belong to than the model's probabilities p, yet stay close to them.

    They minimise mean KL(w || p) - beta I(label; sample), a convex problem. Its one solution is w_ij proportional to
    p_ij^(1/(1-beta)) u_j^(-beta/(1-beta)), where u is the mean of the rows w_i themselves. No equal use of the labels is imposed.

    Without `steps` the fixed point is searched for by the paper's iteration, log u + (1 - beta) (log marginal(w(u)) - log u),
    from uniform u, sped up by Anderson acceleration: the iteration's defect is nearly linear in log u near the solution, so
    differences between earlier points say how to cancel most of it. A sped-up step that does not lower the residual is
    replaced by a plain one. With `steps`, the paper's plain iteration runs that often; where it starts (any constant u)
    does not matter to the labels.

    Args:
      logits: [n, k] of any float type, of any size; p = softmax(logits / temperature).
      temperature: > 0; .225 is the paper's.
      beta: weight of the mutual information, in [0, 1); 2/3 is the paper's, 0 gives p. The nearer to 1, the more steps:
        cosines take up to 12 at 2/3, 40 at .9 and 60 at .95 in float32; float64 to 1e-10 about twice as many.
      tol: residual at which the search ends; float32 rounds it to some 1e-6, and float64 is good for 1e-10.
      max_iter: the most steps of the search; look at `residual` to know whether they were enough.
      steps: run this many plain steps instead; 30 are the paper's.
      axis_name: the mesh or vmap axis that the batch is spread over in equal parts, if it is; the marginal is then that of
        the whole batch.

    Returns:
      The labels with their marginal, steps and residual. Entries of the marginal below the smallest normal number count as
      zero.

    References:
      Lee et al., 2022 (MIRA), equations 5 to 7; Walker and Ni, 2011, for Anderson acceleration.
    """
    logits = jnp.asarray(logits)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits, temperature, beta = jax.lax.stop_gradient((logits.astype(dtype), temperature, jnp.asarray(beta, dtype)))
    n, k = logits.shape
    # Logarithms of p^(1/(1-beta)), up to a factor a row.
    exponents = (logits - jnp.max(logits, axis=1, keepdims=True)) / (temperature * (1 - beta))
    odds = beta / (1 - beta)
    tiny = jnp.finfo(dtype).tiny
    # Log of the factor by which a column may outgrow the kernel below: what underflowed there stays below sqrt(tiny).
    drift_limit = -jnp.log(tiny) / 4
    depth = 0 if steps is not None else _DEPTH
    last = max_iter if steps is None else steps

    def labels_of(log_u: jax.Array) -> jax.Array:
        return jax.nn.softmax(exponents - odds * log_u, axis=1)

    def mean(x: jax.Array) -> jax.Array:
        return x if axis_name is None else jax.lax.pmean(x, axis_name)

    def unfinished(search: _Search) -> jax.Array:
        return (search.steps < last) & ((search.residual > tol) | (steps is not None))

    def search_on(search: _Search) -> _Search:
        # Labels at one point make a kernel that gives those nearby by two products, several times faster than anew.
        origin = search.candidate
        kernel = labels_of(origin)

        def near(search: _Search) -> jax.Array:
            return odds * jnp.max(jnp.abs(search.candidate - origin)) <= drift_limit

        def step(search: _Search) -> _Search:
            log_u = search.candidate
            columns = jnp.exp(odds * (origin - log_u))
            marginal = mean(_matvec(1 / _matvec(kernel, columns), kernel) / n) * columns
            # A label that nobody has: without the floor its logarithm would be infinite, with it the iteration still contracts.
            defect = jnp.log(jnp.maximum(marginal, tiny)) - log_u
            residual = jnp.sum(jnp.abs(marginal - jnp.exp(log_u)))
            accepted = (residual < search.residual) | ~jnp.any(search.turns)
            known = accepted & (search.steps > 0)
            point, defect_there, lowest = (
                jnp.where(accepted, new, old)
                for new, old in ((log_u, search.log_u), (defect, search.defect), (residual, search.residual))
            )
            moves = jnp.where(known, _pushed(search.moves, log_u - search.log_u), 0)
            turns = jnp.where(known, _pushed(search.turns, defect - search.defect), 0)
            candidate = _normalised(_anderson(point, defect_there, moves, turns, 1 - beta))
            return _Search(point, defect_there, lowest, moves, turns, candidate, search.steps + 1)

        return jax.lax.while_loop(lambda search: unfinished(search) & near(search), step, search)

    uniform = jnp.full(k, -jnp.log(k), dtype)
    nothing = jnp.zeros((depth, k), dtype)
    start = _Search(uniform, jnp.zeros(k, dtype), jnp.asarray(jnp.inf, dtype), nothing, nothing, uniform, jnp.int32(0))
    search = jax.lax.while_loop(unfinished, search_on, start)
    # One plain step beyond the point that met the tolerance, for its defect is at hand. (An accelerated one, which nobody
    # would check, may be far off.)
    log_u = _normalised(search.log_u + (1 - beta) * search.defect)
    labels = labels_of(log_u)
    marginal = mean(jnp.mean(labels, axis=0))
    return Assignment(labels, marginal, search.steps, jnp.sum(jnp.abs(marginal - jnp.exp(log_u))))


def _normalised(log_u: jax.Array) -> jax.Array:
    return log_u - logsumexp(log_u)


def _pushed(history: jax.Array, newest: jax.Array) -> jax.Array:
    return jnp.concatenate([newest[None], history])[: len(history)]


def _anderson(log_u: jax.Array, defect: jax.Array, moves: jax.Array, turns: jax.Array, step: jax.Array) -> jax.Array:
    """The next point: first the combination of moves whose turns cancel most of the defect, then a step along what is left.

    "Most" is measured with weights u, in which the iteration's Jacobian is symmetric; the projection is by Gram-Schmidt,
    which needs no solver and takes unused (zero) turns as they are.
    """
    u = jnp.exp(log_u)
    pairs = list(zip(moves, turns))
    noise = jnp.finfo(u.dtype).eps * jnp.sum(u * turns**2, axis=1)
    for i, (move, turn) in enumerate(pairs):
        square = jnp.sum(u * turn**2)

        def share(x: jax.Array, turn: jax.Array = turn, square: jax.Array = square, i: int = i) -> jax.Array:
            return jnp.where(square > noise[i], jnp.sum(u * turn * x) / jnp.where(square > 0, square, 1), 0)

        part = share(defect)
        log_u, defect = log_u - part * move, defect - part * turn
        pairs[i + 1 :] = [(m - share(t) * move, t - share(t) * turn) for m, t in pairs[i + 1 :]]
    return log_u + step * defect


def sinkhorn(
    scores: jax.Array,
    *,
    epsilon: jax.Array | float = 0.05,
    tol: jax.Array | float = 1e-5,
    max_iter: jax.Array | int = 50,
    steps: jax.Array | int | None = None,
) -> Assignment:
    """Soft assignments of samples to prototypes that use every prototype equally.

    Scales exp(scores / epsilon) to prototypes' marginals 1/k and samples' marginals 1/n in turn, the samples' last; then
    multiplies by n. The scaling factors are kept as logarithms, so no score over- or underflows.

    Args:
      scores: [n, k], samples by prototypes, such as cosines.
      epsilon: entropic regularisation > 0; .05 is SwAV's.
      tol: residual at which the scaling ends.
      max_iter: the most pairs of scalings; at least one is made.
      steps: make this many pairs of scalings instead, >= 1; 3 are SwAV's.

    Returns:
      The labels with their marginal (1/k in the limit), steps (pairs of scalings) and residual.

    References:
      Caron et al., 2020 (SwAV), equations 3 to 5 and its appendix's pseudocode; Cuturi, 2013, algorithm 1.
    """
    scores = jnp.asarray(scores)
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    log_kernel = jax.lax.stop_gradient(scores.astype(dtype) / epsilon)
    n, k = log_kernel.shape

    # In units of 1/n: rows sum to 1, columns to n/k.
    def samples_of(prototypes: jax.Array) -> jax.Array:
        return -logsumexp(log_kernel + prototypes, axis=1, keepdims=True)

    def prototypes_of(samples: jax.Array) -> jax.Array:
        return jnp.log(n / k) - logsumexp(log_kernel + samples, axis=0)

    first = prototypes_of(jnp.zeros((n, 1), dtype))
    if steps is not None:
        count = jnp.asarray(steps, jnp.int32)
        prototypes = jax.lax.fori_loop(1, count, lambda _, prototypes: prototypes_of(samples_of(prototypes)), first)
    else:

        def step(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            _, prototypes, count = state
            return prototypes, prototypes_of(samples_of(prototypes)), count + 1

        def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            # The next scaling divides each column by k times its marginal.
            prototypes, following, count = state
            return (jnp.mean(jnp.abs(jnp.expm1(prototypes - following))) > tol) & (count < max_iter)

        one = (first, prototypes_of(samples_of(first)), jnp.int32(1))
        prototypes, _, count = jax.lax.while_loop(unfinished, step, one)
    labels = jax.nn.softmax(log_kernel + prototypes, axis=1)
    marginal = jnp.mean(labels, axis=0)
    return Assignment(labels, marginal, count, jnp.sum(jnp.abs(marginal - 1 / k)))


def sinkhorn_knopp(scores: jax.Array, epsilon: jax.Array | float = 0.05, iterations: jax.Array | int = 3) -> jax.Array:
    """SwAV's codes: the labels of `sinkhorn` after a number of pairs of scalings, >= 1; [n, k] in float32."""
    return sinkhorn(scores.astype(jnp.float32), epsilon=epsilon, steps=iterations).labels
