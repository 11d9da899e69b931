"""The notebooks run from the first cell to the last, and what they end with is what their text says."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

# Said in a notebook's text, asked of the values it has at its end.
CHECKS = {
    "first_study": """
clusters = {t: np.mean(values(t, "kmeans", "ami")) for t in ("mnist_first", "mnist_second")}
assert clusters["mnist_second"] < clusters["mnist_first"] - 0.05, clusters
""",
    "own_transform_and_sweep": """
np.testing.assert_allclose(sorted({row["posterize.levels"] for row in rows}), [2, 3, 6, 16])
assert len(rows) == 4 * 3 * 2 and len(made.differences) == 3 and set(np.unique(drawn(2.0))) <= {0.0, 1.0}
""",
    "mira_labels": """
shares = {name: np.asarray(found.labels).mean(axis=0) for name, found in (("mira", solved), ("equal", equal))}
np.testing.assert_allclose(shares["equal"], 0.25, atol=1e-3)
np.testing.assert_allclose(shares["mira"], np.array(sizes) / sum(sizes), atol=0.06)
information = {name: float(mutual_information(x).mutual) for name, x in (("model", said), ("mira", solved.labels))}
assert information["mira"] > information["model"] and plain[0] > 1e-3 > max(best, plain[-1]) - 1e-3
""",
}


def test_every_notebook_is_checked():
    assert set(CHECKS) == {path.stem for path in FOLDER.glob("*.ipynb")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_notebook(name, tmp_path, monkeypatch):
    path = FOLDER / f"{name}.ipynb"
    made = execute.executed(path, str(tmp_path), CHECKS[name])  # raises with the cell's own traceback
    committed = nbformat.read(path, as_version=4)
    assert [cell.source for cell in made.cells[:-1]] == [cell.source for cell in committed.cells]
    for now, then in zip(made.cells, committed.cells):  # the same kinds of output, whatever their digits
        assert [sorted(o.get("data", {"text": 0})) for o in now.get("outputs", ())] == [
            sorted(o.get("data", {"text": 0})) for o in then.get("outputs", ())
        ]
