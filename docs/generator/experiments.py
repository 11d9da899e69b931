"""The index of the papers' tables and figures: which command makes each, its published values, and how much work it is."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from generator.text import ROOT, prose, table
from ssljax import flags, sweeps
from ssljax.config import Config, resolve
from ssljax.report import tables

FOLDER = ROOT / "experiments" / "flagfiles"
PAPERS = {
    "No Free Lunch in Self Supervised Representation Learning": "Bendidi et al., 2023",
    "Exploring self-supervised learning biases for microscopy image representation": "Bendidi et al., 2024",
    "Unsupervised Visual Representation Learning via Mutual Information Regularized Assignment": "Lee et al., 2022",
}
OURS = "Studies of our own, and other libraries' values"


class Study(NamedTuple):
    """A flagfile.

    Attributes:
      file: from the project's root.
      title: what it makes, the first sentence of its header.
      remarks: the rest of the header, without the command.
      paper: a key of `PAPERS`, or `OURS`.
      place: "Table 4", "Figure 6", or "".
      configs: resolved.
      targets: published values.
    """

    file: str
    title: str
    remarks: list[str]
    paper: str
    place: str
    configs: list[Config]
    targets: list[dict[str, str]]


def pages(target: Path) -> dict[str, str]:
    """The index, and a page a folder of flagfiles."""
    found = [_study(path) for path in sorted(FOLDER.rglob("*.cfg"))]
    folders: dict[str, list[Study]] = {}
    for study in found:
        folders.setdefault(_page(study), []).append(study)
    pages = {f"experiments/{name}": _folder(name, studies) for name, studies in folders.items()}
    lines = [
        "# Tables and figures of the papers",
        "",
        "Each is a flagfile: one command trains it, measures it and prints the published values beside. *Trainings* is the number",
        "of runs, which a program trains together; *epochs* is of each. How long that takes depends on the device: the first",
        "studies, on digits, say their minutes on two CPU cores; [the scaling page](scaling.md) has device hours of the large",
        "ones; `--dry_run` estimates any on the device at hand, and `--sizes=small` shows any within minutes on a laptop.",
        "",
    ]
    for paper in (*PAPERS, OURS):
        own = sorted((s for s in found if s.paper == paper), key=_order)
        lines += [f"## {paper}" + (f" ({PAPERS[paper]})" if paper in PAPERS else ""), ""]
        lines += [table(("", "command", "published values", "trainings", "epochs"), map(_row, own)), ""]
    lines += ["```{toctree}", ":hidden:", "", *pages, "```", ""]
    return {"experiments": "\n".join(lines), **pages}


def _study(path: Path) -> Study:
    file = str(path.relative_to(ROOT))
    comments = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    command = next(i for i, line in enumerate(comments) if "experiments/run.py --flagfile" in line)
    title, remarks = " ".join(line.strip() for line in comments[:command]), comments[command + 1 :]
    quoted = re.search(r'"([^"]+)"', title)
    named = quoted.group(1) if quoted else ""
    paper = next((known for known in PAPERS if known.lower() == named.lower()), OURS)
    place = re.search(r"(?:Tables?|Figures?|[Ff]ootnote) (?:\d+\w?(?:(?:, | to | and )\d+\w?)*)", title)
    configs = [resolve(config) for config in flags.read_flagfile_text(f"--flagfile={path}")]
    targets = tables.read_targets(ROOT / configs[0].targets) if configs[0].targets else []
    return Study(file, title, remarks, paper, place.group(0) if place else "", configs, targets)


def _order(study: Study) -> tuple[str, int, str]:
    number = re.search(r"\d+", study.place)
    kind = study.place.split(" ")[0].rstrip("s") or "~"  # what stands in no table comes last
    return kind, int(number.group(0)) if number else 0, study.file


def _page(study: Study) -> str:
    """The name of the page that a study is on: its folder's."""
    return str(Path(study.file).relative_to("experiments/flagfiles").parent).replace(".", "digits")


def _anchor(study: Study) -> str:
    return f"experiments/{_page(study)}.md#{Path(study.file).stem.replace('_', '-')}"


def _row(study: Study) -> list[str]:
    return [
        study.place or Path(study.file).stem.replace("_", " "),
        f"[`{study.file.removeprefix('experiments/flagfiles/')}`]({_anchor(study)})",
        _range(study.targets),
        f"{trainings(study.configs):,}",
        _epochs(study.configs),
    ]


def trainings(configs: Sequence[Config]) -> int:
    """How many runs are trained; encoders from files are only measured."""
    return sum(len(sweeps.runs(config)) for config in configs if not config.pretrained)


def _epochs(configs: Sequence[Config]) -> str:
    epochs = sorted({config.epochs for config in configs if not config.pretrained})
    return ", ".join(f"{n:,}" for n in epochs) or "–"


def _range(targets: Sequence[dict[str, str]]) -> str:
    """How many values of which measures, and their span."""
    spans: dict[str, list[float]] = {}
    for target in targets:
        spans.setdefault(f"{target['evaluation'].partition('@')[0]} {target['metric']}", []).append(
            float(target["value"])
        )
    shown = [
        f"{measure} {min(v):g} to {max(v):g}" if len(v) > 1 else f"{measure} {v[0]:g}" for measure, v in spans.items()
    ]
    more = f", and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more or "none printed"


def _folder(name: str, studies: Sequence[Study]) -> str:
    lines = [f"# {name}", ""]
    for study in studies:
        data = " --data_dir=DIR" if name != "digits" else ""
        datasets = ", ".join(dict.fromkeys(f"`{config.dataset}`" for config in study.configs))
        lines += [
            f"## {Path(study.file).stem.replace('_', '-')}",
            "",
            prose(study.title),
            "",
            "```",
            f"python experiments/run.py --flagfile={study.file}{data}",
            "```",
            "",
            f"{trainings(study.configs):,} trainings of {_epochs(study.configs)} epochs on {datasets}.",
            "",
            *_remarks(study.remarks),
            *_targets(study.targets),
        ]
    return "\n".join(lines)


def _remarks(lines: Sequence[str]) -> list[str]:
    """Prose as prose, and lines that can be given as code."""
    out: list[str] = []
    code = False
    for line in lines:
        if line.startswith("   ") != code:
            code = not code
            out += ["", "```"] if code else ["```", ""]
        out.append(textwrap.dedent(line) if code else prose(line.strip()))
    return [*out, *(["```"] if code else []), ""]


def _targets(targets: Sequence[dict[str, str]]) -> list[str]:
    if not targets:
        return []
    columns = [name for name in targets[0] if any(target[name] for target in targets)]
    rows = [[target[name] for name in columns] for target in targets]
    inner = ["<details>", f"<summary>{len(rows)} published values</summary>", ""]
    return [*inner, table(columns, [[prose(cell) for cell in row] for row in rows]), "", "</details>", ""]
