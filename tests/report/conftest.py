"""A small finished study to report on: real digits, and representations of them whose measures are real."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssljax.evaluate.knn import knn_scores
from ssljax.evaluate.measure import classification, clustering_measurements
from ssljax.evaluate.results import write_results
from ssljax.report.figures import views_sheet

NAMES = [str(digit) for digit in range(10)]
SEEDS = (5, 6, 7)


class Study(NamedTuple):
    """The workdir, its test images uint8 [n, 8, 8, 1], and the rows of its two tables."""

    path: Path
    images: np.ndarray
    results: list[dict]
    per_class: list[dict]


def _features(kind: str, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if kind == "mnist_first":  # the digit, with some noise
        return np.concatenate([np.eye(10)[labels] * 3, pixels[:, :16]], 1) + rng.normal(0, 0.5, (len(labels), 26))
    if kind == "mnist_second":  # how much ink and where, whatever the digit
        ink = pixels.sum(1, keepdims=True) / 4
        return np.concatenate([ink, np.sqrt(pixels.var(1, keepdims=True)) * 5], 1) + rng.normal(
            0, 0.05, (len(labels), 2)
        )
    if kind == "random":
        return np.maximum(pixels @ rng.normal(0, 0.3, (64, 32)), 0)
    return pixels


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of two sets, three seeds each, with both baselines; one run of the second set diverged."""
    path = tmp_path_factory.mktemp("study")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pixels, labels = (digits.data[order] / 16)[:900], digits.target[order][:900]
    images = (pixels[600:].reshape(-1, 8, 8, 1) * 255).astype(np.uint8)
    results: list[dict] = []
    per_class: list[dict] = []
    (path / "artifacts").mkdir()
    for kind in ("mnist_first", "mnist_second", "random", "pixels"):
        runs, stored, found = [], [], []
        for seed in SEEDS:
            features = _features(kind, pixels, labels, np.random.default_rng(seed)).astype(np.float32)
            shared = {
                **{"run": f"{kind}/seed={seed}", "seed": seed, "dataset": "digits", "epoch": 20},
                "method": kind if kind in ("random", "pixels") else "mocov2plus",
                "backbone": "" if kind == "pixels" else "vgg11",
                "transforms": kind if kind.startswith("mnist") else "",
            }
            scores = knn_scores(features[:600], labels[:600], features[600:], n_classes=10)
            rows, clusters = clustering_measurements(features[600:], labels[600:], n_clusters=10, random_state=seed)
            for evaluation in ("linear", "knn"):
                overall, by_class = classification(evaluation, scores, labels[600:], NAMES)
                rows = rows + overall
                per_class += [
                    {
                        **shared,
                        **{k: v for k, v in m._asdict().items() if k != "class_name"},
                        "class": m.class_name,
                    }
                    for m in by_class
                ]
            results += [{**shared, **m._asdict()} for m in rows]
            runs.append(shared["run"])
            stored.append(features[600:])
            found.append(clusters)
        np.savez(
            path / "artifacts" / f"{kind}.npz",
            runs=np.array(runs),
            seeds=np.array(SEEDS),
            features=np.stack(stored),
            clusters=np.stack([c.assignment for c in found]),
            distance=np.stack([c.distance for c in found]).astype(np.float32),
            labels=labels[600:].astype(np.int32),
            index=np.arange(300),
        )
        if kind.startswith("mnist"):
            views = np.stack([images[:6] / 255, 1 - images[:6] / 255, images[:6, ::-1] / 255], axis=1)
            views_sheet(path / "figures" / f"views_{kind}.png", images[:6], views, kind)
    write_results(path / "results.csv", results)
    write_results(path / "per_class.csv", per_class)
    lines = []
    for program, floor in (("mnist_first", 2.0), ("mnist_second", 4.0)):
        for seed in (*SEEDS, 8):
            for epoch in range(1, 21):
                row = {"program": program, "run": f"seed={seed}", "seed": seed, "epoch": epoch}
                row |= {"loss": floor + 3 / epoch + 0.05 * (seed - 6), "learning_rate": 0.1}
                if program == "mnist_second" and seed == 8 and epoch > 4:
                    row |= {"loss": float("nan"), "diverged": True}
                lines.append(json.dumps(row))
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"program": "cut sho')
    (path / "run.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "device": "cpu", "seconds": 101.25}))
    return Study(path, images, results, per_class)
