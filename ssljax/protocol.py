"""What the tables and the page say of how things were measured: the columns that were asked for, and a note on each protocol."""

from collections.abc import Iterable, Sequence

from ssljax import clustering
from ssljax.classifying import AVERAGE, PIXELS_SIDE
from ssljax.config import STREAMED, Config, clusters_of, evaluation_parts, percent_of
from ssljax.data import WITH_COLUMNS
from ssljax.data.build import NO_GROUPS
from ssljax.data.cells import GROUP
from ssljax.data.miniature import MADE
from ssljax.data.transfer import metric_of
from ssljax.evaluate import unlabelled
from ssljax.evaluate.features import LAYER
from ssljax.evaluate.logreg import STRENGTHS
from ssljax.models import lpips
from ssljax.report import tables
from ssljax.study import similarity
from ssljax.study.convergence import COMPARED, TITLES, level_text
from ssljax.train import finetune

_LPIPS = (
    "LPIPS: perceptual distance between the two views of a training image (AlexNet, version 0.1), mean over all of them; 0 for "
    f"equal views. Views below {lpips.SMALLEST} px are resized to that side, and grey ones given three equal channels."
)
_LPIPS_NOT_GIVEN = (
    "LPIPS: weights not given. Give --lpips_backbone=alexnet-owt-7be5be79.pth (https://download.pytorch.org/models/) and "
    "--lpips_heads=alex.pth (weights/v0.1/ in the wheel of the Python package lpips)."
)


def table_columns(configs: Sequence[Config], targets: tables.Targets = None) -> tuple[tables.Column, ...]:
    """The columns of the table of some configs: those of the evaluations that any of them asks for.

    Args:
      configs: resolved.
      targets: published values; where there are top-5 accuracies among them, the linear probe's has a column.
    """
    asked: dict[str, list[str]] = {}  # what stands after the @, by base
    for name in dict.fromkeys(name for config in configs for name in config.evaluations):
        base, detail = evaluation_parts(name)
        asked.setdefault(base, []).append(detail)
    scored = dict.fromkeys(name for config in configs for name in config.score)
    columns = [column for detail in asked.get("kmeans", ()) for column in _of_clusters(detail, scored)]
    columns += _OF_PROFILES if "profiles" in asked else ()
    for base, title in (("linear", "Linear"), ("knn", "k-NN"), ("finetune", "Fine-tuned")):
        columns += [column for detail in asked.get(base, ()) for column in _of_labels(base, title, detail)]
    if ("linear", "top5") in {
        (target["evaluation"], target["metric"]) for target in targets or ()
    } and "linear" in asked:
        place = next(i for i, column in enumerate(columns) if column.key[0].startswith("linear"))
        columns.insert(place + 1, tables.Column("Linear top-5", ("linear", "label", "top5")))
    columns += map(_of_transfer, asked.get("logreg", ()))
    if sum(map(bool, asked.get("logreg", ()))) > 1:
        columns.append(tables.Column("Average of these", (AVERAGE, "label", "average")))
    if "views" in asked:
        given = all(config.lpips_backbone for config in configs if "views" in config.evaluations)
        absent, note = (tables.NOTHING, _LPIPS) if given else ("weights not given", _LPIPS_NOT_GIVEN)
        columns.append(tables.LPIPS._replace(absent=absent, note=note))
    if "convergence" in asked:
        level = level_text(COMPARED)
        columns += [
            tables.Column(f"{title}, steps to {level}", (f"convergence@{solver}", "", f"steps_to_{level}"))
            for solver, title in TITLES.items()
        ]
    columns += _UNLABELLED if "unlabelled" in asked else ()
    if "cka" in asked:
        columns.append(tables.Column("CKA of seeds", similarity.KEY))
    if "cost" in asked:
        columns += [
            tables.Column("Memory (GB)", ("cost", "", "memory_gb")),
            tables.Column("Epoch (s)", ("cost", "", "seconds_per_epoch")),
        ]
    return tuple(columns) or tables.TABLE1


_UNLABELLED = [
    tables.Column("RankMe", ("unlabelled", "", "rankme")),
    tables.Column("LiDAR", ("unlabelled", "", "lidar")),
    tables.Column("alpha-ReQ", ("unlabelled", "", "alpha")),
    tables.Column("Alignment", ("unlabelled", "", "alignment")),
    tables.Column("Uniformity", ("unlabelled", "", "uniformity")),
    tables.Column("Spread", ("unlabelled", "", "collapse")),
]


def _of_clusters(detail: str, scored: Iterable[str]) -> list[tables.Column]:
    """Silhouette and AMI of K-means, and its AMI with the columns that clusters are scored against."""
    name, where = (f"kmeans@{detail}", f", k = {clusters_of(detail)}") if detail else ("kmeans", "")
    own = [tables.Column(f"{column.title}{where}", (name, *column.key[1:])) for column in tables.TABLE1[:2]]
    return [*own, *(tables.Column(f"AMI {each}{where}", (name, each, "ami")) for each in scored)]


