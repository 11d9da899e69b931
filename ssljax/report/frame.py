"""The frame of the HTML page: its style, and the few elements that every section is made of."""

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1d2129; --soft: #5b6472; --line: #d9dde3; --page: #ffffff; --tint: #f4f6f8; --mark: #332288; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3af; --line: #363c45; --page: #15181c; --tint: #1e2329;
    --mark: #b3a9f0; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p, ul, figcaption { max-width: 46rem; }
p { margin: 0 0 .8rem; }
ul { padding-left: 1.2rem; }
.box { background: var(--tint); border-left: 4px solid var(--mark); padding: 1.1rem 1.25rem .4rem;
  border-radius: 0 6px 6px 0; }
.box p { max-width: none; }
.box + .box { margin-top: 1rem; }
.warning { border-left-color: #cc6677; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { text-align: right; padding: .4rem .9rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.rule > * { border-top: 2px solid var(--line); }
td { white-space: nowrap; }
table.words td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
table.prose td, table.prose th { white-space: normal; text-align: left; min-width: 7rem; }
table.words th { white-space: nowrap; font-weight: 400; color: var(--soft); }
@media (max-width: 40rem) { th, td { padding: .4rem .5rem; } table { font-size: .85rem; } }
p.soft { margin-top: .6rem; }
small, .soft, figcaption { color: var(--soft); font-size: .85rem; font-weight: 400; }
td small, th small { display: block; }
figure { margin: 0 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; padding: .4rem;
  border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .4rem; }
.columns { display: grid; gap: 0 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
$style</style>
$script
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document; the sections are HTML already, the title is not."""
    return _PAGE.substitute(
        title=html.escape(title), body="\n".join(sections), style=_file("frame.css"), script=script("frame.js")
    )


def script(name: str) -> str:
    """A script of this package, for a place in the page after what it acts on; they all use frame.js, which `page` has."""
    return f"<script>\n{_file(name)}</script>"


def _file(name: str) -> str:
    return resources.files("ssljax.report").joinpath(name).read_text(encoding="utf-8")


def section(heading: str, *parts: str) -> str:
    """A heading and its parts, which are HTML already."""
    return "\n".join((f"<section>\n<h2>{html.escape(heading)}</h2>", *parts, "</section>"))


def paragraph(text: str, lead: str = "") -> str:
    """A paragraph of plain text, its lead in bold."""
    bold = f"<strong>{html.escape(lead)}</strong> " if lead else ""
    return f"<p>{bold}{html.escape(text)}</p>"


def figure(path: Path, caption: str) -> str:
    """An image inside the page, with its caption, which is also what a screen reader says."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    words = html.escape(caption)
    image = f'<img alt="{words}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def box(content: str, kind: str = "") -> str:
    """Content, HTML already, set off from the page; kind "warning" is red at the edge."""
    return f'<div class="{f"box {kind}".strip()}">{content}</div>'


def bullets(sentences: Sequence[str]) -> str:
    """A list of plain sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


class TableRow(NamedTuple):
    """A line of `table`: plain text, where the lines of a cell after its first are set small beneath."""

    head: str
    cells: Sequence[str]
    rule: bool = False  # a heavier line above


def table(heads: Sequence[str], rows: Sequence[TableRow], *, sortable: bool = False, prose: bool = False) -> str:
    """A table of numbers that scrolls sideways where it does not fit; heads[0] is that of the row heads.

    A sortable one is sorted by a click on a head, where the browser runs scripts; one of prose breaks its lines.
    """
    top = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_small(cell)}</td>" for cell in row.cells)
        kind = ' class="rule"' if row.rule else ""
        lines.append(f'<tr{kind}><th scope="row">{_small(row.head)}</th>{cells}</tr>')
    body, names = "\n".join(lines), " ".join(["sortable"] * sortable + ["prose"] * prose)
    kind = f' class="{names}"' if names else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _small(text: str) -> str:
    first, *rest = text.split("\n")
    return html.escape(first) + "".join(f"<small>{html.escape(line)}</small>" for line in rest)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A two-column table of names and what they are."""
    lines = (
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>' for name, value in rows
    )
    return f'<div class="scroll"><table class="words"><tbody>{"".join(lines)}</tbody></table></div>'


def columns(parts: Sequence[str]) -> str:
    """Parts, HTML already, side by side where there is room."""
    return f'<div class="columns">{"".join(parts)}</div>'


def interactive(place: str, fixed: str) -> str:
    """A place that a script fills, and what stands there until one does; both are HTML already."""
    return f'<div class="fixed">{place}{fixed}</div>'


def details(summary: str, content: str) -> str:
    """Content, HTML already, folded under a line of plain text."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def caption(text: str) -> str:
    """A small paragraph under something."""
    return f'<p class="soft">{html.escape(text)}</p>'


def code(text: str) -> str:
    """A command to copy."""
    return f"<pre>{html.escape(text)}</pre>"
