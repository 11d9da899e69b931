"""Training that starts from the weights of a file: what begins with them, what does not, and how it goes on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import cli, data, encoders, flags, pipeline, planning
from ssljax.errors import UserError
from ssljax.evaluate import features
from ssljax.methods import METHODS
from ssljax.models import backbone, weights
from ssljax.models.weights import Encoder
from ssljax.train import loop

# What no data set here is normalised by: it can only be the file's.
MEAN, STD = (0.25,), (0.5,)


def written(path, seed=0, channels=1):
    """An export of an encoder that nobody trained, with batch statistics of its own."""
    network = backbone("vgg11_bn", width=1 / 32)
    variables = jax.jit(network.init, static_argnames="train")(
        jax.random.key(seed), jnp.zeros((1, 8, 8, channels)), train=False
    )
    draw = np.random.default_rng(seed)
    drawn = {"mean": lambda shape: -draw.uniform(0, 0.5, shape), "var": lambda shape: draw.uniform(0.1, 1, shape)}
    stats = jax.tree.map_with_path(
        lambda path, leaf: drawn[path[-1].key](leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    encoder = Encoder(
        "vgg11_bn", 1 / 32, "cifar", 1, channels, variables["params"], stats, mean=MEAN * channels, std=STD * channels
    )
    weights.save(path, encoder, notes={"image_size": "8"})
    return encoder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    return str(path), written(path)


@pytest.fixture
def warm(tiny, file):
    """A function from overrides to a config that starts from the file, and does not say what network that holds."""
    return lambda **given: dataclasses.replace(tiny(**given), backbone=None, width=None, init_from=file[0])


def same(tree, expected, runs):
    """Whether each run of a tree holds the same leaves as another tree without a run axis, and how many there are."""
    found, wanted = jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(expected)
    assert [path for path, _ in found] == [path for path, _ in wanted]
    for (_, leaf), (_, value) in zip(found, wanted):
        assert leaf.shape == (runs, *value.shape)
        np.testing.assert_array_equal(leaf, np.broadcast_to(value, leaf.shape))
    return len(found)


def test_before_the_first_step_features_are_the_files_to_the_bit(warm, file):
    config = warm(method="simclr", seeds=(5, 6))
    (program,) = pipeline.plan([config])
    assert (program.config.backbone, program.config.width) == ("vgg11_bn", 1 / 32)
    trained = pipeline.untrained(program)
    images = program.dataset.splits["test"].images
    ours = features.extract(trained, images, image_size=8)
    (measured,) = pipeline.plan([dataclasses.replace(config, init_from="", pretrained=file[0])])
    imported = encoders.from_file(measured.encoder, measured.config, measured.runs, measured.dataset)
    # The same weights as constants of a program that XLA simplifies by them, and put where a run has its own.
    np.testing.assert_allclose(ours, features.extract(imported, images, image_size=8), rtol=1e-4, atol=1e-5)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (file[1].params, file[1].stats))
    state = trained.state._replace(params={"backbone": both[0]}, stats={"backbone": both[1]})
    np.testing.assert_array_equal(ours, features.extract(trained._replace(state=state), images, image_size=8))
    variables = {"params": file[1].params, "batch_stats": file[1].stats}
    seen = (images.astype(np.float32) / 255 - MEAN[0]) / STD[0]
    network = backbone("vgg11_bn", width=1 / 32)
    expected = jax.jit(lambda images: network.apply(variables, images, train=False))(seen)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(ours[1], expected, rtol=1e-4, atol=1e-5)
    # heads and everything else are each seed's own
    for part in set(trained.state.params) - {"backbone"}:
        kernels = [leaf for leaf in jax.tree.leaves(trained.state.params[part]) if leaf.ndim == 3]
        assert kernels and all(np.abs(leaf[0] - leaf[1]).max() > 0 for leaf in kernels)


QUICK = ("byol", "deepclusterv2", "mocov2plus", "swav")


@pytest.mark.parametrize("method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_every_copy_of_the_encoder_begins_so_and_no_head(method, tiny, one_layer):
    (program,) = pipeline.plan([tiny(method=method, backbone=one_layer)])
    trained = pipeline.untrained(program)
    cold = jax.tree.map(np.array, trained.state)  # a copy: starting gives up the state
    draw = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda leaf: draw.normal(size=leaf.shape[1:]).astype(np.float32),
        (cold.params["backbone"], cold.stats["backbone"]),
    )
    started = encoders.started(trained, Encoder(one_layer, 1, "cifar", 1, 1, params, stats)).state
    assert same(started.params["backbone"], params, 1) == 4
    assert same(started.stats["backbone"], stats, 1) == 2
    if "target" in started.memory:
        same(started.memory["target"]["params"]["backbone"], params, 1)
        same(started.memory["target"]["stats"]["backbone"], stats, 1)

    def rest(state):
        known = jax.tree.leaves_with_path((state.params, state.stats, state.memory))
        return [(path, leaf) for path, leaf in known if "['backbone']" not in jax.tree_util.keystr(path)]

    for (path, leaf), (_, other) in zip(rest(started), rest(cold), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))


def test_both_losses_of_two_begin_from_it(tiny, one_layer):
    config = tiny(method="byol", second_transforms="horizontal_flip", second_method="mocov2plus", backbone=one_layer)
    trained = pipeline.untrained(pipeline.plan([config])[0])
    params, stats = jax.tree.map(
        lambda leaf: np.full(leaf.shape[1:], 0.5, np.float32),
        (trained.state.params["backbone"], trained.state.stats["backbone"]),
    )
    memory = encoders.started(trained, Encoder(one_layer, 1, "cifar", 1, 1, params, stats)).state.memory
    for side in ("first", "second"):
        assert same(memory[side]["target"]["params"]["backbone"], params, 1) == 4
        assert same(memory[side]["target"]["stats"]["backbone"], stats, 1) == 2


def leaves_of(config, workdir):
    (program,) = pipeline.plan([config])
    trained = loop.restore(pipeline.untrained(program), workdir / "checkpoints" / program.name, 2)
    return jax.tree.leaves(jax.tree.map(np.asarray, trained.state))


@pytest.mark.slow  # three compilations of BYOL on a VGG
def test_it_trains_and_goes_on_to_the_same_bits_as_without_a_pause(warm, file, tmp_path):
    config = warm(method="byol", seeds=(5, 6))
    pipeline.run(config, tmp_path / "A", stages=("pretrain",), progress=False)
    whole = leaves_of(config, tmp_path / "A")
    start = jax.tree.leaves(file[1].params)
    assert any(not np.array_equal(leaf[0], value) for leaf, value in zip(whole, start))

    with pytest.MonkeyPatch.context() as patch:
        kept = loop.Checkpoints.save

        def save(store, epoch, state):
            kept(store, epoch, state)
            if epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(loop.Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config, tmp_path / "B", stages=("pretrain",), progress=False)
    pipeline.run(config, tmp_path / "B", stages=("pretrain",), progress=False)
    for a, b in zip(whole, leaves_of(config, tmp_path / "B"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pretrained_with_the_stage_pretrain_is_a_start_and_is_recorded(tiny, tmp_path, capsys):
    path = tmp_path / "start.safetensors"
    written(path)
    config = dataclasses.replace(tiny(method="simclr", epochs=1, warmup_epochs=0), backbone=None, width=None)
    flagfile, workdir = tmp_path / "f.cfg", tmp_path / "W"
    flagfile.write_text(flags.to_flagfile([config]))
    command = ["run.py", f"--flagfile={flagfile}", f"--pretrained={path}", f"--workdir={workdir}"]
    assert cli.main([*command, "--stages=pretrain"]) == 0
    (made,) = flags.read_flagfile(workdir / "flagfile.cfg")
    assert (made.pretrained, made.init_from) == ("", str(path))
    (told,) = json.loads((workdir / "run.json").read_text())["encoders"].values()
    assert told["use"] == "start" and told["file"] == str(path) and len(told["sha256"]) == 64
    assert "the file's mean and deviation" in told["description"]
    # what trained it also measures and exports it, by the same command or by the workdir alone
    assert cli.main([*command, "--stages=export"]) == 0
    assert cli.main(["run.py", "--stages=export", f"--workdir={workdir}"]) == 0
    exported = weights.load(workdir / "encoders" / "simclr" / "seed=5.safetensors")
    assert exported.mean == MEAN and exported.std == STD
    leaves = zip(jax.tree.leaves(exported.params), jax.tree.leaves(weights.load(path).params))
    assert any(np.abs(a - b).max() > 1e-6 for a, b in leaves)  # trained
    # other weights under the same name are another run
    written(path, seed=1)
    capsys.readouterr()
    for stages in ("pretrain", "evaluate"):
        assert cli.main([*command, f"--stages={stages}"]) == 2
        error = capsys.readouterr().err
        assert "holds other weights than those that training in" in error and error.count("\n") == 1
    # a report needs no file
    path.unlink()
    (workdir / "results.csv").write_text(
        "run,seed,method,backbone,dataset,transforms,epoch,evaluation,target,metric,value\n"
    )
    assert planning.plan([made], trained=False)[0].encoder is None


def test_bad_starts_are_one_line(tiny, file, tmp_path):
    rgb = tmp_path / "rgb.safetensors"
    written(rgb, channels=3)
    for given, message in [
        (dict(init_from=str(rgb)), r"--init_from=.*rgb.*: the encoder takes images of 3 channels, digits has 1"),
        (dict(init_from=file[0], backbone="resnet18"), "holds a vgg11_bn, given --backbone=resnet18"),
        (dict(init_from=file[0], width=0.5), "holds a vgg11_bn of width 0.03125, given --width=0.5"),
        (dict(init_from=str(tmp_path / "absent.pth")), "--init_from=.*absent.pth: cannot be read"),
    ]:
        config = dataclasses.replace(tiny(method="simclr"), **{"backbone": None, "width": None, **given})
        with pytest.raises(UserError, match=message):
            pipeline.plan([config])
    cold, warm = (dataclasses.replace(tiny(method="simclr"), init_from=start) for start in ("", file[0]))
    pipeline.run(cold, tmp_path / "W", stages=("preview",), progress=False)
    (tmp_path / "W" / "checkpoints").mkdir()
    with pytest.raises(UserError, match="belongs to a run with --init_from=, given --init_from="):
        pipeline.run(warm, tmp_path / "W", stages=("pretrain",), progress=False)


def test_untrained_rows_beside_a_warm_start_are_untrained(warm):
    (program,) = pipeline.plan([warm(method="simclr")])
    cold = pipeline.untrained(program._replace(encoder=None))
    np.testing.assert_allclose(cold.data.mean, data.load("digits").mean, rtol=1e-6)
    pairs = zip(jax.tree.leaves(cold.state.params["backbone"]), jax.tree.leaves(program.encoder.params), strict=True)
    kernels = [(ours[0], theirs) for ours, theirs in pairs if theirs.ndim == 4]
    assert kernels and all(np.abs(ours - theirs).max() > 1e-3 for ours, theirs in kernels)
