"""One run's or sweep's settings: a frozen, validated dataclass. Every field is a flag, and is written only here.

A field is *static* (it changes shapes or code, so it is the same for all runs of a program) or *traced* (a leaf of the hyper
pytree, so it may differ from run to run). `None` means: as the preset says; `resolve` fills it in.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ssljax.errors import UserError, unknown

LARGEST = 2**14  # side in pixels of an image: of a whole slide's regions, beyond what a network takes (our choice)
_GREATEST = float(np.finfo(np.float32).max)  # settings are computed with in 32 bits


def _field(
    default: Any,
    kind: type,
    help: str,
    *,
    address: str = "",
    traced: bool = False,
    training: bool = True,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `Config`.

    Args:
      default: None for "as the preset says".
      kind: int, float, str, bool or tuple (of strings; of integers for seeds).
      help: the flag's help text.
      address: the flag's name and sweep address where it differs from the field's name.
      traced: may differ between the runs of a program.
      training: changes what is trained; a workdir belongs to one value of all such fields.
      low, high: allowed range, ends included.
      choices: allowed values.
    """
    meta = dict(
        kind=kind, help=help, address=address, traced=traced, training=training, low=low, high=high, choices=choices
    )
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one program: all runs (seeds x swept values) that share every static setting.

    Fields whose default is None hold the type they are declared with once `resolve` has filled them in.

    Raises:
      UserError: a value of the wrong type or out of range, an unknown name (with the nearest known one).
    """

    # What is learned from
    dataset: str = _field(
        "digits",
        str,
        "digits, a tfds name (mnist, cifar10:3.0.2), imagenet100:DIR, aircraft:DIR, folder:DIR, table:FILE.csv (a row each), "
        "npz:FILE, bbbc021:DIR (cells that experiments/bbbc021.py cut out) or crops:FILE (cells in an .npz, a row of FILE.csv each)"
        "; miniature:NAME is a small made set in NAME's layout",
    )
    data_dir: str = _field(
        "",
        str,
        "where data lie: the folder that DIR and FILE are relative to, and where tfds keeps its prepared sets",
        training=False,
    )
    manual_dir: str = _field(
        "", str, "where archives that were fetched by hand lie, for tfds to prepare", training=False
    )
    cache_dir: str = _field("", str, "where decoded images are cached (default ~/.cache/ssljax/data)", training=False)
    validation_fraction: float = _field(
        0.0,
        float,
        "share of the training images held out as validation; .125 where a fifth is held out as test makes 70/10/20",
        low=0,
        high=0.9,
    )
    resize: int = _field(
        0,
        int,
        "side in pixels that stored images are brought to, for sets whose images differ in size (0: as they are)",
        low=0,
        high=LARGEST,
    )
    max_images: int = _field(
        0,
        int,
        "use at most so many training images, a stratified part, and as many of each other split; with --compound so many cells in "
        "all, treated and untreated, before they are split (0: all)",
        low=0,
    )
    label: str = _field(
        "",
        str,
        "the column that is the label, of sets that know several of each image (cells: compound unless given, tables: label); "
        "none: a folder's or table's images have no labels",
    )
    group: str = _field(
        "",
        str,
        "the column none of whose values stands in two of the splits (cells: site unless given, tables: group); none: images are "
        "split one by one",
    )
    channels: int = _field(
        0,
        int,
        "of a folder or table, so many channels are made of the one of a grey image (0: images are left alone)",
        low=0,
    )
    channel_files: str = _field(
        "",
        str,
        "of a folder where every channel is a file, how these are named: {stem}_w{1,2,3}*.tif, with {stem} for what the files of "
        "an image share, a list of the channels in order, and * for anything (none: a file holds all channels)",
    )
    path_column: tuple[str, ...] = _field(
        ("path",),
        tuple,
        "the column of a table that names the image files, relative to the table's folder or to --data_dir; a list where every "
        "channel is a file: dapi,tubulin,actin",
    )
    split_column: str = _field(
        "split",
        str,
        "the column of a table that says train, validation or test, where it has it; none: splits are drawn",
    )
    compound: str = _field(
        "",
        str,
        "of a set of cells: this compound at its highest concentrations, and as many untreated cells (none: all)",
    )
    concentrations: int = _field(
        4, int, "how many of the highest concentrations of --compound (0: all that there are)", low=0
    )
    controls: str = _field(
        "plates",
        str,
        "where the untreated cells beside --compound come from: its own plates, equally for each concentration, or any, as the "
        "papers draw them",
        choices=("plates", "any"),
    )
    image_size: int = _field(None, int, "side in pixels of the images that the network sees", low=8, high=LARGEST)
    transforms: str = _field(
        None,
        str,
        "a transform set by name, or a definition: rotation(degrees=25)+horizontal_flip; A|B for two views; A & B: B is the "
        "--second_transforms, so that a list may hold one set and the sum of two",
    )
    local_crops: int = _field(
        None, int, "small crops beside the two global views, for methods with multi-crop; drawn as view 1 is", low=0
    )
    local_size: int = _field(
        0, int, "side in pixels of the local crops (0: 96/224 of --image_size, as SwAV and DINO)", low=0, high=LARGEST
    )

    # What learns
    preset: str = _field("digits", str, "where settings that are not given come from: paper, solo or digits")
    sizes: str = _field(
        "full",
        str,
        "small: few images, small networks, a hundredth of the epochs, made images where a data set is not at hand, to see a study "
        "run from end to end",
        choices=("full", "small"),
    )
    method: str = _field("mocov2plus", str, "self-supervised method")
    pretrained: str = _field(
        "",
        str,
        "file of a trained encoder, ours or another project's: with the stage pretrain training starts from it (--init_from), "
        "without it it is measured as it is; or random: untrained ones, measured, a seed each",
    )
    init_from: str = _field(
        "",
        str,
        "file of a trained encoder that training starts from, ours or another project's; its heads start anew (none: from random "
        "weights)",
    )
    backbone: str = _field(None, str, "network whose features are evaluated")
    width: float = _field(None, float, "multiplies every channel count of the backbone", low=1 / 64, high=8)
    stem: str = _field(None, str, "first layers of a ResNet or ConvNeXt", choices=("cifar", "imagenet"))
    stem_padding: int = _field(
        None, int, "padding of the CIFAR stem; torchvision's habit is 1, solo-learn's 2", low=0, high=2
    )
    stochastic_depth: float = _field(
        0.1,
        float,
        "ConvNeXt: probability of passing by the last block in training, growing to it from 0",
        low=0,
        high=0.99,
    )
    hidden_dim: int = _field(None, int, "hidden width of the projector", low=1)
    output_dim: int = _field(None, int, "output width of the projector", low=1)
    predictor_dim: int = _field(None, int, "hidden width of the predictor", low=1)
    queue_size: int = _field(None, int, "keys in a method's queue", low=1)
    prototypes: int = _field(None, int, "prototypes of a clustering method", low=2)
    prototype_heads: int = _field(None, int, "clusterings side by side (DeepCluster v2)", low=1)
    target_network: str = _field(
        None,
        str,
        "whose outputs are labelled (MIRA): those of the EMA copy, or the trained network's own, without regard to tau",
        choices=("ema", "self"),
    )
    solver: str = _field(
        None,
        str,
        "how MIRA's labels are solved for: by accelerated steps until solver.tolerance, or by solver.max_iter of the paper's plain "
        "steps (the paper: 30)",
        choices=("accelerated", "plain"),
    )

    # A second loss beside the first: one encoder, one more set of views
    second_transforms: str = _field(
        "", str, "transform set of a second loss, trained with the first as a weighted sum (none: one loss)"
    )
    second_method: str = _field("", str, "method of the second loss (default: the first's)")
    second_heads: str = _field(
        "own",
        str,
        "whether the second loss has heads of its own or the first's (the same method only); memory is its own always",
        choices=("own", "shared"),
    )
    loss_weights_first: float = _field(
        1.0, float, "weight of the first of two losses", address="loss_weights.first", traced=True, low=0
    )
    loss_weights_second: float = _field(
        1.0, float, "weight of the second of two losses", address="loss_weights.second", traced=True, low=0
    )

    # How it learns
    epochs: int = _field(None, int, "passes over the training images", low=1)
    batch_size: int = _field(None, int, "images in a step", low=2)
    optimizer: str = _field(None, str, "update rule")
    learning_rate: float = _field(None, float, "peak learning rate", traced=True, low=0)
    lr_scaling: str = _field(None, str, "linear multiplies the learning rate by batch/256", choices=("none", "linear"))
    warmup_epochs: float = _field(None, float, "epochs of linear warm-up before the cosine", traced=True, low=0)
    warmup_learning_rate: float = _field(None, float, "learning rate at the first step", traced=True, low=0)
    min_learning_rate: float = _field(None, float, "learning rate at the end of the cosine", traced=True, low=0)
    weight_decay: float = _field(None, float, "weight decay", traced=True, low=0)
    momentum: float = _field(0.9, float, "momentum of SGD and LARS", traced=True, low=0, high=1)
    temperature: float = _field(None, float, "temperature of a contrastive loss", traced=True, low=1e-6)
    tau_base: float = _field(
        None, float, "EMA coefficient of the target at the first step", address="tau.base", traced=True, low=0, high=1
    )
    tau_final: float = _field(
        None, float, "EMA coefficient of the target at the last step", address="tau.final", traced=True, low=0, high=1
    )

    # Which runs
    seeds: tuple[int, ...] = _field((5,), tuple, "one run a seed, all in one program: 5,6,7")
    sweep: tuple[str, ...] = _field(
        (), tuple, "address=lo:hi:n (ends included) or address=a,b,c of any traced value; several make their product"
    )
    set: tuple[str, ...] = _field((), tuple, "address=value of any traced value, the same for every run")

    # How it runs
    precision: str = _field("float32", str, "compute type of the networks", choices=("float32", "bfloat16"))
    convolution: str = _field(
        "auto", str, "XLA's own, or as matrix products (auto: matmul on CPU)", choices=("auto", "lax", "matmul")
    )
    remat: str = _field(
        "none",
        str,
        "what the gradient computes again instead of keeping it: nothing, or all but the maps between blocks (no effect on CPU)",
        choices=("none", "blocks"),
    )
    run_axis: str = _field(
        "auto",
        str,
        "how the runs of a program are executed in a step: all at once, one after another, written out; auto: as measured",
        choices=("auto", "vmap", "map", "unroll"),
    )
    mesh: str = _field(
        "",
        str,
        "how the runs, and the images of a batch, are spread over devices: run:4,data:2 (default: as many devices as divide the "
        "runs, then as many of what is left as divide the batch)",
        training=False,
    )
    stream: str = _field(
        "auto",
        str,
        "where training images come from: no: all are on the device; cache: batches are read from the decoded images on disk; "
        "decode: files are decoded anew each epoch, with no cache (folder:, imagenet100:, table: and tfds sets). With cache "
        "and decode all runs of a program see the same batches. auto: no where the images fit on the device with room to "
        "spare, else cache",
        choices=("auto", "no", "cache", "decode"),
    )
    workers: int = _field(
        -1,
        int,
        "processes that read streamed images; 0: threads of this one; -1: a process a core where files are decoded, else threads",
        low=-1,
        training=False,
    )
    max_runs_per_program: int = _field(
        0, int, "split a sweep into programs of at most this many runs (0: as many as the memory holds)", low=0
    )
    steps_per_dispatch: int = _field(
        0, int, "steps in one call of the device (0: up to 16 that divide an epoch)", low=0, training=False
    )
    checkpoint_every: int = _field(
        10, int, "epochs between checkpoints; the last epoch always has one", low=1, training=False
    )
    keep: int = _field(2, int, "checkpoints kept", low=1, training=False)
    eval_every: int = _field(
        0,
        int,
        "epochs between looks at the features while runs are trained, on a fixed sample of training images: RankMe, LiDAR, "
        "alpha-ReQ, alignment, uniformity, collapse, and with labels k-NN and a ridge classifier; collapse is looked for "
        "after every epoch (0: never)",
        low=0,
        training=False,
    )

    # How it is measured
    evaluate_on: str = _field(
        "test",
        str,
        "the images to measure on; choose settings on validation",
        choices=("test", "validation"),
        training=False,
    )
    evaluations: tuple[str, ...] = _field(
        ("linear", "knn", "kmeans"),
        tuple,
        "what to measure: linear, knn, finetune (the whole network trained on the labels), logreg (logistic regression with a "
        "searched penalty), kmeans (kmeans@k4: with four clusters), dose (a compound's cells against untreated ones, "
        "concentration by concentration), profiles (treated cells' mechanism of action by the nearest treatment), views (how "
        "far apart the two views of an image look: LPIPS), properties (of each class, from features and images), convergence "
        "(of the solvers of pseudo-labels), unlabelled (RankMe, LiDAR, alpha-ReQ, alignment, uniformity and collapse on a "
        "sample of training images), cka (how alike the features of a setting's seeds are), cost (memory and time of "
        "training); linear@10%, knn@10%, finetune@10%: on so many of the labels; logreg@dtd: on another data set",
        training=False,
    )
    probe_epochs: int = _field(100, int, "epochs of the linear probe", low=1, training=False)
    probe_batch_size: int = _field(256, int, "batch of the linear probe", low=1, training=False)
    probe_learning_rate: float = _field(0.1, float, "learning rate of the linear probe", low=0, training=False)
    probe_learning_rates: tuple[str, ...] = _field(
        (),
        tuple,
        "learning rates of the linear probe to choose from for each run, by held-out training images (none: "
        "--probe_learning_rate)",
        training=False,
    )
    probe_lr_scaling: str = _field(
        "none",
        str,
        "linear multiplies the probe's learning rates by batch/256",
        choices=("none", "linear"),
        training=False,
    )
    probe_schedule: str = _field(
        "steps",
        str,
        "how the probe's learning rate falls: tenfold at 60 and at 80 % of its epochs, or by half a cosine to 0",
        choices=("steps", "cosine"),
        training=False,
    )
    probe_features: str = _field(
        None,
        str,
        "what the linear probe sees: features as they are, or each brought to mean 0 and deviation 1 over the "
        "training images",
        choices=("raw", "standardized"),
        training=False,
    )
    probe_transforms: str = _field("none", str, "transform set of the linear probe's training images", training=False)
    finetune_epochs: int = _field(30, int, "epochs of fine-tuning", low=1, training=False)
    finetune_batch_size: int = _field(256, int, "batch of fine-tuning", low=1, training=False)
    finetune_learning_rate: float = _field(
        0.05, float, "learning rate of fine-tuning, times batch/256, x half a cosine to 0", low=0, training=False
    )
    finetune_transforms: str = _field(None, str, "transform set of the images of fine-tuning", training=False)
    semi_epochs: int = _field(20, int, "epochs of fine-tuning on a part of the labels", low=1, training=False)
    semi_learning_rate: float = _field(
        0.0,
        float,
        "learning rate of the backbone in fine-tuning on a part of the labels, x.2 at 60 and 80 % of the epochs (0: SwAV's, .02 "
        "below 5 % of the labels, else .01)",
        low=0,
        training=False,
    )
    semi_head_learning_rate: float = _field(
        0.0,
        float,
        "learning rate of the linear head there (0: SwAV's, 5 below 5 % of the labels, else .2)",
        low=0,
        training=False,
    )
    knn_k: int = _field(20, int, "neighbours of the weighted k-NN", low=1, training=False)
    knn_temperature: float = _field(0.07, float, "temperature of the weighted k-NN", low=1e-6, training=False)
    kmeans_features: str = _field(
        "raw",
        str,
        "what K-means and the silhouette see: features as they are, or of unit length",
        choices=("raw", "l2"),
        training=False,
    )
    score: tuple[str, ...] = _field(
        (),
        tuple,
        "further columns of the set that clusters are scored against: compound, plate, well, concentration, moa",
        training=False,
    )
    clusters: int = _field(
        0,
        int,
        "clusters of K-means (0: the number of classes; for embed 10 where there are none)",
        low=0,
        training=False,
    )
    convergence_batches: int = _field(
        1000,
        int,
        "random batches of training images on which the solvers' convergence is measured",
        low=1,
        training=False,
    )
    convergence_batch_size: int = _field(
        512, int, "images in each of them (at most the training images)", low=2, training=False
    )
    lpips_backbone: str = _field(
        "", str, "file of AlexNet's weights for LPIPS: torchvision's alexnet-owt-7be5be79.pth", training=False
    )
    lpips_heads: str = _field(
        "", str, "file of the heads of LPIPS: weights/v0.1/alex.pth of the lpips wheel", training=False
    )
    focus: tuple[str, ...] = _field(
        (), tuple, "classes (or superclasses) that the study of a sweep shows first and advises for", training=False
    )
    superclasses: str = _field(
        "",
        str,
        "for the study of a sweep: CSV with columns class, superclass, or a label feature of the tfds set (coarse_label); "
        "CIFAR-100's are known",
        training=False,
    )
    study_of: str = _field(
        "",
        str,
        "evaluation and metric that the study of a sweep is about, as knn or linear:f1 (default: linear accuracy, else what "
        "there is)",
        training=False,
    )
    checkpoint: str = _field(
        "",
        str,
        "for the stage embed alone: the workdir, or the file of an encoder, that --dataset is embedded with (default: "
        "--workdir, and its own images)",
        training=False,
    )
    run: str = _field(
        "",
        str,
        "which run is embedded with, as the tables name it: simclr/seed=5 (needed where there are several)",
        training=False,
    )
    embed_on: tuple[str, ...] = _field(
        (), tuple, "the splits that are embedded: train, validation, test (default: all)", training=False
    )
    neighbours: int = _field(10, int, "nearest images that embed keeps of each image (0: none)", low=0, training=False)
    map: str = _field(
        "pca",
        str,
        "how embed lays the images out in two dimensions: by principal components, or by t-SNE, at most 10,000 of them",
        choices=("pca", "tsne", "none"),
        training=False,
    )
    compare: str = _field(
        "",
        str,
        "pairs of settings to compare over seeds: 'method=simclr vs method=byol', several with semicolons (default: every value "
        "against the first of its kind)",
        training=False,
    )
    targets: str = _field("", str, "CSV of published values to print beside the measured ones", training=False)

    # Not a setting: the second loss's own, which `resolve` makes of the others.
    second: "Config | None" = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.second is not None and not self.second_transforms:
            raise UserError("second: is made of the other settings; give second_transforms and second_method")
        for field in fields().values():
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))


def flag_name(field: dataclasses.Field) -> str:
    """The flag and the sweep address of a field of `Config`."""
    return field.metadata["address"] or field.name


def fields() -> dict[str, dataclasses.Field]:
    """Every setting of `Config` by its flag name."""
    return {flag_name(f): f for f in dataclasses.fields(Config) if f.metadata}


def fields_by_name() -> dict[str, dataclasses.Field]:
    """Every setting of `Config` by its name in Python."""
    return {f.name: f for f in fields().values()}


def checked(field: dataclasses.Field, value: Any) -> Any:
    """The value in the field's own type, or a `UserError` that names the flag."""
    meta, flag = field.metadata, f"--{flag_name(field)}"
    if value is None:
        if field.default is None:
            return None
        raise UserError(f"{flag}: no value given")
    kind = meta["kind"]
    if kind is tuple:
        return _checked_tuple(field.name, flag, value)
    if field.name in ("transforms", "second_transforms") and hasattr(value, "views"):
        from ssljax.augment import to_text

        value = to_text(value)  # a set made in Python
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if (kind is int and whole) or (kind is float and (whole or isinstance(value, np.floating))):
        value = kind(value)  # numpy's scalars are numbers too
    if field.name == "second_transforms" and value == "none":
        value = ""  # switches off what a flagfile says
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{flag}: expected {_KINDS[kind]}, given {value!r}")
    if kind is int and abs(value) >= 2**31:  # JAX's integers have 32 bits
        raise UserError(f"{flag}: expected a whole number below {2**31}, given {value}")
    low, high = meta["low"], meta["high"]
    if kind is not str and (
        not abs(value) <= _GREATEST or (low is not None and value < low) or (high is not None and value > high)
    ):
        span = f"between {low:g} and {high:g}" if high is not None else f"of at least {low:g}"
        raise UserError(f"{flag}: expected {_KINDS[kind]} {span}, given {value!r}")
    if meta["choices"] and value not in meta["choices"]:
        raise unknown("value", value, meta["choices"], flag)
    return value


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def _checked_tuple(name: str, flag: str, value: Any) -> tuple:
    value = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    if name == "seeds":
        if not value:
            raise UserError(f"{flag}: no seed given")
        for seed in value:
            if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**32:
                raise UserError(f"{flag}: expected whole numbers from 0 to {2**32 - 1}, given {seed!r}")
        if len(set(value)) < len(value):
            raise UserError(f"{flag}: a seed stands twice in {','.join(map(str, value))}")
        return tuple(int(seed) for seed in value)
    for item in value:
        if not isinstance(item, str):
            raise UserError(f"{flag}: expected text, given {item!r}")
    if name == "evaluations":
        for evaluation in value:
            evaluation_parts(evaluation, flag)
    if name == "path_column" and not (value and all(value)):
        raise UserError(f"{flag}: expected the name of a column, given {','.join(value) or 'none'}")
    if name == "probe_learning_rates":
        for rate in value:
            try:
                sound = 0 < float(rate) < math.inf
            except ValueError:
                sound = False
            if not sound:
                raise UserError(f"{flag}: expected numbers above 0, given '{rate}'")
    return value


