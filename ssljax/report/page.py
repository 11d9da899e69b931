"""report.html: one self-contained page, from what a finished study left in its workdir.

Plain words first, then the table, the figures, how it was measured, and what reproduces it. What is missing
is said in a sentence.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.evaluate.clustering import SILHOUETTE_SAMPLE, Clustering, nearest_to_centers
from ssljax.files import replacing
from ssljax.report import (
    bias,
    choice,
    comparisons,
    convergence,
    dose,
    figures,
    frame,
    runs_table,
    tables,
    watched,
    words,
)
from ssljax.report.workdir import Artifact, Workdir, read_workdir
from ssljax.study import cells
from ssljax.study.findings import NOT_MEASURED

PANELS = 4  # learned representations side by side before the panels get too small to read (our choice)
FOLDED = 30  # a table of more rows is folded (our choice)
NEAREST = 8  # images shown of each cluster (our choice)

_FORMULAE = (
    "Every score of a representation is computed on held-out images; accuracies are fractions. Each run counts with "
    "its last epoch: nothing is chosen on test labels.",
    "AMI is the mutual information of clusters and labels, adjusted for chance and normalised by the larger "
    "of the two entropies: 1 for the same partition, about 0 for unrelated ones. It may be negative.",
    "The silhouette compares each image's mean Euclidean distance to its own cluster with that to the next "
    f"cluster. It uses no labels. Of more than {SILHOUETTE_SAMPLE:,} images a fixed random sample is taken.",
    "The row of shuffled labels scores the learned rows' clusters against the labels in random order.",
)


class _Shown(NamedTuple):
    """One run that stands for its table row in the figures."""

    label: str
    row: int
    artifact: Artifact
    run: int


def write_page(
    workdir: str | os.PathLike[str],
    *,
    images: NDArray[np.uint8] | None,
    class_names: Sequence[str],
    title: str,
    command: str,
    config_rows: Sequence[tuple[str, str]],
    targets: tables.Targets = None,
    notes: Sequence[str] = (),
    columns: Sequence[tables.Column] = tables.TABLE1,
    superclasses: Mapping[str, str] | None = None,
    choose: Sequence[str] = (),
    study_of: str = "",
    compare: str = "",
    warnings: Sequence[str] = (),
) -> Path:
    """Write report.html, table.csv and runs.csv into a workdir, and the figures into its figures/.

    The workdir may hold results.csv, per_class.csv, run.json, metrics.jsonl, artifacts/<program>.npz and
    figures/views_<program>.png. Sweeps of three values or more get the sections of `report.bias`, and its files.
    Of several data sets the other figures show the first one of the table.

    Args:
      workdir: where all this lies.
      images: whole numbers [n, h, w, c], the test split that the artifacts' `index` points into; None for none.
      class_names: by label.
      title: of the page.
      command: what reproduces it.
      config_rows: settings to list, as (name, value).
      targets: published values, from `tables.read_targets`.
      notes: sentences on how it was measured: layer, normalisation, k, T.
      columns: of the table.
      superclasses: class -> superclass, for the study of a sweep; None takes the data set's own map where there is one.
      choose: classes that the study of a sweep shows first and advises on.
      study_of: the evaluation, or evaluation:metric, that this study is about; "" for linear accuracy, else what there is.
      compare: pairs of settings to compare, as `study.pairings.parse` reads them; "" for those that differ in one thing.
      warnings: sentences that stand before everything else.

    Returns:
      The page.

    Raises:
      UserError: a file of the workdir cannot be read as what it should be, or the study of a sweep lacks what is asked for.
    """
    study = read_workdir(Path(workdir))
    rows = tables.summary(study.results)
    labels = [tables.full_label(label) for label in tables.labels(rows)]
    shown = _shown(study, rows, labels)
    titles = _program_titles(study, rows, labels)
    swept = bias.sections(
        study.per_class,
        study.results,
        class_names,
        study.path,
        superclasses=superclasses,
        choose=choose,
        targets=targets,
        study_of=study_of,
    )
    studied, told = any(swept[:1]), _answer(rows)
    sections = [
        *(frame.box(frame.paragraph(text), "warning") for text in warnings),
        *swept[:1],
        "" if (studied and not _compared(rows)) or not told else frame.box(told),
        _diverged(study),
        watched.collapsed(study),
        _table(rows, targets, columns),
        comparisons.pairs(study.results, compare, study_of),
        convergence.section(study, titles),
        *swept[1:-1],
        choice.section(study, study_of),
        comparisons.reliabilities(study.results),
        _of_cells(study),
        dose.section(study),
        _tsne(study, shown, class_names),
        _views(study, titles),
        _clusters(study, shown, images, class_names),
        _losses(study, titles),
        watched.section(study, titles),
        "" if studied else _classes(study, class_names),
        runs_table.table([study.path], study.path) if study.results else "",
        frame.section("How it was measured", frame.bullets([*_FORMULAE, *notes])),
        frame.section("Settings", frame.pairs(config_rows)),
        _reproduce(study, command),
        *swept[-1:],
    ]
    tables.write_table_csv(study.path / "table.csv", rows, targets, columns)
    target = study.path / "report.html"
    with replacing(target, encoding="utf-8") as file:
        file.write(frame.page(title, filter(None, sections)))
    return target


def _compared(rows: Sequence[tables.Row]) -> bool:
    """Whether the answer has anything to say beyond each row's own value."""
    return any(not row.learned for row in rows) or any(words.AMI in row.stats for row in rows)


