"""What torchvision, timm and others call the tensors of a backbone, and where they lie in our linen trees.

`tensors(backbone)` lists every tensor of an encoder by torchvision's name; `to_torchvision` brings the names of other
libraries to torchvision's. Classifiers are no part of an encoder and stand in neither, but for ConvNeXt's last norm.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import NamedTuple

from ssljax.models import alexnet, convnext, resnet, vgg


class Tensor(NamedTuple):
    """One tensor of an encoder.

    Attributes:
      torch: torchvision's name.
      collection: "params" or "batch_stats".
      path: inside that collection.
      channels: at width 1, of a kernel with max(1, round(channels x width)) outputs; 0 where that is not its rule.
    """

    torch: str
    collection: str
    path: tuple[str, ...]
    channels: int = 0


# The tensors of one layer: torch's name, our collection and name.
_KERNEL = (("weight", "params", "kernel"),)
_BIASED = (*_KERNEL, ("bias", "params", "bias"))
_LAYER_NORM = (("weight", "params", "scale"), ("bias", "params", "bias"))
_BATCH_NORM = (*_LAYER_NORM, ("running_mean", "batch_stats", "mean"), ("running_var", "batch_stats", "var"))


def _layer(torch: str, path: str, leaves: tuple[tuple[str, str, str], ...], channels: int = 0) -> Iterator[Tensor]:
    for name, collection, leaf in leaves:
        yield Tensor(f"{torch}.{name}", collection, (*path.split("/"), leaf), channels if leaf == "kernel" else 0)


def _resnet(blocks: tuple[int, ...], bottleneck: bool) -> Iterator[Tensor]:
    yield from _layer("conv1", "conv1", _KERNEL, resnet.CHANNELS[0])
    yield from _layer("bn1", "bn1", _BATCH_NORM)
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            torch, path = f"layer{stage}.{block}", f"layer{stage}_{block}"
            for i in range(1, 4 if bottleneck else 3):
                # A bottleneck's third convolution has four times the rounded channels.
                channels = 0 if i == 3 else resnet.CHANNELS[stage - 1]
                yield from _layer(f"{torch}.conv{i}", f"{path}/conv{i}", _KERNEL, channels)
                yield from _layer(f"{torch}.bn{i}", f"{path}/bn{i}", _BATCH_NORM)
            if block == 0 and (bottleneck or stage > 1):  # where the shape changes
                yield from _layer(f"{torch}.downsample.0", f"{path}/downsample", _KERNEL)
                yield from _layer(f"{torch}.downsample.1", f"{path}/downsample_bn", _BATCH_NORM)


def _vgg(plan: tuple[int, ...], normalise: bool) -> Iterator[Tensor]:
    index, layer = 0, 0  # in torch's Sequential, which counts norms, ReLUs and pools too, and of the convolution
    for count, channels in zip(plan, vgg.CHANNELS):
        for _ in range(count):
            yield from _layer(f"features.{index}", f"conv{layer}", _BIASED, channels)
            if normalise:
                yield from _layer(f"features.{index + 1}", f"bn{layer}", _BATCH_NORM)
            index, layer = index + (3 if normalise else 2), layer + 1
        index += 1


def _alexnet() -> Iterator[Tensor]:
    index = 0
    for layer, (channels, *_) in enumerate(alexnet.PLAN):
        yield from _layer(f"features.{index}", f"conv{layer}", _BIASED, channels)
        index += 3 if layer + 1 in alexnet.POOLED else 2


# The parts of a ConvNeXt block: torchvision's index in `block`, the names of timm and of the authors, ours, what it holds.
_CONVNEXT_BLOCK = (
    (0, r"conv_dw|dwconv", "depthwise", _BIASED),
    (2, r"norm", "norm", _LAYER_NORM),
    (3, r"mlp\.fc1|pwconv1", "pointwise1", _BIASED),
    (5, r"mlp\.fc2|pwconv2", "pointwise2", _BIASED),
)


def _convnext(blocks: tuple[int, ...]) -> Iterator[Tensor]:
    yield from _layer("features.0.0", "stem", _BIASED, convnext.CHANNELS[0])
    yield from _layer("features.0.1", "stem_norm", _LAYER_NORM)
    for stage, count in enumerate(blocks, 1):
        if stage > 1:
            yield from _layer(f"features.{2 * stage - 2}.0", f"downsample{stage}_norm", _LAYER_NORM)
            channels = convnext.CHANNELS[stage - 1]
            yield from _layer(f"features.{2 * stage - 2}.1", f"downsample{stage}", _BIASED, channels)
        for block in range(count):
            torch, path = f"features.{2 * stage - 1}.{block}", f"stage{stage}_{block}"
            for index, _, ours, leaves in _CONVNEXT_BLOCK:
                yield from _layer(f"{torch}.block.{index}", f"{path}/{ours}", leaves)
            yield Tensor(f"{torch}.layer_scale", "params", (path, "layer_scale"))
    yield from _layer("classifier.0", "norm", _LAYER_NORM)


class Family(NamedTuple):
    """What a backbone has from its family.

    Attributes:
      tensors: of its encoder.
      stems: side of the first kernel by stem; {} for one stem.
      padded: whether the CIFAR stem has a `stem_padding`.
    """

    tensors: Callable[[], Iterator[Tensor]]
    stems: Mapping[str, int] = {}
    padded: bool = False


FAMILIES = {
    **{f"resnet{depth}": Family(partial(_resnet, *plan), resnet.STEMS, True) for depth, plan in resnet.PLANS.items()},
    **{f"vgg{depth}": Family(partial(_vgg, plan, False)) for depth, plan in vgg.PLANS.items()},
    **{f"vgg{depth}_bn": Family(partial(_vgg, plan, True)) for depth, plan in vgg.PLANS.items()},
    "alexnet": Family(_alexnet),
    "convnext_tiny": Family(partial(_convnext, convnext.TINY), convnext.STEMS),
}


@cache
def tensors(backbone: str) -> tuple[Tensor, ...]:
    """Every tensor of a backbone's encoder, the first convolution's kernel first.

    Args:
      backbone: a key of `FAMILIES`.
    """
    return tuple(FAMILIES[backbone].tensors())


# Pattern at the start of a name and what stands for it in torchvision's names; the first that matches counts.
_RULES = (
    # `nn.Sequential(*list(model.children())[:-1])`, as lightly's examples build backbones: children by their number.
    (r"0\.weight$", "conv1.weight"),
    (r"1\.(?=[a-z_]+$)", "bn1."),
    *((rf"{stage + 3}\.(?=\d)", f"layer{stage}.") for stage in (1, 2, 3, 4)),
    (r"0\.(?=\d)", "features."),
    # ConvNeXt by timm (stem, blocks) and by its authors (downsample_layers, no "blocks").
    (r"stem\.(?=[01]\.)", "features.0."),
    *((rf"(?:downsample_layers\.{s}|stages\.{s}\.downsample)\.(?=[01]\.)", f"features.{2 * s}.") for s in range(4)),
    *(
        (rf"stages\.{s}\.(?:blocks\.)?(\d+)\.(?:{theirs})\.(?=weight|bias)", rf"features.{2 * s + 1}.\1.block.{index}.")
        for s in range(4)
        for index, theirs, *_ in _CONVNEXT_BLOCK
    ),
    *((rf"stages\.{s}\.(?:blocks\.)?(\d+)\.gamma$", rf"features.{2 * s + 1}.\1.layer_scale") for s in range(4)),
    (r"(?:head\.)?norm\.", "classifier.0."),
)

# Tensors that lie among an encoder's and are none of its own: classifiers, projectors, and torch's counts of batches.
COMPANION = re.compile(
    r"(?:fc|classifier|heads?|pre_logits|mlp|projector|projection_head|predictor|prediction_head|prototypes\d*|queue\w*)"
    r"(?:\.|$)|(?:.*\.)?num_batches_tracked$"
)


def to_torchvision(name: str) -> str:
    """A tensor's name in torchvision's words; one that no rule knows comes back as it is."""
    for pattern, template in _RULES:
        if match := re.match(pattern, name):
            return match.expand(template) + name[match.end() :]
    return name


def depths(names: Iterable[str]) -> str:
    """The blocks in each stage of what has these torchvision names, such as "3, 4, 6, 3"; "" for no blocks."""
    found: dict[str, set[str]] = {}
    for name in names:
        if match := re.match(r"(?:layer(?=\d\.\d)|features\.(?=\d\.\d+\.(?:block|layer_scale)))(\d)\.(\d+)\.", name):
            found.setdefault(match[1], set()).add(match[2])
    return ", ".join(str(len(found[stage])) for stage in sorted(found))
