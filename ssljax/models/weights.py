"""Trained weights in and out: checkpoint files to the trees of our backbones, and back to torchvision's names.

A checkpoint is a flat set of named tensors. `LAYOUTS` says behind which prefix the encoder lies and whose habit that
is; `ssljax.models.naming` says what the encoder's tensors are called. Everything behind the prefix must fit.
"""

import collections
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ssljax
from ssljax.errors import UserError, unknown
from ssljax.models import backbone as make_backbone
from ssljax.models import naming, tensor_files
from ssljax.models.layers import scaled
from ssljax.models.tensor_files import read_tensors

__all__ = ["LAYOUTS", "Encoder", "Layout", "load", "read_tensors", "save"]

Tree = Any  # of float32 arrays


class Encoder(NamedTuple):
    """A trained backbone.

    Attributes:
      backbone: key of `ssljax.models.BACKBONES`.
      width, stem, stem_padding: of `ssljax.models.backbone`; a backbone with one stem has its defaults.
      channels: of the images.
      params, stats: the linen module's "params" and "batch_stats" ({} without batch normalisation), float32.
      layout: whose habit the file follows, a name of `LAYOUTS` or "ssljax".
      unused: the file's tensors that are no part of the encoder: heads, queues, other networks, optimiser state.
      mean, std: a value a channel, of the images in [0, 1] that it was trained on; None where the file does not say.
      image_size: side in pixels of the images that it was trained on; 0 where the file does not say.
    """

    backbone: str
    width: float
    stem: str
    stem_padding: int
    channels: int
    params: Tree
    stats: Tree
    layout: str = "ssljax"
    unused: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int = 0


class Layout(NamedTuple):
    """How a project writes its checkpoints.

    Attributes:
      name: the project.
      prefix: pattern of what stands in front of the encoder's tensors; wrapping dictionaries are joined by dots.
      beside: pattern that some tensor's name holds, which tells this layout from others with the same prefix.
      cifar_padding: of the project's CIFAR stem.
    """

    name: str
    prefix: str
    beside: str = ""
    cifar_padding: int = 1


_W = r"(?:(?:state_dict|model)\.)?(?:(?:module|_orig_mod)\.)*"  # the dictionary around the tensors, and what wraps modules
_PLAIN = r"(?:(?:state_dict|model_state_dict|model|module|_orig_mod|backbone|encoder|net|trunk)\.)*"

# The first whose prefix holds an encoder counts. Of two networks the one that the authors evaluate: the averaged one of
# DINO and MIRA, the trained one elsewhere. Files of a backbone alone (resnet50.pth of Barlow Twins and VICReg, DINO's)
# have torchvision's plain names and count as torchvision's.
LAYOUTS: tuple[Layout, ...] = (
    Layout("moco", rf"{_W}encoder_q\."),  # v1, v2
    Layout("moco", rf"{_W}base_encoder\."),  # v3
    Layout("mira", rf"{_W}ema_model\.encoder\.", cifar_padding=2),
    Layout("dino", r"teacher\.(?:module\.)?backbone\."),
    Layout("dino", r"student\.(?:module\.)?backbone\."),
    Layout("byol", rf"{_W}online_(?:encoder|network|backbone)\.(?:(?:net|encoder|backbone)\.)?"),
    Layout("lightly", rf"{_W}teacher_backbone\."),
    Layout("lightly", rf"{_W}(?:student_)?backbone\.", beside=r"projection_head|online_classifier|backbone\.[0-7]\."),
    Layout("barlow_twins", r"(?:model\.)?module\.backbone\.", beside=r"module\.bn\.running_mean$"),
    Layout("vicreg", r"(?:model\.)?module\.backbone\.", beside=r"module\.projector\."),
    Layout(
        "solo-learn",
        r"(?:state_dict\.)?(?:backbone|encoder)\.",
        beside=r"^(?:state_dict\.)?(?:momentum_|projector\.|predictor\.|classifier\.|head\.|prototypes|queue)",
        cifar_padding=2,
    ),
    Layout("swav", _W, beside=r"projection_head|prototypes"),
    Layout("convnext", _PLAIN, beside=r"downsample_layers\."),  # its authors' names
    Layout("timm", _PLAIN, beside=r"(?:^|\.)(?:stages\.\d|pre_logits\.|head\.fc\.)"),
    Layout("torchvision", _PLAIN),
)