def _answer(rows: Sequence[tables.Row]) -> str:
    return "".join(frame.paragraph(text, lead) for lead, text in words.answer(rows))


def _diverged(study: Workdir) -> str:
    """Names the runs whose loss stopped being finite; "" when there are none."""
    runs = [
        f"{row['program']}, {row['run']} (epoch {row['epoch']}"
        + (f"; first not finite: {row['not_finite']})" if "not_finite" in row else ")")
        for row in study.diverged()
    ]
    if not runs:
        return ""
    lead = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} diverged:"
    text = f"{'; '.join(runs)}. A diverged run is frozen and left out of the tables; the others are untouched."
    return frame.box(frame.paragraph(text, lead), "warning")


def _table(rows: Sequence[tables.Row], targets: tables.Targets, columns: Sequence[tables.Column]) -> str:
    if not rows:
        text = "Nothing was evaluated: results.csv is missing or empty."
        return frame.section("The table", frame.paragraph(text))
    lines: list[frame.TableRow] = []
    sources: dict[str, None] = {}
    for row, label in zip(rows, tables.labels(rows), strict=True):
        cells = []
        for column in columns:
            text = tables.cell_of(row, column)
            if value := tables.published(row, column.key, targets):
                text += f"\npublished {tables.number(value[0])}"
                sources[value[1]] = None
            cells.append(text)
        rule = not row.learned and all(line.rule is False for line in lines)
        lines.append(frame.TableRow("\n".join(label), [*cells, str(len(row.runs) or "")], rule))
    for name, values in tables.elsewhere(targets, columns):
        sources |= {value[1]: None for value in values if value}
        cells = [f"published {tables.number(value[0])}" if value else "" for value in values]
        lines.append(frame.TableRow(f"{name}\nnot trained here", [*cells, ""]))
    caption = "Mean ± standard deviation over seeds. All measures are in table.csv, and run by run in results.csv."
    missing = [c.title for c in columns if not c.note and not any(c.key in row.stats for row in rows)]
    if missing:
        caption += f" Not evaluated: {', '.join(missing)}."
    if named := "; ".join(filter(None, sources)):
        caption += f" Published: {named}."
    heads = ["Representation", *(column.title for column in columns), "Seeds"]
    remarks = [frame.caption(column.note) for column in columns if column.note]
    table = frame.table(heads, lines)
    if len(lines) > FOLDED:
        table = frame.details(f"All {len(lines)} rows", table)
    return frame.section("The table", table, frame.caption(caption), *remarks)


