"""What the tables and the page say of how things were measured: the columns that were asked for, and a note on each protocol."""

from collections.abc import Sequence

from ssljax.config import Config
from ssljax.evaluate.features import LAYER
from ssljax.models import lpips
from ssljax.report import tables

_LPIPS = (
    "LPIPS: perceptual distance between the two views of a training image (AlexNet, version 0.1), mean over all of them; 0 for "
    f"equal views. Views below {lpips.SMALLEST} px are resized to that side, and grey ones given three equal channels."
)
_LPIPS_NOT_GIVEN = (
    "LPIPS: weights not given. Give --lpips_backbone=alexnet-owt-7be5be79.pth (https://download.pytorch.org/models/) and "
    "--lpips_heads=alex.pth (weights/v0.1/ in the wheel of the Python package lpips)."
)


def table_columns(configs: Sequence[Config]) -> tuple[tables.Column, ...]:
    """The columns of the table of some configs: those of the evaluations that any of them asks for."""
    asked = {name: [config for config in configs if name in config.evaluations] for name in tables.OPTIONAL}
    columns = [column for column in tables.TABLE1 if any(column.key[0] in config.evaluations for config in configs)]
    if asked["finetune"]:
        columns.append(tables.OPTIONAL["finetune"])
    if asked["views"] and all(config.lpips_backbone for config in asked["views"]):
        columns.append(tables.OPTIONAL["views"]._replace(note=_LPIPS))
    elif asked["views"]:
        columns.append(tables.OPTIONAL["views"]._replace(absent="weights not given", note=_LPIPS_NOT_GIVEN))
    return tuple(columns) or tables.TABLE1


_SEEN = {
    "raw": "the features as they are",
    "l2": "the features brought to unit length",
    "standardized": "each feature brought to mean 0 and deviation 1 over the training images",
}


def notes(config: Config, encoders: Sequence[str] = ()) -> list[str]:
    """A sentence on each evaluation that a resolved config asks for: what it saw, and with which settings.

    Args:
      config: resolved.
      encoders: sentences on where measured encoders come from.
    """
    said = {
        "": [f"Features: {LAYER}; images are only resized, to {config.image_size} px.", *encoders],
        "kmeans": [
            f"K-means and the silhouette see {_SEEN[config.kmeans_features]}, on the {config.evaluate_on} images; "
            "K-means starts 10 times, its random state is the run's seed."
        ],
        "knn": [
            f"k-NN: cosine, k = {config.knn_k}, weights exp(similarity / {config.knn_temperature:g}), neighbours from the "
            "training images."
        ],
        "linear": [
            f"Linear probe: SGD with momentum .9, learning rate {config.probe_learning_rate:g} falling tenfold at 60 and 80 % of "
            f"{config.probe_epochs} epochs, batch {config.probe_batch_size}, no weight decay, transforms: "
            f"{config.probe_transforms}; it sees {_SEEN[config.probe_features]}; the last epoch counts."
        ],
        "finetune": [
            "Fine-tuning: the whole network and a new linear head on all labels, SGD with momentum .9, learning rate "
            f"{config.finetune_learning_rate:g} x batch/256 for both, half a cosine to 0 over {config.finetune_epochs} epochs, "
            f"batch {config.finetune_batch_size}, no weight decay, transforms: {config.finetune_transforms}; batch statistics "
            "move; the last epoch counts. The protocol is our choice: the papers give none."
        ],
        "properties": [
            "Class properties are of the training images: intrinsic dimension (TwoNN) and spectrum of the covariance "
            "(participation ratio) of a class's features, co-occurrence contrast and share of the spectrum's energy above half "
            "the Nyquist radius of its grey images."
        ],
    }
    return [sentence for name, own in said.items() if not name or name in config.evaluations for sentence in own]
