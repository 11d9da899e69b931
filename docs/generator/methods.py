"""A page for each method, from what `--help_method` says."""

from pathlib import Path

from generator.text import prose, table
from ssljax.methods import METHODS
from ssljax.methods.describe import page


def pages(target: Path) -> dict[str, str]:
    """The index and a page a method."""
    found = {f"methods/{name}": _page(name) for name in METHODS}
    rows = [(f"[`{name}`](methods/{name}.md)", page(name).title) for name in METHODS]
    index = [
        "# Methods",
        "",
        "A method is one file in `ssljax/methods/` and a row in its table; the pages are what `--help_method=NAME` prints.",
        "Any two make a weighted sum (`--second_transforms`, `--second_method`).",
        "",
        table(("`--method=`", "what it is"), rows),
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *found,
        "```",
        "",
    ]
    return {"methods": "\n".join(index), **found}


def _page(name: str) -> str:
    told = page(name)
    head, *rows = told.presets
    lines = [f"# {name}", "", told.title, ""]
    for heading, text in told.entries.items():
        lines += [f"**{heading}.** {prose(text[0].upper() + text[1:] if text[0] != '`' else text)}", ""]
    lines += [
        "## In use",
        "",
        "```",
        f"python experiments/run.py --method={name} --epochs=5",
        "```",
        "",
        f"The loss and the networks: {{py:mod}}`ssljax.methods.{name}`.",
        "",
        "## Swept names",
        "",
        "Beside `learning_rate`, `weight_decay`, `warmup_epochs`, the optimiser's and every transform's:",
        "",
        table(("name", "what it is"), [(f"`{key}`", help) for key, help in told.swept.items()])
        if told.swept
        else "None of its own.",
        "",
        "## Presets",
        "",
        "Any value is overridden by the flag of its name, or by `--set=name=value`.",
        "",
        table(("", *(f"`{column}`" for column in head[1:])), [(f"`{row[0]}`", *map(_value, row[1:])) for row in rows]),
        "",
    ]
    return "\n".join(lines)


def _value(text: str) -> str:
    return "" if text == "-" else f"`{text}`" if "(" in text or "_" in text else text