def _shown(study: Workdir, rows: Sequence[tables.Row], labels: Sequence[str]) -> list[_Shown]:
    """What the figures show: learned rows, thinned to `PANELS`, then raw pixels; the first run of each."""
    own = [i for i, row in enumerate(rows) if row.setting.dataset == rows[0].setting.dataset]
    learned = [i for i in own if rows[i].learned]
    if len(learned) > PANELS:
        learned = [learned[i] for i in np.linspace(0, len(learned) - 1, PANELS).round().astype(int)]
    where = {name: (artifact, i) for artifact in study.artifacts for i, name in enumerate(artifact.runs)}
    found = []
    for i in learned + [i for i in own if rows[i].setting.method == tables.PIXELS]:
        run = next((run for run in rows[i].runs if run in where), None)
        if run is not None:
            found.append(_Shown(labels[i], i, *where[run]))
    return found


def _program_titles(study: Workdir, rows: Sequence[tables.Row], labels: Sequence[str]) -> dict[str, str]:
    """A title for each program whose runs all belong to one table row; others go by their own name."""
    titles = {}
    for artifact in study.artifacts:
        found = [label for row, label in zip(rows, labels, strict=True) if set(artifact.runs) & set(row.runs)]
        if len(found) == 1:
            titles[artifact.program] = found[0]
    return titles


def _tsne(study: Workdir, shown: Sequence[_Shown], class_names: Sequence[str]) -> str:
    heading = "What the representations look like"
    panels = [
        figures.Panel(
            one.label.replace(" (", "\n("),
            one.artifact.features[one.run],
            one.artifact.labels,
            next(iter(one.artifact.clusters.values())).assignment[one.run],
            one.artifact.columns,
        )
        for one in shown
        if one.artifact.clusters
    ]
    if not panels:
        text = "No t-SNE: artifacts/ holds no features with clusters of a run of the table."
        return frame.section(heading, frame.paragraph(text))
    path = figures.tsne_figure(study.path / "figures" / "tsne.png", panels, class_names)
    labelled = any(panel.labels is not None for panel in panels)
    by = ["label"] * labelled + list(panels[0].columns)[: figures.COLUMNS_SHOWN] + ["K-means cluster"]
    rows = f"Coloured by {', '.join(by)}, from above." if len(by) > 1 else "Coloured by K-means cluster."
    runs = ", ".join(one.artifact.runs[one.run] for one in shown)
    caption = (
        f"t-SNE of held-out images, one run of each: {runs}. {rows} The number and colour of a cluster mean "
        "nothing across panels; distances between far groups mean little."
    )
    return frame.section(heading, frame.figure(path, caption))


def _views(study: Workdir, titles: Mapping[str, str]) -> str:
    heading = "What the transformations do"
    sheets = {path.stem.removeprefix("views_"): path for path in (study.path / "figures").glob("views_*.png")}
    if not sheets:
        return frame.section(heading, frame.paragraph("No sheet of views was drawn."))
    trained = {row["program"]: None for row in study.metrics if row["program"] in sheets}
    parts = [
        frame.figure(sheets[program], f"{titles.get(program, program)}: originals, and views of them to train on.")
        for program in dict.fromkeys([*trained, *sorted(sheets)])
    ]
    return frame.section(heading, frame.columns(parts))


def _clusters(
    study: Workdir, shown: Sequence[_Shown], images: NDArray[np.uint8] | None, class_names: Sequence[str]
) -> str:
    heading, parts = "What the clusters hold", []
    for one in shown:
        artifact = one.artifact
        if images is None:
            continue
        labels = artifact.labels
        for detail, found in artifact.clusters.items():
            assignment, distance = found.assignment[one.run], found.distance[one.run]
            no_centers = np.empty((assignment.max() + 1, 0))
            nearest = nearest_to_centers(Clustering(assignment, no_centers, distance), NEAREST)
            ending = f"_{detail}" if detail else ""
            path = study.path / "figures" / f"clusters_{artifact.program}_{one.row}{ending}.png"
            title = f"{one.label}, {detail.replace('k', 'k = ')}" if detail else one.label
            places = np.where(nearest < 0, -1, artifact.places[nearest])
            figures.cluster_sheet(path, images, places, assignment, labels, class_names, title)
            size = "size n, most frequent class and that class's share" if labels is not None else "size n"
            parts.append(
                frame.figure(path, f"{title}: the images nearest each cluster's centre, beside the cluster's {size}.")
            )
    if not parts:
        text = "No cluster sheets: K-means was not evaluated, or the images are not at hand."
        return frame.section(heading, frame.paragraph(text))
    return frame.section(heading, frame.columns(parts))


