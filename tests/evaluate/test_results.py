"""The long tables: exact round trip, the agreed columns, atomic writing, one clear line for a bad file."""

import math
import os

import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.evaluate.results import read_results, write_results


def row(**changes):
    base = {
        **{"run": "a/seed=5", "seed": 5, "method": "simclr", "backbone": "vgg11", "dataset": "digits"},
        **{
            "transforms": "mnist_first",
            "epoch": 20,
            "evaluation": "knn",
            "target": "label",
            "metric": "top1",
        },
        "value": 0.1,
    }
    return base | changes


def test_round_trip_is_exact(tmp_path):
    values = [1 / 3, 0.1 + 0.2, 5e-324, 1e300, -0.0, 1.0, float(np.float32(0.1))]
    rows = [row(value=value, seed=i, **{"color_jitter.hue": value}) for i, value in enumerate(values)]
    rows.append(row(transforms='rotation(degrees=25), "x"\nnext', value=2.0, **{"color_jitter.hue": "auto"}))
    write_results(tmp_path / "results.csv", rows)
    back = read_results(tmp_path / "results.csv")
    assert back == rows
    assert [repr(r["value"]) for r in back] == [repr(r["value"]) for r in rows]  # tells -0.0 from 0.0 too


def test_columns_in_the_agreed_order(tmp_path):
    rows = [row(**{"tau.base": 0.5}), row(**{"color_jitter.hue": np.float32(0.25)})]
    write_results(tmp_path / "r.csv", rows)
    first = (tmp_path / "r.csv").read_text().splitlines()
    settings = "method,backbone,dataset,transforms,epoch,evaluation,target"
    assert first[0] == f"run,seed,tau.base,color_jitter.hue,{settings},metric,value"
    assert first[1].startswith("a/seed=5,5,0.5,,simclr") and first[2].startswith("a/seed=5,5,,0.25,simclr")
    write_results(tmp_path / "c.csv", [row(**{"class": "seven"})])
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "run,seed,method,backbone,dataset,transforms,epoch,evaluation,target,class,metric,value",
        "a/seed=5,5,simclr,vgg11,digits,mnist_first,20,knn,label,seven,top1,0.1",
    ]
    assert read_results(tmp_path / "c.csv") == [row(**{"class": "seven"})]


def test_nan_numpy_scalars_and_no_rows(tmp_path):
    write_results(tmp_path / "r.csv", [row(value=np.float64(math.nan), seed=np.int64(7), epoch=None)])
    (back,) = read_results(tmp_path / "r.csv")
    assert math.isnan(back["value"]) and back["seed"] == 7 and back["epoch"] is None
    write_results(tmp_path / "r.csv", [])
    assert read_results(tmp_path / "r.csv") == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.csv"
    write_results(path, [row()])
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_results(path, [row(value=0.9)])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["r.csv"]


def test_tables_of_other_programs(tmp_path):
    path = tmp_path / "r.csv"
    write_results(path, [row()])
    plain = path.read_text()
    path.write_text(plain, encoding="utf-8-sig")  # as spreadsheets save it
    assert read_results(path) == [row()]
    path.write_text("\n".join(f"{i},{line}" if i else f",{line}" for i, line in enumerate(plain.splitlines())))
    with pytest.raises(UserError, match=r"r\.csv: column 1 has no name; expected a name, or no such column"):
        read_results(path)


def test_bad_files(tmp_path):
    path = tmp_path / "r.csv"
    with pytest.raises(UserError, match="r.csv: cannot be read"):
        read_results(path)
    write_results(path, [row()])
    good = path.read_text()
    for bad, says in (
        (good.replace("metric,value", "metric,worth"), "column value is missing"),
        (good.replace(",0.1", ",high"), "row 2, column value: given 'high'"),
        (good.replace("a/seed=5,5", "a/seed=5,five"), "row 2, column seed: given 'five'"),
        (good.replace(",0.1", ""), "row 2 has 10 cells, expected 11"),
        ("", "is missing"),
    ):
        path.write_text(bad)
        with pytest.raises(UserError) as error:
            read_results(path)
        assert says in str(error.value) and str(path) in str(error.value)
    with pytest.raises(UserError, match="without epoch"):
        write_results(path, [{k: v for k, v in row().items() if k != "epoch"}])
