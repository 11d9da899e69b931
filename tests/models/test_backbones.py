"""Backbones: the replaceable convolution against XLA's and scipy's, views, published parameter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from ssljax import models
from ssljax.models.layers import conv_as_matmul

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("padding", [0, 1, 3, "SAME", "VALID"])
def test_convolution_as_matmul_equals_xlas_and_scipys(stride, kernel, padding):
    rng = np.random.default_rng(kernel)
    x, w = rng.normal(size=(2, 9, 8, 3)).astype(np.float32), rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32)
    pads = padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
    actual = conv_as_matmul(x, w, (stride, stride), pads)
    expected = jax.lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=DIMENSIONS)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    if not isinstance(padding, str):
        image = np.pad(x[0].astype(np.float64), ((padding, padding), (padding, padding), (0, 0)))
        plane = sum(correlate2d(image[..., c], w[..., c, 2].astype(np.float64), mode="valid") for c in range(3))
        np.testing.assert_allclose(actual[0, ..., 2], plane[::stride, ::stride], rtol=1e-4, atol=1e-4)


# torchvision's parameter counts less its classifiers (11,689,512 - 513,000 for ResNet18); the CIFAR stem's kernel is 3x3.
COUNTS = {
    ("vgg11", "imagenet"): 9_220_480,
    ("vgg11_bn", "imagenet"): 9_225_984,
    ("vgg13", "imagenet"): 9_404_992,
    ("vgg13_bn", "imagenet"): 9_410_880,
    ("resnet18", "imagenet"): 11_176_512,
    ("resnet18", "cifar"): 11_176_512 - 64 * 3 * (49 - 9),
}


@pytest.mark.parametrize(("name", "stem"), COUNTS)
def test_parameter_counts_are_torchvisions(name, stem):
    network = models.backbone(name, stem=stem)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == COUNTS[name, stem]
    assert jax.eval_shape(network.apply, shapes, jnp.zeros((2, 64, 64, 3))).shape == (2, 512)


@pytest.mark.parametrize("name", models.BACKBONES)
def test_both_convolutions_and_both_modes_agree(name):
    """The same parameters give the same features by either convolution; a small image loses pools, not the network."""
    x = jax.random.uniform(jax.random.key(1), (3, 16, 16, 1))
    plain = models.backbone(name, width=0.05, convolution="lax")
    variables = plain.init(jax.random.key(0), x)
    matmul = models.backbone(name, width=0.05, convolution="matmul")
    for train in (False, True):
        run = [n.apply(variables, x, train=train, mutable=["batch_stats"])[0] for n in (plain, matmul)]
        np.testing.assert_allclose(run[0], run[1], rtol=1e-3, atol=1e-4)
        assert np.std(run[0]) > 0


def test_views_leave_the_statistics_that_one_after_another_leaves():
    network = models.backbone("resnet18", width=0.05, convolution="matmul")
    views = jax.random.normal(jax.random.key(1), (3, 4, 8, 8, 3)) + jnp.arange(3.0)[:, None, None, None, None]
    variables = network.init(jax.random.key(0), views[0])

    def apply(stats, images):
        out, new = network.apply({**variables, "batch_stats": stats}, images, train=True, mutable=["batch_stats"])
        return out, new["batch_stats"]

    outputs, stats = models.apply_views(apply, variables["batch_stats"], views)
    expected = variables["batch_stats"]
    for i in range(3):
        out, expected = apply(expected, views[i])
        np.testing.assert_allclose(outputs[i], out, rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), stats, expected)


def test_bfloat16_keeps_statistics_and_features_in_float32():
    network = models.backbone("resnet18", width=0.05, precision="bfloat16", convolution="matmul")
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    variables = network.init(jax.random.key(0), x)
    features, updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
    assert features.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    exact = models.backbone("resnet18", width=0.05, convolution="matmul").apply(variables, x)
    rough = network.apply(variables, x)
    assert 0 < np.linalg.norm(exact - rough) / np.linalg.norm(exact) < 0.05