def _of_cells(study: Workdir) -> str:
    """The papers' claims of cells, each with what was measured; "" where nothing was measured of any."""
    found = cells.findings(study.results)
    if all(one.verdict == NOT_MEASURED for one in found):
        return ""
    lines = [frame.TableRow(f"{one.claim}\n{one.source}", [one.verdict, one.measured]) for one in found]
    table = frame.table(["Claim", "Verdict", "Measured (difference of the AMI, 95 % interval)"], lines, prose=True)
    return frame.section("What the papers say of cells", table)


def _losses(study: Workdir, titles: Mapping[str, str]) -> str:
    if not study.metrics:
        text = "No loss curves: metrics.jsonl is missing or empty."
        return frame.section("Training", frame.paragraph(text))
    path = figures.loss_curves(study.path / "figures" / "loss.png", study.metrics, titles)
    caption = "A thin line each run, the thick one the mean of those that last; a cross where one diverged."
    return frame.section("Training", frame.figure(path, caption))


def _classes(study: Workdir, class_names: Sequence[str]) -> str:
    """Accuracy class by class: the linear probe's, or another evaluation's where there is no probe."""
    heading = "Class by class"
    rows = [row for row in tables.summary(study.per_class) if row.setting.method != tables.SHUFFLED]
    rows = [row for row in rows if row.setting.dataset == rows[0].setting.dataset]
    evaluations = {key[0]: None for row in rows for key in row.stats if key[3] == "accuracy"}
    if not evaluations:
        text = "No per-class accuracy: neither the linear probe nor the k-NN was evaluated."
        return frame.section(heading, frame.paragraph(text))
    evaluation = "linear" if "linear" in evaluations else next(iter(evaluations))
    labels = [tables.full_label(label) for label in tables.labels(rows)]
    measured = {key[2]: None for row in rows for key in row.stats if key[0] == evaluation and key[3] == "accuracy"}
    # Of a part of a set's images; names that are not given are the table's.
    class_names = [name for name in class_names if name in measured] or list(measured)
    nothing = tables.Stat(np.nan, None, 0)
    stats = [[row.stats.get((evaluation, "label", name, "accuracy"), nothing) for name in class_names] for row in rows]
    means = [np.array([stat.mean for stat in line]) for line in stats]
    deviations = [np.array([np.nan if s.deviation is None else s.deviation for s in line]) for line in stats]
    path = figures.per_class_figure(
        study.path / "figures" / "per_class.png",
        list(zip(labels, means, deviations, strict=True)),
        class_names,
        f"{evaluation} accuracy (share of the class's images)",
    )
    lines = [
        frame.TableRow(name, [tables.cell(line[i], line[i].n) for line in stats]) for i, name in enumerate(class_names)
    ]
    caption = (
        f"Share of each class's held-out images that the {evaluation} evaluation gets right: mean and one "
        "standard deviation over seeds. F1 is in per_class.csv."
    )
    return frame.section(heading, frame.figure(path, caption), frame.table(["Class", *labels], lines))


def _reproduce(study: Workdir, command: str) -> str:
    # The command and the settings stand on the page already.
    rest = {name: value for name, value in study.run.items() if name not in ("command", "configs")}
    details = frame.pairs(_flat(rest)) if rest else frame.paragraph("run.json is missing.")
    return frame.section("To reproduce it", frame.code(command), details)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A JSON value as (dotted name, text)."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}".strip("."))]
    if isinstance(value, list):
        return [(name, ", ".join(text for item in value for _, text in _flat(item)))]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]
