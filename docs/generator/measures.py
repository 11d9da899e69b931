"""The measures with their formulas, from the docstrings of what computes them, and the columns of the tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from generator.text import prose, table
from ssljax import cost
from ssljax.config import EVALUATIONS, fields
from ssljax.data.transfer import metric_of
from ssljax.evaluate import clustering, knn, logreg, mechanisms, scores, unlabelled
from ssljax.evaluate.results import CLASS_COLUMN, RUN_COLUMNS, SETTING_COLUMNS, VALUE_COLUMNS
from ssljax.models import lpips
from ssljax.report import bias_tables, tables
from ssljax.study import bias, comparison, groups, properties, reliability
from ssljax.study import convergence as solvers

# Heading -> metric as results.csv has it -> what computes it.
MEASURES: dict[str, dict[str, Callable[..., Any]]] = {
    "Classification": {
        "top1, top5": scores.top_k,
        "accuracy, mean_per_class": scores.per_class_accuracy,
        "f1": scores.per_class_f1,
        "ap11": scores.average_precision_11,
        "map11": scores.map11,
    },
    "Classifiers": {"knn": knn.knn_scores, "logreg, lambda": logreg.fit_scores},
    "Clusters": {
        "kmeans": clustering.kmeans,
        "ami": clustering.adjusted_mutual_information,
        "silhouette": clustering.silhouette,
    },
    "Without labels": {
        "rankme": unlabelled.rankme,
        "lidar": unlabelled.lidar,
        "alpha, alpha_r2": unlabelled.alpha_req,
        "alignment": unlabelled.alignment,
        "uniformity": unlabelled.uniformity,
        "collapse": unlabelled.collapse,
        "linear_cka": unlabelled.linear_cka,
    },
    "Views": {"lpips": lpips.lpips},
    "Class properties": {
        "intrinsic_dimension, intrinsic_dimension_mle, spectrum, spectrum_decay": properties.of_features,
        "texture, texture_homogeneity, texture_energy, fourier": properties.of_images,
        "anova": groups.anova,
        "manova": groups.manova,
    },
    "Profiles of cells": {
        "nsc": mechanisms.nsc,
        "nscb": mechanisms.nscb,
        "accuracy, chance of plate and batch": mechanisms.predictability,
    },
    "Solvers of pseudo-labels": {"sse, steps_to, flatness": solvers.curves},
    "Cost of training": {"memory_gb": cost.memory, "seconds_per_epoch": cost.seconds_per_epoch},
    "Over a sweep": {
        "bias of classes": bias.bias,
        "two settings compared": comparison.compare,
        "which measure to believe": reliability.reliability,
    },
}

# (evaluation, target, metric) as results.csv and per_class.csv have them -> what it is. {...} stands for a value.
_CLASSIFIERS = "linear, knn, finetune, logreg"
_PROPERTIES = ", ".join((*properties.FEATURE_PROPERTIES, *properties.IMAGE_PROPERTIES))
ROWS: list[tuple[str, str, str, str]] = [
    (
        _CLASSIFIERS,
        "label",
        "top1, top5",
        "share of images whose class is the first, or among the first five (above five classes)",
    ),
    (_CLASSIFIERS, "label", "mean_per_class, f1", "means over classes of recall and of F1"),
    (_CLASSIFIERS, "label", "accuracy", "per_class.csv: a class's recall"),
    (_CLASSIFIERS, "label", "map11, ap11", "many labels an image: 11-point average precision, its mean and by class"),
    ("linear", "label", "learning_rate", "the rate that was chosen, with --probe_learning_rates"),
    ("logreg", "label", "lambda", "the penalty that was chosen"),
    ("logreg@average", "label", "average", "mean over the sets of logreg@SET, each by its own metric"),
    ("kmeans", "label, shuffled, a column of --score", "ami", "adjusted mutual information with the clusters"),
    ("kmeans", "label", "silhouette", "of the clusters; no label is used"),
    ("dose", "label", "ami", "per_class.csv: of the cells of one concentration, its `class`, and untreated ones"),
    ("views", "", "lpips", "perceptual distance of the two views of an image; views@second of the second set's"),
    ("properties", "label", _PROPERTIES, "per_class.csv: of a class's features or images"),
    (
        "profiles",
        "moa",
        "nsc, nscb",
        "share of treatments whose nearest one has their mechanism; by mechanism in per_class.csv",
    ),
    ("profiles", "moa", "nsc_chance, nsc_permuted, nsc_p_value", "what chance gives; nscb_ likewise"),
    ("profiles", "moa", "nsc_treatments, nsc_mechanisms", "of how many; nscb_ likewise"),
    (
        "profiles",
        "plate, batch",
        "accuracy, chance",
        "how well the untreated sites tell it, and always naming the commonest",
    ),
    (
        "convergence@SOLVER",
        "",
        "steps_to_{level}, sse_{step}",
        "steps to an error of the labels, and the error after so many steps",
    ),
    ("convergence@SOLVER", "", "flatness", "how flat the scores are"),
    (
        "unlabelled",
        "",
        "rankme, lidar, alpha, alpha_r2",
        "of a sample of training images: ranks and spectrum of the features",
    ),
    ("unlabelled", "", "alignment, uniformity, collapse", "likewise: where their directions lie on the sphere"),
    ("cka", "", "linear_cka", "how alike the features of a setting's seeds are"),
    ("cost", "", "memory_gb, seconds_per_epoch", "a run's share of its program"),
]

# Of the published values of the bias study's tables (experiments/flagfiles/bias/tables.csv), which hold sweeps, not runs.
OF_SWEEPS = ("opposite_classes", "behave_alike", "shared_classes_", "anova_")


def pages(target: Path) -> dict[str, str]:
    """The page of the measures and that of the tables' columns."""
    return {"measures": _measures(), "tables": _tables()}


