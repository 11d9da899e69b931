"""A method's page, for `--help_method` and the documentation: its docstring, its presets' values, and what of it can be swept."""

import textwrap
from typing import NamedTuple

from ssljax import config as config_lib
from ssljax.errors import unknown
from ssljax.methods import METHODS, PRESETS, preset

_WIDTH = 110


class Page(NamedTuple):
    """What people need to know of a method.

    Attributes:
      title: its name, its paper and what it does, in a sentence.
      entries: paragraphs by their heading: "Loss", "Memory", "What people get wrong".
      presets: a table whose first row is "" and the presets' names, then a row a setting: its flag or swept name and its values.
      swept: what each of its traced numbers is, by name.
    """

    title: str
    entries: dict[str, str]
    presets: list[list[str]]
    swept: dict[str, str]


def page(method: str) -> Page:
    """The page of a method.

    Raises:
      UserError: no such method.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS, "--help_method")
    module = METHODS[method]
    title, *paragraphs = (module.__doc__ or "").strip().split("\n\n")
    swept = {name: f"{t.help}{', a whole number' if t.whole else ''}" for name, t in module.HYPER.items()}
    return Page(" ".join(title.split()), _entries("\n".join(paragraphs)), _presets(method), swept)


def describe(method: str) -> str:
    """The page of a method as text.

    Raises:
      UserError: no such method.
    """
    found = page(method)
    lines = [*textwrap.wrap(found.title, _WIDTH), ""]
    for heading, text in found.entries.items():
        lines += textwrap.wrap(f"{heading}: {text}", _WIDTH, subsequent_indent="  ")
    lines += ["", "Presets (--preset); any value is overridden by the flag of its name, or by --set=name=value:"]
    widths = [max(len(row[i]) for row in found.presets) for i in range(len(found.presets[0]))]
    for row in found.presets:
        lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    lines += [
        "",
        "Swept names (--sweep=name=lo:hi:n or name=a,b,c; --set=name=value), beside learning_rate, weight_decay,",
        "warmup_epochs, the optimiser's and every transform's:",
    ]
    lines += [f"  {name:<34}{help}" for name, help in found.swept.items()] or ["  none of its own"]
    return "\n".join(lines)


_HEADINGS = ("Loss", "Memory", "What people get wrong")  # of every method's docstring


def _entries(text: str) -> dict[str, str]:
    """The paragraphs of a docstring's body by their heading."""
    entries: dict[str, str] = {}
    heading = ""
    for line in text.splitlines():
        before, colon, after = line.partition(":")
        if colon and before in _HEADINGS:
            heading, line = before, after
        entries[heading] = f"{entries.get(heading, '')} {line.strip()}".strip()
    return {name: entry for name, entry in entries.items() if entry}


def _presets(method: str) -> list[list[str]]:
    """A row a setting in which the presets differ or that the method itself gives, a column a preset."""
    own = METHODS[method].PRESETS
    columns = {name: preset(method, *name.split("@")) for name in PRESETS if name in own}
    flags = {field.name: name for name, field in config_lib.fields().items()}
    hyper = METHODS[method].HYPER
    for values in columns.values():
        for name, traced in hyper.items():
            if traced.default is not None:
                values.setdefault(name, traced.default)
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [["", *columns]]
    for name in names:
        rows.append([flags.get(name, name), *(_text(values.get(name)) for values in columns.values())])
    return rows


def _text(value: object) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
