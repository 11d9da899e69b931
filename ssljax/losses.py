"""Losses: free functions of arrays that return a scalar in float32, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import optax

_EPS = 1e-12  # torch.nn.functional.normalize's floor on a norm

# A product of float32 matrices is rounded to fewer bits on accelerators unless told otherwise (10 bits of TF32 on GPUs).
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def normalize(x: jax.Array) -> jax.Array:
    """Rows of x [..., dim] on the unit sphere, in float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    # The floor stands inside the root: the derivative of a norm at 0 would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), _EPS**2))


def info_nce(query: jax.Array, key: jax.Array, queue: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """InfoNCE with a queue of negatives.

    Args:
      query: [batch, dim], normalised here.
      key: [batch, dim], the positive of each query, normalised here; no gradient flows into it.
      queue: [negatives, dim], unit rows; no gradient flows into it.
      temperature: T > 0.

    Returns:
      Mean over the batch of -log( exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)) ).

    References:
      He et al., 2020 (MoCo), equation 1.
    """
    query = normalize(query)
    key, queue = jax.lax.stop_gradient((normalize(key), queue.astype(jnp.float32)))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    logits = jnp.concatenate([positive, _matmul(query, queue.T)], axis=1) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros(len(logits), jnp.int32)).mean()


def nt_xent(z1: jax.Array, z2: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Normalised temperature-scaled cross entropy over the 2N views of N images.

    Args:
      z1, z2: [batch, dim], the two views, normalised here. Gradients flow into both.
      temperature: T > 0.

    Returns:
      Mean over the 2N views of the cross entropy that picks a view's partner among the 2N - 1 others.

    References:
      Chen et al., 2020 (SimCLR), equation 1.
    """
    z = normalize(jnp.concatenate([z1, z2]))
    n = len(z1)
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, _matmul(z, z.T) / temperature)
    partner = jnp.concatenate([jnp.arange(n, 2 * n), jnp.arange(n)])
    return optax.softmax_cross_entropy_with_integer_labels(logits, partner).mean()


def soft_cross_entropy(logits: jax.Array, targets: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Cross entropy against given probabilities: SwAV's swapped prediction of a view's codes by another view.

    Args:
      logits: [batch, classes], such as the cosines of projections and prototypes.
      targets: [batch, classes], non-negative rows that sum to 1; no gradient flows into them.
      temperature: T > 0.

    Returns:
      Mean over the batch of -sum_k targets_k log softmax(logits/T)_k; at least the entropy of the targets.

    References:
      Caron et al., 2020 (SwAV), equation 2.
    """
    targets = jax.lax.stop_gradient(targets.astype(jnp.float32))
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32) / temperature), axis=-1).mean()


def twist(logits1: jax.Array, logits2: jax.Array, *, eps: float = 1e-5) -> jax.Array:
    """Twin class distributions: equal for the two views, sure of each image, and even over the batch.

    Args:
      logits1, logits2: [batch, classes], the two views; TWIST batch-normalises them first. Gradients flow into both.
      eps: added to probabilities inside the logarithms; the official program's.

    Returns:
      D + H - M, each the mean over the two views or directions, p and q the views' softmaxes: D of mean_i KL(p_i || q_i),
      H of mean_i entropy(p_i), M of entropy(mean_i p_i). At least -log(classes), where every image has one sure class,
      the same in both views, and the classes are even.

    References:
      Feng et al., 2021 (TWIST), equations 1 to 3.
    """
    p, q = (jax.nn.softmax(logits.astype(jnp.float32)) for logits in (logits1, logits2))

    def entropy(probabilities: jax.Array) -> jax.Array:
        return -jnp.sum(probabilities * jnp.log(probabilities + eps), axis=-1)

    divergence = jnp.sum((p - q) * (jnp.log(p + eps) - jnp.log(q + eps)), axis=-1).mean()
    rows = entropy(p).mean() + entropy(q).mean()
    marginals = entropy(p.mean(axis=0)) + entropy(q.mean(axis=0))
    return (divergence + rows - marginals) / 2


def dino(
    student: jax.Array,
    target: jax.Array,
    center: jax.Array,
    temperature: jax.Array | float,
    target_temperature: jax.Array | float,
) -> jax.Array:
    """Self-distillation for one pair of views: the student predicts the target's centred, sharpened output.

    Args:
      student, target: [batch, prototypes], the two networks' logits; no gradient flows into the target's.
      center: [prototypes], the running mean of the target's logits; no gradient flows into it.
      temperature: T > 0, the student's.
      target_temperature: T_t > 0, the target's; smaller is sharper.

    Returns:
      Mean over the batch of the cross entropy of softmax(student/T) under softmax((target - center)/T_t).

    References:
      Caron et al., 2021 (DINO), equation 2 and algorithm 1.
    """
    centred = target.astype(jnp.float32) - center.astype(jnp.float32)
    return soft_cross_entropy(student, jax.nn.softmax(centred / target_temperature), temperature)


