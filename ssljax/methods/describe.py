"""A method's page, for `--help_method`: its module's docstring, its presets' values, and what of it can be swept."""

import textwrap

from ssljax import config as config_lib
from ssljax.errors import unknown
from ssljax.methods import METHODS, PRESETS, preset

_WIDTH = 110


def describe(method: str) -> str:
    """The page of a method as text.

    Raises:
      UserError: no such method.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS, "--help_method")
    module = METHODS[method]
    title, *paragraphs = (module.__doc__ or "").strip().split("\n\n")
    lines = textwrap.wrap(title, _WIDTH) + [""]
    for entry in _entries("\n".join(paragraphs)):
        lines += textwrap.wrap(entry, _WIDTH, subsequent_indent="  ")
    lines += ["", "Presets (--preset); any value is overridden by the flag of its name, or by --set=name=value:"]
    lines += _presets(method)
    lines += [
        "",
        "Swept names (--sweep=name=lo:hi:n or name=a,b,c; --set=name=value), beside learning_rate, weight_decay,",
    ]
    lines += ["warmup_epochs, the optimiser's and every transform's:"]
    for name, traced in module.HYPER.items():
        lines.append(f"  {name:<34}{traced.help}{', a whole number' if traced.whole else ''}")
    return "\n".join(lines if module.HYPER else [*lines, "  none of its own"])


_HEADINGS = ("Loss:", "Memory:", "What people get wrong:")  # of every method's docstring


def _entries(text: str) -> list[str]:
    """The paragraphs of a docstring's body, each under its heading."""
    entries: list[str] = []
    for line in text.splitlines():
        if line.startswith(_HEADINGS) or not entries:
            entries.append(line)
        else:
            entries[-1] += " " + line.strip()
    return entries


def _presets(method: str) -> list[str]:
    """A table: a row a setting in which the presets differ or that the method itself gives, a column a preset."""
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
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _text(value: object) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
