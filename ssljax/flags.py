"""Flags to configs and back: the command line, the flagfile, and the comma lists that make several programs.

A static flag may hold a comma list, and makes one program a value: `--method=simclr,mocov2plus`. Commas inside
parentheses belong to a transform's definition.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ssljax import config as config_lib
from ssljax.config import Config
from ssljax.errors import UserError, unknown

MOST = 10_000  # programs of a command, each of which is compiled by itself (our choice)
_REPEATED = ("sweep", "set")  # their values hold commas of their own, so they are given once per address


def define(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `Config` on an absl `FlagValues`."""
    for name, field in config_lib.fields().items():
        meta = field.metadata
        text = meta["help"] + (" [traced: may be swept]" if meta["traced"] else "")
        if field.name in _REPEATED:
            flags.DEFINE_multi_string(name, None, text, flag_values=values)
        else:
            default = "the preset's" if field.default is None else _to_text(field.default) or "none"
            flags.DEFINE_string(name, None, f"{text} (default: {default})", flag_values=values)


def configs_from_flags(values: flags.FlagValues) -> list[Config]:
    """One config a program: the product of the comma lists that stand in static flags, in the order given.

    Raises:
      UserError: a value that does not fit its flag.
    """
    given = _given(values)
    return [Config(**dict(zip(given, choice))) for choice in _choices(given)]


def over(configs: Sequence[Config], values: flags.FlagValues) -> list[Config]:
    """Configs with the settings that the flags give in the place of their own.

    Raises:
      UserError: a value that does not fit its flag.
    """
    given = _given(values)
    choices = list(_choices(given))
    return [dataclasses.replace(config, **dict(zip(given, choice))) for config in configs for choice in choices]


def _choices(given: Mapping[str, Sequence[Any]]) -> Iterable[tuple]:
    """The product of the values of each field.

    Raises:
      UserError: more than `MOST` programs.
    """
    if (number := math.prod(map(len, given.values()))) > MOST:
        lists = ", ".join(
            f"--{config_lib.flag_name(config_lib.fields_by_name()[name])}" for name in given if len(given[name]) > 1
        )
        raise UserError(f"{lists}: expected lists that make at most {MOST:,} programs, given {number:,}")
    return itertools.product(*given.values())


def _given(values: flags.FlagValues) -> dict[str, list[Any]]:
    """The values of each field that is given, one for each program."""
    fields = config_lib.fields().items()
    return {f.name: _parse(name, f, values[name].value) for name, f in fields if values[name].value is not None}


def _parse(name: str, field: dataclasses.Field, text: Any) -> list[Any]:
    """The values of a flag, one for each program."""
    meta = field.metadata
    if field.name in _REPEATED:
        # A later setting of an address, as on the command line after a flagfile, replaces the earlier one.
        return [tuple({item.split("=", 1)[0].strip(): item for item in text}.values())]
    parts = split_commas(text) or [""]
    if field.name == "seeds":
        return [tuple(_convert(name, int, part) for part in parts)]
    if meta["kind"] is tuple:
        return [tuple(part for part in parts if part)]
    if meta["traced"] and len(parts) > 1:
        raise UserError(f"--{name}: a list of a traced value is a sweep; write --sweep={name}={text}")
    if not meta["training"]:
        parts = [text]  # one program is measured and kept in one way; a path may hold a comma
    values = [_convert(name, meta["kind"], part) for part in parts]
    if len(set(values)) < len(values):
        raise UserError(f"--{name}: a value stands twice in '{text}'")
    return values


def _convert(name: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name}: expected {expected}, given '{text}'") from None


def split_commas(text: str) -> list[str]:
    """Splits at commas that stand outside parentheses and braces; parts are stripped."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _to_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def to_flagfile(configs: Sequence[Config]) -> str:
    """The text of a flagfile that gives these configs again.

    Raises:
      UserError: the configs are no product of comma lists, so that no flagfile can name them.
    """
    lines = []
    for name, field in config_lib.fields().items():
        values = list(dict.fromkeys(getattr(c, field.name) for c in configs))
        if values == [field.default]:
            continue
        if field.name in _REPEATED:
            lines += [f"--{name}={item}" for item in values[0]]
        else:
            lines.append(f"--{name}={','.join(_to_text(v) for v in values)}")
    text = "\n".join(lines) + "\n"
    if read_flagfile_text(text) != list(configs):
        raise UserError("these configs are not the product of their settings, so no single flagfile can name them")
    return text


def read_flagfile_text(text: str) -> list[Config]:
    """The configs that the lines of a flagfile give."""
    values = flags.FlagValues()
    define(values)
    parse_argv(values, ["flagfile", *(line for line in text.splitlines() if line and not line.startswith("#"))])
    return configs_from_flags(values)


def parse_argv(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses a command line into `values`.

    Raises:
      UserError: an unknown flag (absl names the nearest), a bad value, a stray argument, an unreadable flagfile.
    """
    try:
        rest = values(list(argv))
    except flags.UnrecognizedFlagError as error:
        raise unknown("flag", f"--{error.flagname}", (f"--{name}" for name in values)) from None
    except UnicodeDecodeError:
        given = ", ".join(argument for argument in argv if "flagfile" in argument)
        raise UserError(
            f"{given}: expected text in UTF-8, --name=value a line; the file, or one it names, is none"
        ) from None
    except (flags.Error, OSError, ValueError) as error:
        raise UserError(str(error).removeprefix("ERROR:: ")) from None
    for name in values:
        value = values[name].value
        for text in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
            # What stands in flagfile.cfg, tables and pages, a line each; surrogates stand for bytes that are no text.
            if (
                "\0" in text
                or text.splitlines() not in ([], [text])
                or any("\ud800" <= one <= "\udfff" for one in text)
            ):
                raise UserError(f"--{name}: expected one line of text in UTF-8, given {text!r}")
    if rest[1:]:
        raise UserError(f"unexpected argument '{rest[1]}'; settings are given as --name=value")


def read_flagfile(path: str | Path) -> list[Config]:
    """The configs that a flagfile gives.

    Raises:
      UserError: no such file, or a bad line in it.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a flagfile: {error}") from None
    return read_flagfile_text(text)


def names() -> list[str]:
    """The name of every flag that stands for a field of `Config`."""
    return list(config_lib.fields())