def _measures() -> str:
    lines = [
        "# Measures",
        "",
        "What each number is, by what computes it. The names are those of the `metric` column of [the tables](tables.md); every",
        "function takes plain arrays, so any can be used without the rest.",
        "",
        f"Evaluations (`--evaluations`): {', '.join(f'`{name}`' for name in EVALUATIONS)}.",
        "",
        f"> {prose(fields()['evaluations'].metadata['help'])}.",
        "",
    ]
    for heading, measures in MEASURES.items():
        lines += [f"## {heading}", ""]
        for metric, function in measures.items():
            lines += [f"### {metric}", "", "```{eval-rst}"]
            lines += [f".. autofunction:: {function.__module__}.{function.__name__}", "   :no-index:", "```", ""]
    return "\n".join(lines)


_COLUMNS = {
    "run": "program/run, as the logs and the folders of a workdir name it",
    "seed": "of the run; empty for what has none",
    "method": "or pixels, random (an untrained encoder), shuffled, chance, pretrained (a file)",
    "backbone": "the network",
    "dataset": "as --dataset names it",
    "transforms": "the set of view 1 and 2, and of the second loss after an &",
    "epoch": "that was measured: the last",
    "evaluation": "how it was measured; what tells two apart stands after an @ (knn@10%, kmeans@k4, logreg@dtd)",
    "target": "the column scored against; empty where none is",
    "class": "per_class.csv: the class, concentration or mechanism that the value is of",
    "metric": "what was measured",
    "value": "a number; accuracies are fractions",
}


def _tables() -> str:
    middle = f"{', '.join(RUN_COLUMNS)}, *swept names*, {', '.join(SETTING_COLUMNS)}"
    names = (*RUN_COLUMNS, *SETTING_COLUMNS, CLASS_COLUMN, *VALUE_COLUMNS)
    pair = [
        (
            "pearson, spearman, kendall, ...",
            "each measure of likeness, with its `_p` and `_q` (false-discovery rate)",
        ),
        (
            "opposite, opposite_corrected",
            "whether they are opposite by the papers' rule, and after correction for many tests",
        ),
    ]
    of_class = [
        ("accuracy", "mean over all runs"),
        ("slope, slope_p, direction", "line over the swept value, its p, and what the papers call it"),
        ("explained, f, p, q", "share of the variance that the swept value explains, seeds as blocks; its test"),
        ("linear_p, linear_q, sign, bend", "the straight part of that alone, and whether there is more"),
        ("opposite, opposite_corrected", "how many other classes go the other way"),
    ]
    measured = [(*(f"`{cell}`" if cell else "" for cell in row[:3]), prose(row[3])) for row in ROWS]
    lines = [
        "# The tables of a workdir",
        "",
        "Long tables: one value a row, so that any program can read, join and pivot them. They are written whole or not at all.",
        "`ssljax.evaluate.results.read_results` reads them back.",
        "",
        "## results.csv and per_class.csv",
        "",
        f"`results.csv`: {middle}, {', '.join(VALUE_COLUMNS)}. `per_class.csv`: the same with `{CLASS_COLUMN}` before `metric`.",
        "A swept name is an address such as `color_jitter.hue`, or a flag that was given as a list; a row to which it does not",
        "apply leaves it empty.",
        "",
        table(("column", "what"), [(f"`{name}`", prose(_COLUMNS[name])) for name in names]),
        "",
        "## What is measured",
        "",
        table(("evaluation", "target", "metric", "what"), measured),
        "",
        "How each is computed: [measures](measures.md).",
        "",
        "## study_classes.csv",
        "",
        "Of a sweep of three values or more, a class and sweep a row: " + _bias_columns() + ", `class`, and",
        "",
        table(("column", "what"), [(f"`{name}`", what) for name, what in of_class]),
        "",
        "## study_pairs.csv",
        "",
        "A pair of classes and sweep a row: the same first columns, `class`, `other`, and",
        "",
        table(("column", "what"), [(f"`{name}`", what) for name, what in pair]),
        "",
        "## study_tables.csv",
        "",
        f"The tables of the bias study, a number a row: {', '.join(f'`{name}`' for name in bias_tables.TABLE_COLUMNS)}.",
        "",
        "## Published values",
        "",
        f"`--targets=FILE.csv`: {', '.join(f'`{name}`' for name in tables.TARGET_COLUMNS)}, and any swept or listed setting. "
        "An empty cell of the first three fits any.",
        "",
        "## Transfer",
        "",
        "`logreg@SET` uses each set's own metric: "
        + ", ".join(f"`{name}` {metric_of(name)}" for name in ("dtd", "pets", "voc2007", "food"))
        + ".",
        "",
    ]
    return "\n".join(lines)


def _bias_columns() -> str:
    names = (
        "method",
        "backbone",
        "dataset",
        "transforms",
        "variant",
        "evaluation",
        "target",
        "metric",
        "swept",
        "fixed",
    )
    return ", ".join(f"`{name}`" for name in (*names, "values", "seeds", "points"))