EVALUATIONS = (
    *("linear", "knn", "finetune", "logreg", "kmeans", "dose", "profiles"),
    *("views", "properties", "convergence", "unlabelled", "cka", "cost"),
)
_OF_A_PART = ("linear", "knn", "finetune")  # those that take `@P%`


def evaluation_parts(name: str, flag: str = "--evaluations") -> tuple[str, str]:
    """The base of an evaluation's name and what stands after its @: ("knn", "10%"), ("logreg", "dtd"), ("kmeans", "k4").

    Raises:
      UserError: an unknown base, a detail that it does not take, a share that is not in (0, 100] percent, or fewer than two
        clusters.
    """
    base, at, detail = name.partition("@")
    if base not in EVALUATIONS:
        raise unknown("evaluation", base, EVALUATIONS, flag)
    if not at:
        return base, ""
    if base == "logreg":
        if not detail:
            raise UserError(f"{flag}: expected a data set after the @, as in logreg@dtd, given '{name}'")
    elif base == "kmeans":
        if (clusters_of(detail) or 0) < 2:
            raise UserError(f"{flag}: expected two clusters or more after the @, as in kmeans@k4, given '{name}'")
    elif base not in _OF_A_PART:
        raise UserError(f"{flag}: {base} takes nothing after an @, given '{name}'")
    elif percent_of(detail) is None:
        raise UserError(
            f"{flag}: expected a share of the labels above 0 and up to 100 %, as in {base}@10%, given '{name}'"
        )
    return base, detail


