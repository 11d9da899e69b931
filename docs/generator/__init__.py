"""The pages that follow from the program: methods, transforms, measures, tables, flags, experiments, notebooks, reference.

A new method, transform, flag, flagfile or module is on the site without a word here.
"""

from pathlib import Path

from generator import experiments, measures, methods, notebooks, pictures, reference
from generator.text import as_rest, put, relinked, shortened

__all__ = ["ROOT", "as_rest", "relinked", "shortened", "write"]

ROOT = Path(__file__).parents[2]

# Files of the project that are pages of the site too.
FILES = {
    "README.md": "start",
    "benchmarks/README.md": "benchmarks",
    "benchmarks/scaling.md": "scaling",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}


def write(source: Path) -> None:
    """Writes every generated page below `source/generated`; what is there already and equal keeps its date."""
    target = source / "generated"
    kept = set()
    for file, name in FILES.items():
        if (ROOT / file).exists():
            page = target / f"{name}.md"
            kept.add(put(page, relinked((ROOT / file).read_text(encoding="utf-8"), ROOT / file, page)))
    for make in (methods, pictures, measures, experiments, notebooks, reference):
        for name, text in make.pages(target).items():
            kept.add(put(target / f"{name}.md", text))
    for old in target.rglob("*.md"):  # of what is no more
        if old not in kept:
            old.unlink()
