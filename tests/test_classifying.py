"""The evaluations that classify: on a part of the labels, with a chosen learning rate, on another data set; and their columns."""

from functools import partial

import numpy as np
import pytest

from ssljax import classifying, config, data, measuring, pipeline, planning, protocol, representation
from ssljax.data import Dataset, Split
from ssljax.data.labels import subset
from ssljax.data.splits import stratified
from ssljax.errors import UserError
from ssljax.evaluate.knn import knn_scores
from ssljax.evaluate.logreg import fit_scores
from ssljax.evaluate.measure import Measurement
from ssljax.train import probe

NAMES = ("left", "right", "top")


def bars(n, seed, channels=1):
    """Noisy images of a bright half each, of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % 3
    images = rng.integers(0, 100, (n, 8, 8, channels), np.uint8)
    for image, label in zip(images, labels):
        image[(np.s_[:, :4], np.s_[:, 4:], np.s_[:4])[label]] += 60
    return Split(images, labels)


@pytest.fixture
def planted():
    """Bars; a third of the labels of the training images are wrong."""
    train = bars(150, 0)
    labels = np.where(np.arange(150) % 10 < 3, (train.labels + 1) % 3, train.labels).astype(np.int32)
    splits = {"train": Split(train.images, labels), "test": bars(60, 1)}
    return Dataset("bars", splits, NAMES, (0.5,), (0.2,), "f")


@pytest.fixture
def archive(tmp_path):
    """The name of another set, to transfer to."""

    def write(channels=1):
        train, test = bars(100, 2, channels), bars(40, 3, channels)
        np.savez(
            tmp_path / "other.npz", train_images=train.images, train_labels=train.labels, test_images=test.images,
            test_labels=test.labels,
        )  # fmt: skip
        return f"npz:{tmp_path / 'other.npz'}"

    return write


def values(rows, metric="top1"):
    return {(row["seed"], row["evaluation"]): row["value"] for row in rows if row["metric"] == metric}


def top1(scores, labels):
    return np.mean(scores.argmax(1) == labels)


def test_a_part_of_the_labels_is_all_that_is_seen_of_them(tiny, planted, tmp_path):
    settings = tiny(evaluations=("knn", "knn@10%", "linear@10%"), probe_features="standardized", probe_epochs=20)
    shown = representation.pixels(planted, (5, 6), "pixels")
    rows, by_class = measuring.measure(settings, planted, shown, tmp_path / "a.npz")
    train, test = planted.splits["train"], planted.splits["test"]
    part = subset(train.labels, 10)
    assert len(part) == 15 and set(train.labels[part]) == {0, 1, 2}
    x, labels, held = shown.train[0][part], train.labels[part], shown.test[0]
    options = dict(k=settings.knn_k, temperature=settings.knn_temperature, n_classes=3)
    few, all_of_them = knn_scores(x, labels, held, **options), knn_scores(shown.train[0], train.labels, held, **options)
    scale = x.std(0)  # of the part alone
    head = probe.fit(np.stack([(x - x.mean(0)) / scale] * 2), labels, np.array([5, 6]), n_classes=3, dim=64, epochs=20)
    scores = probe.scores(head, np.stack([(held - x.mean(0)) / scale] * 2))
    found = values(rows)
    for i, seed in enumerate((5, 6)):
        assert found[seed, "knn@10%"] == pytest.approx(top1(few, test.labels))
        assert found[seed, "knn"] == pytest.approx(top1(all_of_them, test.labels))
        assert found[seed, "linear@10%"] == pytest.approx(top1(scores[i], test.labels))
    assert found[5, "knn@10%"] != found[5, "knn"]
    recall = [np.mean(few.argmax(1)[test.labels == c] == c) for c in range(3)]
    own = [r["value"] for r in by_class if (r["evaluation"], r["seed"], r["metric"]) == ("knn@10%", 5, "accuracy")]
    assert own == pytest.approx(recall)


@pytest.mark.parametrize("split", [True, False])
def test_each_run_gets_the_rate_that_is_best_on_images_held_out_of_training(tiny, planted, tmp_path, split):
    rates = ("0.01", "0.2", "1e38")  # the last diverges
    settings = tiny(
        evaluations=("linear",), probe_features="raw", probe_epochs=20, probe_batch_size=32, probe_learning_rates=rates,
        probe_lr_scaling="linear", probe_schedule="cosine",
    )  # fmt: skip
    if split:
        planted = planted._replace(splits={**planted.splits, "validation": bars(30, 4)})
    train, test = planted.splits["train"], planted.splits["test"]
    shown = representation.pixels(planted, (5, 6), "pixels")
    # The second run sees features ten times as large, and does better with a smaller rate.
    larger = {
        name: np.stack([each[0], 10 * each[1]]) for name, each in shown._asdict().items() if name in planted.splits
    }
    shown = shown._replace(**larger)
    rows, _ = measuring.measure(settings, planted, shown, tmp_path / "a.npz")

    def fitted(kept, rates):
        return probe.fit(
            shown.train[:, kept], train.labels[kept], np.array([5, 6]), n_classes=3, dim=64, epochs=20, batch_size=32,
            learning_rate=np.multiply(rates, 32 / 256), schedule="cosine",
        )  # fmt: skip

    everything = np.arange(150)
    kept, out = (everything, None) if split else stratified(150, train.labels, 0.1)
    held, labels = (shown.validation, bars(30, 4).labels) if split else (shown.train[:, out], train.labels[out])
    heads = fitted(kept, [[float(rate) for rate in rates]] * 2)
    scores = np.einsum("rnd,rkdc->rknc", held, heads["kernel"]) + heads["bias"][:, :, None]
    right = [[top1(own, labels) if np.isfinite(own).all() else 0 for own in of_run] for of_run in scores]
    assert np.argmax(right, axis=1).tolist() == [1, 0]
    assert values(rows, "learning_rate") == {(5, "linear"): 0.2, (6, "linear"): 0.01}
    # With its rate each run is trained on all training images.
    final = probe.scores(fitted(everything, [0.2, 0.01]), shown.test)
    for i, seed in enumerate((5, 6)):
        assert values(rows)[seed, "linear"] == pytest.approx(top1(final[i], test.labels))
    # Nothing hangs on the test labels.
    other = planted._replace(splits={**planted.splits, "test": Split(test.images, (test.labels + 1) % 3)})
    again, _ = measuring.measure(settings, other, shown, tmp_path / "a.npz")
    assert values(again, "learning_rate") == values(rows, "learning_rate")
    assert values(again) != values(rows)


def test_the_choice_is_by_images_that_the_tried_rates_have_not_seen(tiny, monkeypatch):
    # Random labels: on its own images a fast probe is better than a slow one, on others none is.
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(100, dtype=np.int32) % 2)
    train = Split(rng.integers(0, 255, (100, 8, 8, 1), np.uint8), labels)
    dataset = Dataset("noise", {"train": train, "test": train}, ("a", "b"), (0.5,), (0.2,), "f")
    shown = representation.pixels(dataset, (5,), "pixels")
    seen = []

    def fit(features, labels, seeds, **options):
        seen.append((features, labels, options["learning_rate"]))
        return real(features, labels, seeds, **options)

    real = probe.fit
    monkeypatch.setattr(probe, "fit", fit)
    settings = tiny(probe_features="raw", probe_epochs=2, probe_learning_rates=("0.1", "0.2"))
    classifying.linear(settings, dataset, shown)
    (tried, tried_labels, rates), (final, _, rate) = seen
    assert tried.shape == (1, 90, 64) and final.shape == (1, 100, 64)
    assert rates.tolist() == [[0.1, 0.2]] and rate.shape == (1,)
    places = [np.flatnonzero((shown.train[0] == row).all(1)).item() for row in tried[0]]
    np.testing.assert_array_equal(tried_labels, labels[places])
    assert np.bincount(np.delete(labels, places)).tolist() == [5, 5]  # a stratified tenth is out


def test_another_set_is_searched_on_its_validation_images_and_scored_on_its_test_images(
    tiny, one_layer, archive, monkeypatch, tmp_path
):
    few = partial(fit_scores, strengths=(1e-2, 1.0, 1e2))
    monkeypatch.setattr(classifying.logistic, "fit_scores", few)
    name = archive()
    settings = tiny(
        backbone=one_layer, pretrained="random", seeds=(5, 6), evaluations=(f"logreg@{name}",),
        cache_dir=str(tmp_path / "cache"), image_size=8,
    )  # fmt: skip
    (program,) = planning.plan([settings])
    trained = pipeline.untrained(program)
    shown = representation.represent(program.config, trained, program.dataset, "p")
    rows, by_class = measuring.measure(program.config, program.dataset, shown, tmp_path / "a.npz")
    other = data.load(name, cache_dir=str(tmp_path / "cache"), validation_fraction=0.2, image_size=8)
    assert [len(split.labels) for split in other.splits.values()] == [80, 20, 40]
    dense = {k: np.asarray(v, np.float64) for k, v in trained.state.params["backbone"]["dense"].items()}

    def features(images, run):
        x = (images.reshape(len(images), -1)[:, ::3] / 255.0 - program.dataset.mean[0]) / program.dataset.std[0]
        return np.maximum((x @ dense["kernel"][run] + dense["bias"][run]) / np.sqrt(1 + 1e-5), 0)

    for run, seed in enumerate((5, 6)):
        x = {split: features(part.images, run) for split, part in other.splits.items()}
        y = {split: np.asarray(part.labels) for split, part in other.splits.items()}
        scores, _ = few(x["train"], y["train"], x["validation"], y["validation"], x["test"], metric="top1", n_classes=3)
        assert values(rows)[seed, f"logreg@{name}"] == pytest.approx(top1(scores, y["test"]), abs=0.026)
        assert values(rows, "lambda")[seed, f"logreg@{name}"] in (1e-2, 1.0, 1e2)
        assert values(rows)[seed, f"logreg@{name}"] > 0.8  # of three classes; one layer of random weights
    own = [r for r in by_class if r["evaluation"] == f"logreg@{name}" and r["metric"] == "accuracy" and r["seed"] == 5]
    assert np.mean([r["value"] for r in own]) == pytest.approx(values(rows, "mean_per_class")[5, f"logreg@{name}"])
    # Raw pixels, the same for each seed.
    rows, _ = measuring.measure(
        program.config, program.dataset, representation.pixels(program.dataset, (5, 6), "pixels"), tmp_path / "b.npz"
    )
    assert values(rows)[5, f"logreg@{name}"] == values(rows)[6, f"logreg@{name}"] > 0.85


def test_on_the_set_itself_a_fifth_of_training_is_searched_on(tiny, planted, monkeypatch, tmp_path):
    sizes = []

    def few(train, y, validation, yv, test, **options):
        sizes.append((len(train), np.bincount(yv).tolist(), len(test)))
        return fit_scores(train, y, validation, yv, test, strengths=(1.0, 10.0), **options)

    monkeypatch.setattr(classifying.logistic, "fit_scores", few)
    shown = representation.pixels(planted, (5,), "pixels")
    rows, _ = measuring.measure(tiny(evaluations=("logreg",)), planted, shown, tmp_path / "a.npz")
    assert sizes == [(120, [10, 10, 10], 60)]
    assert values(rows)[5, "logreg"] > 0.6  # a third of the training labels are wrong
    planted = planted._replace(splits={**planted.splits, "validation": bars(30, 4)})
    measuring.measure(tiny(evaluations=("logreg",)), planted, shown, tmp_path / "a.npz")
    assert sizes[1] == (150, [10, 10, 10], 60)


def test_many_labels_are_scored_by_average_precision(tiny, monkeypatch, tmp_path):
    def split(n, seed):
        one = bars(n, seed)
        labels = np.where(np.eye(3, dtype=bool)[one.labels], 1, -1).astype(np.int8)
        labels[::5, 2] = 0
        return Split(one.images, labels)

    splits = {"train": split(60, 0), "validation": split(30, 1), "test": split(30, 2)}
    other = Dataset("many", splits, NAMES, (0.5,), (0.2,), "f")
    monkeypatch.setattr(classifying, "_loaded", lambda *_: (other, "map11"))
    monkeypatch.setattr(classifying.logistic, "fit_scores", partial(fit_scores, strengths=(1.0, 10.0)))
    settings = tiny(evaluations=("logreg@voc2007",))
    shown = representation.pixels(other, (5,), "pixels")
    rows, by_class = measuring.measure(settings, other, shown, tmp_path / "a.npz")
    assert [(r["evaluation"], r["metric"]) for r in rows] == [("logreg@voc2007", "map11"), ("logreg@voc2007", "lambda")]
    assert rows[0]["value"] > 0.95
    assert {(r["class"], r["metric"]) for r in by_class} == {(name, "ap11") for name in NAMES}
    # Measured on validation images, the test images are not touched.
    spoiled = other._replace(splits={**splits, "test": Split(splits["test"].images, -splits["test"].labels)})
    monkeypatch.setattr(classifying, "_loaded", lambda *_: (spoiled, "map11"))
    settings = tiny(evaluations=("logreg@voc2007",), evaluate_on="validation")
    assert measuring.measure(settings, other, shown, tmp_path / "a.npz")[0][0]["value"] > 0.9


def test_fine_tuning_on_a_part_learns_from_its_images_alone(tiny, one_layer, tmp_path):
    settings = tiny(
        backbone=one_layer, pretrained="random", seeds=(5,), evaluations=("finetune@20%", "finetune@100%"), semi_epochs=8,
        finetune_batch_size=48, semi_head_learning_rate=1.0, semi_learning_rate=0.3,
    )  # fmt: skip
    (program,) = planning.plan([settings])
    dataset = program.dataset
    train = dataset.splits["train"]
    # Labels outside of the part say nothing but "0": whoever saw them would answer that.
    part = subset(train.labels, 20)
    labels = np.zeros_like(train.labels)
    labels[part] = train.labels[part]
    chosen = Split(train.images[part], train.labels[part])
    misled = dataset._replace(splits={**dataset.splits, "train": Split(train.images, labels)})
    shown = representation.represent(program.config, pipeline.untrained(program), dataset, "p")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            classifying, "labelled_part", lambda name, of, percent, **_: chosen if percent == 20 else of.splits["train"]
        )
        rows, _ = measuring.measure(program.config, misled, shown, tmp_path / "a.npz")
    found = values(rows)
    assert found[5, "finetune@20%"] > 0.7
    assert found[5, "finetune@100%"] < 0.4


REFUSED = [
    (dict(evaluations=("knn@10%",)), "knn@10% needs labels and bars has none"),
    (dict(evaluations=("finetune@1%",)), "finetune@1% needs labels"),
    (dict(evaluations=("logreg",)), "logreg needs labels"),
    (dict(evaluations=("logreg@npz:/nowhere/x.npz",)), "/nowhere/x.npz"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_needs_labels_or_a_set_that_is_not_there_is_refused_before_training(tiny, planted, settings, message):
    unlabelled = {name: split._replace(labels=None) for name, split in planted.splits.items()}
    resolved = config.resolve(tiny(dataset="bars", **settings))
    with pytest.raises(UserError) as error:
        measuring.check(resolved, planted._replace(splits=unlabelled))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_other_channels_and_too_few_images_to_choose_by_are_refused(tiny, planted, archive, tmp_path):
    name = archive(channels=3)
    resolved = config.resolve(tiny(evaluations=(f"logreg@{name}",), cache_dir=str(tmp_path / "cache")))
    with pytest.raises(UserError, match="has images of 3 channels, the network takes 1"):
        measuring.check(resolved, planted)
    measuring.check(resolved, planted, 3)
    resolved = config.resolve(tiny(evaluations=("linear@2%",), probe_learning_rates=("0.1",)))
    with pytest.raises(UserError, match="--probe_learning_rates: linear@2%: 3 labelled images are too few"):
        measuring.check(resolved, planted)


def test_columns_and_notes_of_what_is_asked_for(tiny):
    asked = ("logreg@voc2007", "knn", "knn@1%", "finetune@1%", "linear", "logreg@miniature:pets", "logreg@dtd")
    resolved = config.resolve(
        tiny(
            evaluations=asked, probe_learning_rates=("0.025", "0.1"), probe_schedule="cosine", probe_lr_scaling="linear"
        )
    )
    columns = [(column.title, column.key) for column in protocol.table_columns([resolved])]
    assert columns == [
        ("Linear top-1", ("linear", "label", "top1")),
        ("k-NN top-1", ("knn", "label", "top1")),
        ("k-NN 1% top-1", ("knn@1%", "label", "top1")),
        ("Fine-tuned 1% top-1", ("finetune@1%", "label", "top1")),
        ("Fine-tuned 1% top-5", ("finetune@1%", "label", "top5")),
        ("voc2007 (11-point mAP)", ("logreg@voc2007", "label", "map11")),
        ("pets (mean per class)", ("logreg@miniature:pets", "label", "mean_per_class")),
        ("dtd", ("logreg@dtd", "label", "top1")),
        ("Average of these", ("logreg@average", "label", "average")),
    ]
    top5 = {"evaluation": "linear", "target": "label", "metric": "top5"}
    titles = [column.title for column in protocol.table_columns([tiny(evaluations=("knn", "cost", "linear"))], [top5])]
    assert titles == ["Linear top-1", "Linear top-5", "k-NN top-1", "Memory (GB)", "Epoch (s)"]
    notes = " ".join(protocol.notes(resolved))
    for said in (
        "of 0.025, 0.1 x batch/256, half a cosine",
        "learning rates 0.02 and 5, x .2",
        "best of 45",
        "1% of the labels",
    ):
        assert said in notes
    assert "Fine-tuning: the whole network and a new linear head on all labels" not in notes


def test_the_average_over_sets_takes_each_by_its_own_metric():
    measured = [
        Measurement("knn", "label", "top1", 0.9),
        Measurement("logreg@dtd", "label", "top1", 0.5),
        Measurement("logreg@dtd", "label", "mean_per_class", 0.1),
        Measurement("logreg@miniature:pets", "label", "top1", 0.2),
        Measurement("logreg@miniature:pets", "label", "mean_per_class", 0.3),
        Measurement("logreg@voc2007", "label", "map11", 0.7),
    ]
    (found,) = classifying.average(measured)
    assert found[:3] == ("logreg@average", "label", "average") and found.value == pytest.approx(1.5 / 3)
    assert classifying.average(measured[:3]) == []