_OF_COLUMNS = (
    "AMI with a further column leaves out images of which the column says nothing. A high AMI with the plate means a batch effect: "
    "the clusters tell where an image was taken."
)
_PROFILES = (
    "Profiles (crop level): the mean of a site's features over its cells of all splits, since nothing here is fitted on labels; "
    "TVN and then CORAL per batch on the untreated sites; the median over a treatment's sites; nearest treatment by cosine, of "
    "another compound (NSC), and of another batch too (NSCB). Plate and batch are told from the untreated sites before the "
    "correction, cross-validated by well. In the place of raw pixels stand means, deviations, percentiles and correlations of the "
    "channels; these and the cell counts are standardised by the untreated sites first. Chance is that of a neighbour, or of the "
    "commonest plate or batch."
)
_CROP_LEVEL = (
    "Profiles are at crop level, of the cells of this study: not to be read beside published figures of whole images. NSC, NSCB: "
    "the share of treatments whose nearest other one has their mechanism; plate and batch told: the share of control sites whose "
    "plate or batch a logistic regression tells."
)
_OF_PROFILES = (
    tables.Column("NSC", ("profiles", "moa", "nsc"), note=_CROP_LEVEL),
    tables.Column("NSCB", ("profiles", "moa", "nscb")),
    tables.Column("Plate told", ("profiles", "plate", "accuracy")),
    tables.Column("Batch told", ("profiles", "batch", "accuracy")),
)


def _of_labels(base: str, title: str, detail: str) -> list[tables.Column]:
    """Top-1 of a classifier; after fine-tuning on a part of the labels top-5 too, as the papers' tables have it."""
    name, where = (f"{base}@{detail}", f" {detail}") if detail else (base, "")
    metrics = ("top1", "top5") if base == "finetune" and detail else ("top1",)
    titles = {"top1": f"{title}{where} top-1", "top5": f"{title}{where} top-5"}
    return [tables.Column(titles[metric], (name, "label", metric)) for metric in metrics]


_METRICS = {"top1": "", "mean_per_class": " (mean per class)", "map11": " (11-point mAP)"}


def _of_transfer(detail: str) -> tables.Column:
    """Logistic regression on a data set by the set's own metric."""
    if not detail:
        return tables.Column("Logistic regression top-1", ("logreg", "label", "top1"))
    name = detail.removeprefix(MADE)
    metric = metric_of(name)
    return tables.Column(f"{name}{_METRICS[metric]}", (f"logreg@{detail}", "label", metric))


_SEEN = {
    "raw": "the features as they are",
    "l2": "the features brought to unit length",
    "standardized": "each feature brought to mean 0 and deviation 1 over the training images",
}


def _of_cells(config: Config) -> list[str]:
    """How the images of a set of cells were drawn and divided; nothing for other sets."""
    if config.dataset.removeprefix(MADE).partition(":")[0] not in WITH_COLUMNS:
        return []
    if config.group == NO_GROUPS:
        text = "Splits are drawn cell by cell: cells of one field of view stand on both sides."
    else:
        text = f"No {config.group or GROUP} has cells in two splits, where the set tells it."
    if config.compound:
        how = {"plates": "as many of each plate as there are treated ones", "any": "drawn from any plate"}[
            config.controls
        ]
        text += f" Beside the cells treated with {config.compound} stand as many untreated ones, {how}."
    return [f"Cells: {text}"]


def _of_stream(config: Config) -> list[str]:
    """What streaming changes in training."""
    if config.stream not in STREAMED:
        return []
    sample = ", and their channels' mean and deviation are those of a sample" if config.stream == "decode" else ""
    return [f"Images are streamed (--stream={config.stream}): the runs of a program see the same batches{sample}."]