def clusters_of(detail: str) -> int | None:
    """The number of "k4"; None of any other text."""
    digits = detail.removeprefix("k")
    return (
        int(digits) if detail.startswith("k") and digits.isascii() and digits.isdecimal() and len(digits) < 10 else None
    )


def percent_of(detail: str) -> float | None:
    """The number of "10%"; None of any other text, and where it is not in (0, 100]."""
    try:
        percent = float(detail.removesuffix("%"))
    except ValueError:
        return None
    return percent if detail.endswith("%") and 0 < percent <= 100 else None


MESH_AXES = ("run", "data")
STREAMED = ("cache", "decode")  # the values of `stream` by which images are not resident on the device


def mesh_sizes(text: str) -> dict[str, int]:
    """The axes of "run:4,data:2", an axis that is not named being 1; {} of "".

    Raises:
      UserError: anything else.
    """
    if not text:
        return {}
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        if name not in MESH_AXES:
            raise unknown("axis", name, MESH_AXES, "--mesh")
        if name in sizes or not (number.isascii() and number.isdecimal() and number.strip("0") and len(number) < 10):
            raise UserError(
                f"--mesh: expected each axis once with a number of devices, as in run:4,data:2, given '{text}'"
            )
        sizes[name] = int(number)
    return {name: sizes.get(name, 1) for name in MESH_AXES}


