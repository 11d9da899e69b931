"""The notebooks as pages: their text, code and outputs as they are committed."""

import base64
import json
from pathlib import Path
from typing import Any

from generator.text import ROOT, relinked

FOLDER = ROOT / "notebooks"


def pages(target: Path) -> dict[str, str]:
    """The index and a page a notebook; their pictures are written beside."""
    found = {f"notebooks/{path.stem}": _page(path, target) for path in sorted(FOLDER.glob("*.ipynb"))}
    index = [
        "# Notebooks",
        "",
        "They lie in `notebooks/` and run in minutes on two CPU cores: `pip install jupyterlab`, then `jupyter lab notebooks`.",
        "",
        "```{toctree}",
        "",
        *found,
        "```",
        "",
    ]
    return {"notebooks": "\n".join(index), **found}


def _page(path: Path, target: Path) -> str:
    lines: list[str] = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [relinked(source, path, target / "notebooks" / f"{path.stem}.md"), ""]
            continue
        lines += ["```python", source, "```", ""]
        for at, output in enumerate(cell["outputs"]):
            lines += _output(output, target / "notebooks" / f"{path.stem}_{number}_{at}.png")
    return "\n".join(lines)


def _output(output: dict[str, Any], picture: Path) -> list[str]:
    data = output.get("data", {})
    if "image/png" in data:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(base64.b64decode(data["image/png"]))
        return [f"![output]({picture.name})", ""]
    text = "".join(output.get("text", data.get("text/plain", ())))
    return ["```text", text.rstrip(), "```", ""] if text.strip() else []