def notes(config: Config, encoders: Sequence[str] = ()) -> list[str]:
    """A sentence on each evaluation that a resolved config asks for: what it saw, and with which settings.

    Args:
      config: resolved.
      encoders: sentences on where measured encoders come from.
    """
    asked: dict[str, list[str]] = {}
    for name in config.evaluations:
        base, detail = evaluation_parts(name)
        asked.setdefault(base, []).append(detail)
    parts = list(
        dict.fromkeys(detail for base in ("linear", "knn", "finetune") for detail in asked.get(base, ()) if detail)
    )
    said = {
        "": [
            f"Features: {LAYER}; images are only resized, to {config.image_size} px.",
            *_of_stream(config),
            *_of_cells(config),
            *encoders,
        ],
        "kmeans": [
            f"K-means and the silhouette see {_SEEN[config.kmeans_features]}, on the {config.evaluate_on} images; "
            "K-means starts 10 times, its random state is the run's seed. Validation images are clustered by themselves.",
            *([_OF_COLUMNS] if config.score else ()),
        ],
        "dose": [
            "Dose: K-means with two clusters on the test cells of one concentration and as many untreated ones"
            + (" of the same plates" if config.controls == "plates" else "")
            + f", of at least {clustering.FEWEST} cells each; AMI with treated or not."
        ],
        "profiles": [_PROFILES],
        "knn": [
            f"k-NN: cosine, k = {config.knn_k}, weights exp(similarity / {config.knn_temperature:g}), neighbours from the "
            "training images."
        ],
        "linear": [_of_probe(config)],
        "finetune": [
            *([_of_finetuning(config)] if "" in asked.get("finetune", ()) else ()),
            *(_of_semi(config, detail) for detail in asked.get("finetune", ()) if detail),
        ],
        "logreg": [_LOGREG],
        "properties": [
            "Class properties are of the training images: intrinsic dimension (TwoNN) and spectrum of the covariance "
            "(participation ratio) of a class's features, co-occurrence contrast and share of the spectrum's energy above half "
            "the Nyquist radius of its grey images."
        ],
        "unlabelled": [
            f"Without labels: features of {unlabelled.IMAGES:,} training images (of a smaller set half), always the same; LiDAR "
            f"and alignment of {unlabelled.VIEWS} views of each, drawn as training draws its two. RankMe compares runs of one "
            "method only. Spread is sqrt(d) times the mean deviation of features of unit length: 0 for a collapsed encoder, 1 for "
            "directions of all kinds."
        ],
        "cka": [
            f"CKA of seeds: linear CKA of the features of the {config.evaluate_on} images ({similarity.IMAGES:,} at most) under a "
            "run and under each other run of its setting, mean over these: 1 for the same features up to rotation and scale."
        ],
        "cost": [
            "Memory is XLA's own account of the compiled training step, on all devices together; the time of an epoch is the "
            "median without the first. Of runs that are trained together each has its share."
        ],
        "convergence": [
            f"Convergence: {config.convergence_batches:,} random batches of {config.convergence_batch_size} training images (at "
            "most all), transformed as view 1; their cosines with the prototypes, in evaluation mode, of the network whose outputs "
            "are labelled. MIRA's settings are the run's own, else T .225 and beta 2/3; Sinkhorn-Knopp's epsilon too, else .05."
        ],
    }
    sentences = [sentence for name, own in said.items() if not name or name in asked for sentence in own]
    return [*sentences, *([_of_parts(parts)] if parts else ())]


def _of_probe(config: Config) -> str:
    scaled = " x batch/256" if config.probe_lr_scaling == "linear" else ""
    falls = "half a cosine to 0 over" if config.probe_schedule == "cosine" else "falling tenfold at 60 and 80 % of"
    rate = f"learning rate {config.probe_learning_rate:g}{scaled}"
    chosen = ""
    if config.probe_learning_rates:
        rate = f"a learning rate of its own for each run, of {', '.join(config.probe_learning_rates)}{scaled},"
        chosen = (
            " The rate is the one with the best top-1 on the validation images or, where there are none, on a stratified tenth of "
            "the training images; with it the probe is trained on all of them."
        )
    return (
        f"Linear probe: SGD with momentum .9, {rate} {falls} {config.probe_epochs} epochs, batch {config.probe_batch_size}, no "
        f"weight decay, transforms: {config.probe_transforms}; it sees {_SEEN[config.probe_features]}; the last epoch counts."
        f"{chosen}"
    )


def _of_finetuning(config: Config) -> str:
    return (
        "Fine-tuning: the whole network and a new linear head on all labels, SGD with momentum .9, learning rate "
        f"{config.finetune_learning_rate:g} x batch/256 for both, half a cosine to 0 over {config.finetune_epochs} epochs, "
        f"batch {config.finetune_batch_size}, no weight decay, transforms: {config.finetune_transforms}; batch statistics "
        "move; the last epoch counts. The protocol is our choice: the papers give none."
    )


def _of_semi(config: Config, detail: str) -> str:
    protocol = finetune.semi(config, percent_of(detail) or 100)
    return (
        f"Fine-tuning on {detail} of the labels, by SwAV's protocol: the whole network and a new linear head, SGD with momentum "
        f".9, learning rates {protocol.backbone:g} and {protocol.head:g}, x .2 at 60 and 80 % of {protocol.epochs} epochs, batch "
        f"{config.finetune_batch_size}, no weight decay, transforms: {config.finetune_transforms}; the last epoch counts."
    )


def _of_parts(details: Sequence[str]) -> str:
    return (
        f"{' and '.join(details)} of the labels: a stratified part of the training images, always the same; of ImageNet's 1 and "
        "10 % the lists of SimCLR (tfds imagenet2012_subset)."
    )


_LOGREG = (
    f"Logistic regression: multinomial, on the features as they are; the L2 penalty is the best of {len(STRENGTHS)}, log-spaced "
    f"from {STRENGTHS[0]:g} to {STRENGTHS[-1]:g}, on the set's validation images (where it has none, a stratified fifth of its "
    "training images) by the set's own metric; then fitted again on training and validation images and scored on the test images. "
    "At most 100 steps of L-BFGS a penalty, from the fit of the stronger one before. Raw pixels are those of images of "
    f"{PIXELS_SIDE} px at most."
)