def resolve(config: Config) -> Config:
    """The same config with every `None` filled in from the preset, every name checked against its table, and brought to its size.

    Fields that the method does not use stay None. Where there is a second loss, `second` holds its settings: what is given is
    given for both, and the rest is as the preset says for the second's method.

    Raises:
      UserError: an unknown method, preset, backbone, optimizer or transform set, or a value that a preset does not give.
    """
    from ssljax import sizes

    if config.second is not None:
        return config  # it is resolved: what it holds is no longer only what was given
    full = _resolved(config)
    return sizes.small(full) if config.sizes == sizes.SMALL else full


def _resolved(given: Config) -> Config:
    from ssljax.augment import parse
    from ssljax.models import BACKBONES
    from ssljax.train.optimizers import OPTIMIZERS

    given = with_its_second(given)
    mesh_sizes(given.mesh)
    for name in ("concentrations", "controls"):
        if not given.compound and getattr(given, name) != fields()[name].default:
            raise UserError(f"--{name}: {getattr(given, name)} has no effect without --compound")
    config = _with_preset(given)
    if config.pretrained and config.init_from:
        raise UserError(
            "--init_from: what training starts from; with --pretrained nothing is trained, give one of them"
        )
    measured = ("backbone", "width", "image_size")
    trained = ("transforms", *measured, "epochs", "batch_size", "optimizer", "learning_rate")
    for name in measured if config.pretrained else trained:
        if getattr(config, name) is None:
            raise UserError(f"--{name}: preset '{config.preset}' gives none for method '{config.method}'; give one")
    if config.backbone not in BACKBONES:
        raise unknown("backbone", config.backbone, BACKBONES, "--backbone")
    parse(config.probe_transforms, "--probe_transforms")
    parse(config.finetune_transforms, "--finetune_transforms")
    if config.pretrained:
        return config  # the rest is about training
    if config.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", config.optimizer, OPTIMIZERS, "--optimizer")
    parse(config.transforms, "--transforms")
    _check_local_crops(config)
    if config.second_transforms:
        parse(config.second_transforms, "--second_transforms")
        method = config.second_method or config.method
        if config.second_heads == "shared" and method != config.method:
            raise UserError(f"--second_heads: shared heads take one method twice, given {config.method} and {method}")
        own = dataclasses.replace(given, method=method, transforms=config.second_transforms, second_transforms="")
        # What is one for both losses (batch, image size, schedule) is the first's.
        both = {name: getattr(config, name) for name in _OF_BOTH}
        second = dataclasses.replace(_with_preset(own, "--second_method"), **both)
        return dataclasses.replace(_crops(config), second=_crops(second))
    return config


