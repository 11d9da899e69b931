"""Self-supervised methods by name: one module each, with its presets, the names of its traced hyper-parameters and `make`."""

from types import ModuleType
from typing import Any

from ssljax.errors import unknown
from ssljax.methods import mocov2plus, simclr
from ssljax.methods.base import Batch, Method, View

__all__ = ["METHODS", "PRESETS", "Batch", "Method", "View", "preset"]

METHODS: dict[str, ModuleType] = {
    "mocov2plus": mocov2plus,
    "simclr": simclr,
}

# What a preset says for every method; a method's own PRESETS row goes over it.
PRESETS: dict[str, dict[str, Any]] = {
    # Papers 000 to 003, sections B.1 / D.1: SGD, batch 512, 1000 epochs, ResNet18 with the CIFAR stem, learning rates as
    # written. Momentum and schedule are our choice (solo-learn's).
    "paper": dict(
        transforms="cifar", optimizer="sgd", lr_scaling="none", epochs=1000, batch_size=512, warmup_epochs=10,
        backbone="resnet18", width=1.0, image_size=32, stem_padding=1, probe_features="raw",
    ),
    # solo-learn's CIFAR files.
    "solo": dict(
        lr_scaling="linear", epochs=1000, batch_size=256, warmup_epochs=10, backbone="resnet18", width=1.0,
        image_size=32, stem_padding=2, probe_features="raw",
    ),
    # Ours: scikit-learn's digits within minutes on two CPU cores. Learning rate, temperature and width of the networks were
    # chosen on a validation part of the training images. VGG11 has batch normalisation here: without it, within so few
    # steps, its features stay where they start, all alike. The probe standardises, since an untrained encoder's
    # features are so small that the probe would measure their unit.
    "digits": dict(
        transforms="mnist_first", optimizer="adam", lr_scaling="none", learning_rate=1e-3, weight_decay=1e-4, epochs=20,
        batch_size=128, warmup_epochs=2, backbone="vgg11_bn", width=0.25, image_size=16, stem_padding=1,
        probe_features="standardized",
    ),
}  # fmt: skip


def preset(method: str, name: str) -> dict[str, Any]:
    """Every value that preset `name` gives for `method`.

    Raises:
      UserError: unknown method or preset.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS, "--method")
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS, "--preset")
    return {**PRESETS[name], **METHODS[method].PRESETS[name]}
