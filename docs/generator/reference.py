"""Every flag, and the modules' own documentation by autodoc."""

import importlib
import pkgutil
from pathlib import Path

import ssljax
from generator.text import prose, table
from ssljax.config import fields


def pages(target: Path) -> dict[str, str]:
    """The page of the flags, and a page a public submodule."""
    modules = {f"api/{name}": _page(f"ssljax.{name}") for name in ssljax._SUBMODULES}
    return {"flags": _flags(), "reference": _index(list(modules)), **modules}


def _flags() -> str:
    rows = []
    for name, field in fields().items():
        meta = field.metadata
        marks = [mark for mark, on in (("traced", meta["traced"]), ("measuring only", not meta["training"])) if on]
        if meta["choices"]:
            marks.append(" or ".join(meta["choices"]))
        default = field.default
        if default is None:
            shown = "preset"
        elif isinstance(default, tuple):
            shown = f"`{','.join(map(str, default))}`" if default else ""
        else:
            shown = f"`{default}`" if default != "" else ""
        rows.append((f"`--{name}`", shown, prose(meta["help"]), ", ".join(marks)))
    return "\n".join(
        [
            "# Flags",
            "",
            "Every setting is a flag, a line of a flagfile, and a field of `ssljax.Config` (dots become underscores). *Preset*:",
            "as `--preset` says for the method. *Traced*: may be swept, so that it differs between the runs of a program; any",
            "other takes a comma list, a program each. *Measuring only*: a workdir's training goes on whatever its value. The",
            "commands' own flags (`--stages`, `--workdir`, `--help_method`, ...) are shown by `--help`.",
            "",
            table(("flag", "default", "what", ""), rows),
            "",
        ]
    )


def _index(pages: list[str]) -> str:
    top = [name for name, module in sorted(ssljax._FROM.items()) if module.startswith("ssljax.")]
    lines = [
        "# Reference",
        "",
        "`import ssljax` imports nothing else; what is named here is imported when it is first used.",
        "",
    ]
    lines += ["```{eval-rst}"]
    for name in top:
        kind = "autoclass" if isinstance(getattr(ssljax, name), type) else "autofunction"
        lines += [f".. {kind}:: ssljax.{name}", "   :no-members:" if kind == "autoclass" else "", ""]
    lines += ["```", "", "```{toctree}", ":caption: Submodules", "", *pages, "```", ""]
    return "\n".join(lines)


def _page(name: str) -> str:
    """A submodule and all that is below it, each module once."""
    lines = [f"# {name}", ""]
    module = importlib.import_module(name)
    below = [found.name for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}.")]
    for each in (name, *below):
        if each != name:
            lines += [f"## {each}", ""]
        lines += ["```{eval-rst}", f".. automodule:: {each}", "```", ""]
    return "\n".join(lines)