def with_its_second(config: Config) -> Config:
    """The same config with the second of two transform sets, `A & B`, in its own field."""
    first, both, second = (config.transforms or "").partition("&")
    if not both:
        return config
    if config.second_transforms:
        raise UserError(
            f"--transforms: '{config.transforms}' holds the second set; given too --second_transforms={config.second_transforms}"
        )
    return dataclasses.replace(config, transforms=first.strip(), second_transforms=second.strip())


# The settings that say which images a program sees, and as what.
OF_IMAGES = (
    *("dataset", "resize", "validation_fraction", "max_images"),
    *("label", "group", "compound", "concentrations", "controls"),
)

# What only a second loss reads.
OF_SECOND = ("second_method", "second_heads", "loss_weights.first", "loss_weights.second")


_OF_BOTH = (
    "image_size",
    "batch_size",
    "epochs",
    "optimizer",
    "backbone",
    "width",
    "stem",
    "stem_padding",
    "stochastic_depth",
)


def _check_local_crops(config: Config) -> None:
    """Raises if local crops are asked for and neither loss takes any."""
    from ssljax.methods import METHODS, takes_local_crops

    methods = [config.method, *([config.second_method] if config.second_method else [])]
    if config.local_crops and not any(map(takes_local_crops, methods)):
        able = ", ".join(filter(takes_local_crops, METHODS))
        raise UserError(f"--local_crops: they are for {able}, given {' and '.join(methods)}")


def _crops(config: Config) -> Config:
    """A config of one of two losses without the local crops that it has no use for."""
    from ssljax.methods import takes_local_crops

    return config if takes_local_crops(config.method) else dataclasses.replace(config, local_crops=0)


def _with_preset(config: Config, flag: str = "--method") -> Config:
    from ssljax.methods import preset

    values = preset(config.method, config.preset, config.dataset, flag)
    missing = {
        f.name: values[f.name] for f in fields().values() if f.name in values and getattr(config, f.name) is None
    }
    return dataclasses.replace(config, **missing)


def to_json(config: Config) -> dict[str, Any]:
    """A config as JSON's own types, by flag name."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, f in fields().items()
        for value in [getattr(config, f.name)]
    }


def from_json(values: dict[str, Any]) -> Config:
    """The inverse of `to_json`.

    Raises:
      UserError: an unknown name or a bad value.
    """
    known = fields()
    for name in values:
        if name not in known:
            raise unknown("setting", name, known)
    given: dict[str, Any] = {known[n].name: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return Config(**given)
