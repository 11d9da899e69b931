"""What all tests share: compiled programs kept between runs, and the smallest config that still trains."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import ssljax
from ssljax.methods import METHODS, OF_METHODS, reads
from ssljax.models import BACKBONES
from ssljax.models.layers import batch_norm

# Compiling is what costs time here; a second run of the tests reads what the first compiled.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "ssljax" / "xla-tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# VGG on 8x8 digits at a 32nd of its width: seconds to compile, and it learns.
TINY = dict(
    dataset="digits", backbone="vgg11_bn", width=1 / 32, image_size=8, epochs=2, batch_size=64, warmup_epochs=1,
    hidden_dim=16, output_dim=8, predictor_dim=12, queue_size=128, prototypes=12, prototype_heads=2, checkpoint_every=1,
    probe_epochs=5, transforms="rotation(degrees=20)+color_inversion",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny():
    """A function from overrides to a `Config` that trains within seconds."""

    def make(**overrides):
        methods = [overrides.get("method", "mocov2plus")]
        methods += [overrides.get("second_method", methods[0])] if "second_transforms" in overrides else []
        read = set().union(*(reads(method) for method in methods if method in METHODS))
        fitting = {name: value for name, value in TINY.items() if name not in OF_METHODS or name in read}
        return ssljax.Config(**{**fitting, **overrides})

    return make


class OneLayer(nn.Module):
    """The least backbone that has weights and batch statistics; a table of methods has to compile it many times."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(10, dtype=self.dtype, name="dense")(images.mean(axis=3).reshape(len(images), -1)[:, ::3])
        return nn.relu(batch_norm(train, self.dtype, "bn")(x)).astype(jnp.float32)


@pytest.fixture(scope="session")
def one_layer():
    """The name of a backbone of one layer, known while the tests run."""
    BACKBONES["one_layer"] = lambda dtype, **_: OneLayer(dtype)
    yield "one_layer"
    del BACKBONES["one_layer"]


@pytest.fixture(scope="session")
def test_data():
    """The folder of real data sets that some tests read; they skip where it is absent."""
    folder = os.environ.get("SSLJAX_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SSLJAX_TEST_DATA names no folder: real data sets are not at hand")
    return Path(folder)
