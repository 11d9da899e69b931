"""Trained weights: PyTorch models with torchvision's names, restated here, against what is read from their files."""

import argparse
import json
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from ssljax import models
from ssljax.errors import UserError
from ssljax.models import weights

# The four architectures with torchvision's modules, and so with its names, at any width.


def scale(channels, width):
    return max(1, round(channels * width))


class Residual(nn.Module):
    def __init__(self, n_in, channels, stride, bottleneck):
        super().__init__()
        out = 4 * channels if bottleneck else channels
        plan = [(channels, 1, 1), (channels, 3, stride), (out, 1, 1)] if bottleneck else [(out, 3, stride), (out, 3, 1)]
        self.depth = len(plan)
        for i, (n_out, side, step) in enumerate(plan, 1):
            n_before = n_in if i == 1 else plan[i - 2][0]
            setattr(self, f"conv{i}", nn.Conv2d(n_before, n_out, side, step, side // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(n_out))
        self.downsample = None
        if stride > 1 or n_in != out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.depth else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet(blocks, bottleneck):
    def make(width, stem="imagenet", channels=3):
        widths = [scale(c, width) for c in (64, 128, 256, 512)]
        side, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        net = nn.Sequential()
        net.conv1 = nn.Conv2d(channels, widths[0], side, stride, padding, bias=False)
        net.bn1 = nn.BatchNorm2d(widths[0])
        net.relu = nn.ReLU()
        net.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        n_in = widths[0]
        for stage, (count, n_out) in enumerate(zip(blocks, widths), 1):
            layers = []
            for i in range(count):
                layers.append(Residual(n_in, n_out, 2 if stage > 1 and i == 0 else 1, bottleneck))
                n_in = n_out * (4 if bottleneck else 1)
            net.add_module(f"layer{stage}", nn.Sequential(*layers))
        net.avgpool, net.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return net

    return make


def vgg(plan, normalise):
    def make(width, channels=3):
        layers, n_in = [], channels
        for count, n in zip(plan, (64, 128, 256, 512, 512)):
            for _ in range(count):
                n_out = scale(n, width)
                layers += [nn.Conv2d(n_in, n_out, 3, padding=1)] + [nn.BatchNorm2d(n_out)] * normalise + [nn.ReLU()]
                n_in = n_out
            layers.append(nn.MaxPool2d(2))
        net = nn.Sequential()
        net.features, net.avgpool, net.flatten = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return net

    return make


def alexnet(width, channels=3):
    a, b, c, d, e = (scale(n, width) for n in (64, 192, 384, 256, 256))
    net = nn.Sequential()
    net.features = nn.Sequential(
        nn.Conv2d(channels, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    net.avgpool, net.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return net


class Move(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(*self.axes)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(n, n, 7, padding=3, groups=n), Move(0, 2, 3, 1), nn.LayerNorm(n, eps=1e-6),
            nn.Linear(n, 4 * n), nn.GELU(), nn.Linear(4 * n, n), Move(0, 3, 1, 2),
        )  # fmt: skip
        self.layer_scale = nn.Parameter(torch.ones(n, 1, 1))

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


def convnext(blocks):
    def make(width, stem="imagenet", channels=3):
        widths = [scale(n, width) for n in (96, 192, 384, 768)]
        side = 4 if stem == "imagenet" else 2
        parts = [nn.Sequential(nn.Conv2d(channels, widths[0], side, side), ChannelNorm(widths[0], eps=1e-6))]
        for stage, (count, n) in enumerate(zip(blocks, widths)):
            if stage:
                before = widths[stage - 1]
                parts.append(nn.Sequential(ChannelNorm(before, eps=1e-6), nn.Conv2d(before, n, 2, 2)))
            parts.append(nn.Sequential(*(ConvNeXtBlock(n) for _ in range(count))))
        net = nn.Sequential()
        net.features, net.avgpool = nn.Sequential(*parts), nn.AdaptiveAvgPool2d(1)
        net.classifier, net.flatten = nn.Sequential(ChannelNorm(widths[-1], eps=1e-6)), nn.Flatten()
        return net

    return make


VGG_PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
NETWORKS = {
    "resnet18": resnet((2, 2, 2, 2), False),
    "resnet34": resnet((3, 4, 6, 3), False),
    "resnet50": resnet((3, 4, 6, 3), True),
    "resnet101": resnet((3, 4, 23, 3), True),
    "resnet152": resnet((3, 8, 36, 3), True),
    "alexnet": alexnet,
    "convnext_tiny": convnext((3, 3, 9, 3)),
    **{f"vgg{depth}": vgg(plan, False) for depth, plan in VGG_PLANS.items()},
    **{f"vgg{depth}_bn": vgg(plan, True) for depth, plan in VGG_PLANS.items()},
}


def randomised(net, seed=0):
    """Every tensor of a network drawn anew, so that no two are alike; it comes back in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            draw = torch.randn(tensor.shape, generator=generator)
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(draw.abs() + 0.5 if name.endswith("running_var") else draw * fan_in**-0.5)
    return net.eval()


def state(net, prefix=""):
    return {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}


def small_resnet(seed=0, **options):
    return randomised(NETWORKS["resnet18"](1 / 16, **options), seed)


def write(path, content):
    torch.save(content, path)
    return path


def assert_same_trees(actual, expected):
    actual, expected = flatten_dict(actual), flatten_dict(expected)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        assert actual[path].dtype == np.float32
        np.testing.assert_array_equal(actual[path], value, err_msg=str(path))


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        weights.load(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"stem": "cifar", "channels": 1}),
        ("resnet50", {"stem": "imagenet"}),
        ("vgg11_bn", {"channels": 4}),
        ("alexnet", {}),
        ("convnext_tiny", {"stem": "cifar", "channels": 2}),
    ],
)
def test_a_loaded_encoder_computes_what_torch_does(name, options, tmp_path):
    net = randomised(NETWORKS[name](1 / 16, **options))
    encoder = weights.load(write(tmp_path / "net.pth", net.state_dict()), backbone=name)
    assert (encoder.backbone, encoder.width, encoder.layout) == (name, 1 / 16, "torchvision")
    assert (encoder.channels, encoder.stem) == (options.get("channels", 3), options.get("stem", "cifar"))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, encoder.channels)).astype(np.float32)
    module = models.backbone(name, width=encoder.width, stem=encoder.stem, convolution="lax")
    variables = {"params": encoder.params, "batch_stats": encoder.stats}
    actual = np.asarray(jax.jit(module.apply)(variables, images))
    expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", models.BACKBONES)
def test_round_trips_are_exact(name, tmp_path):
    net = randomised(NETWORKS[name](1 / 16))
    given = net.state_dict()
    first = weights.load(write(tmp_path / "net.pth", given))
    assert first.backbone == name
    module = models.backbone(name, width=1 / 16, stem=first.stem)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    trees = {"params": first.params, "batch_stats": first.stats}
    assert flatten_dict(shapes).keys() == flatten_dict(trees).keys()
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, {name: trees[name] for name in shapes})

    file = tmp_path / "net.safetensors"
    weights.save(file, first)
    written = weights.read_tensors(file)
    assert written.keys() == given.keys()
    for tensor, value in given.items():
        assert written[tensor].dtype == value.numpy().dtype
        np.testing.assert_array_equal(written[tensor], value.numpy(), err_msg=tensor)
    net.load_state_dict({tensor: torch.from_numpy(value.copy()) for tensor, value in written.items()})

    second = weights.load(file)
    assert_same_trees(second.params, first.params)
    assert_same_trees(second.stats, first.stats)
    assert second._replace(params=0, stats=0) == first._replace(params=0, stats=0, layout="ssljax")


def companion(*names):
    return {name: torch.ones(3, 2) for name in names}


def dictionary(prefix, *others, wrapper="", beside=(), **more):
    """A checkpoint: the encoder behind its prefix, other networks of the same names, other tensors, other entries."""

    def make(net):
        tensors = state(net, prefix)
        for seed, other in enumerate(others, 1):
            tensors |= state(small_resnet(seed, stem="cifar"), other)
        tensors |= companion(*beside)
        return {wrapper: tensors, **more} if wrapper else tensors | more

    return make


ARGUMENTS = argparse.Namespace(lr=0.3, arch="resnet18", best=np.float64(0.5))
SGD = {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

# Layout, CIFAR padding, and the file in which it stands: the official projects' checkpoints as their code writes them.
CHECKPOINTS = {
    "torchvision": ("torchvision", 1, dictionary("", beside=["fc.weight", "fc.bias"])),
    "torchvision, data parallel": ("torchvision", 1, dictionary("module.", wrapper="state_dict", epoch=3)),
    "timm": ("timm", 1, dictionary("", beside=["head.fc.weight"])),
    "solo-learn": (
        "solo-learn",
        2,
        dictionary(
            "backbone.", "momentum_backbone.", wrapper="state_dict", optimizer_states=[SGD], epoch=9,
            beside=["projector.0.weight", "momentum_projector.0.weight", "classifier.weight", "queue", "queue_ptr"],
        ),
    ),
    "solo-learn, first version": ("solo-learn", 2, dictionary("encoder.", beside=["classifier.weight"])),
    "lightly, children by name": (
        "lightly", 1,
        dictionary("backbone.", "backbone_momentum.", wrapper="state_dict",
                   beside=["projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"]),
    ),
    "lightly, dino": (
        "lightly", 1, dictionary("teacher_backbone.", "student_backbone.", beside=["student_head.last_layer.weight_v"])
    ),
    "moco v2": (
        "moco", 1,
        dictionary("module.encoder_q.", "module.encoder_k.", wrapper="state_dict", optimizer=SGD, arch="resnet18",
                   beside=["module.encoder_q.fc.0.weight", "module.encoder_k.fc.0.weight", "module.queue"]),
    ),
    "moco v3": (
        "moco", 1,
        dictionary("module.base_encoder.", "module.momentum_encoder.", wrapper="state_dict",
                   beside=["module.base_encoder.fc.0.weight", "module.predictor.0.weight"]),
    ),
    "swav": ("swav", 1, dictionary("module.", beside=["module.projection_head.0.weight", "module.prototypes.weight"])),
    "dino": (
        "dino", 1,
        lambda net: {
            "student": state(small_resnet(1), "module.backbone.") | companion("module.head.mlp.0.weight"),
            "teacher": state(net, "backbone.") | companion("head.mlp.0.weight"),
            "args": ARGUMENTS, "optimizer": SGD, "dino_loss": companion("center"), "epoch": np.int64(4),
        },
    ),
    "barlow twins": (
        "barlow_twins", 1,
        dictionary("module.backbone.", wrapper="model", epoch=4,
                   beside=["module.projector.0.weight", "module.bn.running_mean"]),
    ),
    "vicreg": ("vicreg", 1, dictionary("module.backbone.", wrapper="model", beside=["module.projector.0.weight"])),
    "byol": (
        "byol", 1, dictionary("online_encoder.net.", "target_encoder.net.", beside=["online_predictor.net.0.weight"])
    ),
    "mira": (
        "mira", 2,
        dictionary("module.ema_model.encoder.", "module.model.encoder.", wrapper="state_dict", optimizer=SGD,
                   beside=["module.model.projector.0.weight", "module.model.head.weight_g"]),
    ),
}  # fmt: skip


def flat_names(content, prefix=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from flat_names(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{name}"


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_layouts(case, tmp_path):
    layout, padding, make = CHECKPOINTS[case]
    net = small_resnet(stem="cifar")
    content = make(net)
    encoder = weights.load(write(tmp_path / "checkpoint.pth.tar", content))
    assert (encoder.layout, encoder.backbone, encoder.width) == (layout, "resnet18", 1 / 16)
    assert (encoder.stem, encoder.stem_padding, encoder.channels) == ("cifar", padding, 3)
    assert (encoder.mean, encoder.std) == (None, None)
    plain = weights.load(write(tmp_path / "plain.pth", net.state_dict()))
    assert_same_trees(encoder.params, plain.params)
    assert_same_trees(encoder.stats, plain.stats)
    # Everything in the file is either read or listed.
    names = list(flat_names(content))
    read = len(jax.tree.leaves((encoder.params, encoder.stats)))
    assert set(encoder.unused) < set(names) and len(names) == read + len(encoder.unused)
    kernel = encoder.params["layer3_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, net.layer3[1].conv2.weight.detach().numpy().transpose(2, 3, 1, 0))


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "alexnet"])
def test_lightlys_numbered_children(name, tmp_path):
    net = randomised(NETWORKS[name](1 / 16))
    children = [child for child in net.children() if not isinstance(child, nn.Flatten)]
    tensors = state(nn.Sequential(*children), "backbone.") | companion("projection_head.layers.0.weight")
    encoder = weights.load(write(tmp_path / "epoch=3.ckpt", {"state_dict": tensors}))
    assert (encoder.layout, encoder.backbone) == ("lightly", name)
    plain = weights.load(write(tmp_path / "plain.pth", net.state_dict()))
    assert_same_trees(encoder.params, plain.params)
    assert_same_trees(encoder.stats, plain.stats)


def convnext_in(theirs, name):
    """A tensor of torchvision's ConvNeXt in the words of timm or of the authors."""
    first, *rest = name.split(".")
    if first == "classifier":
        return ("head.norm." if theirs == "timm" else "norm.") + rest[-1]
    part = int(rest[0])
    if part == 0:
        return f"stem.{rest[1]}.{rest[2]}" if theirs == "timm" else f"downsample_layers.0.{rest[1]}.{rest[2]}"
    stage = part // 2
    if part % 2 == 0:
        return (
            f"stages.{stage}.downsample" if theirs == "timm" else f"downsample_layers.{stage}"
        ) + f".{rest[1]}.{rest[2]}"
    block = f"stages.{stage}.blocks.{rest[1]}" if theirs == "timm" else f"stages.{stage}.{rest[1]}"
    if rest[2] == "layer_scale":
        return f"{block}.gamma"
    words = {"timm": ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"), "convnext": ("dwconv", "norm", "pwconv1", "pwconv2")}
    return f"{block}.{dict(zip('0235', words[theirs]))[rest[3]]}.{rest[4]}"


@pytest.mark.parametrize("theirs", ["timm", "convnext"])
def test_convnext_of_timm_and_of_its_authors(theirs, tmp_path):
    net = randomised(NETWORKS["convnext_tiny"](1 / 16))
    tensors = {
        convnext_in(theirs, name): value.reshape(-1) if name.endswith("layer_scale") else value
        for name, value in net.state_dict().items()
    }
    head = companion("head.fc.weight" if theirs == "timm" else "head.weight")
    content = tensors | head if theirs == "timm" else {"model": tensors | head}
    encoder = weights.load(write(tmp_path / "convnext.pth", content))
    assert (encoder.layout, encoder.backbone, encoder.stem, len(encoder.unused)) == (
        theirs,
        "convnext_tiny",
        "imagenet",
        1,
    )
    assert_same_trees(encoder.params, weights.load(write(tmp_path / "plain.pth", net.state_dict())).params)


def test_vgg_of_timm(tmp_path):
    net = randomised(NETWORKS["vgg16"](1 / 16))
    head = companion("pre_logits.fc1.weight", "pre_logits.fc2.weight", "head.fc.weight")
    encoder = weights.load(write(tmp_path / "vgg.bin", net.state_dict() | head))
    assert (encoder.layout, encoder.backbone, set(encoder.unused)) == ("timm", "vgg16", set(head))


@pytest.mark.parametrize("width", [1 / 64, 0.1, 0.3, 1 / 3, 0.47, 0.999])
def test_widths_that_do_not_divide(width, tmp_path):
    net = NETWORKS["vgg11"](width)
    encoder = weights.load(write(tmp_path / "net.pth", net.state_dict()))
    shapes = [net.features[i].weight.shape[0] for i in (0, 3, 6, 8, 11, 13, 16, 18)]
    assert [scale(c, encoder.width) for c in (64, 128, 256, 256, 512, 512, 512, 512)] == shapes
    if width in (0.3, 0.1):
        assert encoder.width == width  # the shortest decimal that fits


def test_what_the_exported_file_says(tmp_path):
    encoder = weights.load(write(tmp_path / "net.pth", small_resnet(stem="cifar").state_dict()))
    encoder = encoder._replace(stem_padding=2, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    file = tmp_path / "out.safetensors"
    weights.save(file, encoder, notes={"dataset": "digits"})
    with safe_open(file, framework="numpy") as opened:
        metadata = {name: json.loads(value) for name, value in opened.metadata().items()}
    assert metadata == {
        "backbone": "resnet18", "width": 1 / 16, "stem": "cifar", "stem_padding": 2, "channels": 3,
        "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "ssljax": "0.1.0", "notes": {"dataset": "digits"},
    }  # fmt: skip
    again = weights.load(file)
    assert (again.layout, again.stem_padding) == ("ssljax", 2)
    assert (again.mean, again.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_floats_come_as_float32_and_safetensors_need_no_torch(dtype, tmp_path, monkeypatch):
    given = {name: value.numpy() for name, value in small_resnet().state_dict().items()}
    narrow = {name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in given.items()}
    save_file(narrow, tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    encoder = weights.load(tmp_path / "net.safetensors")
    expected = narrow["layer2.0.conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    assert encoder.params["layer2_0"]["conv1"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(encoder.params["layer2_0"]["conv1"]["kernel"], expected)


def test_half_precision_of_torch(tmp_path):
    tensors = {"a": torch.randn(3, 4).half(), "b": torch.randn(5).bfloat16(), "c": torch.arange(3)}
    read = weights.read_tensors(write(tmp_path / "half.pt", tensors))
    assert {name: value.dtype for name, value in read.items()} == {"a": np.float32, "b": np.float32, "c": np.int64}
    np.testing.assert_array_equal(read["b"], tensors["b"].float().numpy())


def test_torch_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "net.pth", small_resnet().state_dict())
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'pip install "ssljax[torch]"' in refusal(path)


class Run:
    """Pickles as a call of the shell."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
def test_pickled_code_is_refused_and_not_run(how, tmp_path):
    path, marker = tmp_path / "net.pth", tmp_path / "ran"
    content = small_resnet().state_dict() | {"extra": Run(marker)}
    if how == "bare pickle":
        path.write_bytes(pickle.dumps({"extra": Run(marker)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refusal(path)
    assert "refused" in message and "system" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(Run(marker)))  # the file was armed
    assert marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    assert "torch.nn.modules.linear.Linear" in refusal(write(tmp_path / "net.pth", nn.Linear(2, 3)))


def test_files_that_hold_no_weights(tmp_path):
    whole = write(tmp_path / "whole.pth", {"a": torch.randn(1000)}).read_bytes()
    save_file({"a": np.ones(1000)}, tmp_path / "whole.safetensors")
    for name, content in {
        "cut.pth": whole[: len(whole) // 2],
        "text.pth": b"not weights\n",
        "zeros.pth": bytes(600),
        "cut.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:-100],
        "text.safetensors": b"not weights, and no header of such either\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        message = refusal(tmp_path / name)
        assert "expected" in message and "weights_only" not in message
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"empty.{suffix}").touch()
        assert "is empty" in refusal(tmp_path / f"empty.{suffix}")
    (tmp_path / "folder.pth").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.pth")
    assert "No such file" in refusal(tmp_path / "missing.pth")
    assert ".safetensors, .pth" in refusal(tmp_path / "net.npz", flag="--weights")
    assert "it holds a Tensor" in refusal(write(tmp_path / "tensor.pth", torch.ones(3)))
    assert "holds no tensors" in refusal(write(tmp_path / "nothing.pth", {"epoch": 3}))
    assert "something else (cls_token, norm.weight)" in refusal(
        write(tmp_path / "vit.pth", companion("cls_token", "norm.weight"))
    )


def test_the_flag_stands_in_the_message(tmp_path):
    assert refusal(tmp_path / "x.pth", flag="--other").startswith(f"--other={tmp_path}")


def test_every_tensor_is_accounted_for(tmp_path):
    tensors = small_resnet().state_dict()
    del tensors["layer1.0.conv2.weight"], tensors["bn1.running_var"]
    tensors["layer1.0.se.weight"] = torch.ones(2)
    tensors["layer4.1.bn2.bias"] = torch.ones(31)
    tensors["layer2.1.conv1.weight"] = torch.ones(8, 8, 5, 5)
    tensors["layer3.1.conv1.weight"][0, 0, 0, 0] = torch.nan
    message = refusal(write(tmp_path / "net.pth", tensors))
    for part in (
        "resnet18",
        "2 missing (bn1.running_var, layer1.0.conv2.weight)",
        "1 unexpected (layer1.0.se.weight)",
        "layer2.1.conv1.weight [8, 8, 5, 5] instead of [8, 8, 3, 3]",
        "layer4.1.bn2.bias [31] instead of [32]",
        "1 without finite floats (layer3.1.conv1.weight)",
    ):
        assert part in message


def test_a_missing_first_layer_is_told(tmp_path):
    tensors = small_resnet().state_dict()
    del tensors["conv1.weight"]
    assert "1 missing (conv1.weight)" in refusal(write(tmp_path / "net.pth", tensors))


def test_an_unknown_stem_is_told(tmp_path):
    tensors = small_resnet().state_dict() | {"conv1.weight": torch.ones(4, 3, 5, 5)}
    assert "1 misshapen (conv1.weight [4, 3, 5, 5]" in refusal(write(tmp_path / "net.pth", tensors))


@pytest.mark.parametrize(
    ("net", "blocks"),
    [(resnet((2, 3, 2, 2), False), "2, 3, 2, 2"), (convnext((3, 3, 12, 3)), "3, 3, 12, 3")],
)
def test_unknown_depths_are_told(net, blocks, tmp_path):
    message = refusal(write(tmp_path / "net.pth", net(1 / 32).state_dict()))
    assert f"blocks: {blocks}" in message and "unexpected" in message


def test_another_backbone_than_asked_for(tmp_path):
    path = write(tmp_path / "net.pth", NETWORKS["resnet50"](1 / 64).state_dict())
    message = refusal(path, backbone="resnet18")
    assert "holds a resnet50" in message and "--backbone=resnet18" in message
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        weights.load(path, backbone="resnet5")


def test_a_damaged_teacher_is_not_replaced_by_the_student(tmp_path):
    content = {"student": state(small_resnet(1), "backbone."), "teacher": state(small_resnet(), "backbone.")}
    del content["teacher"]["backbone.conv1.weight"]
    assert "1 missing (conv1.weight)" in refusal(write(tmp_path / "net.pth", content))


def test_damaged_metadata(tmp_path):
    tensors = {name: value.numpy() for name, value in small_resnet().state_dict().items()}
    save_file(tensors, tmp_path / "net.safetensors", metadata={"ssljax": '"0.1.0"', "width": "oops"})
    assert "metadata" in refusal(tmp_path / "net.safetensors")


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    encoder = weights.load(write(tmp_path / "net.pth", small_resnet().state_dict()))
    file = tmp_path / "out.safetensors"
    weights.save(file, encoder)
    before = file.read_bytes()
    with pytest.raises(UserError, match="ends in .safetensors"):
        weights.save(tmp_path / "out.pth", encoder)
    with pytest.raises(UserError, match="No such file"):
        weights.save(tmp_path / "nowhere" / "out.safetensors", encoder)
    with pytest.raises(UserError, match="without batch_stats/bn1/mean"):
        weights.save(file, encoder._replace(stats={}))
    with pytest.raises(UserError, match="more arrays than a resnet18"):
        weights.save(file, encoder._replace(params=encoder.params | {"fc": {"kernel": np.ones((2, 2))}}))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        weights.save(file, encoder)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "out.safetensors"]
