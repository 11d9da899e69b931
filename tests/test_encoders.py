"""Encoders as files: a trained one comes back with the same scores, others' files are seen as they were trained."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from ssljax import cli, data, encoders, pipeline
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.evaluate import features
from ssljax.evaluate.results import read_results
from ssljax.models import backbone
from ssljax.models.weights import Encoder
from ssljax.train import loop

MEASURED = dict(epochs=1, warmup_epochs=0, evaluations=("linear", "knn"))
STAGES = ("evaluate", "report")


def scores(rows, run):
    return {(r["evaluation"], r["metric"]): r["value"] for r in rows if r["run"] == run}


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    """Two seeds trained for an epoch, measured and exported."""
    config = tiny(method="simclr", seeds=(5, 6), **MEASURED)
    workdir = tmp_path_factory.mktemp("trained") / "W"
    return config, pipeline.run(config, workdir, stages=("pretrain", "evaluate", "export"), progress=False)


@pytest.fixture(scope="module")
def files(study):
    folder = study[1].workdir / "encoders" / "simclr"
    return [str(folder / f"seed={seed}.safetensors") for seed in (5, 6)]


@pytest.fixture(scope="module")
def imported(study, files, tmp_path_factory):
    """The exported encoders measured as if they were anyone's; the method's own settings could not be trained with."""
    config, _ = study
    config = dataclasses.replace(config, backbone=None, width=None, batch_size=10**6)
    configs = [dataclasses.replace(config, pretrained=file) for file in files]
    return configs, pipeline.run(configs, tmp_path_factory.mktemp("imported") / "W", stages=STAGES, progress=False)


def test_an_exported_encoder_scores_exactly_as_its_run(study, imported):
    trained, again = study[1], imported[1]
    for seed in (5, 6):
        expected = scores(trained.results, f"simclr/seed={seed}")
        assert len(expected) >= 3
        assert scores(again.results, f"seed={seed}/seed={seed}") == expected
        runs = [
            np.load(workdir / "artifacts" / name)["features"][i]
            for workdir, name, i in (
                (trained.workdir, "simclr.npz", seed - 5),
                (again.workdir, f"seed={seed}.npz", 0),
            )
        ]
        np.testing.assert_allclose(runs[1], runs[0], rtol=1e-5, atol=1e-5)  # products are summed in another order
    # the encoder has no seed, the probe has
    assert (
        scores(again.results, "seed=5/seed=6")["knn", "top1"] == scores(again.results, "seed=5/seed=5")["knn", "top1"]
    )
    assert scores(again.results, "seed=5/seed=6") != scores(again.results, "seed=5/seed=5")


def test_rows_say_pretrained_and_the_page_what_was_in_the_file(imported, files):
    _, again = imported
    rows = [row for row in read_results(again.workdir / "results.csv") if row["method"] == "pretrained"]
    assert {(row["backbone"], row["transforms"], row["epoch"]) for row in rows} == {("vgg11_bn", "", 0)}
    assert {row["run"].partition("/")[0] for row in again.results} == {"seed=5", "seed=6", "random", "pixels"}
    assert "Encoder from a file (seed=6)" in again.text
    page = again.report.read_text()
    for file in files:
        assert f"{file} (ssljax): vgg11_bn" in page
    assert "normalised by the file" in page


def test_the_report_needs_no_file(imported):
    configs, again = imported
    gone = [dataclasses.replace(config, pretrained="/absent/seed=5.pth") for config in configs[:1]]
    programs = pipeline.plan(gone, trained=False)
    assert [program.name for program in programs] == ["seed=5"]
    again.report.unlink()
    assert cli.main(["run.py", "--stages=report", f"--workdir={again.workdir}"]) == 0
    assert "normalised by the file" in again.report.read_text()


def test_a_workdir_belongs_to_one_encoder_or_training(study, imported):
    configs, again = imported
    with pytest.raises(UserError, match=r"belongs to a run with --pretrained=, given --pretrained=.*seed=5"):
        pipeline.run(configs[0], study[1].workdir, stages=STAGES)
    with pytest.raises(UserError, match=r"belongs to a run with --pretrained=.*seed=6.*, given --pretrained=random"):
        pipeline.run(dataclasses.replace(configs[0], pretrained="random"), again.workdir, stages=STAGES)


def test_an_export_says_how_it_was_trained(study, files):
    with safe_open(files[1], "numpy") as file:
        about = {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}
    assert about["notes"] == {
        "method": "simclr", "transforms": "rotation(degrees=20)+color_inversion", "dataset": "digits",
        "image_size": "8", "epoch": "1", "seed": "6",
    }  # fmt: skip
    images = data.load("digits").splits["train"].images.astype(np.float64) / 255
    np.testing.assert_allclose((about["mean"], about["std"]), ([images.mean()], [images.std()]), rtol=1e-5)


def test_a_diverged_run_is_not_exported(study, tmp_path, caplog):
    config, finished = study
    (program,) = pipeline.plan([config])
    trained = loop.restore(pipeline.untrained(program), finished.workdir / "checkpoints" / program.name, 2)
    state = trained.state._replace(alive=jnp.array([False, True]))
    runs = (trained.runs[0], trained.runs[1]._replace(name="view1.hue=0.1,seed=6", swept={"view1.hue": 0.1}))
    (tmp_path / "seed=5.safetensors").write_bytes(b"of a run before")
    with caplog.at_level("WARNING", logger="ssljax"):
        written = encoders.export(program.config, trained._replace(state=state, runs=runs), tmp_path, "p")
    assert "p: run seed=5 diverged and is not exported" in caplog.text
    assert written == list(tmp_path.iterdir()) == [tmp_path / "view1.hue=0.1_seed=6.safetensors"]
    with safe_open(written[0], "numpy") as file:
        assert json.loads(file.metadata()["notes"])["view1.hue"] == "0.1"
        kernel = file.get_tensor("features.0.weight")
    expected = jax.tree.leaves(trained.state.params["backbone"])
    assert any(np.array_equal(kernel, np.asarray(leaf[1]).transpose(3, 2, 0, 1)) for leaf in expected if leaf.ndim == 5)


class Torch(nn.Module):
    """VGG11 under torchvision's names, a 32nd as wide."""

    def __init__(self, channels=3):
        super().__init__()
        layers, before = [], channels
        for width in (2, 0, 4, 0, 8, 8, 0, 16, 16, 0, 16, 16, 0):  # 64 ... 512 channels; 0 is a pool
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            before = width or before
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(16, 5)
        generator = torch.Generator().manual_seed(0)
        for value in self.parameters():
            value.data = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5

    def forward(self, x):
        return self.features(x).mean((2, 3))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A torchvision checkpoint, and grey and coloured images of 32 pixels."""
    folder = tmp_path_factory.mktemp("others")
    torch.save(Torch().state_dict(), folder / "vgg11-of-others.pth")
    draw = np.random.default_rng(0)
    for name, channels in (("grey", 1), ("rgb", 3), ("four", 4)):
        splits = {"train": draw.integers(0, 256, (40, 32, 32, channels), np.uint8)}
        splits["test"] = draw.integers(0, 256, (20, 32, 32, channels), np.uint8)
        labels = {f"{split}_labels": np.arange(len(images)) % 4 for split, images in splits.items()}
        np.savez(folder / f"{name}.npz", **{f"{split}_images": images for split, images in splits.items()}, **labels)
    return folder


@pytest.mark.parametrize("images", ["grey", "rgb"])
def test_a_torchvision_file_sees_what_it_was_trained_on(images, others, tmp_path):
    config = Config(
        dataset=f"npz:{others / images}.npz", pretrained=str(others / "vgg11-of-others.pth"), image_size=32,
        seeds=(5, 6), cache_dir=str(tmp_path),
    )  # fmt: skip
    (program,) = pipeline.plan([config])
    trained = encoders.from_file(program.encoder, program.config, program.runs, program.dataset)
    seen = program.dataset.splits["train"].images
    ours = features.extract(trained, seen, image_size=32)
    unit = torch.from_numpy(np.repeat(seen, 4 - seen.shape[-1], axis=-1)[..., :3] / np.float32(255)).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = Torch()((unit - mean[:, None, None]) / std[:, None, None]).detach().numpy()
    assert theirs.std() > 0.01
    for own in ours:  # of either seed
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-5)
    # the probe's own draws: with nothing to draw they are the same features
    index = jnp.array([[3, 1], [0, 2]])
    drawn = features.transformed(trained, "none", 32)(index, jax.vmap(jax.random.key)(jnp.arange(2)))
    np.testing.assert_allclose(drawn, theirs[index], rtol=1e-4, atol=1e-5)
    told = encoders.describe(program.encoder, program.config, program.dataset)
    assert "vgg11, width 0.03125, 3 channels" in told and "ImageNet's" in told
    assert ("grey images repeated" in told) == (images == "grey")


OWN = dict(mean=(0.1,), std=(0.2,))


@pytest.mark.parametrize(
    ("fields", "whose"),
    [
        (dict(layout="ssljax", **OWN), "the file's"),
        (dict(layout="torchvision", stem="imagenet", **OWN), "the file's"),
        (dict(layout="torchvision", stem="imagenet"), "ImageNet's"),
        (dict(layout="swav", stem="imagenet"), "ImageNet's"),
        (dict(layout="torchvision", backbone="alexnet"), "ImageNet's"),
        (dict(layout="solo-learn", stem="cifar"), "the data set's"),
        (dict(layout="torchvision", stem="imagenet", channels=1), "the data set's"),
        (dict(layout="ssljax", stem="imagenet"), "the data set's"),
    ],
)
def test_which_normalisation(fields, whose):
    values = dict(backbone="resnet18", width=1.0, stem="cifar", stem_padding=1, channels=3, params={}, stats={})
    digits = data.load("digits")
    chosen = encoders.normalisation(Encoder(**{**values, **fields}), digits)
    means = {"the file's": (0.1,), "ImageNet's": (0.485, 0.456, 0.406), "the data set's": digits.mean}
    assert chosen.whose == whose
    assert tuple(chosen.mean) == tuple(means[whose])


def test_given_padding_goes_over_the_files(files):
    given = Config(pretrained=files[0], stem_padding=2)
    assert pipeline.plan([given])[0].encoder.stem_padding == 2
    assert pipeline.plan([dataclasses.replace(given, stem_padding=None)])[0].encoder.stem_padding == 1


BAD = [
    (["--pretrained=random", "--stages=preview,pretrain"], "measured, not trained; give --stages=evaluate,report"),
    (["--pretrained={ours}", "--init_from={ours}"], "--init_from: what training starts from; with --pretrained"),
    (["--pretrained=random", "--stages=export"], "--pretrained: export writes encoders that were trained here"),
    (["--pretrained={ours}", "--backbone=resnet18"], "holds a vgg11_bn, given --backbone=resnet18"),
    (["--pretrained={ours}", "--width=0.5"], "holds a vgg11_bn of width 0.03125, given --width=0.5"),
    (["--pretrained={ours}", "--dataset=npz:{tmp}/rgb.npz"], "the encoder takes images of 1 channel, "),
    (["--pretrained={tmp}/vgg11-of-others.pth", "--dataset=npz:{tmp}/four.npz"], "takes images of 3 channels, "),
    (["--pretrained={tmp}/absent.pth"], "absent.pth"),
    (["--pretrained={tmp}/grey.npz"], "grey.npz"),
    (["--pretrained={ours}", "--sweep=temperature=.1,.2"], "--sweep: an encoder that is not trained"),
    (["--pretrained=random", "--transforms=cifar,mnist_first"], "--transforms: it changes nothing"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(argv, message, others, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SSLJAX_CACHE", str(tmp_path / "cache"))
    argv = ["--stages=evaluate,report", *(a.replace("{tmp}", str(others)).replace("{ours}", files[0]) for a in argv)]
    assert cli.main(["run.py", *argv, f"--workdir={tmp_path / 'W'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "W").exists()


def test_random_encoders_of_several_backbones_stand_in_the_table_once(tiny, tmp_path):
    configs = [
        tiny(pretrained="random", backbone=name, seeds=(5, 6), evaluations=("knn",)) for name in ("vgg11_bn", "vgg11")
    ]
    study = pipeline.run(configs, tmp_path / "W", stages=("preview", *STAGES), progress=False)
    found = [(r["run"], r["method"], r["backbone"], r["evaluation"], r["metric"]) for r in study.results]
    assert len(set(found)) == len(found)
    random = {(run, name) for run, method, name, *_ in found if method == "random"}
    assert random == {(f"random-{name}/seed={s}", name) for name in ("vgg11_bn", "vgg11") for s in (5, 6)}
    lines = study.text.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "Raw pixels", "Untrained encoder (vgg11_bn)", "Untrained encoder (vgg11)",
    ]  # fmt: skip


def test_each_seed_of_a_random_encoder_has_its_own_weights(tiny):
    (program,) = pipeline.plan([tiny(pretrained="random", seeds=(5, 6))])
    trained = pipeline.untrained(program)
    images = program.dataset.splits["test"].images[:16]
    ours = features.extract(trained, images, image_size=8)
    assert np.abs(ours[0] - ours[1]).max() > 0.01
    network = backbone("vgg11_bn", width=1 / 32)
    seen = (images / np.float32(255) - program.dataset.mean) / program.dataset.std
    for i in range(2):
        own = {"params": trained.state.params["backbone"], "batch_stats": trained.state.stats["backbone"]}
        expected = network.apply(jax.tree.map(lambda leaf, i=i: leaf[i], own), seen.astype(np.float32), train=False)
        np.testing.assert_allclose(ours[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a/resnet50.pth", "resnet18.pth"], ["resnet50", "resnet18"]),
        (["W/x/seed=5.safetensors", "W/y/seed=5.safetensors"], ["x-seed=5", "y-seed=5"]),
        (["random", "a/random.pth", "pixels.pth"], ["random", "file-random", "file-pixels"]),
        (["my net, really.pth"], ["my_net_really"]),
    ],
)
def test_files_have_short_names(given, names):
    assert list(encoders.short_names(given).values()) == names


def test_files_that_differ_in_their_ending_have_names_of_their_own():
    names = encoders.short_names(["a.pth", "a.safetensors"])
    assert len(set(names.values())) == 2 and all(name.startswith("a-") for name in names.values())