def load(path: str | os.PathLike[str], *, backbone: str = "", flag: str = "--pretrained") -> Encoder:
    """The encoder in a checkpoint file; its architecture, width, stem and channels are recognised from the tensors.

    Args:
      path: a file that `read_tensors` takes, in one of `LAYOUTS`.
      backbone: what the file must hold; "" for anything.
      flag: what the path was given by, for messages.

    Raises:
      UserError: see `read_tensors`; no encoder that we have, another one than `backbone`, or one with tensors
        missing, left over, of wrong shape or with values that are no finite floats (all of them in one line).
    """
    where = f"{flag}={path}"
    if backbone and backbone not in naming.FAMILIES:
        raise unknown("backbone", backbone, naming.FAMILIES, "--backbone")
    arrays, metadata = tensor_files.read(path, flag=flag)
    notes = _notes(metadata, where)
    layout, prefix = _recognise(arrays, where)
    inside = {name: naming.to_torchvision(name.removeprefix(prefix)) for name in arrays if name.startswith(prefix)}
    source = {torch: name for name, torch in inside.items()}
    held = max(naming.FAMILIES, key=lambda name: _likeness(name, source))
    blocks = naming.depths(source)
    described = f"{held} (blocks: {blocks})" if blocks else held
    if backbone and backbone != held:
        raise UserError(f"{where}: the file holds a {described}, given --backbone={backbone}")

    expected = naming.tensors(held)
    found = {tensor: arrays[source[tensor.torch]] for tensor in expected if tensor.torch in source}
    used = {source[tensor.torch] for tensor in found}
    names = {tensor.torch for tensor in expected}
    faults = {
        "missing": [tensor.torch for tensor in expected if tensor not in found],
        "unexpected": [
            name
            for name, torch in inside.items()
            if name not in used and (torch in names or not naming.COMPANION.match(torch))
        ],
    }
    first = found.get(expected[0], np.empty(()))
    channels, side = first.shape[1:3] if first.ndim == 4 else (3, 0)
    family = naming.FAMILIES[held]
    stem = next((stem for stem, own in family.stems.items() if own == side), notes.get("stem", "cifar"))
    width = _width([(t.channels, array.shape[0]) for t, array in found.items() if t.channels and array.ndim], notes)
    shapes = _shapes(held, width, stem, max(1, channels))
    values: dict[str, Tree] = {"params": {}, "batch_stats": {}}
    faults |= {"misshapen": [], "without finite floats": []}
    for tensor, array in found.items():
        value, shape = _to_linen(array, tensor), _leaf(shapes, tensor).shape
        if value.shape != shape:
            wanted = _to_torch(np.broadcast_to(np.float32(0), shape), tensor).shape
            faults["misshapen"].append(f"{tensor.torch} {list(array.shape)} instead of {list(wanted)}")
        elif array.dtype != np.float32 or not np.isfinite(value).all():
            faults["without finite floats"].append(tensor.torch)
        _put(values, tensor, value)
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults.items() if names)
        raise UserError(f"{where}: expected the tensors of an encoder, given nearest to a {described}: {listed}")

    cifar_padding = layout.cifar_padding if family.padded and stem == "cifar" else 1
    return Encoder(
        backbone=held,
        width=width,
        stem=stem,
        stem_padding=notes.get("stem_padding", cifar_padding),
        channels=channels,
        params=values["params"],
        stats=values["batch_stats"],
        layout="ssljax" if notes else layout.name,
        unused=tuple(sorted(arrays.keys() - used)),
        mean=notes.get("mean"),
        std=notes.get("std"),
        image_size=notes.get("image_size", 0),
    )


