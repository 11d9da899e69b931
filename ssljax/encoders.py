"""Encoders as files: those that are measured without being trained here (`--pretrained`) or that training starts from
(`--init_from`), and trained ones written out.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import config as config_lib
from ssljax import sweeps
from ssljax.config import Config
from ssljax.data import Dataset
from ssljax.errors import UserError
from ssljax.methods.base import begin_from
from ssljax.models import naming, weights
from ssljax.models.weights import Encoder
from ssljax.sweeps import Run
from ssljax.train import loop
from ssljax.train.loop import Trained
from ssljax.train.mesh import laid_out
from ssljax.train.step import INIT, Data, Program, State, derive, encoder_network, over_runs
from ssljax.workdir import told

log = logging.getLogger("ssljax")

RANDOM = "random"  # in the place of a file: encoders before any training

# Of the red, green and blue of ImageNet's training images in [0, 1], as torchvision and those who publish encoders give them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalisation(NamedTuple):
    """What images in [0, 1] are normalised by, a value a channel, and whose values these are."""

    mean: Sequence[float]
    std: Sequence[float]
    whose: str


def with_start(configs: Sequence[Config], stages: Sequence[str], made: Sequence[Config] = ()) -> list[Config]:
    """The configs; where they are to be trained, `pretrained` is what training starts from, and stands in `init_from`.

    Args:
      configs: as given.
      stages: of the command.
      made: what the workdir was made for, so that the command that trained it may measure it too.
    """
    trained = "pretrain" in stages or any(config.init_from for config in made)
    return [
        dataclasses.replace(config, pretrained="", init_from=config.pretrained)
        if trained and config.pretrained not in ("", RANDOM) and not config.init_from
        else config
        for config in configs
    ]


def refuse_stages(configs: Sequence[Config], stages: Sequence[str]) -> None:
    """Raises `UserError` for a stage that encoders which are not trained do not have."""
    if not any(config.pretrained for config in configs):
        return
    if "pretrain" in stages:
        raise UserError(
            "--pretrained=random: untrained encoders are measured, not trained; give --stages=evaluate,report"
        )
    if "export" in stages:
        raise UserError("--pretrained: export writes encoders that were trained here; give --stages=evaluate,report")


def short_names(files: Iterable[str]) -> dict[str, str]:
    """A name for each of some files that is a file name too: its stem, with as many folders as tell it from the others."""
    files = list(dict.fromkeys(files))
    named = {RANDOM: RANDOM} if RANDOM in files else {}
    files = [file for file in files if file != RANDOM]
    paths = {file: (*Path(file).parent.parts, Path(file).stem) for file in files}
    for depth in range(1, max(map(len, paths.values()), default=0) + 1):
        names = {file: _file_name("-".join(parts[-depth:])) for file, parts in paths.items()}
        if len(set(names.values())) == len(files):
            return named | names
    return named | {file: f"{_file_name(parts[-1])}-{_digest(file.encode())}" for file, parts in paths.items()}


def _file_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.=-]+", "_", text)[-80:].lstrip(".") or "_"
    # Programs to compare with have these names.
    return f"file-{name}" if re.match(r"(random|pixels)(-|$)", name) else name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:7]


def settle(given: Config, config: Config) -> tuple[Config, Encoder | None]:
    """The config with the network that `pretrained` or `init_from` stands for, and that network from the file; None for `RANDOM`.

    Args:
      given: the config before `resolve`: what is None in it was not asked for.
      config: the same one resolved.

    Raises:
      UserError: no such file, one that holds no encoder of ours, another network than asked for, or a sweep.
    """
    if config.pretrained and config.sweep:
        raise UserError("--sweep: an encoder that is not trained (--pretrained) has nothing to sweep")
    if config.pretrained == RANDOM:
        return config, None
    file, flag = file_of(config)
    encoder = weights.load(file, backbone=given.backbone or "", flag=flag)
    for name in ("width", "stem"):
        asked, held = getattr(given, name), getattr(encoder, name)
        if asked is not None and asked != held and (name != "stem" or naming.FAMILIES[encoder.backbone].stems):
            what = f"{encoder.backbone} of {name} {held}"
            raise UserError(f"{flag}={file}: the file holds a {what}, given --{name}={asked}")
    if given.stem_padding is not None:
        encoder = encoder._replace(stem_padding=given.stem_padding)
    network = {name: getattr(encoder, name) for name in _NETWORK}
    if config.pretrained and given.image_size is None and encoder.image_size:  # of one of our own files
        config = dataclasses.replace(config, image_size=encoder.image_size)
    second = config.second and dataclasses.replace(config.second, **network)
    return dataclasses.replace(config, **network, second=second), encoder


def file_of(config: Config) -> tuple[str, str]:
    """The file that a config's encoders are from, or start from, and the flag that names it."""
    return (config.pretrained, "--pretrained") if config.pretrained else (config.init_from, "--init_from")