def ressl(
    query: jax.Array,
    key: jax.Array,
    queue: jax.Array,
    temperature: jax.Array | float,
    target_temperature: jax.Array | float,
) -> jax.Array:
    """Relational distillation: the query is to relate to the queue's rows as its key does.

    Args:
      query: [batch, dim], the strongly transformed view, normalised here.
      key: [batch, dim], the target's output for the weak view, normalised here; no gradient flows into it.
      queue: [others, dim], unit rows; no gradient flows into it.
      temperature: T > 0, of the query's relation.
      target_temperature: T_t in (0, T), of the key's relation.

    Returns:
      Mean over the batch of the cross entropy of softmax(q.queue/T) under softmax(k.queue/T_t).

    References:
      Zheng et al., 2021 (ReSSL), section 3.2.
    """
    queue = jax.lax.stop_gradient(queue.astype(jnp.float32))
    relation = jax.nn.softmax(_matmul(normalize(key), queue.T) / target_temperature)
    return soft_cross_entropy(_matmul(normalize(query), queue.T), relation, temperature)


def deepcluster(logits: jax.Array, assignment: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Cross entropy against cluster assignments, some of which may be unknown.

    Args:
      logits: [batch, clusters], the cosines of projections and centroids.
      assignment: [batch], integer clusters; rows whose assignment is negative do not count.
      temperature: T > 0.

    Returns:
      Mean over the rows that count of -log softmax(logits/T)[assignment]; 0 if none does.

    References:
      Caron et al., 2018 (DeepCluster), equation 1; Caron et al., 2020 (SwAV), appendix, for version 2's cosines.
    """
    known = assignment >= 0
    entropies = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32) / temperature, jnp.maximum(assignment, 0)
    )
    return jnp.sum(jnp.where(known, entropies, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy with labels.

    Args:
      logits: [batch, classes].
      labels: [batch], whole numbers below classes.

    Returns:
      Mean over the batch of -log softmax(logits)[label].
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def nnclr(neighbor: jax.Array, p: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """InfoNCE between the neighbours of one view and the predictions of the other, one direction.

    Args:
      neighbor: [batch, dim], for each image the row of the support set nearest to its one view, normalised here;
        no gradient flows into it.
      p: [batch, dim], predictor output of the other view, normalised here.
      temperature: T > 0.

    Returns:
      Mean over the batch of -log( exp(n_i.p_i/T) / sum_j exp(n_i.p_j/T) ): a row is a neighbour, and the other
      images' predictions are its negatives.

    References:
      Dwibedi et al., 2021 (NNCLR), equation 3.
    """
    logits = _matmul(jax.lax.stop_gradient(normalize(neighbor)), normalize(p).T) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits))).mean()


def mocov3(p: jax.Array, k: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """InfoNCE among the images of a batch, one direction; the method sums two.

    Args:
      p: [batch, dim], predictor output, normalised here.
      k: [batch, dim], the target's output for the other view, normalised here; no gradient flows into it.
      temperature: T > 0.

    Returns:
      2T times the mean over the batch of -log( exp(p_i.k_i/T) / sum_j exp(p_i.k_j/T) ).

    References:
      Chen, Xie and He, 2021 (MoCo v3), equation 1 and algorithm 1.
    """
    logits = _matmul(normalize(p), jax.lax.stop_gradient(normalize(k)).T) / temperature
    entropies = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits)))
    return 2 * temperature * entropies.mean()


def byol(p: jax.Array, k: jax.Array) -> jax.Array:
    """Squared distance of unit vectors, one direction; the method sums two.

    Args:
      p: [batch, dim], predictor output, normalised here.
      k: [batch, dim], the target's output for the other view, normalised here; no gradient flows into it.

    Returns:
      Mean over the batch of 2 - 2 cos(p, k), in [0, 4].

    References:
      Grill et al., 2020 (BYOL), equation 2.
    """
    return 2 - 2 * _mean_cosine(p, k)


def simsiam(p: jax.Array, z: jax.Array) -> jax.Array:
    """Negative cosine, one direction; the method averages two.

    Args:
      p: [batch, dim], predictor output, normalised here.
      z: [batch, dim], the other view's projector output, normalised here; no gradient flows into it.

    Returns:
      Mean over the batch of -cos(p, z), in [-1, 1].

    References:
      Chen and He, 2021 (SimSiam), equation 3.
    """
    return -_mean_cosine(p, z)


def _mean_cosine(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.sum(normalize(prediction) * jax.lax.stop_gradient(normalize(target)), axis=-1).mean()


def barlow_twins(
    z1: jax.Array, z2: jax.Array, *, lambda_: jax.Array | float = 0.0051, scale: jax.Array | float = 0.1
) -> jax.Array:
    """Redundancy reduction: the cross-correlation of the views' features is to be the identity.

    Args:
      z1, z2: [batch, dim], the two views; columns are standardised here. Gradients flow into both.
      lambda_: weight of the off-diagonal terms; .0051 is the paper's (section 2.2).
      scale: of the whole; .1 is solo-learn's on CIFAR.

    Returns:
      scale ( sum_i (C_ii - 1)^2 + lambda_ sum_{i != j} C_ij^2 ), C = z1^T z2 / batch of the standardised columns
      (biased variance, eps 1e-5).

    References:
      Zbontar et al., 2021 (Barlow Twins), equations 1 and 2.
    """
    correlation = _matmul(_standardize(z1).T, _standardize(z2)) / len(z1)
    on_diagonal = jnp.sum((jnp.diagonal(correlation) - 1) ** 2)
    return scale * (on_diagonal + lambda_ * jnp.sum(_off_diagonal(correlation) ** 2))


def vicreg(
    z1: jax.Array,
    z2: jax.Array,
    *,
    invariance: jax.Array | float,
    variance: jax.Array | float,
    covariance: jax.Array | float,
) -> jax.Array:
    """Variance, invariance, covariance: equal views whose features vary and do not covary.

    Args:
      z1, z2: [batch, dim], the two views, batch of 2 or more. Gradients flow into both.
      invariance, variance, covariance: the weights; 25, 25 and 1 in the paper.

    Returns:
      invariance * mean squared difference of all entries
      + variance * sum over the views of mean_j max(0, 1 - sqrt(Var_j + 1e-4))
      + covariance * sum over the views of sum_{i != j} Cov_ij^2 / dim, with unbiased Var and Cov.

    References:
      Bardes et al., 2022 (VICReg), equations 1 to 6; its equation 5 sums the squared differences over dim, its own
      program and everyone's weights take the mean.
    """
    centred = _centre(z1), _centre(z2)
    covariances = [_matmul(c.T, c) / (len(c) - 1) for c in centred]
    decorrelation = sum(jnp.sum(_off_diagonal(c) ** 2) / len(c) for c in covariances)
    hinges = _variance_hinge(centred[0]) + _variance_hinge(centred[1])
    return invariance * _mean_squared(z1, z2) + variance * hinges + covariance * decorrelation


def vibcreg(
    z1: jax.Array,
    z2: jax.Array,
    *,
    invariance: jax.Array | float,
    variance: jax.Array | float,
    covariance: jax.Array | float,
) -> jax.Array:
    """VICReg with the correlation in place of the covariance, so that its size does not depend on the features'.

    Args:
      z1, z2: [batch, dim], the two views, batch of 2 or more. Gradients flow into both.
      invariance, variance, covariance: the weights; 25, 25 and 200 in the papers.

    Returns:
      The invariance and variance terms of `vicreg`, + covariance * sum over the views of the mean over all dim^2
      entries of R_ij^2, R the correlation matrix with its diagonal zeroed.

    References:
      Lee and Aune, 2021 (VIbCReg), section 3.
    """
    centred = _centre(z1), _centre(z2)
    columns = [normalize(c.T) for c in centred]
    decorrelation = sum(jnp.mean(_off_diagonal(_matmul(c, c.T)) ** 2) for c in columns)
    hinges = _variance_hinge(centred[0]) + _variance_hinge(centred[1])
    return invariance * _mean_squared(z1, z2) + variance * hinges + covariance * decorrelation


def _mean_squared(z1: jax.Array, z2: jax.Array) -> jax.Array:
    return jnp.mean((z1.astype(jnp.float32) - z2.astype(jnp.float32)) ** 2)


def _centre(z: jax.Array) -> jax.Array:
    z = z.astype(jnp.float32)
    # Measured from the first row, a constant column is exactly 0. The rounding of its mean would leave a residue, equal in
    # every such column, and normalising that makes collapsed features perfectly correlated ones.
    z = z - jax.lax.stop_gradient(z[0])
    return z - z.mean(axis=0)


def _standardize(z: jax.Array) -> jax.Array:
    centred = _centre(z)
    # eps 1e-5: Barlow Twins standardises by a batch normalisation without affine part.
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=0) + 1e-5)


def _variance_hinge(centred: jax.Array) -> jax.Array:
    variance = jnp.sum(centred**2, axis=0) / (len(centred) - 1)
    # 1e-4 inside the root: VICReg's equation 2; there it also keeps the derivative finite where a feature is constant.
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(variance + 1e-4)))


def _off_diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.where(jnp.eye(len(matrix), dtype=bool), 0.0, matrix)