def save(path: str | os.PathLike[str], encoder: Encoder, *, notes: Mapping[str, str] = {}) -> None:
    """Writes an encoder as .safetensors under torchvision's names, whole or not at all.

    torchvision's model of the same name, width and stem takes it by `load_state_dict(tensors, strict=False)`: only its
    classifier is not in the file. The metadata (JSON strings) hold the encoder's other fields, and `notes`.

    Args:
      path: ends in .safetensors, in a folder that exists.
      encoder: `layout` and `unused` are not written.
      notes: anything else worth knowing about the encoder.

    Raises:
      UserError: another ending, trees that are not the backbone's, or a folder that cannot be written to.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path}: expected a file name that ends in .safetensors")
    trees = {"params": encoder.params, "batch_stats": encoder.stats}
    tensors: dict[str, np.ndarray] = {}
    for tensor in naming.tensors(encoder.backbone):
        try:
            tensors[tensor.torch] = _to_torch(np.asarray(_leaf(trees, tensor), np.float32), tensor)
        except KeyError:
            name = "/".join((tensor.collection, *tensor.path))
            raise UserError(f"{path}: given an encoder without {name}, expected a {encoder.backbone}") from None
    if len(jax.tree.leaves(trees)) > len(tensors):
        raise UserError(f"{path}: given an encoder with more arrays than a {encoder.backbone} has")
    # torch's batch normalisation carries a count of batches beside its statistics.
    for name in [name for name in tensors if name.endswith(".running_var")]:
        tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    fields = {name: getattr(encoder, name) for name in ("backbone", "channels", *_NOTED)}
    tensor_files.write(path, tensors, fields | {"ssljax": ssljax.__version__, "notes": dict(notes)})


_NOTED = ("width", "stem", "stem_padding", "mean", "std")


def _notes(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """What `save` wrote beside the tensors that they do not tell; {} for files of others."""
    if "ssljax" not in metadata:
        return {}
    try:
        notes = {name: json.loads(metadata[name]) for name in _NOTED}
        colours = {name: None if notes[name] is None else tuple(map(float, notes[name])) for name in ("mean", "std")}
        notes |= colours | {"width": float(notes["width"]), "stem_padding": int(notes["stem_padding"])}
        notes["image_size"] = int(json.loads(metadata.get("notes", "{}")).get("image_size", 0))
        if notes["stem"] not in ("cifar", "imagenet"):
            raise ValueError(f"stem {notes['stem']}")
        return notes
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: expected the metadata that ssljax writes, given damaged ones ({error!r})") from None


def _recognise(names: Iterable[str], where: str) -> tuple[Layout, str]:
    """The layout, and the prefix of the encoder's tensors as this file has it."""
    kernels = {t.torch for backbone in naming.FAMILIES for t in naming.tensors(backbone) if t.path[-1] == "kernel"}
    names = list(names)
    for layout in LAYOUTS:
        if layout.beside and not any(re.search(layout.beside, name) for name in names):
            continue
        pattern = re.compile(layout.prefix)
        matches = (match for name in names if (match := pattern.match(name)))
        prefixes = collections.Counter(m[0] for m in matches if naming.to_torchvision(m.string[m.end() :]) in kernels)
        if prefixes:
            return layout, prefixes.most_common(1)[0][0]
    known = ", ".join(dict.fromkeys(layout.name for layout in reversed(LAYOUTS)))
    raise UserError(
        f"{where}: expected a ResNet, VGG, AlexNet or ConvNeXt as written by {known}; "
        + (f"given {len(names)} tensors of something else ({_some(names)})" if names else "the file holds no tensors")
    )


def _likeness(backbone: str, names: Iterable[str]) -> float:
    """Tensors in common over tensors in either, of a backbone and of a file's torchvision names."""
    expected = {tensor.torch for tensor in naming.tensors(backbone)}
    given = {name for name in names if name in expected or not naming.COMPANION.match(name)}
    return len(expected & given) / len(expected | given)


def _width(pairs: Sequence[tuple[int, int]], notes: Mapping[str, Any]) -> float:
    """The width that scales each base of (base, given) to what is given: the noted one, their ratio, a short decimal."""

    def fits(width: float) -> bool:
        return math.isfinite(width) and width > 0 and all(scaled(base, width) == given for base, given in pairs)

    if "width" in notes and fits(notes["width"]):
        return notes["width"]
    low = max(((given - 0.5) / base for base, given in pairs if given > 1), default=0.0)
    high = min(((given + 0.5) / base for base, given in pairs), default=2.0)
    decimals = [round((low + high) / 2, digits) for digits in range(12)]
    ratios = list(dict.fromkeys(given / base for base, given in pairs)) or [1.0]
    exact = ratios if len(ratios) == 1 else []
    # Where no width fits all, the first layer's; the shapes then tell which ones are off.
    return next(filter(fits, [*exact, *decimals]), ratios[0])


@functools.cache
def _shapes(backbone: str, width: float, stem: str, channels: int) -> Tree:
    module = make_backbone(backbone, width=width, stem=stem, convolution="lax")
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)  # 64 px: nothing in any backbone is left out
    return jax.eval_shape(module.init, jax.random.key(0), images)


def _leaf(trees: Tree, tensor: naming.Tensor) -> Any:
    leaf = trees[tensor.collection]
    for key in tensor.path:
        leaf = leaf[key]
    return leaf


def _put(trees: Tree, tensor: naming.Tensor, value: np.ndarray) -> None:
    node = trees[tensor.collection]
    for key in tensor.path[:-1]:
        node = node.setdefault(key, {})
    node[tensor.path[-1]] = value


def _to_linen(array: np.ndarray, tensor: naming.Tensor) -> np.ndarray:
    """torch's [out, in, height, width] to [height, width, in, out], [out, in] to [in, out]; a layer scale to one axis."""
    if tensor.path[-1] == "kernel":
        return np.ascontiguousarray(array.transpose((2, 3, 1, 0)) if array.ndim == 4 else array.T)
    return array.reshape(-1) if tensor.path[-1] == "layer_scale" and array.shape[1:] == (1, 1) else array


def _to_torch(array: np.ndarray, tensor: naming.Tensor) -> np.ndarray:
    if tensor.path[-1] == "kernel":
        return np.ascontiguousarray(array.transpose((3, 2, 0, 1)) if array.ndim == 4 else array.T)
    return array.reshape(-1, 1, 1) if tensor.path[-1] == "layer_scale" else array


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
