"""Self-supervised methods by name: one module each.

A module has `VIEWS` (config -> the plan of views), `HYPER` (its traced numbers), `PRESETS` (its rows) and `make`; where its traced
numbers must fit each other, `check` (config, the numbers of a run, the flag that they are from); where its loss is a cross-entropy
among other images, `candidates` (config -> how many images the right one is among, itself counted).
"""

import re
from types import ModuleType
from typing import Any

from flax import linen as nn

from ssljax.data.miniature import MADE
from ssljax.errors import UserError, unknown
from ssljax.methods import (
    barlow_twins,
    byol,
    deepclusterv2,
    dino,
    mira,
    mocov2plus,
    mocov3,
    nnbyol,
    nnclr,
    ressl,
    simclr,
    simsiam,
    supervised,
    swav,
    twist,
    vibcreg,
    vicreg,
)
from ssljax.methods.base import CROP_AND_FLIP, Batch, Course, Method, Stage, Traced, View, multi_crop_views
from ssljax.methods.pair import weighted_sum

__all__ = [
    "METHODS",
    "OF_METHODS",
    "PRESETS",
    "Batch",
    "Course",
    "Method",
    "Stage",
    "Traced",
    "View",
    "build",
    "preset",
    "reads",
    "takes_local_crops",
]

METHODS: dict[str, ModuleType] = {
    "barlow_twins": barlow_twins,
    "byol": byol,
    "deepclusterv2": deepclusterv2,
    "dino": dino,
    "mira": mira,
    "mocov2plus": mocov2plus,
    "mocov3": mocov3,
    "nnbyol": nnbyol,
    "nnclr": nnclr,
    "ressl": ressl,
    "simclr": simclr,
    "simsiam": simsiam,
    "supervised": supervised,
    "swav": swav,
    "twist": twist,
    "vibcreg": vibcreg,
    "vicreg": vicreg,
}

_SCHEDULE = dict(warmup_epochs=10, warmup_learning_rate=3e-5, min_learning_rate=0.0)  # solo-learn's

# Papers 001 and 003, sections D.4 / B.4: MoCo v2+ on VGG13, its rate and decay. What they do not give, and the rates of BYOL and
# VICReg, for which no paper has values on cells, are our choice: the same rate and decay for all three, and ResNets' ImageNet stem,
# since images of 196 pixels are no small ones.
_CELLS: dict[str, Any] = dict(
    transforms="cell_table_rotation", optimizer="adam", learning_rate=1e-3, weight_decay=1e-4, epochs=400, batch_size=128,
    backbone="vgg13", image_size=196, stem="imagenet", finetune_transforms="none",
)  # fmt: skip