_NETWORK = ("backbone", "width", "stem", "stem_padding")


def refuse_equal(configs: Sequence[Config]) -> None:
    """Raises `UserError` for encoders that would be measured twice in the same way: a list in a flag of training alone."""
    seen: dict[str, Config] = {}
    for config in configs:
        if not config.pretrained:
            continue
        other = seen.setdefault(json.dumps([sweeps.settings(config), config.stem_padding]), config)
        if other is not config:
            differing = [n for n, f in config_lib.fields().items() if getattr(other, f.name) != getattr(config, f.name)]
            raise UserError(f"--{differing[0]}: it changes nothing in an encoder that is not trained; give one value")


def check_channels(encoder: Encoder | None, config: Config, dataset: Dataset) -> None:
    """Raises `UserError` unless the encoder takes the images: as many channels, or, to be measured, three of grey ones."""
    channels = dataset.splits["train"].images.shape[-1]
    repeated = (encoder.channels, channels) == (3, 1) and bool(config.pretrained) if encoder else False
    if encoder is not None and encoder.channels != channels and not repeated:
        file, flag = file_of(config)
        raise UserError(
            f"{flag}={file}: the encoder takes images of {count_of(encoder.channels)}, {config.dataset} has {channels}"
        )


def count_of(channels: int) -> str:
    """So many channels, in words."""
    return f"{channels} channel{'s' if channels > 1 else ''}"


def normalisation(encoder: Encoder, dataset: Dataset) -> Normalisation:
    """What the encoder's images are normalised by: the file's values, else ImageNet's if it looks trained there, else the data's.

    A file of another project that does not say is taken to be trained on ImageNet unless it has a CIFAR stem or takes
    images that are not of three channels.
    """
    if encoder.mean is not None and encoder.std is not None:
        return Normalisation(encoder.mean, encoder.std, "the file's")
    large = encoder.stem == "imagenet" or not naming.FAMILIES[encoder.backbone].stems
    if encoder.layout != "ssljax" and large and encoder.channels == 3:
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD, "ImageNet's")
    return Normalisation(dataset.mean, dataset.std, "the data set's")


def seen_as(program: Any) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and deviation that a program's images are normalised by: the data set's, or those of the file it starts from."""
    if program.encoder is None:
        return program.dataset.mean, program.dataset.std
    own = normalisation(program.encoder, program.dataset)
    return own.mean, own.std


def started(trained: Trained, encoder: Encoder) -> Trained:
    """Runs before their first step, all of whose encoders, and the targets' copies of them, begin with these weights.

    Args:
      trained: from `loop.prepare`.
      encoder: of the runs' own architecture.
    """

    def one(state: State, encoder: Any) -> State:
        params, stats, memory = begin_from(state.params, state.stats, state.memory, encoder)
        return state._replace(params=params, stats=stats, memory=memory)

    axes = (0, None)
    begin = laid_out(over_runs(one, axes), axes, trained.mesh, donate=True)
    return trained._replace(state=begin(trained.state, {"params": encoder.params, "stats": encoder.stats}))


def from_file(encoder: Encoder, config: Config, runs: Sequence[Run], dataset: Dataset) -> Trained:
    """An encoder from a file as runs to be measured, one a seed: they share its weights, and its features are computed once.

    Args:
      encoder, config: from `settle`.
      runs: their seeds are the probe's and K-means'.
      dataset: whose images are seen.
    """
    network = encoder_network(config)
    own = normalisation(encoder, dataset)
    weights = jax.device_put({"params": encoder.params, "batch_stats": encoder.stats})
    # A value for each channel that the network takes: normalised by them, grey images have as many, all equal.
    mean, std = (np.broadcast_to(values, encoder.channels).tolist() for values in (own.mean, own.std))
    data, images = loop.laid_down(config, dataset.splits["train"].images, mean, std)
    data = data._replace(shared=weights)

    def encode(state: State, images: jax.Array, data: Data) -> jax.Array:
        return network.apply(data.shared, (images - data.mean) / data.std, train=False)

    return _measured_only(encode, runs, State((), (), (), (), jnp.ones(len(runs), bool)), data, images)


def untrained(config: Config, runs: Sequence[Run], dataset: Dataset) -> Trained:
    """Encoders before any training, the initial weights each its seed's own, as runs to be measured."""
    network = encoder_network(config)
    images = dataset.splits["train"].images
    blank = jnp.zeros((1, config.image_size, config.image_size, images.shape[-1]))

    @jax.jit
    @jax.vmap
    def init(seed: jax.Array) -> State:
        key, *_ = jax.random.split(derive(seed, 0, INIT), 3)  # as the encoder of a method without a target
        variables = network.init(key, blank, train=False)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return State({"backbone": params}, {"backbone": stats}, (), (), jnp.array(True))

    def encode(state: State, images: jax.Array, data: Data) -> jax.Array:
        variables = {"params": state.params["backbone"], "batch_stats": state.stats["backbone"]}
        return network.apply(variables, (images - data.mean) / data.std, train=False)

    state = init(jnp.array([run.seed for run in runs], jnp.uint32))
    return _measured_only(encode, runs, state, *loop.laid_down(config, images, dataset.mean, dataset.std))


