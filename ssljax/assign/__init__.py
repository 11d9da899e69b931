"""Pseudo-label solvers: MIRA, Sinkhorn-Knopp, spherical k-means, the nearest row of a queue. No gradient passes any of them.

They take arrays and return arrays in float32 (the soft ones in float64 for float64 scores), and work inside `jit`,
`grad` and `vmap` over runs; temperatures, beta and a fixed number of iterations may be traced.
"""

from ssljax.assign.clustering import KMeans, nearest, spherical_kmeans
from ssljax.assign.information import Information, duality_gap, mira_objective, mutual_information
from ssljax.assign.soft import Assignment, mira, sinkhorn, sinkhorn_knopp

__all__ = [
    "Assignment", "Information", "KMeans", "duality_gap", "mira", "mira_objective", "mutual_information", "nearest", "sinkhorn",
    "sinkhorn_knopp", "spherical_kmeans",
]  # fmt: skip
