"""What the interactive part of a bias study's page works on, as JSON inside the page, with its script."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssljax.report import bias_words as words
from ssljax.report import frame
from ssljax.report.bias_sweeps import Group, Sweep, class_means, clustered_order
from ssljax.report.figures import COLORS
from ssljax.study.bias import opposed_pairs

PAIRS = 40  # most opposed pairs to choose from (our choice)


def place(index: int) -> str:
    """Where the interactive part of the group of that index goes."""
    return f'<div data-bias="{index}"></div>'


def script(groups: Sequence[Group], choose: Sequence[str]) -> str:
    """Data and script of the whole page; stands after everything that it acts on."""
    data = {"colors": COLORS, "groups": [_group(group, choose) for group in groups]}
    # "<" inside JSON strings is escaped, so that no class name can end the element.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="bias-data">{text}</script>\n{frame.script("bias.js")}'


def _group(group: Group, choose: Sequence[str]) -> dict[str, Any]:
    classes = group.sweeps[0].runs.curves.classes
    above: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        if name in group.superclasses:
            above.setdefault(group.superclasses[name], []).append(index)
    return {
        "axis": words.swept_name(group.swept),
        "quantity": words.quantity(group),
        "classes": list(classes),
        "order": clustered_order(group),
        "superclasses": dict(sorted(above.items())),
        "chosen": [classes.index(name) for name in choose if name in classes],
        "methods": [_method(sweep) for sweep in group.sweeps],
    }


def _method(sweep: Sweep) -> dict[str, Any]:
    one = sweep.runs
    where = {name: index for index, name in enumerate(one.curves.classes)}

    def table(values: NDArray[np.float64]) -> list[list[float | None]]:
        """[V, C] as C lists of V."""
        return [_rounded(column, 4) for column in values.T]

    means, deviations = class_means(one.curves)
    validation = None
    if sweep.validation is not None:
        overall = np.nanmean(sweep.validation.overall, axis=1)
        scored = dict(zip(sweep.validation.classes, table(class_means(sweep.validation)[0]), strict=True))
        validation = {"mean": [scored.get(name) for name in where], "overall": _rounded(overall, 4)}
    upper = 100 * one.found["pearson"].coefficient[np.triu_indices(len(where), 1)]
    return {
        "name": sweep.label,
        "values": _rounded(one.curves.values, 12),
        "mean": table(means),
        "sd": table(deviations),
        "overall": _rounded(np.nanmean(one.curves.overall, axis=1), 4),
        "r": [round(value) if np.isfinite(value) else None for value in upper],
        "pairs": [[where[a], where[b], round(low, 2)] for a, b, low, _ in opposed_pairs(one)[:PAIRS]],
        "validation": validation,
    }


def _rounded(values: NDArray[np.float64], digits: int) -> list[float | None]:
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
