"""The one exception that means "the input is wrong", and how a misspelt name is answered.

Library functions raise `UserError` with a single line that says what was given, what was expected and
where; `experiments/run.py` prints that line on standard error and exits with code 2.
"""

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message: what was given may be any file's content


class UserError(ValueError):
    """Input that cannot be used. The message is one line: what was given, what was expected, where."""

    def __init__(self, message: str):
        line = " ".join(str(message).split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}")


def unknown(kind: str, given: str, known: Iterable[str], where: str = "") -> UserError:
    """A `UserError` for a name that is in no table, with the nearest known name suggested.

    Args:
      kind: what the name stands for, such as "method".
      given: the name as it was written.
      known: every name that would have been accepted.
      where: the flag or file the name came from, such as "--method".
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    prefix = f"{where}: " if where else ""
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return UserError(f"{prefix}unknown {kind} '{given}'; {hint}")
