"""What is measured and said while runs are trained: values beside numpy and scikit-learn, planted failures named at once."""

import json
import logging
import math
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import ssljax
from ssljax import augment, pipeline, planning, watching
from ssljax.errors import UserError
from ssljax.evaluate import unlabelled
from ssljax.evaluate.features import extract
from ssljax.evaluate.knn import knn_scores
from ssljax.methods import mocov2plus
from ssljax.study import similarity
from ssljax.study.reliability import paired_measures
from ssljax.train import diagnosis, loop
from ssljax.train.logs import line
from ssljax.train.step import MEASURED_VIEWS, derive, sources, to_unit, transform_values


def planned(config, images=None):
    program = planning.plan([config])[0]
    if images is None:
        return program
    train = program.dataset.splits["train"]
    splits = {**program.dataset.splits, "train": train._replace(images=images(train.images))}
    return program._replace(dataset=program.dataset._replace(splits=splits))


def train(program, folder, change=lambda state: state):
    """Trains a program as the pipeline does, from a changed start: (what is trained, rows of its metrics)."""
    start = pipeline.untrained(program)
    start = start._replace(state=change(start.state))
    watch = watching.of_program(program, start) if program.config.eval_every else None
    trained = loop.pretrain(
        program.config, start, name=program.name, checkpoints=folder / "checkpoints", metrics_file=folder / "metrics.jsonl",
        tensorboard=folder / "tensorboard", progress=False, watch=watch,
    )  # fmt: skip
    return trained, [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def watched(tiny, one_layer, tmp_path_factory):
    """Two seeds, watched after each of two epochs: (program, trained, rows)."""
    program = planned(tiny(backbone=one_layer, seeds=(5, 6), eval_every=1, optimizer="sgd"))
    return program, *train(program, tmp_path_factory.mktemp("watched"))


def test_looking_changes_no_weight(watched, tmp_path):
    program, trained, rows = watched
    blind = program._replace(config=program.config.__class__(**{**vars(program.config), "eval_every": 0}))
    without, plain = train(blind, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, trained.state, without.state)
    kept = [{k: v for k, v in row.items() if "watch/" not in k and k != "images_per_second"} for row in rows]
    assert kept == [{k: v for k, v in row.items() if k != "images_per_second"} for row in plain]
    events = [file.read_bytes() for file in tmp_path.parent.rglob("events.*")]
    assert sum(b"watch/rankme" in each for each in events) == 2  # TensorBoard's, one a run that was watched


def test_the_last_look_is_at_the_last_weights(watched):
    """Each number from features of the documented images and views, one by one."""
    program, trained, rows = watched
    train, config = program.dataset.splits["train"], program.config
    own, further = unlabelled.places(len(train.images), unlabelled.BANK)
    assert len(own) == len(train.images) // 2 and not set(own) & set(further)
    features = extract(trained, train.images, image_size=config.image_size)
    view = sources(config)
    for i, run in enumerate(trained.runs):
        row = rows[-2 + i]
        assert (row["run"].endswith(run.name), row["epoch"]) == (True, 2)
        x = features[i][own].astype(np.float64)
        share = np.linalg.svd(x, compute_uv=False)
        share = share / share.sum() + 1e-7
        assert row["watch/rankme"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        assert row["watch/collapse"] == pytest.approx(math.sqrt(x.shape[1]) * unit.std(axis=0).mean(), rel=1e-4)
        votes = knn_scores(
            features[i][further], train.labels[further], features[i][own], k=config.knn_k, temperature=config.knn_temperature,
            n_classes=10,
        )  # fmt: skip
        assert row["watch/knn"] == pytest.approx((votes.argmax(axis=1) == train.labels[own]).mean(), abs=0.003)
        # Views of a few images, drawn alone.
        hyper, state = jax.tree.map(itemgetter(i), (trained.hyper, trained.state))
        images = to_unit(jnp.asarray(train.images[own]))
        drawn = []
        for number in range(unlabelled.VIEWS):
            side = ("view1", "view2")[number % 2]
            keys = [jax.random.fold_in(derive(hyper["seed"], int(place), MEASURED_VIEWS), number) for place in own]
            alone = partial(
                augment.apply_view, view[side], values=transform_values(hyper, side), image_size=config.image_size
            )
            pictures = jax.jit(jax.vmap(lambda key, image, alone=alone: alone(key, image[None])[0]))(
                jnp.stack(keys), images
            )
            drawn.append(np.asarray(trained.program.encode(state, pictures, trained.data)))
        views = np.stack(drawn, axis=1)
        assert row["watch/lidar"] == pytest.approx(float(unlabelled.lidar(views)), rel=1e-3)
        sphere = views / np.maximum(np.linalg.norm(views, axis=2, keepdims=True), 1e-30)
        distances = ((sphere[:, ::2] - sphere[:, 1::2]) ** 2).sum(axis=2)
        assert row["watch/alignment"] == pytest.approx(distances.mean(), rel=1e-3)


def test_the_ridge_classifier_is_least_squares_on_indicators(tiny):
    rng = np.random.default_rng(0)
    labels, held = rng.integers(0, 3, 90), rng.integers(0, 3, 40)
    centres = rng.normal(size=(3, 6))
    bank, features = (0.7 * centres[own] + rng.normal(size=(len(own), 6)) + 5 for own in (labels, held))
    scale = StandardScaler().fit(bank)
    fit = Ridge(alpha=watching.RIDGE * len(bank)).fit(scale.transform(bank), np.eye(3)[labels])
    expected = (fit.predict(scale.transform(features)).argmax(axis=1) == held).mean()
    none = np.zeros(0)
    seen = watching.Sample(none, none, none, none, held, labels)
    found = watching.labelled(planned(tiny()).config, seen, bank, features, 3)
    assert found["ridge"] == expected and 0.6 < expected < 1
    assert all(
        math.isnan(v) for v in watching.labelled(planned(tiny()).config, seen, bank * np.nan, features, 3).values()
    )


@pytest.mark.slow  # VGG has to be compiled
def test_a_rate_a_hundred_times_too_high_is_said_within_an_epoch(tiny, tmp_path, caplog):
    config = tiny(method="simclr", optimizer="sgd", eval_every=1, sweep=("learning_rate=0.3,30",))
    with caplog.at_level("WARNING", logger="ssljax"):
        _, rows = train(planned(config), tmp_path)
    sound, wrong = rows[:2]
    assert "learning_rate=0.3," not in caplog.text and sound["watch/collapse"] > 0.1
    assert "run learning_rate=30,seed=5 has collapsed after epoch 1" in caplog.text and wrong["collapsed"]
    assert wrong["watch/collapse"] < unlabelled.COLLAPSED and wrong["watch/rankme"] < 2


def test_a_queue_of_constant_features_is_said_before_the_first_step(tiny, one_layer, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mocov2plus, "noise_queue", lambda key, shape: jnp.ones(shape) / shape[-1] ** 0.5)
    with caplog.at_level("WARNING", logger="ssljax"):
        train(planned(tiny(backbone=one_layer, optimizer="sgd", epochs=2, eval_every=2)), tmp_path)
    first = caplog.records[0].getMessage()
    assert "seed=5" in first and "in its queue before the first step" in first and ".0000" in first
    assert len(caplog.records) == 1  # it is filled with sound keys then, and nothing more is said


def test_black_images_are_said(tiny, one_layer, tmp_path, caplog):
    program = planned(tiny(method="simclr", backbone=one_layer, optimizer="sgd", epochs=2, eval_every=2,
                           transforms="rotation(degrees=20)"), np.zeros_like)  # fmt: skip
    with caplog.at_level("WARNING", logger="ssljax"):
        _, rows = train(program, tmp_path)
    texts = [record.getMessage() for record in caplog.records]
    assert "719 training images that were looked at are all alike" in texts[0]
    assert "has collapsed after epoch 1" in texts[1] and "collapse 0.0000" in texts[1]
    assert "is log 127, that of a guess" in texts[1]  # 2 x 64 - 1 others
    assert [row.get("collapsed") for row in rows] == [True, True] and len(texts) == 2
    assert "watch/rankme" in rows[1] and "watch/rankme" not in rows[0]


@pytest.mark.parametrize(
    "part, expected",
    [
        ("memory", "memory, queue"),
        ("params", "weights, backbone/dense/kernel"),
        ("rate", "weights after the step, backbone/"),
    ],
)
def test_the_first_tensor_that_is_not_finite_is_named_at_once(tiny, one_layer, tmp_path, caplog, part, expected):
    """NaN planted in the second of two runs; the first goes on as it would alone."""
    sweep = ("learning_rate=0.05,1e30",) if part == "rate" else ()
    seeds = (5,) if sweep else (5, 6)
    config = tiny(
        backbone=one_layer, optimizer="sgd", seeds=seeds, sweep=sweep, epochs=1, steps_per_dispatch=4, warmup_epochs=0
    )

    def planted(state):
        if part == "memory":
            return state._replace(memory={**state.memory, "queue": state.memory["queue"].at[1, 0, 3, 2].set(jnp.nan)})
        if part == "params":
            backbone = state.params["backbone"]
            kernel = backbone["dense"]["kernel"].at[1, 0, 0].set(jnp.inf)
            dense = {**backbone["dense"], "kernel": kernel}
            return state._replace(params={**state.params, "backbone": {**backbone, "dense": dense}})
        return state

    early = []

    class Early(logging.Handler):
        def emit(self, record):
            early.append((record.getMessage(), (tmp_path / "metrics.jsonl").exists()))

    handler = Early(logging.WARNING)
    logging.getLogger("ssljax").addHandler(handler)
    try:
        trained, rows = train(planned(config), tmp_path, planted)
    finally:
        logging.getLogger("ssljax").removeHandler(handler)
    text, later = early[0]
    assert len(early) == 1 and not later
    assert f"{trained.runs[1].name} diverged in epoch 1 at step 1 " in text
    assert f"is frozen: first not finite: {expected}" in text
    assert np.asarray(trained.state.alive).tolist() == [True, False]
    assert rows[1]["diverged_at"] == 1 and rows[1]["not_finite"].startswith(expected) and "diverged_at" not in rows[0]
    assert rows[0]["loss"] > 0 and "alive" not in rows[0]


def test_the_order_of_what_is_not_finite():
    ones = diagnosis.Examined(*({"a": jnp.ones(2), "b": {"c": jnp.ones(3)}} for _ in diagnosis.Examined._fields))
    assert diagnosis.first_not_finite(diagnosis.finite(ones)) == ""
    bad = ones._replace(
        gradients={"a": jnp.ones(2), "b": {"c": jnp.array([1, jnp.inf])}},
        loss=jnp.float32(jnp.nan),
        updates=jnp.float32(jnp.nan),
    )
    assert diagnosis.first_not_finite(diagnosis.finite(bad)) == "loss"
    assert diagnosis.first_not_finite(diagnosis.finite(bad._replace(loss=jnp.ones(1)))) == "gradients, b/c"
    long = ones._replace(updates={"a": jnp.full(3, 1e30), "b": jnp.full(2, -1e25)})  # finite, their squares are not
    assert diagnosis.first_not_finite(diagnosis.finite(long)) == "weights after the step, a (and 1 more of 2)"


def test_measures_and_likeness_are_in_the_tables(tiny, one_layer, tmp_path):
    """Evaluations `unlabelled` and `cka`, as far as to what tells which measure can be believed."""
    config = tiny(
        backbone=one_layer, seeds=(5, 6), sweep=("rotation.degrees=0,90",), evaluations=("knn", "unlabelled", "cka"),
        eval_every=2, optimizer="sgd",
    )  # fmt: skip
    study = pipeline.run(config, tmp_path / "W", stages=("pretrain", "evaluate", "report"), progress=False)
    rows = {(r["run"], r["evaluation"], r["metric"]): r["value"] for r in study.results}
    runs = dict.fromkeys(r["run"] for r in study.results if r["method"] == "mocov2plus")
    assert len(runs) == 4
    metrics = [json.loads(text) for text in (tmp_path / "W" / "metrics.jsonl").read_text().splitlines()]
    last = {row["run"]: row for row in metrics if row["epoch"] == 2}
    for run in runs:  # what was seen after the last epoch is what the table says
        for name in ("rankme", "lidar", "alignment", "uniformity", "collapse"):
            assert rows[run, "unlabelled", name] == pytest.approx(last[run][f"watch/{name}"], rel=1e-3)
    with np.load(tmp_path / "W" / "artifacts" / "mocov2plus.npz") as file:
        features = dict(zip(file["runs"].tolist(), file["features"].astype(np.float64)))
    for degrees in ("0", "90"):
        a, b = (f"mocov2plus/rotation.degrees={degrees},seed={seed}" for seed in (5, 6))
        x, y = (features[run] - features[run].mean(axis=0) for run in (a, b))
        cka = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
        assert rows[a, "cka", "linear_cka"] == rows[b, "cka", "linear_cka"] == pytest.approx(cka, rel=1e-6)
    assert not any(r["method"] == "pixels" and r["evaluation"] in ("unlabelled", "cka") for r in study.results)
    random = {r["metric"] for r in study.results if r["method"] == "random" and r["evaluation"] == "unlabelled"}
    assert random == {
        "rankme",
        "uniformity",
        "collapse",
    }  # ten directions are too few for alpha; no views were drawn for it
    measures, _, _ = paired_measures(study.results, evaluation="knn")
    assert np.isfinite(measures["lidar"]).all() and set(measures) >= {"rankme", "alignment", "uniformity", "collapse"}
    page = study.report.read_text()
    assert "While it trained" in page and "CKA of seeds" in page and "RankMe" in study.text
    assert (tmp_path / "W" / "figures" / "watched.png").stat().st_size > 10_000


def test_seeds_are_compared_across_programs(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * 3
    other = rng.normal(size=(50, 4))
    np.savez(tmp_path / "p.npz", runs=np.array(["p/seed=1", "p/seed=2"]), features=np.stack([x, other]))
    np.savez(tmp_path / "p~1.npz", runs=np.array(["p~1/seed=3", "p~1/lone"]), features=np.stack([turned, x]))

    def row(run, seed, **more):
        names = dict(zip(("evaluation", "target", "metric"), similarity.KEY))
        return {"run": run, "seed": seed, "method": "simclr", **more, **names, "value": math.nan}

    rows = [row("p/seed=1", 1), row("p/seed=2", 2), row("p~1/seed=3", 3), row("p~1/lone", 3, method="byol")]
    rows.append({**row("p/seed=1", 1), "evaluation": "knn", "metric": "top1", "value": 0.5})
    similarity.settle(rows, tmp_path)
    values = {r["run"]: r["value"] for r in rows if r["evaluation"] == "cka"}
    far = float(unlabelled.linear_cka(x, other))
    assert far < 0.3 and values.keys() == {"p/seed=1", "p/seed=2", "p~1/seed=3"} and len(rows) == 4
    assert values["p/seed=1"] == pytest.approx((1 + far) / 2) == values["p~1/seed=3"]
    assert values["p/seed=2"] == pytest.approx(far)


def test_the_progress_line_has_gradient_and_waiting_beside_each_other():
    rows = [
        {
            "loss": 2.0,
            "gradient_norm": 0.5,
            "waiting": 0.021,
            "watch/knn": 0.9,
            "watch/rankme": 12.0,
            "watch/collapse": 0.5,
        },
        {"loss": 4.0, "gradient_norm": 1.5, "waiting": 0.021, "watch/knn": 0.7, "watch/rankme": None},
        {"loss": None, "gradient_norm": 90.0, "waiting": 0.021, "diverged": True},
    ]
    expected = "epoch 3/9, loss 3.000, gradient 1, 2% waiting for data, 1,234 images/s, k-NN 0.8, RankMe 12, spread 0.5"
    assert line(rows, 3, 9, 1234.4) == expected
    assert line(rows[2:], 3, 9, 10.0) == "epoch 3/9, loss diverged, 2% waiting for data, 10 images/s"


@pytest.mark.parametrize("method, expected", [("simclr", math.log(127)), ("mocov2plus", math.log(129)), ("byol", None)])
def test_what_a_guess_loses(tiny, method, expected):
    found = watching.trivial_loss(planned(tiny(method=method)).config)
    assert (found and found[0]) == expected


def test_bad_input():
    with pytest.raises(UserError, match="--eval_every: expected a whole number of at least 0, given -1"):
        ssljax.Config(eval_every=-1)
    with pytest.raises(UserError, match="--evaluations: unlabelled takes nothing after an @"):
        ssljax.Config(evaluations=("unlabelled@10%",))
