"""Executes the notebooks of this folder and writes them back, as they are committed: `python notebooks/execute.py [NAME ...]`.

Outputs keep nothing of the machine: no times, no paths, no warnings of libraries.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SECONDS = 1800  # a cell may take so long on a busy machine


def executed(path: Path, folder: str, *more: str) -> nbformat.NotebookNode:
    """A notebook with the outputs that it has now.

    Args:
      path: of the notebook.
      folder: where its cells run, and where what they write goes.
      *more: code that is run after them, for checks.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in more]
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "ssljax" / "xla"))
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(HERE / f"{name}.ipynb", folder), HERE / f"{name}.ipynb")
        print(name)
