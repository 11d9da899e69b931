"""Checks that every measure makes of its input, and the one normalisation that some of them use."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError, unknown

Normalize = Literal["none", "l2"]


def feature_matrix(features: ArrayLike, where: str) -> NDArray[np.floating]:
    """`features` as a finite floating-point matrix [n, d]; `UserError` names `where` otherwise."""
    matrix = np.asarray(features)
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"{where}: given an array of shape {matrix.shape}, expected features [n, d]")
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: given NaN or infinity, expected finite features (did the run diverge?)")
    return matrix


def label_vector(labels: ArrayLike, n: int, where: str) -> NDArray[np.integer]:
    """`labels` as an integer vector [n]; `UserError` names `where` otherwise."""
    vector = np.asarray(labels)
    if vector.shape != (n,) or not np.issubdtype(vector.dtype, np.integer):
        raise UserError(
            f"{where}: given labels of shape {vector.shape} and type {vector.dtype}, expected integers [{n}]"
        )
    return vector


def normalized(features: NDArray[np.floating], normalize: Normalize) -> NDArray[np.floating]:
    """Rows divided by their Euclidean length ("l2"; a zero row stays zero), or as they are ("none")."""
    if normalize == "none":
        return features
    if normalize != "l2":
        raise unknown("normalisation", normalize, ("none", "l2"), "normalize")
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)
