"""Embeddings: features as the evaluations see them, clusters, neighbours and maps against mathematics, files, memory, bad input."""

import csv
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import ssljax
from ssljax import cli, data, embedding, embedding_table, pipeline, serving
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.evaluate import large
from ssljax.models import BACKBONES
from ssljax.neighbours import nearest
from ssljax.train import loop


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    """A sweep of two values and two seeds, trained, measured and exported."""
    config = tiny(
        method="simclr", seeds=(5, 6), sweep=("temperature=0.1,0.5",), epochs=1, warmup_epochs=0, evaluations=("knn",)
    )
    workdir = tmp_path_factory.mktemp("study") / "W"
    pipeline.run(config, workdir, stages=("pretrain", "evaluate", "export"), progress=False)
    return workdir, config


RUN = "simclr/temperature=0.5,seed=6"


@pytest.fixture(scope="module")
def embedded(study):
    """The last of four runs on its own digits, by the command line."""
    workdir, _ = study
    assert cli.main(["run.py", "--stages=embed", f"--workdir={workdir}", f"--run={RUN}"]) == 0
    return embedding.read(workdir / "embedding" / "simclr-temperature=0.5_seed=6")


def test_features_are_those_of_the_evaluations_to_the_bit(study, embedded):
    workdir, config = study
    artifacts = np.load(workdir / "artifacts" / "simclr.npz")
    row = artifacts["runs"].tolist().index(RUN)
    digits = data.load("digits")
    assert embedded.features.shape == (1797, artifacts["features"].shape[2])
    # XLA sums in another order where it multiplies for four runs at once.
    np.testing.assert_allclose(embedded.features[1438:], artifacts["features"][row], rtol=1e-4, atol=2e-5)
    (program,) = pipeline.plan([config])
    trained = loop.restore(pipeline.untrained(program), workdir / "checkpoints" / "simclr", 2)
    alone = trained._replace(state=jax.tree.map(lambda leaf: leaf[3:], trained.state))
    own = np.concatenate(
        [extraction.extract(alone, digits.splits[split].images, image_size=8)[0] for split in ("train", "test")]
    )
    np.testing.assert_array_equal(embedded.features, own)
    assert np.abs(artifacts["features"][row] - artifacts["features"][row - 1]).max() > 1e-3  # and no other run's


