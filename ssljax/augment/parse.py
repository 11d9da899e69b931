"""Transform sets as text, for flags: `rotation(degrees=25)+random_resized_crop(area_low=.5)|mnist_first`.

A definition is a sum of transforms and names of sets, in order. `A|B` gives view 1 what A gives it and view 2
what B gives it. Python's own parser reads the text; nothing of it is ever run.
"""

import ast
import inspect
import warnings

from ssljax.augment.catalogue import TRANSFORMS
from ssljax.augment.compose import TransformSet, View
from ssljax.augment.sets import SETS
from ssljax.augment.transform import Transform
from ssljax.errors import UserError, unknown

_GRAMMAR = "expected a set name or transform(parameter=value)+..., with | between two views that differ"


def parse(text: str, where: str = "") -> TransformSet:
    """Reads a transform set.

    Args:
      text: the name of a set in `SETS`, or a definition (see the module).
      where: the flag or file the text came from, for messages.

    Returns:
      The set; one that is defined in place is named by its text.

    Raises:
      UserError: text that is no definition, an unknown set, transform or parameter (the nearest is
        suggested), a value out of its range.

    Example:
      >>> parse("rotation(degrees=25)+horizontal_flip").views[0][0].defaults
      {'probability': 1.0, 'degrees': 25.0}
    """
    text = text.strip()
    if text in SETS:
        return SETS[text]
    prefix = f"{where}: " if where else ""
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python, on `1and`: what is not ours is refused below
            tree = ast.parse(text, mode="eval").body
        return TransformSet(text, "defined by the user", _views(tree, text, top=True))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{prefix}{error}") from None
        raise UserError(f"{prefix}'{text}' is no transform set; {_GRAMMAR}") from None


def to_text(chosen: TransformSet) -> str:
    """The definition of a set, every parameter written out: `parse` gives the same transforms for it.

    A set whose local crops are not those of view 1 is given by its name, since a definition has no word for them.

    Raises:
      UserError: such a set under a name that is not in `SETS`.
    """
    if chosen.local is not None:
        if SETS.get(chosen.name) is not chosen:
            raise UserError(f"transform set '{chosen.name}' has local crops of its own, which no definition can say")
        return chosen.name
    first, second = ("+".join(map(_term, view)) or "none" for view in chosen.views)
    return first if first == second else f"{first}|{second}"


def _term(transform: Transform) -> str:
    given = {**transform.defaults, **transform.options}
    return f"{transform.name}({','.join(f'{name}={value!r}' for name, value in given.items())})"


def _views(node: ast.expr, text: str, top: bool = False) -> tuple[View, View]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and top:
        return _views(node.left, text)[0], _views(node.right, text)[1]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _views(node.left, text), _views(node.right, text)
        return left[0] + right[0], left[1] + right[1]
    if isinstance(node, ast.Name):
        if node.id in SETS:
            return SETS[node.id].views
        if node.id not in TRANSFORMS:
            raise unknown("transform or transform set", node.id, [*TRANSFORMS, *SETS])
        made = (TRANSFORMS[node.id](),)
        return made, made
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        made = (_made(node.func.id, node, text),)
        return made, made
    raise UserError(f"'{ast.get_source_segment(text, node)}' in '{text}' is no transform; {_GRAMMAR}")


def _made(name: str, call: ast.Call, text: str) -> Transform:
    if name in SETS:
        raise UserError(f"transform set '{name}' in '{text}' takes no parameters, expected its name alone")
    if name not in TRANSFORMS:
        raise unknown("transform", name, TRANSFORMS)
    factory = TRANSFORMS[name]
    known = list(inspect.signature(factory).parameters)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise UserError(f"'{ast.get_source_segment(text, call)}' is not understood, expected {name}(parameter=value)")
    values: dict[str, object] = {}
    for keyword in call.keywords:
        parameter = str(keyword.arg)
        if parameter in values:
            raise UserError(f"{name}.{parameter} is given twice in '{text}', expected once")
        if parameter not in known:
            raise unknown(f"parameter of {name}", parameter, known)
        try:
            values[parameter] = ast.literal_eval(keyword.value)
        except ValueError:
            given = ast.get_source_segment(text, keyword.value)
            raise UserError(f"{name}.{parameter} is {given}, expected a number") from None
    return factory(**values)
