"""The small size of a study (`--sizes=small`): the same programs, runs and evaluations with small networks, few images, few epochs.

It shows within minutes that a study runs from end to end and what its tables look like; its numbers are no one's results.
A data set that is not at hand is stood in for by a made miniature in its real layout, `miniature:NAME`.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from ssljax import config as config_lib
from ssljax.config import Config
from ssljax.data.miniature import MADE, here

SMALL = "small"
EPOCHS, BATCH = 100, 32  # what epochs and batches are divided by
IMAGES = 1024  # of each split at most

# The most of each setting: what two cores do in minutes.
_MOST: dict[str, int | float] = dict(
    width=1 / 8, image_size=32, resize=32, local_crops=2, local_size=16, hidden_dim=128, output_dim=64, predictor_dim=64,
    prototypes=128, probe_epochs=10, probe_batch_size=64, finetune_epochs=3, semi_epochs=5, finetune_batch_size=64,
    convergence_batches=10, convergence_batch_size=64,
)  # fmt: skip


def small(config: Config) -> Config:
    """A resolved config at the small size.

    Epochs, and what a method counts in epochs, are a hundredth; batches a thirty-second, of 32 to 128 images; a network becomes
    the shallowest of its family, a ResNet-50 a ResNet-18; side and width of the network are at most 32 pixels and an eighth; at
    most 1,024 images of each split are used.
    """
    held = {name: getattr(config, name) for name in _MOST}
    values: dict[str, Any] = {name: min(_MOST[name], value) for name, value in held.items() if value is not None}
    values["max_images"] = min(config.max_images or IMAGES, IMAGES)
    values["dataset"] = at_hand(config.dataset, config.data_dir)
    values["evaluations"] = tuple(_evaluation(name, config.data_dir) for name in config.evaluations)
    if not config.pretrained:
        values["backbone"] = _shallowest(config.backbone)
        batch_size = max(32, min(128, config.batch_size // BATCH))
        values |= dict(
            stem="cifar",
            batch_size=batch_size,
            epochs=max(1, config.epochs // EPOCHS),
            warmup_epochs=config.warmup_epochs / EPOCHS,
            set=(*_epochs_of_method(config), *config.set),
        )
        if config.queue_size is not None:
            values["queue_size"] = min(config.queue_size, 4 * batch_size)
    if config.second is not None:
        values["second"] = small(config.second)
    return dataclasses.replace(config, **values)


def at_hand(dataset: str, data_dir: str) -> str:
    """The data set's own name where it lies ready, else that of its miniature."""
    return dataset if dataset.startswith(MADE) or here(dataset, data_dir) else MADE + dataset


def said(config: Config) -> list[str]:
    """Sentences on the size of a resolved config, for the report; none at full size."""
    if config.sizes != SMALL:
        return []
    made = [config.dataset, *(config_lib.evaluation_parts(name)[1] for name in config.evaluations)]
    made = [name.removeprefix(MADE) for name in made if name.startswith(MADE)]
    images = f" Made images stand in for {', '.join(made)}." if made else ""
    return [
        f"This is the small size: networks, images and epochs (a {EPOCHS}th) are few, so that the study can be seen to run; the "
        f"numbers are not results, and not to be compared with published ones.{images}"
    ]


def _shallowest(backbone: str) -> str:
    """The backbone of the same name but for the depth in it, whose depth is the least."""
    from ssljax.models import BACKBONES

    family = re.sub(r"\d+", "", backbone)
    kin = [name for name in BACKBONES if re.sub(r"\d+", "", name) == family]
    return min(kin, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], default=backbone)


def _evaluation(name: str, data_dir: str) -> str:
    """An evaluation's name; a set to transfer to that is not at hand is its miniature."""
    from ssljax.data import transfer

    base, detail = config_lib.evaluation_parts(name)
    if base != "logreg" or not detail or detail.startswith(MADE):
        return name
    dataset = transfer.TRANSFER[detail].dataset if detail in transfer.TRANSFER else detail
    return name if at_hand(dataset, data_dir) == dataset else f"{base}@{MADE}{detail}"


def _epochs_of_method(config: Config) -> Iterator[str]:
    """What the config's method counts in epochs, a hundredth of it, as `--set` takes it."""
    from ssljax.methods import METHODS, preset

    values = preset(config.method, config.preset, config.dataset)
    given = {text.partition("=")[0].strip() for text in config.set}
    for address, traced in METHODS[config.method].HYPER.items():
        if address.endswith(("epoch", "epochs")) and address not in given and address not in config_lib.fields():
            yield f"{address}={values.get(address, traced.default) / EPOCHS:g}"