def test_the_files_hold_what_mathematics_says_of_the_features(embedded):
    features = np.asarray(embedded.features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance, index = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(unit).kneighbors(unit)
    np.testing.assert_allclose(embedded.similarities, 1 - distance[:, 1:], atol=2e-6)
    assert (embedded.neighbours == index[:, 1:]).mean() > 0.98  # but for ties
    places = PCA(2, svd_solver="full").fit_transform(features.astype(np.float64))
    signs = np.sign((places * embedded.positions).sum(0))
    np.testing.assert_allclose(embedded.positions * signs, places, atol=1e-4 * np.abs(places).max())
    model = KMeans(10, n_init=10, random_state=6).fit(features)
    assert adjusted_rand_score(model.labels_, embedded.clusters) > 0.99


def test_the_table_opens_with_a_line_an_image(embedded):
    digits = data.load("digits")
    with (embedded.folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["index", "id", "split", "label", "cluster", "distance", "axis-0", "axis-1"]
    assert [row["index"] for row in rows] == [str(i) for i in range(1797)]
    assert embedded.ids[:1] + embedded.ids[1438:1439] == ("train/0", "test/0")
    assert [int(row["label"]) for row in rows[1438:]] == digits.splits["test"].labels.tolist()
    assert [int(row["cluster"]) for row in rows] == embedded.clusters.tolist()
    near = [[int(row[f"neighbour_{i}"]) for i in range(1, 11)] for row in rows]
    np.testing.assert_array_equal(near, embedded.neighbours)
    places = np.array([[float(row["axis-0"]), float(row["axis-1"])] for row in rows])
    np.testing.assert_allclose(places, embedded.positions, rtol=1e-5, atol=1e-5)
    centres = np.stack([embedded.features[embedded.clusters == c].mean(0) for c in range(10)])
    own = np.linalg.norm(embedded.features - centres[embedded.clusters], axis=1)
    np.testing.assert_allclose([float(row["distance"]) for row in rows], own, rtol=1e-3, atol=1e-4)
    with Image.open(embedded.folder / "map.png") as picture:
        colours = picture.convert("RGB").getcolors(2**20)
    assert len([count for count, colour in colours if max(colour) - min(colour) > 60 and count > 20]) >= 8


def test_the_picture_names_the_encoder_and_is_coloured_by_columns_of_few_values(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(embedding_table.figures, "tsne_figure", lambda path, panels, names: drawn.extend(panels))
    columns = {
        "path": np.array(["a", "b", "c"]),
        "plate": np.array(["p1", "p2", "p1"]),
        "one": np.array(["x", "x", "x"]),
    }
    split = data.Split(np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 1], np.int32), columns)
    dataset = data.Dataset("mine", {"train": split}, ("no", "yes"), (0.5,), (0.1,), "")
    positions = np.array([[0, 1], [2, 3], [np.nan, np.nan]])
    clusters, features = np.array([1, 0, 1]), np.zeros((3, 4), np.float32)
    embedding_table.draw(
        tmp_path / "map.png", "simclr/seed=5", dataset, dataset.splits, features, clusters, positions, "pca"
    )
    (panel,) = drawn
    assert panel.title.splitlines()[:2] == ["simclr/seed=5", "mine: 3 images"]
    assert {name: values.tolist() for name, values in panel.columns.items()} == {"plate": ["p1", "p2"]}
    assert panel.labels.tolist() == [0, 1] and panel.clusters.tolist() == [1, 0]


def test_an_export_and_other_images_from_python(study, embedded, tmp_path):
    workdir, _ = study
    digits = data.load("digits").splits["test"]
    exported = workdir / "encoders" / "simclr" / "temperature=0.5_seed=6.safetensors"
    found = ssljax.embed(
        digits.images, exported, folder=tmp_path / "E", labels=digits.labels, ids=[f"{i}.png" for i in range(359)],
        columns={"half": ["left", "right"] * 179 + ["left"]}, neighbours=3, map="none", progress=False,
    )  # fmt: skip
    # the file says how its images were normalised, and at what size it was trained
    np.testing.assert_allclose(found.features, embedded.features[1438:], rtol=1e-5, atol=1e-5)
    assert found.ids[7] == "7.png" and found.positions is None and found.neighbours.shape == (359, 3)
    with (found.folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["half"] for row in rows[:2]] == ["left", "right"]
    assert not (found.folder / "map.png").exists()
    run = ssljax.embed(digits.images, workdir, run="temperature=0.5,seed=6", map="none", neighbours=0, progress=False)
    np.testing.assert_array_equal(run.features, embedded.features[1438:])
    assert run.folder == workdir / "embedding" / "simclr-temperature=0.5_seed=6@images"


def test_a_folder_of_images_by_the_command_line(study, embedded, tmp_path, monkeypatch):
    workdir, _ = study
    monkeypatch.setenv("SSLJAX_CACHE", str(tmp_path / "cache"))
    digits = data.load("digits").splits["test"]
    for i, (image, label) in enumerate(zip(digits.images[:60], digits.labels)):
        (tmp_path / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "images" / str(label) / f"{i}.png")
    command = ["run.py", "--stages=embed", f"--dataset=folder:{tmp_path / 'images'}", f"--workdir={tmp_path / 'E'}"]
    assert cli.main([*command, f"--checkpoint={workdir}", f"--run={RUN}", "--embed_on=train,test", "--map=tsne"]) == 0
    (folder,) = (tmp_path / "E" / "embedding").iterdir()
    found = embedding.read(folder)
    expected = {features.tobytes() for features in np.asarray(embedded.features[1438:])[:60]}
    assert len(found.features) == 60
    near = [np.abs(embedded.features[1438:1498] - row).max(1).min() for row in found.features]
    assert max(near) < 1e-5 and len(expected) > 50  # normalised as in training, not by these sixty images
    assert np.isfinite(found.positions).all()
    assert not (tmp_path / "E" / "flagfile.cfg").exists()


def test_the_same_embedding_is_left_alone_and_another_refused(study, embedded, capsys):
    workdir, _ = study
    before = {path.name: path.stat().st_mtime_ns for path in embedded.folder.iterdir()}
    command = ["run.py", "--stages=embed", f"--checkpoint={workdir}", f"--run={RUN}"]
    assert cli.main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in embedded.folder.iterdir()} == before
    capsys.readouterr()
    assert cli.main([*command, "--map=tsne"]) == 2
    error = capsys.readouterr().err
    assert "holds an embedding of another 'map' (pca, asked for tsne)" in error and error.count("\n") == 1
    (workdir / "embedding" / "simclr-temperature=0.1_seed=5").mkdir()
    (workdir / "embedding" / "simclr-temperature=0.1_seed=5" / "notes.txt").write_text("mine")
    assert cli.main([*command[:-1], "--run=temperature=0.1,seed=5"]) == 2
    assert "is there already and holds no embedding" in capsys.readouterr().err


