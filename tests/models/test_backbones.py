"""Backbones against torch.nn restatements of torchvision's, the published parameter counts, and what each adds to them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.signal import correlate2d
from torch import nn

from ssljax import models
from ssljax.errors import UserError
from ssljax.models import VGG, AlexNet, ConvNeXt, ResNet, convnext
from ssljax.models.convolution import CONVOLUTIONS, conv_as_matmul
from ssljax.models.depthwise import depthwise_conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# ---- torchvision's networks, restated from its layer tables. Layers bear the names of ours, so that weights go by name.

RESNETS = {
    "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}  # fmt: skip
VGGS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


def missing(x):
    """Pixels by which a map falls short of 2 a side: where ours leave torchvision's, which refuse it."""
    return [max(0, 2 - size) for size in x.shape[2:]]


class Pool(nn.MaxPool2d):
    def forward(self, x):
        return x if any(missing(x)) else super().forward(x)


class Patches(nn.Conv2d):
    def forward(self, x):
        rows, columns = missing(x)
        return super().forward(nn.functional.pad(x, (0, columns, 0, rows)))


class Residual(nn.Module):
    def __init__(self, n_in, n, stride, deep):
        super().__init__()
        self.n = 3 if deep else 2
        shapes = [(n, 1, 1), (n, 3, stride), (4 * n, 1, 1)] if deep else [(n, 3, stride), (n, 3, 1)]
        before = n_in
        for i, (out, kernel, step) in enumerate(shapes, 1):
            self.add_module(f"conv{i}", nn.Conv2d(before, out, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
            before = out
        self.projects = stride != 1 or n_in != before
        if self.projects:
            self.downsample = nn.Conv2d(n_in, before, 1, stride, bias=False)
            self.downsample_bn = nn.BatchNorm2d(before)

    def forward(self, x):
        y = x
        for i in range(1, self.n + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y if i == self.n else y.relu()
        return (y + (self.downsample_bn(self.downsample(x)) if self.projects else x)).relu()


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.depthwise = nn.Conv2d(n, n, 7, padding=3, groups=n)
        self.norm = nn.LayerNorm(n, eps=1e-6)
        self.pointwise1, self.pointwise2 = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)
        self.layer_scale = nn.Parameter(torch.empty(n))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.layer_scale * self.pointwise2(nn.functional.gelu(self.pointwise1(y)))
        return x + y.permute(0, 3, 1, 2)


def torch_layers(name, n_in, width, stem, stem_padding):
    """(name, layer) of a backbone in order."""

    def scaled(channels):
        return max(1, round(channels * width))

    if name.startswith("resnet"):
        deep = int(name[6:]) >= 50
        n = scaled(64)
        if stem == "cifar":
            yield "conv1", nn.Conv2d(n_in, n, 3, 1, stem_padding, bias=False)
        else:
            yield "conv1", nn.Conv2d(n_in, n, 7, 2, 3, bias=False)
        yield from (("bn1", nn.BatchNorm2d(n)), ("relu", nn.ReLU()))
        if stem == "imagenet":
            yield "pool", nn.MaxPool2d(3, 2, 1)
        for stage, (blocks, channels) in enumerate(zip(RESNETS[name], map(scaled, (64, 128, 256, 512))), 1):
            for block in range(blocks):
                yield f"layer{stage}_{block}", Residual(n, channels, 2 if stage > 1 and block == 0 else 1, deep)
                n = channels * (4 if deep else 1)
    elif name.startswith("vgg"):
        layer, block, within = 0, 1, 0
        for item in VGGS[name.removesuffix("_bn")].split():
            if item == "M":
                yield f"pool{block}", Pool(2, 2)
                block, within = block + 1, 0
                continue
            n = scaled(int(item))
            yield f"conv{layer}", nn.Conv2d(n_in, n, 3, padding=1)
            if name.endswith("_bn"):
                yield f"bn{layer}", nn.BatchNorm2d(n)
            layer, within, n_in = layer + 1, within + 1, n
            yield f"relu{block}_{within}", nn.ReLU()
    elif name == "alexnet":
        sizes = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
        for layer, (channels, *shape) in enumerate(sizes):
            n = scaled(channels)
            yield f"conv{layer}", nn.Conv2d(n_in, n, *shape)
            yield f"relu{layer + 1}", nn.ReLU()
            if layer in (0, 1, 4):
                yield f"pool{layer}", nn.MaxPool2d(3, 2)
            n_in = n
    else:
        before, side = n_in, 2 if stem == "cifar" else 4
        for stage, (blocks, n) in enumerate(zip((3, 3, 9, 3), map(scaled, (96, 192, 384, 768))), 1):
            if stage == 1:
                yield "stem", nn.Conv2d(before, n, side, side)
                yield "stem_norm", ChannelNorm(n, eps=1e-6)
            else:
                yield f"downsample{stage}_norm", ChannelNorm(before, eps=1e-6)
                yield f"downsample{stage}", Patches(before, n, 2, 2)
            for block in range(blocks):
                yield f"stage{stage}_{block}", ConvNeXtBlock(n)
            before = n
        yield from (("average", nn.AdaptiveAvgPool2d(1)), ("norm", ChannelNorm(before, eps=1e-6)))


def torch_network(name, variables, *options):
    """The restatement in float64 with the weights of `variables`, every one of which it must take, and no other."""
    network = nn.ModuleDict(dict(torch_layers(name, *options)))
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    given = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    for (_, *owner, leaf), value in flatten_dict(variables).items():
        if leaf == "kernel":
            value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
        given[".".join([*owner, leaves.get(leaf, leaf)])] = torch.from_numpy(value)
    network.load_state_dict(given)
    return network.double()


def torch_forward(network, images):
    """Features, and by our names what the inner layers see, channels last."""
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    maps = {}
    with torch.no_grad():
        for name, layer in network.items():
            x = layer(x)
            inner = name.split("_")[0] if name.startswith(("layer", "stage")) else name
            maps[inner] = x.permute(0, 2, 3, 1).numpy()
    return maps | {"pooled": x.mean((2, 3)).numpy()}


def random_variables(network, images, seed=0):
    """Weights of a scale that keeps activations of the order of 1, and nothing of them where it starts."""
    rng = np.random.default_rng(seed)
    draw = {
        "kernel": lambda shape: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "layer_scale": lambda shape: rng.uniform(0.2, 0.8, shape),
        "mean": lambda shape: rng.normal(0, 0.3, shape),
        "var": lambda shape: rng.uniform(0.5, 2, shape),
    }
    shapes = flatten_dict(jax.eval_shape(lambda: network.init(jax.random.key(0), images)))
    return unflatten_dict({path: draw[path[-1]](leaf.shape).astype(np.float32) for path, leaf in shapes.items()})


def assert_close(actual, expected, tolerance=1e-4):
    """Within the tolerance of the larger of 1 and the largest value expected; and the expected says something."""
    assert actual.shape == expected.shape
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


# Neither square nor of an even number of pixels at every stage; AlexNet needs 63 px for torchvision's last pool.
SIZES = {"alexnet": (64, 72)}
DEEP = (
    "resnet101",
    "resnet152",
)  # the same blocks as ResNet50's, more of them, and minutes to compile where it is cold
TABLE = [
    *(
        pytest.param(name, "imagenet", 1, SIZES.get(name, (36, 44)), marks=[pytest.mark.slow] * (name in DEEP))
        for name in models.BACKBONES
    ),
    *((name, "cifar", padding, (9, 11)) for name, padding in (("resnet18", 1), ("resnet18", 2), ("resnet50", 1))),
    ("convnext_tiny", "cifar", 1, (18, 22)),
    *((name, "imagenet", 1, (8, 8)) for name in ("resnet18", "vgg11_bn", "convnext_tiny")),
]
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile, not to run


@pytest.mark.parametrize(("name", "stem", "stem_padding", "size"), TABLE)
def test_equals_torchvisions(name, stem, stem_padding, size):
    """Features, inner layers and running statistics, in both modes."""
    width, channels = 1 / 16, 5
    images = np.random.default_rng(1).normal(size=(4, *size, channels)).astype(np.float32)
    ours = models.backbone(
        name, width=width, stem=stem, stem_padding=stem_padding, convolution="lax", stochastic_depth=0.0
    )
    variables = random_variables(ours, images)
    theirs = torch_network(name, variables, channels, width, stem, stem_padding)

    evaluate = jax.jit(functools.partial(models.inner_features, ours), compiler_options=QUICK)
    expected = torch_forward(theirs.eval(), images)
    for layer, value in evaluate(variables, images).items():
        assert_close(value, expected[layer])

    # In float64: statistics over the few values that are left in the last stages let rounding grow from block to block.
    with jax.enable_x64(True):
        exact = ours.clone(dtype=jnp.float64)
        train = jax.jit(lambda v, x: exact.apply(v, x, train=True, mutable=["batch_stats"]), compiler_options=QUICK)
        features, updated = train(*jax.tree.map(np.float64, (variables, images)))
    counts = {}  # how many values a channel each normalisation averages
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, x, _: counts.update({layer: x[0].numel() // x[0].shape[1]}))
    assert_close(features, torch_forward(theirs.train(), images)["pooled"], 1e-5)
    before = flatten_dict(variables)
    for path, value in flatten_dict(updated).items():
        layer = theirs.get_submodule(".".join(path[1:-1]))
        if path[-1] == "mean":
            assert_close(value, layer.running_mean.numpy(), 1e-7)
        else:  # torch keeps the unbiased variance of the batch: n / (n - 1) times ours
            kept, n = 0.9 * before[path], counts[layer]
            assert_close(value, kept + (layer.running_var.numpy() - kept) * (n - 1) / n, 1e-7)


# What torchvision publishes for each whole network, and how much of it is the classifier, which is not ours.
PUBLISHED = {
    "alexnet": 61_100_840, "convnext_tiny": 28_589_128,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160, "resnet152": 60_192_808,
    "vgg11": 132_863_336, "vgg13": 133_047_848, "vgg16": 138_357_544, "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840, "vgg13_bn": 133_053_736, "vgg16_bn": 138_365_992, "vgg19_bn": 143_678_248,
}  # fmt: skip


def classifier(name):
    """Weights and biases of torchvision's linear layers after the features."""
    widths = {"alexnet": (256 * 36, 4096, 4096, 1000), "convnext_tiny": (768, 1000)}.get(name)
    if name.startswith("vgg"):
        widths = (512 * 49, 4096, 4096, 1000)
    elif name.startswith("resnet"):
        widths = (512 if name in ("resnet18", "resnet34") else 2048, 1000)
    return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(widths))


@pytest.mark.parametrize("name", models.BACKBONES)
def test_parameter_counts_are_torchvisions(name):
    network = models.backbone(name, stem="imagenet")
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == PUBLISHED[name] - classifier(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_stems_differ_by_one_kernel(name):
    counts = []
    for stem in ("imagenet", "cifar"):
        network = models.backbone(name, stem=stem)
        shapes = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])))
    assert counts[0] - counts[1] == 64 * 3 * (7 * 7 - 3 * 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_equals_torchvisions_at_full_width(name):
    """In float32 in both modes, at the size that ImageNet's networks are made for."""
    images = np.random.default_rng(1).normal(size=(2, 224, 224, 3)).astype(np.float32)
    ours = models.backbone(name, stem="imagenet", stochastic_depth=0.0)
    variables = random_variables(ours, images)
    theirs = torch_network(name, variables, 3, 1, "imagenet", 1)
    evaluated = jax.jit(ours.apply)(variables, images)
    trained, _ = jax.jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    assert_close(evaluated, torch_forward(theirs.eval(), images)["pooled"])
    assert_close(trained, torch_forward(theirs.train(), images)["pooled"])


SHALLOW = {
    "alexnet": AlexNet(width=0.05),
    "convnext": ConvNeXt(blocks=(1, 1, 1, 1), width=0.05, stochastic_depth=0.0),
    "resnet": ResNet(blocks=(1, 1, 1, 1), bottleneck=True, width=0.05, stem="imagenet"),
    "vgg": VGG(plan=(1, 1, 1, 1, 1), width=0.05, normalise=True),
}


def initialise(network):
    return jax.jit(lambda key: network.init(key, jnp.zeros((1, 16, 16, 3))), compiler_options=QUICK)(jax.random.key(0))


@pytest.mark.parametrize("name", SHALLOW)
def test_both_convolutions_give_the_same_features_and_gradients(name):
    plain, matmul = (SHALLOW[name].clone(conv=conv) for conv in CONVOLUTIONS.values())
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 1)).astype(np.float32)
    variables = random_variables(plain, images)

    def loss(network, params):
        out, _ = network.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(out**2 * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    results = []
    for network in (plain, matmul):
        run = jax.jit(jax.grad(functools.partial(loss, network), has_aux=True), compiler_options=QUICK)
        gradient, out = run(variables["params"])
        results.append(flatten_dict(gradient) | {"features": out})
    largest = max(np.abs(value).max() for value in results[0].values())
    for path, value in results[0].items():  # a bias before a normalisation has a gradient of rounding only
        np.testing.assert_allclose(
            results[1][path], value, rtol=0, atol=max(1e-3 * np.abs(value).max(), 1e-5 * largest)
        )
    assert np.std(results[0]["features"]) > 0


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


@pytest.mark.parametrize("padding", [((3, 3), (3, 3)), ((0, 2), (4, 1)), "SAME", "VALID"])
def test_depthwise_convolution_and_gradients(padding):
    """scipy's correlation, channel by channel, and what XLA's grouped convolution and its gradients give."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 8, 3)).astype(np.float32), rng.normal(size=(7, 5, 1, 3)).astype(np.float32)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS, feature_group_count=3
        )

    actual, pull = jax.vjp(lambda x, kernel: depthwise_conv(x, kernel, (1, 1), padding), x, kernel)
    expected, pull_grouped = jax.vjp(grouped, x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    if not isinstance(padding, str):
        plane = np.pad(x[1, ..., 2].astype(np.float64), padding)
        np.testing.assert_allclose(
            actual[1, ..., 2], correlate2d(plane, kernel[..., 0, 2], "valid"), rtol=1e-4, atol=1e-5
        )
    cotangent = rng.normal(size=expected.shape).astype(np.float32)
    for ours, theirs in zip(pull(cotangent), pull_grouped(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_depthwise_convolution_of_many_runs_and_in_bfloat16():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 6, 6, 4)).astype(np.float32), rng.normal(size=(2, 7, 7, 1, 4)).astype(np.float32)

    def gradients(x, kernel):
        conv = functools.partial(conv_as_matmul, strides=(1, 1), padding=((3, 3), (3, 3)), feature_group_count=4)
        return jax.grad(lambda x, kernel: jnp.sum(conv(x, kernel).astype(jnp.float32) ** 2), (0, 1))(x, kernel)

    runs = jax.jit(jax.vmap(gradients), compiler_options=QUICK)(x, kernel)
    gradients = jax.jit(gradients, compiler_options=QUICK)
    rough = gradients(jnp.bfloat16(x[0]), jnp.bfloat16(kernel[0]))
    for together, alone, low in zip(runs, gradients(x[0], kernel[0]), rough, strict=True):
        np.testing.assert_allclose(together[0], alone, rtol=1e-5, atol=1e-4)
        assert low.dtype == jnp.bfloat16
        assert np.linalg.norm(low.astype(np.float32) - alone) / np.linalg.norm(alone) < 0.01


def test_depthwise_convolution_refuses_what_it_does_not_do():
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2))
    with pytest.raises(NotImplementedError):
        depthwise_conv(x, kernel, (2, 2), "SAME")
    with pytest.raises(NotImplementedError):
        depthwise_conv(x, jnp.zeros((3, 3, 1, 4)), (1, 1), "SAME")


def test_stochastic_depth_passes_rows_by_the_block_or_scales_them():
    x = np.random.default_rng(0).normal(size=(64, 4, 4, 6)).astype(np.float32)
    rate = 0.25
    block = convnext.Block(drop=rate, conv=jax.lax.conv_general_dilated, dtype=jnp.float32)
    variables = random_variables(ConvNeXt(blocks=(1, 1, 1, 1), width=1 / 16), np.zeros((1, 32, 32, 3), np.float32))
    variables = {"params": variables["params"]["stage1_0"]}
    branch = np.asarray(block.apply(variables, x, train=False)) - x
    train = jax.jit(jax.vmap(lambda key: block.apply(variables, x, train=True, rngs={"dropout": key})))
    moved = np.asarray(train(jax.random.split(jax.random.key(1), 64))) - x
    taken = np.abs(moved).max(axis=(2, 3, 4)) > 0
    np.testing.assert_allclose(moved, taken[:, :, None, None, None] * branch / (1 - rate), atol=1e-5)
    assert abs(taken.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / taken.size)  # four standard errors
    assert 0 < taken.mean(axis=1).std() < 0.1  # and a draw for each row, not for each batch: that would be .43


def test_stochastic_depth_grows_linearly_to_the_last_block():
    found = {}

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, convnext.Block) and context.method_name == "__call__":
            found[context.module.name] = context.module.drop
        return next_fun(*args, **kwargs)

    network = models.backbone("convnext_tiny", width=1 / 16, stochastic_depth=0.34)
    with linen.intercept_methods(note):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    blocks = [f"stage{stage}_{i}" for stage, count in enumerate((3, 3, 9, 3), 1) for i in range(count)]
    np.testing.assert_allclose([found[name] for name in blocks], 0.02 * np.arange(18), rtol=1e-6)
    assert models.backbone("convnext_tiny").stochastic_depth == 0.1


def test_stochastic_depth_needs_a_key_in_training_only():
    network = SHALLOW["convnext"].clone(stochastic_depth=0.5)
    images = jnp.ones((2, 16, 16, 3))
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))
    assert jax.eval_shape(network.apply, variables, images).shape == (2, 38)
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(network.apply, train=True), variables, images)
    with pytest.raises(UserError, match="stochastic_depth.*1.0"):
        models.backbone("convnext_tiny", stochastic_depth=1.0)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_residual_starts_every_block_as_its_shortcut(bottleneck):
    network = ResNet(blocks=(2, 1, 1, 1), bottleneck=bottleneck, width=1 / 16, zero_init_residual=True)
    params = initialise(network)["params"]
    last = "bn3" if bottleneck else "bn2"
    for name, block in params.items():
        if name.startswith("layer"):
            scales = {key: float(value["scale"].mean()) for key, value in block.items() if "bn" in key}
            assert scales == {key: 0.0 if key == last else 1.0 for key in scales}


def test_networks_start_as_torchvisions():
    """Standard deviations over many weights: Kaiming's for ResNet and VGG, .02 for ConvNeXt; biases 0, layer scales 1e-6."""
    vgg, net = (flatten_dict(initialise(SHALLOW[name].clone(width=0.5))["params"]) for name in ("vgg", "convnext"))
    np.testing.assert_allclose(vgg["conv4", "kernel"].std(), np.sqrt(2 / (9 * 256)), rtol=0.01)
    for path in (("stage3_0", "pointwise1", "kernel"), ("downsample4", "kernel"), ("stage4_0", "depthwise", "kernel")):
        np.testing.assert_allclose(net[path].std(), 0.02, rtol=0.02)
    for start in (vgg, net):
        for path, value in start.items():
            fixed = {"bias": 0.0, "scale": 1.0, "layer_scale": np.float32(1e-6)}
            if path[-1] in fixed:
                np.testing.assert_array_equal(value, np.full(value.shape, fixed[path[-1]]))


@pytest.mark.parametrize("name", SHALLOW)
def test_bfloat16_keeps_parameters_statistics_and_features_in_float32(name):
    exact, network = SHALLOW[name], SHALLOW[name].clone(dtype=jnp.bfloat16)
    images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(initialise(network))} == {jnp.dtype("float32")}
    variables = random_variables(network, images)

    def both(variables):
        features, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return features, updated, network.apply(variables, images), exact.apply(variables, images)

    features, updated, rough, fine = jax.jit(both, compiler_options=QUICK)(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((features, updated, rough))} == {jnp.dtype("float32")}
    assert 0 < np.linalg.norm(fine - rough) / np.linalg.norm(fine) < 0.05


def test_views_leave_the_statistics_that_one_after_another_leaves():
    network = SHALLOW["resnet"]
    views = np.random.default_rng(1).normal(size=(3, 4, 16, 16, 3)) + np.arange(3)[:, None, None, None, None]
    views = views.astype(np.float32)
    variables = random_variables(network, views[0])

    def apply(stats, images):
        out, new = network.apply({**variables, "batch_stats": stats}, images, train=True, mutable=["batch_stats"])
        return out, new["batch_stats"]

    together = jax.jit(functools.partial(models.apply_views, apply), compiler_options=QUICK)
    outputs, stats = together(variables["batch_stats"], views)
    alone = jax.jit(apply, compiler_options=QUICK)
    expected = variables["batch_stats"]
    for i in range(3):
        out, expected = alone(expected, views[i])
        np.testing.assert_allclose(outputs[i], out, rtol=1e-3, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), stats, expected)
