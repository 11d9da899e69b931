"""What many runs say together: how each class answers to a transformation. Numpy and scipy, from any per_class.csv.

curves        per-class accuracy against a swept value, from rows
association   correlations of all pairs of classes, opposite pairs
trend         slope of each class, and the variance that the swept value explains
chance        the same of permuted accuracies
bias          all of it for one sweep, what several sweeps share, and the rows of study_*.csv
superclasses  which class belongs to which superclass
properties    what is measured of a class's features and images
groups        class properties against class trends
choice        the setting of a sweep that validation images choose
cells         the papers' claims of cells with verdicts
advice        the value that suits a group of classes, and its cost to the others
findings      the papers' claims with verdicts
convergence   how fast the solvers of pseudo-labels come to rest on trained models
similarity    how alike the encoders of a setting's seeds are
comparison    two settings paired over seeds: difference, interval, permutation test
pairings      which settings are compared with which
reliability   how well measures without labels rank the runs of a sweep

A module is imported from its own name (`from ssljax.study.bias import bias`); `compare` and its result stand here too.
"""

from typing import Any

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # scipy is imported when it is asked for
        from ssljax.study import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
