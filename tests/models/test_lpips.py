"""AlexNet against torch.nn, LPIPS against its authors' package, and the two files of weights."""

import hashlib
import importlib
import importlib.util
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ssljax.errors import UserError
from ssljax.models import inner_features
from ssljax.models.alexnet import AlexNet
from ssljax.models.lpips import Weights, load, lpips

torch = pytest.importorskip("torch")


def torch_features():
    """torchvision's `alexnet().features`, from its layer table."""
    nn = torch.nn
    layers = []
    inputs = 3
    for i, (outputs, side, stride, padding) in enumerate(
        [(64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]
    ):
        layers += [nn.Conv2d(inputs, outputs, side, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if i in (0, 1, 4) else []
        inputs = outputs
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def package():
    """The authors' network: their heads, their code, an AlexNet of random weights."""
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("lpips is not installed")
    stub = types.ModuleType("torchvision")
    stub.models = types.ModuleType("torchvision.models")
    stub.models.alexnet = lambda pretrained: types.SimpleNamespace(features=torch_features())
    with pytest.MonkeyPatch.context() as patch:  # the CPU build of torch has no torchvision that imports
        patch.setitem(sys.modules, "torchvision", stub)
        patch.setitem(sys.modules, "torchvision.models", stub.models)
        torch.manual_seed(0)
        module = importlib.import_module("lpips")
        yield module.LPIPS(pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def files(package, tmp_path_factory):
    """The same weights as the files that a user has: torchvision's, with its hash in its name, and the wheel's own."""
    folder = tmp_path_factory.mktemp("weights")
    convolutions = [m for m in package.net.modules() if isinstance(m, torch.nn.Conv2d)]
    tensors = {"classifier.1.weight": torch.zeros(4, 9216), "classifier.1.bias": torch.zeros(4)}
    for place, layer in zip((0, 3, 6, 8, 10), convolutions, strict=True):
        tensors |= {f"features.{place}.{name}": value.detach() for name, value in layer.named_parameters()}
    torch.save(tensors, folder / "alexnet.pth")
    digest = hashlib.sha256((folder / "alexnet.pth").read_bytes()).hexdigest()
    backbone = (folder / "alexnet.pth").rename(folder / f"alexnet-owt-{digest[:8]}.pth")
    return backbone, Path(importlib.import_module("lpips").__file__).parent / "weights" / "v0.1" / "alex.pth"


@pytest.fixture(scope="module")
def params(files):
    return load(*files)


@pytest.fixture(scope="module")
def distance():
    return jax.jit(lpips)


def pairs(*shape):
    return np.random.default_rng(0).random((2, *shape), dtype=np.float32)


def theirs(package, x, y):
    x, y = (torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))) for images in (x, y))
    size = [round(side * max(1, 64 / min(x.shape[2:]))) for side in x.shape[2:]]
    with torch.no_grad():
        x, y = (
            torch.nn.functional.interpolate(images.expand(-1, 3, -1, -1), size, mode="bilinear") for images in (x, y)
        )
        return package(x, y, normalize=True).flatten().numpy()


@pytest.mark.parametrize("size", [64, 67, 32])
def test_alexnet_is_torchs(size):
    torch.manual_seed(1)
    module = torch_features()
    convolutions = [layer for layer in module if isinstance(layer, torch.nn.Conv2d)]
    tree = {
        f"conv{i}": {
            "kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": layer.bias.detach().numpy(),
        }
        for i, layer in enumerate(convolutions)
    }
    images = np.random.default_rng(2).random((3, size, size, 3), dtype=np.float32)
    found = inner_features(AlexNet(), {"params": tree}, images)
    assert list(found) == ["relu1", "relu2", "relu3", "relu4", "relu5", "pooled"]
    x, maps = torch.from_numpy(images.transpose(0, 3, 1, 2)), []
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, torch.nn.MaxPool2d) and min(x.shape[2:]) < 3:
                continue  # 32 px leave nothing for the last pool
            x = layer(x)
            maps += [x] if isinstance(layer, torch.nn.ReLU) else []
    for name, expected in zip(found, maps):
        np.testing.assert_allclose(found[name], expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(found["pooled"], x.mean((2, 3)).numpy(), atol=1e-5)
    assert np.asarray(found["pooled"]).std() > 1e-3


def test_alexnet_starts_as_torchs_does():
    tree = jax.jit(AlexNet().init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    for i, layer in enumerate(m for m in torch_features() if isinstance(m, torch.nn.Conv2d)):
        for ours, other in ((tree[f"conv{i}"]["kernel"], layer.weight), (tree[f"conv{i}"]["bias"], layer.bias)):
            bound = (layer.in_channels * layer.kernel_size[0] ** 2) ** -0.5
            assert ours.size == other.numel()
            assert float(jnp.abs(ours).max()) <= bound
            assert float(ours.std()) == pytest.approx(bound / 3**0.5, rel=0.2)


@pytest.mark.parametrize("shape", [(4, 64, 64, 3), (3, 71, 97, 3), (5, 32, 40, 1)])
def test_lpips_is_the_packages(package, params, distance, shape):
    x, y = pairs(*shape)
    y[0] = x[0] * 0.5  # a near pair and far ones
    expected = theirs(package, x, y)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(distance(params, x, y), expected, atol=1e-5)
    np.testing.assert_allclose(distance(params, y, x), expected, atol=1e-5)
    np.testing.assert_array_equal(distance(params, x, x), 0)


def test_lpips_has_a_gradient_everywhere(params):
    """Black images are where roots of sums of squares may have none. The slope is that of finite differences elsewhere."""
    x, y = pairs(1, 64, 64, 3)
    value = jax.jit(jax.value_and_grad(lambda x: lpips(params, x, y).sum()))
    assert np.isfinite(value(np.zeros_like(x))[1]).all()
    _, slope = value(x)
    way = np.asarray(slope) / np.linalg.norm(slope)
    ahead, behind = (float(value(x + step * way)[0]) for step in (0.02, -0.02))
    assert (ahead - behind) / 0.04 == pytest.approx(float(np.linalg.norm(slope)), rel=0.05)


def test_lpips_refuses_what_it_is_not_defined_for(params):
    with pytest.raises(UserError, match=r"lpips: LPIPS sees grey and colour images .* given 4 channels"):
        lpips(params, *pairs(1, 64, 64, 4))
    with pytest.raises(UserError, match=r"lpips: given images of shapes \(1, 64, 64, 3\) and \(64, 64, 3\)"):
        lpips(params, np.zeros((1, 64, 64, 3)), np.zeros((64, 64, 3)))


def test_both_files_as_safetensors(files, params, tmp_path):
    backbone, heads = ({k: v.numpy() for k, v in torch.load(f, map_location="cpu").items()} for f in files)
    save_file(backbone, tmp_path / "alexnet.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    again = load(tmp_path / "alexnet.safetensors", tmp_path / "heads.safetensors")
    assert isinstance(again, Weights) and jax.tree.structure(again) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params)):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_file_is_refused_by_its_hash(files, tmp_path):
    backbone, heads = files
    content = bytearray(backbone.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / backbone.name
    damaged.write_bytes(content)
    says = rf"{backbone.name}: its sha256 begins with [0-9a-f]{{8}}, its name says {backbone.stem[-8:]}"
    with pytest.raises(UserError, match=says) as error:
        load(damaged, heads)
    assert "\n" not in str(error.value)


def test_bad_heads_are_refused(files, tmp_path):
    backbone, heads = files
    good = {k: v.numpy() for k, v in torch.load(heads, map_location="cpu").items()}
    first = "lin0.model.1.weight"
    bad = {
        "lin3.model.1.weight is missing": {k: v for k, v in good.items() if "lin3" not in k},
        r"has shape \(1, 512, 1, 1\), expected \(1, 64, 1, 1\)": {**good, first: np.ones((1, 512, 1, 1), np.float32)},
        "has weights below 0 or not finite": {**good, first: good[first] - 1},
    }
    for number, (says, tensors) in enumerate(bad.items()):
        file = tmp_path / f"{number}.safetensors"
        save_file(tensors, file)
        with pytest.raises(UserError, match=rf"{number}\.safetensors: .*{says}"):
            load(backbone, file)
    with pytest.raises(UserError, match=r"absent-0123abcd\.pth: cannot be read"):
        load(tmp_path / "absent-0123abcd.pth", heads)
