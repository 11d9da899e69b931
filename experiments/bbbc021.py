"""Cuts single-cell crops out of BBBC021's raw fields.

  python experiments/bbbc021.py --raw=DIR --out=DIR
  python experiments/bbbc021.py --raw=DIR --out=DIR --compounds=nocodazole,taxol --concentrations=1,3 --size=128

DIR of --raw holds BBBC021_v1_image.csv, BBBC021_v1_moa.csv and the plates' folders, as they are published. Writes shards of crops,
crops.csv, manifest.json and a page to look at, quality.html.

Exit codes: 0 done; 2 bad input (one line on standard error says what); 130 interrupted (the same command goes on).
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from ssljax.cli import BAD_INPUT, INTERRUPTED, OK
from ssljax.errors import UserError
from ssljax.flags import parse_argv


def main(argv: Sequence[str]) -> int:
    """Runs a command line; gives the exit code."""
    try:
        return _main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last finished well", file=sys.stderr)
        return INTERRUPTED


def _main(argv: Sequence[str]) -> int:
    values = absl_flags.FlagValues()
    for name, default, text in (
        ("raw", None, "folder of BBBC021 as it is published"),
        ("out", None, "folder for the crops; a finished part of it is not done again"),
    ):
        absl_flags.DEFINE_string(name, default, text, flag_values=values)
    for name, text in (
        ("compounds", "only these, as in the table: A,B (default: all)"),
        ("concentrations", "only these of the treated fields, in micromolar: 1,3 (default: all)"),
    ):
        absl_flags.DEFINE_list(name, [], text, flag_values=values)
    for name, switched, text in (
        ("controls", True, "the DMSO fields of the chosen plates come too"),
        ("normalize", True, "even the illumination out and rescale each plate's intensities; no: pixels as they are"),
        ("quality", True, "write the page to look at"),
        ("progress", True, "show a bar"),
    ):
        absl_flags.DEFINE_boolean(name, switched, text, flag_values=values)
    for name, number, text in (
        ("size", 196, "side of a crop in pixels"),
        ("per_field", 0, "at most so many crops of a field, drawn with a fixed seed; 0 for all"),
        ("workers", None, "processes (default: one a core)"),
    ):
        absl_flags.DEFINE_integer(name, number, text, flag_values=values)
    absl_flags.DEFINE_boolean("help", False, "show the flags", flag_values=values, short_name="h")
    parse_argv(values, argv)
    if values["help"].value:
        print(__doc__)
        print("\n".join(f"  --{name}\n      {values[name].help}" for name in values if len(name) > 1))
        return OK
    given: dict[str, Any] = {name: values[name].value for name in values if name not in ("help", "h", "quality")}
    for name in ("raw", "out"):
        if not given[name]:
            raise UserError(f"--{name}: no folder given; expected --raw=DIR --out=DIR")
    given["concentrations"] = [_number(text) for text in given["concentrations"]]

    from ssljax.data.bbbc021.crops import extract  # imports SciPy: not before the flags are known to be right

    manifest = extract(**given)
    counts = manifest["counts"]
    speed = f", {manifest['fields_per_second']:g} fields/s" if manifest["fields_per_second"] else ""
    print(f"{counts['crops']} crops of {counts['fields'] - counts['fields_skipped']} fields{speed}")
    if counts["fields_skipped"]:
        print(f"{counts['fields_skipped']} of {counts['fields']} fields skipped: {given['out']}/manifest.json says why")
    if values["quality"].value:
        from ssljax.data.bbbc021.quality import write_page

        print(f"page: {write_page(given['out'], given['raw'])}")
    return OK


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--concentrations: '{text}' given; expected numbers, as in 1,3") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