# What a preset says for every method; a method's own PRESETS row goes over it. A row "preset@data set" goes over the
# preset's for that data set, and then only the methods that have such a row of their own have the preset at all.
PRESETS: dict[str, dict[str, Any]] = {
    # Papers 000 to 003, sections B.1 / D.1: SGD, batch 512, 1000 epochs, ResNet18 with the CIFAR stem, learning rates as
    # written. Momentum and schedule are our choice (solo-learn's).
    "paper": dict(
        transforms="cifar", optimizer="sgd", lr_scaling="none", epochs=1000, batch_size=512, backbone="resnet18",
        width=1.0, image_size=32, stem="cifar", stem_padding=1, probe_features="raw", local_crops=0,
        finetune_transforms=CROP_AND_FLIP, **_SCHEDULE,
    ),
    # Section D.1, last lines: four methods.
    "paper@imagenet100": dict(batch_size=128, epochs=400, image_size=224, stem="imagenet"),
    # The methods of the tables of MIRA's paper, each with what its own paper or official program trains its longest ResNet-50 with.
    # What is written here is MIRA's own (section 4.1) and most others' too.
    "paper@imagenet2012": dict(
        optimizer="lars", lr_scaling="linear", batch_size=4096, epochs=400, backbone="resnet50", image_size=224,
        stem="imagenet",
    ),
    # Section D.2: two methods. Warm-up is our choice.
    "paper@mnist": dict(
        transforms="mnist_first", optimizer="adam", batch_size=32, epochs=250, backbone="vgg11",
        finetune_transforms="none",
    ),
    # Cells, as our own program cuts them out or ready-made.
    "paper@bbbc021": _CELLS,
    "paper@crops": _CELLS,
    # solo-learn's CIFAR files.
    "solo": dict(
        optimizer="lars_solo", lr_scaling="linear", epochs=1000, batch_size=256, backbone="resnet18", width=1.0,
        image_size=32, stem="cifar", stem_padding=2, probe_features="raw", local_crops=0,
        finetune_transforms=CROP_AND_FLIP, **_SCHEDULE,
    ),
    # solo-learn's ImageNet-100 files; the methods of MIRA's Table 7.
    "solo@imagenet100": dict(epochs=400, image_size=224, stem="imagenet"),
    # Ours: scikit-learn's digits within minutes on two CPU cores. Learning rate, batch, epochs, temperature and width of the
    # networks were chosen on a validation part of the training images, the same for every method. VGG11 has batch
    # normalisation here: without it, within so few steps, its features stay where they start, all alike. The probe
    # standardises, since an untrained encoder's features are so small that the probe would measure their unit.
    "digits": dict(
        transforms="mnist_first", optimizer="adam", lr_scaling="none", learning_rate=1e-3, weight_decay=1e-4, epochs=60,
        batch_size=64, backbone="vgg11_bn", width=0.25, image_size=16, stem="cifar", stem_padding=1, probe_features="standardized",
        local_crops=0, finetune_transforms="none", hidden_dim=128, output_dim=64, **{**_SCHEDULE, "warmup_epochs": 2},
    ),
}  # fmt: skip


def preset(method: str, name: str, dataset: str = "", flag: str = "--method") -> dict[str, Any]:
    """Every value that preset `name` gives for `method` on a data set, by field of `Config` or traced name.

    Args:
      method, name: keys of `METHODS` and `PRESETS`.
      dataset: as `--dataset` names it; decides only where the preset has a row for that data set, whatever its version, place
        or configuration. A subset (imagenet2012_subset/1pct) and a made miniature count as the set.
      flag: what named the method, for messages.

    Raises:
      UserError: unknown method or preset, or a preset without values for the method on this data set.
    """
    names = [known for known in PRESETS if "@" not in known]
    if method not in METHODS:
        raise unknown("method", method, METHODS, flag)
    if name not in names:
        raise unknown("preset", name, names, "--preset")
    own = METHODS[method].PRESETS
    values = {**PRESETS[name], **own[name]}
    special = f"{name}@{re.split('[:/]', dataset.removeprefix(MADE))[0].removesuffix('_subset')}"
    if special in PRESETS:
        if special not in own:
            having = ", ".join(known for known, module in METHODS.items() if special in module.PRESETS)
            raise UserError(
                f"--preset: '{name}' has no values for {method} on {special.partition('@')[2]}, only for {having}; "
                "give another --preset and what you want changed"
            )
        values |= {**PRESETS[special], **own[special]}
    unread = set(OF_METHODS) - reads(method)
    return {name: value for name, value in values.items() if name not in unread}


# Fields of `Config` that only some methods read.
OF_METHODS = (
    "hidden_dim", "output_dim", "predictor_dim", "queue_size", "prototypes", "prototype_heads", "target_network", "solver",
    "temperature", "tau_base", "tau_final",
)  # fmt: skip


def reads(method: str) -> set[str]:
    """Which of `OF_METHODS` a method reads: those that its presets give."""
    return {name for row in METHODS[method].PRESETS.values() for name in row if name in OF_METHODS}


def takes_local_crops(method: str) -> bool:
    """Whether a method of the table has a multi-crop plan; False for an unknown name, which others refuse."""
    return method in METHODS and METHODS[method].VIEWS is multi_crop_views


def build(config: Any, backbone: nn.Module, course: Course) -> Method:
    """The method of a resolved config, or the weighted sum of its two.

    Raises:
      UserError: settings that a method refuses.
    """
    first = METHODS[config.method].make(config, backbone, course)
    if config.second is None:
        return first
    second = METHODS[config.second.method].make(config.second, backbone, course)
    return weighted_sum(first, second, shared_heads=config.second_heads == "shared")
