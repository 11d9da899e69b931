"""Text: files, tables and links of Markdown pages, and docstrings as reStructuredText."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def put(path: Path, text: str) -> Path:
    """Writes a file unless it is so already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [list(heads), ["---"] * len(heads), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def relinked(text: str, file: Path, page: Path) -> str:
    """Relative links of a Markdown file as they must be on a page elsewhere: to the site's page where the target is one.

    Args:
      text: of the file.
      file: where its links start from.
      page: the file of the site's page.
    """
    from generator import FILES

    site = {ROOT / name: f"/generated/{at}.md" for name, at in FILES.items()}

    def there(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:|/", path):
            return found.group(0)
        absolute = (file.parent / path).resolve()
        if absolute in site:
            path = site[absolute]
        elif absolute.suffix == ".ipynb":
            path = f"/generated/notebooks/{absolute.stem}.md"
        elif absolute.suffix == ".md" and absolute.is_relative_to(ROOT / "docs"):
            path = f"/{absolute.relative_to(ROOT / 'docs')}"
        elif absolute.is_dir():  # a folder of the repository has no page
            return words[1:-1]
        else:
            path = os.path.relpath(absolute, page.parent)
        return f"{words}({path}{hash_}{anchor})"

    return _LINK.sub(there, text)


_CODE = re.compile(r"(``?[^`]+``?)")
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|References|Example|Examples|Drawn):")


def as_rest(lines: Sequence[str]) -> list[str]:
    """A docstring of this project, which is plain text with `code`, Markdown tables and aligned lists, as reStructuredText.

    What stands before the first section is made of paragraphs; one whose lines are indented, are a list of `name  what` or go on
    indented is shown as it is written. Sections are left to napoleon.
    """
    start = next((i for i, line in enumerate(lines) if _SECTION.fullmatch(line.strip())), len(lines))
    out: list[str] = []
    for shape, paragraph in groupby(lines[:start], key=lambda line: bool(line.strip())):
        block = list(paragraph)
        if shape and block[0].startswith("| "):
            out += _list_table([[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block])
        elif shape and _verbatim(block):
            out += ["::", "", *(f"    {line}" for line in block)]
        else:
            out += map(_escaped, block)
    return out + [line if line.strip().startswith(">>>") else _escaped(line) for line in lines[start:]]


def _verbatim(block: Sequence[str]) -> bool:
    if block[0].startswith(("* ", "- ", ">>> ")):
        return False
    aligned = all(re.match(r"\S+( \S+)*  +\S| ", line) for line in block)
    return block[0].startswith(" ") or aligned or any(line.startswith("  ") for line in block)


def _escaped(line: str) -> str:
    """Bars, stars and trailing underscores outside of code mean themselves; a list's star is one of a list."""
    indent, bullet, rest = re.fullmatch(r"(\s*)(\* )?(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    parts = _CODE.split(flags_as_code(rest, "``"))
    parts[::2] = [re.sub(r"(?<![\\*])([|*])(?!\*)", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(\w)_(?=\W|$)", r"\1\\_", part) for part in parts[::2]]
    return indent + (bullet or "") + "".join(parts)


def flags_as_code(text: str, quotes: str = "`") -> str:
    """Text with `--name=value` as code where it is none yet, so that its dashes stay two."""
    parts = _CODE.split(text)
    parts[::2] = [
        re.sub(r"(?<![\w-])--[a-z]\w*(=[^\s,;:()]*[\w%)/])?", rf"{quotes}\g<0>{quotes}", part) for part in parts[::2]
    ]
    return "".join(parts)


def _list_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, _, *body = rows
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *body):
        lines += [f"   {'*' if i == 0 else ' '} - {_escaped(cell)}" for i, cell in enumerate(row)]
    return lines


def shortened(signature: str | None) -> str | None:
    """A signature with `ArrayLike` and `NDArray[...]` for what numpy makes of them."""
    if signature is None:
        return None
    text = re.sub(r"~?\b(numpy|typing|collections)\.(?:\w+\.)*(?=\w)", "", signature)
    text = re.sub(
        r"_?Buffer \| _SupportsArray\[dtype(\[Any\])?\] \| _NestedSequence\[.*?bytes \| str\]", "ArrayLike", text
    )
    return re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[([\w.]+)\]\]", r"NDArray[\1]", text)


def prose(text: str) -> str:
    """Plain text as Markdown: flags are code, and stars, underscores and angles mean themselves."""
    parts = _CODE.split(flags_as_code(text))
    parts[::2] = [re.sub(r"[*_<]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)