def _measured_only(encode: Any, runs: Sequence[Run], state: State, data: Data, images: Any) -> Trained:
    """Runs of which only features are asked."""
    functions: dict[str, Any] = dict.fromkeys(Program._fields) | {"encode": encode}
    return Trained(Program(**functions), tuple(runs), state, {}, data, 0, images)


def describe(encoder: Encoder, config: Config, dataset: Dataset) -> str:
    """One line on where an encoder comes from, what was recognised in its file, and what its images are normalised by."""
    parts = [f"{encoder.backbone}, width {encoder.width:g}"]
    family = naming.FAMILIES[encoder.backbone]
    if family.stems:
        padding = f" padded by {encoder.stem_padding}" if encoder.stem == "cifar" and family.padded else ""
        parts.append(f"{encoder.stem} stem{padding}")
    parts.append(count_of(encoder.channels))
    if encoder.channels != dataset.splits["train"].images.shape[-1]:
        parts.append("grey images repeated to three equal channels")
    parts.append(f"images normalised by {normalisation(encoder, dataset).whose} mean and deviation")
    return f"{file_of(config)[0]} ({encoder.layout}): {', '.join(parts)}"


def provenance(encoder: Encoder, config: Config, dataset: Dataset) -> dict[str, str]:
    """What `run.json` keeps of an encoder from a file."""
    file, flag = file_of(config)
    use = "measured" if flag == "--pretrained" else "start"
    told = {"use": use, "sha256": digest_of(file), "description": describe(encoder, config, dataset)}
    return {"file": file, **told}


def digest_of(path: str | Path) -> str:
    """sha256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_changed(workdir: Path, files: Mapping[str, Mapping[str, str]]) -> None:
    """Raises `UserError` if training in a workdir began from other weights than a file of that name holds now.

    Args:
      workdir: with what it was made of in its `run.json`, if it was.
      files: from `provenance`, by program.
    """
    known = {each["file"]: each["sha256"] for each in _noted(workdir) if each.get("use") == "start"}
    for each in files.values():
        if each["use"] == "start" and known.get(each["file"], each["sha256"]) != each["sha256"]:
            raise UserError(
                f"--init_from={each['file']}: holds other weights than those that training in {workdir} began from; "
                "put them back, or give another --workdir"
            )


def _noted(workdir: Path) -> list[dict[str, str]]:
    """What `run.json` says of encoders from files, as `provenance` wrote it."""
    needed = {"use", "file", "sha256", "description"}
    return [each for each in told(workdir, "encoders").values() if isinstance(each, dict) and needed <= set(each)]


def notes(workdir: Path) -> list[str]:
    """The sentences of a workdir's page on its encoders from files."""
    said = {"start": "Training starts from"}
    return list(
        dict.fromkeys(f"{said.get(each.get('use', ''), 'Encoder')} {each['description']}." for each in _noted(workdir))
    )


def export(config: Config, trained: Trained, folder: Path, name: str) -> list[Path]:
    """Writes the encoder of each run as `folder`/RUN.safetensors under torchvision's names; diverged runs are left out.

    Beside the weights a file says what its images were normalised by, and how it was trained.

    Args:
      config: resolved.
      trained: its runs after training.
      folder: is made if it is not there.
      name: the program's, for messages.

    Returns:
      The files, in the order of the runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = (tuple(map(float, values)) for values in (trained.data.mean, trained.data.std))
    losses = [config] if config.second is None else [config, config.second]
    files = []
    for i, run in enumerate(trained.runs):
        file = folder / f"{run.name.replace(',', '_')}.safetensors"
        if not trained.state.alive[i]:
            log.warning("%s: run %s diverged and is not exported", name, run.name)
            file.unlink(missing_ok=True)
            continue
        parts = (trained.state.params["backbone"], trained.state.stats["backbone"])
        params, stats = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), parts)
        network = {field: getattr(config, field) for field in _NETWORK}
        encoder = Encoder(
            **network, channels=trained.data.images.shape[-1], params=params, stats=stats, mean=mean, std=std
        )
        about = {
            "method": " & ".join(loss.method for loss in losses),
            "transforms": " & ".join(loss.transforms for loss in losses),
            "dataset": config.dataset,
            "image_size": config.image_size,
            "epoch": trained.epoch,
            "seed": run.seed,
            **run.swept,
        }
        weights.save(file, encoder, notes={key: str(value) for key, value in about.items()})
        files.append(file)
    log.info("%s: %d encoders in %s", name, len(files), folder)
    return files