def test_what_was_interrupted_is_done_anew(study, tmp_path, monkeypatch):
    workdir, _ = study
    images = data.load("digits").splits["test"].images[:40]
    left = tmp_path / ".E.unfinished"
    left.mkdir()
    (left / "features.npy").write_bytes(b"half")
    found = ssljax.embed(images, workdir, run=RUN, folder=tmp_path / "E", map="none", neighbours=0, progress=False)
    assert len(found.features) == 40 and not left.exists()
    nans = [np.full((1, 40, 4), np.nan, np.float32)]
    monkeypatch.setattr(embedding.extraction, "pieces", lambda *args, **options: lambda images: iter(nans))
    with pytest.raises(UserError, match="features are not finite"):
        ssljax.embed(images, workdir, run=RUN, folder=tmp_path / "F", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["E"]


BAD = [
    (["--checkpoint={W}"], "W has 4 runs, give one of simclr/temperature=0.1,seed=5, "),
    (["--checkpoint={W}", "--run=seed=7"], "has no run 'seed=7'; it has simclr/"),
    (
        ["--checkpoint={W}", f"--run={RUN}", "--embed_on=tests"],
        "--embed_on: unknown split 'tests'; did you mean 'test'?",
    ),
    (["--checkpoint={W}", f"--run={RUN}", "--clusters=9999"], "--clusters: 9999 is more than the 1797 images"),
    (["--checkpoint={tmp}"], "has no flagfile.cfg, so nothing was trained there"),
    (["--checkpoint={tmp}/absent.pth"], "--checkpoint={tmp}/absent.pth: cannot be read"),
    (["--checkpoint={E}", "--run=seed=5"], "is one encoder, given the run seed=5"),
    (
        ["--checkpoint={W}", f"--run={RUN}", "--dataset=npz:{tmp}/rgb.npz"],
        "takes images of 1 channel, npz:{tmp}/rgb.npz has 3",
    ),
    (["--checkpoint={W}", "--stages=evaluate"], "--checkpoint: is what the stage embed embeds with"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(argv, message, study, embedded, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SSLJAX_CACHE", str(tmp_path / "cache"))
    np.savez(
        tmp_path / "rgb.npz",
        train_images=np.zeros((9, 8, 8, 3), np.uint8),
        test_images=np.zeros((9, 8, 8, 3), np.uint8),
    )
    exported = study[0] / "encoders" / "simclr" / "temperature=0.5_seed=6.safetensors"
    names = {"{W}": study[0], "{tmp}": tmp_path, "{E}": exported}
    for name, path in names.items():
        argv, message = [a.replace(name, str(path)) for a in argv], message.replace(name, str(path))
    capsys.readouterr()
    assert cli.main(["run.py", "--stages=embed", f"--workdir={tmp_path / 'O'}", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "O").exists()


def test_images_from_python_that_are_none(study):
    for images in (np.zeros((3, 8, 8, 1)), np.zeros((3, 8, 8), np.uint8), [1, 2], np.zeros((0, 8, 8, 1), np.uint8)):
        with pytest.raises(UserError, match=r"expected images uint8 or uint16 \[n, height, width, channels\]"):
            ssljax.embed(images, study[0], run=RUN)
    with pytest.raises(UserError, match="ids: expected one for each of 3 images"):
        ssljax.embed(np.zeros((3, 8, 8, 1), np.uint8), study[0], run=RUN, ids=["a"])
    exported = study[0] / "encoders" / "simclr" / "temperature=0.5_seed=6.safetensors"
    with pytest.raises(UserError, match="is a file; say by folder="):
        ssljax.embed(np.zeros((3, 8, 8, 1), np.uint8), exported)


def test_a_run_that_diverged_is_refused(study):
    workdir, config = study
    (program,) = pipeline.plan([config])
    with pytest.MonkeyPatch.context() as patch:
        restore = loop.restore

        def diverged(*args):
            found = restore(*args)
            return found._replace(state=found.state._replace(alive=np.array([True, True, True, False])))

        patch.setattr(loop, "restore", diverged)
        with pytest.raises(UserError, match="simclr/temperature=0.5,seed=6 diverged in training"):
            serving.of_run(program, program.runs[3], workdir)


def test_neighbours_of_planted_pairs_across_blocks(monkeypatch):
    monkeypatch.setattr("ssljax.neighbours._QUERIES", 7)
    monkeypatch.setattr("ssljax.neighbours._BANK", 10)
    draw = np.random.default_rng(0)
    features = draw.normal(size=(53, 6)).astype(np.float32)
    features[52] = 3 * features[0]  # the same direction, first and last block
    features[30] = 0
    found = [np.concatenate(part) for part in zip(*nearest(features, 4))]
    exact = features.astype(np.float64)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    expected = np.argsort(-cosine, axis=1, kind="stable")[:, :4]
    np.testing.assert_allclose(found[1], np.take_along_axis(cosine, expected, 1), atol=1e-6)
    rows = ~np.isin(np.arange(53), (0, 30, 52))  # 30: whose cosines are all 0; 0 and 52 are alike to every other row
    np.testing.assert_array_equal(
        np.where(found[0] == 52, 0, found[0])[rows], np.where(expected == 52, 0, expected)[rows]
    )
    assert found[0][0, 0] == 52 and found[0][52, 0] == 0 and 30 not in found[0][30]


def test_mini_batches_find_planted_clusters_that_stand_in_order(monkeypatch):
    monkeypatch.setattr(large, "WHOLE", 100)
    monkeypatch.setattr(large, "ROWS", 256)
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(6, 8)) * 10
    truth = np.repeat(np.arange(6), 500)  # class by class, as a folder has them
    features = (centres[truth] + draw.normal(size=(3000, 8))).astype(np.float32)
    found, distance = large.clusters(features, 6, random_state=0)
    assert adjusted_rand_score(truth, found) == 1
    means = np.stack([features[found == c].mean(0) for c in range(6)])
    np.testing.assert_allclose(distance, np.linalg.norm(features - means[found], axis=1), atol=0.3)


def test_principal_components_in_pieces(monkeypatch):
    monkeypatch.setattr(large, "ROWS", 64)
    draw = np.random.default_rng(0)
    features = (draw.normal(size=(300, 5)) * [9, 5, 3, 1, 1] @ draw.normal(size=(5, 5)) + 100).astype(np.float32)
    mean, directions = large.principal_components(features, 2)
    model = PCA(2, svd_solver="full").fit(features.astype(np.float64))
    np.testing.assert_allclose(np.abs((directions * model.components_.T).sum(0)), 1, atol=1e-9)
    np.testing.assert_allclose(
        large.projected(features, mean, directions).var(0, ddof=1), model.explained_variance_, rtol=1e-4
    )
    assert (np.abs(directions).max(0) == directions.max(0)).all()
    assert large.principal_components(features[:, :1], 2)[1].tolist() == [[1, 0]]


class Made:
    """Images that exist only while they are looked at."""

    dtype = np.dtype(np.uint8)

    def __init__(self, n, side=16):
        self.shape, self.most = (n, side, side, 3), 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        index = np.arange(len(self))[rows]
        self.most = max(self.most, len(index))
        return np.broadcast_to((index % 251)[:, None, None, None], (len(index), *self.shape[1:])).astype(np.uint8)


class Wide(nn.Module):
    """Many features, little to compute."""

    @nn.compact
    def __call__(self, images, train=False):
        return jnp.tanh(nn.Dense(512, name="dense")(images.mean((1, 2))))


def _flat(count, tmp_path, neighbours):
    """The peak of the host's memory, as NumPy tells it, while so many images are embedded; and what was written."""
    network = Wide()
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    BACKBONES["wide"] = lambda **_: network
    images = Made(count)
    try:
        dataset = embedding._as_dataset(images, None, None, None, None)
        config = ssljax.Config(backbone="resnet18", image_size=16)
        state = loop.State(variables["params"], {}, (), (), jnp.array(True))
        state = jax.tree.map(lambda leaf: leaf[None], state)
        program = loop.Program(
            **dict.fromkeys(loop.Program._fields)
            | {"encode": lambda state, images, data: network.apply({"params": state.params}, images)}
        )
        blank = loop.resident(np.zeros((0, 16, 16, 3), np.uint8), dataset.mean, dataset.std)
        trained = loop.Trained(program, (), state, {}, blank, 0)
        encoder = serving.Served("wide", trained, config.image_size, 3, False, 0, {"run": "wide"}, "here")
        tracemalloc.start()
        found = embedding.write(
            tmp_path / str(count), encoder, dataset, embedding.Settings(10, neighbours), progress=False
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        del BACKBONES["wide"]
    assert images.most <= embedding.BATCH
    return peak, found


def _check_flat(few, many, neighbours, tmp_path):
    low, _ = _flat(few, tmp_path, neighbours)
    high, found = _flat(many, tmp_path, neighbours)
    size = found.features.nbytes
    assert size == many * 512 * 4
    # What grows is a name, a place, a cluster and a distance of each image, and no features.
    assert high - low < (many - few) * 400 and high < size
    places = np.arange(many) % 251
    first = np.asarray(found.features[:251])
    np.testing.assert_array_equal(found.features[251:502], first)
    assert len(np.unique(first.round(5), axis=0)) > 200
    return places


def test_memory_does_not_grow_with_the_features(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "WHOLE", 1000)
    monkeypatch.setattr(large, "ROWS", 512)
    monkeypatch.setattr(large, "PASSES", 1)
    _check_flat(2_000, 12_000, 0, tmp_path)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features_of_100_000_images(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "PASSES", 1)
    _check_flat(30_000, 100_000, 0, tmp_path)


def test_the_pipeline_embeds_after_training_and_asks_for_the_run_first(tiny, tmp_path):
    config = tiny(method="simclr", epochs=1, warmup_epochs=0, seeds=(5, 6))
    with pytest.raises(UserError, match="--run: .*W has 2 runs, give one of simclr/seed=5, simclr/seed=6"):
        pipeline.run(config, tmp_path / "W", stages=("pretrain", "embed"), progress=False)
    assert not (tmp_path / "W").exists()


def test_embedding_json_says_what_was_done(embedded):
    told = json.loads((embedded.folder / "embedding.json").read_text())
    assert told["encoder"]["run"] == RUN and told["encoder"]["epoch"] == 1
    assert told["data"]["splits"] == {"train": 1438, "test": 359}
    assert (told["clusters"], told["neighbours"], told["map"], told["image_size"]) == (10, 10, "pca", 8)
