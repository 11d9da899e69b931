"""What all tests share: compiled programs kept between runs, and the smallest config that still trains."""

import os
from pathlib import Path

import jax
import pytest

import ssljax

# Compiling is what costs time here; a second run of the tests reads what the first compiled.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "ssljax" / "xla-tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Two convolutions' worth of VGG on 8x8 digits: seconds to compile, and it learns.
TINY = dict(
    dataset="digits", backbone="vgg11_bn", width=1 / 32, image_size=8, epochs=2, batch_size=64, warmup_epochs=1,
    hidden_dim=16, output_dim=8, checkpoint_every=1, probe_epochs=5, transforms="rotation(degrees=20)+color_inversion",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny():
    """A function from overrides to a `Config` that trains within seconds."""

    def make(**overrides):
        method = overrides.get("method", "mocov2plus")
        queue = {"queue_size": 128} if method == "mocov2plus" else {}
        return ssljax.Config(**{**TINY, **queue, **overrides})

    return make


@pytest.fixture(scope="session")
def test_data():
    """The folder of real data sets that some tests read; they skip where it is absent."""
    folder = os.environ.get("SSLJAX_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SSLJAX_TEST_DATA names no folder: real data sets are not at hand")
    return Path(folder)
