"""The runs of a config: seeds times swept values, and the hyper pytree whose leading axis they share.

An address names one traced value: its own path (`temperature`, `tau.base`, `sinkhorn.epsilon`) or
`[view1.|view2.|weak.|local.]transform.parameter` (`color_jitter.hue`); without a view it means every view of the set that
has the transform. `second.` before it means the second of two losses: its transform set, or its method's value. A
method's value without `second.` is both losses'.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment
from ssljax import config as config_lib
from ssljax.config import Config
from ssljax.errors import UserError, unknown
from ssljax.methods import METHODS, preset
from ssljax.train.optimizers import OPTIMIZERS

MOST = 1_000_000  # runs of one config: a hundred times the largest sweep of the papers (our choice)
_FORMS = {"--sweep": "address=lo:hi:n or address=a,b,c", "--set": "address=value"}


class Run(NamedTuple):
    """One training of one model: its seed and the values that its sweep gives it."""

    name: str
    seed: int
    swept: dict[str, float]


def parse_sweep(text: str, flag: str = "--sweep") -> tuple[str, tuple[float, ...]]:
    """An `address=lo:hi:n` or `address=a,b,c` as (address, values).

    Raises:
      UserError: the text has another form, or more than `MOST` values.
    """
    address, equals, values = text.partition("=")
    try:
        if not equals or not address.strip():
            raise ValueError
        if ":" in values:
            low, high, count = values.split(":")
            if int(count) < 1:
                raise ValueError
            if int(count) > MOST:
                raise UserError(f"{flag}: {text} has more than {MOST:,} values")
            # 12 digits keep .1 and .30000000000000004 from standing in tables as different things
            numbers = tuple(float(f"{v:.12g}") for v in np.linspace(float(low), float(high), int(count)))
        else:
            numbers = tuple(float(v) for v in values.split(","))
        if not np.all(np.abs(numbers) <= np.finfo(np.float32).max):  # as which they are computed with
            raise ValueError
    except UserError:
        raise
    except ValueError:
        raise UserError(f"{flag}: expected {_FORMS[flag]}, given '{text}'") from None
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{flag}: a value stands twice in '{text}'")
    return address.strip(), numbers


def runs(config: Config) -> list[Run]:
    """Every run of a config: the product of its swept values, then its seeds (which vary fastest).

    Raises:
      UserError: an address that is swept twice, or more than `MOST` runs.
    """
    parsed = [parse_sweep(text) for text in config.sweep]
    axes = dict(parsed)
    for address in axes:
        if sum(address == other for other, _ in parsed) > 1:
            raise UserError(f"--sweep: {address} is given twice")
    if (number := math.prod(map(len, axes.values())) * len(config.seeds)) > MOST:
        raise UserError(f"--sweep, --seeds: expected at most {MOST:,} runs of one program, given {number:,}")
    result = []
    for values in itertools.product(*axes.values()):
        swept = dict(zip(axes, values))
        label = "".join(f"{address}={value:.12g}," for address, value in swept.items())
        result += [Run(f"{label}seed={seed}", seed, swept) for seed in config.seeds]
    return result


def hyper(config: Config, run: Run) -> dict[str, Any]:
    """The traced values of one run as a nested dict of float32 scalars (`seed` is uint32).

    Args:
      config: resolved.
      run: its swept values go over `--set`, which goes over the config's and the transform set's own.

    Returns:
      The values by their paths; under "transforms" those of each view; under "second" the second loss's, where there is one.

    Raises:
      UserError: an address that is static, or that the method, optimizer or transform set does not have; a value out of range.
    """
    tree: dict[str, Any] = {}
    for address in (*_TRAINING, *OPTIMIZERS[config.optimizer]):
        _store(tree, address, getattr(config, config_lib.fields()[address].name))
    tree |= _of_method(config)
    if config.second is not None:
        tree["second"] = _of_method(config.second)
        _store(tree, "loss_weights.first", config.loss_weights_first)
        _store(tree, "loss_weights.second", config.loss_weights_second)
    given = [(*parse_sweep(text, "--set"), "--set") for text in config.set]
    for address, values, _ in given:
        if len(values) != 1:
            raise UserError(f"--set: {address} takes one value; several are a --sweep")
    given += [(address, (value,), "--sweep") for address, value in run.swept.items()]
    touched: dict[str, tuple[str, str, int]] = {}
    for address, values, flag in given:
        leaves = _assign(config, tree, address, values[0], flag)
        for leaf in leaves:
            before, its_flag, its_leaves = touched.get(leaf, (address, flag, len(leaves)))
            # A narrower address may go over a wider --set; a wider one would undo what was said of a part.
            if before != address and (flag == its_flag == "--sweep" or len(leaves) > its_leaves):
                raise UserError(f"{flag}: {before} and {address} both mean {leaf}")
            touched[leaf] = (address, flag, len(leaves))
    _check(config, tree, "--sweep" if run.swept else "--set")
    arrays = jax.tree.map(jnp.float32, tree)
    return {**arrays, "seed": jnp.uint32(run.seed)}


# What every run has besides its optimiser's and its method's values.
_TRAINING = ("learning_rate", "weight_decay", "warmup_epochs", "warmup_learning_rate", "min_learning_rate")


def _of_method(config: Config) -> dict[str, Any]:
    """The values of a config's method and of its views."""
    tree: dict[str, Any] = {}
    known, values = config_lib.fields(), preset(config.method, config.preset, config.dataset)
    for address, traced in METHODS[config.method].HYPER.items():
        own = getattr(config, known[address].name) if address in known else values.get(address, traced.default)
        if own is None:
            raise UserError(f"--{address}: preset '{config.preset}' gives none for method '{config.method}'; give one")
        _store(tree, address, own)
    tree["transforms"] = augment.hyper_of_views(views_of(config))
    return tree


def settings(config: Config) -> dict[str, Any]:
    """Every setting of a resolved config by flag name, its method's other numbers, and the second loss's as `second.NAME`.

    Of an encoder that is only measured those that matter to it; what a file says of its network is the file's.
    """
    values = config_lib.to_json(config)
    if config.pretrained:
        known = config_lib.fields()
        kept = _MEASURED if config.pretrained != "random" else (*_MEASURED, "backbone", "width", "stem", "stem_padding")
        return {name: v for name, v in values.items() if name in kept or not known[name].metadata["training"]}
    values |= {a: v for a, v in _numbers(config).items() if a not in values}
    if config.second is not None:
        own = config_lib.to_json(config.second) | _numbers(config.second)
        values |= {
            f"second.{name}": v for name, v in own.items() if values.get(name) != v and not name.startswith("second_")
        }
    return values


_MEASURED = ("pretrained", *config_lib.OF_IMAGES, "image_size", "seeds", "precision", "convolution")


def _numbers(config: Config) -> dict[str, Any]:
    tree = _without_transforms(_of_method(config))
    found = {}
    for address in addresses(tree):
        value: Any = tree
        for name in address.split("."):
            value = value[name]
        found[address] = value
    return found


def views_of(config: Config) -> dict[str, augment.View]:
    """What draws each kind of view that a resolved config's method asks for: a side of its set, or one made of the first."""
    chosen = augment.parse(config.transforms)
    first, second = chosen.views
    local = chosen.local or augment.local_view(first)
    kinds = {"view1": first, "view2": second, "weak": augment.weak_view(first), "local": local}
    return {view.source: kinds[view.source] for view in METHODS[config.method].VIEWS(config)}


def _check(config: Config, tree: dict[str, Any], flag: str) -> None:
    """Raises unless the values of the transforms, and what must fit each other, do."""
    for own, values in ((config, tree), (config.second, tree.get("second"))):
        if own is not None and values is not None:
            for name, view in views_of(own).items():
                augment.check_hyper(view, values["transforms"][name], flag)
            if check := getattr(METHODS[own.method], "check", None):
                check(own, tree | values, flag)
    if tree["warmup_epochs"] >= config.epochs:
        raise UserError(
            f"--warmup_epochs: {tree['warmup_epochs']:g} is not below --epochs={config.epochs}: the rate would never fall"
        )


def _store(tree: dict[str, Any], address: str, value: Any) -> None:
    *path, last = address.split(".")
    for name in path:
        tree = tree.setdefault(name, {})
    tree[last] = value


def addresses(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """The path of every value of a nested dict, joined by dots."""
    found: list[str] = []
    for name, value in tree.items():
        found += addresses(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return found


def _assign(config: Config, tree: dict[str, Any], address: str, value: float, flag: str) -> list[str]:
    """Sets the value or values that an address names, and returns their paths."""
    leaves = {path: (config, path) for path in addresses(tree) if not path.startswith(("transforms.", "second."))}
    alone = config.second is not None and address.startswith("first.")
    address = address.removeprefix("first.") if alone else address
    chosen = [address] if address in leaves else []
    rest, where = address, ""
    if config.second is not None and not alone:
        leaves |= {f"second.{path}": (config.second, path) for path in addresses(_without_transforms(tree["second"]))}
        if not address.startswith("second."):
            chosen += [f"second.{address}"] if f"second.{address}" in leaves else []
        else:
            chosen += [address] if address in leaves else []
            rest, where = address.removeprefix("second."), "second."
    for path in chosen:
        _checked(*leaves[path], value, address, flag)
        _store(tree, path, value)
    if chosen:
        return list(dict.fromkeys(chosen))
    known = config_lib.fields()
    name = address.removeprefix("second.")
    if name in known:
        if known[name].metadata["traced"]:
            method = config.second.method if where and config.second else config.method
            raise UserError(f"{flag}: '{address}' has no effect on {method} trained with {config.optimizer}")
        raise UserError(f"{flag}: '{address}' is static and cannot differ within a program; give --{name} a comma list")
    views = (tree["second"] if where else tree)["transforms"]
    view, _, inside = rest.partition(".")
    sides, path = ((view,), inside) if view in views else (tuple(views), rest)
    found = [(v, t, p) for v in sides for t in views[v] for p in views[v][t] if f"{t}.{p}" == path]
    if not found:
        possible = {f"{where}{t}.{p}" for v in views.values() for t in v for p in v[t]} | set(leaves)
        raise unknown("address", address, possible, flag)
    for v, transform, parameter in found:
        views[v][transform][parameter] = value
    return [f"{where}{v}.{t}.{p}" for v, t, p in found]


def _without_transforms(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != "transforms"}


def _checked(config: Config, path: str, value: float, address: str, flag: str) -> None:
    """Raises unless a method's or a training's value is in its range."""
    known = config_lib.fields()
    if path in known:
        config_lib.checked(known[path], value)
        return
    traced = METHODS[config.method].HYPER[path]
    if traced.whole and value != int(value):
        raise UserError(f"{flag}: {address}: expected a whole number, given {value:g}")
    if value < traced.low or (traced.high is not None and value > traced.high):
        span = (
            f"between {traced.low:g} and {traced.high:g}" if traced.high is not None else f"of at least {traced.low:g}"
        )
        raise UserError(f"{flag}: {address}: expected a number {span}, given {value:g}")


def stack(trees: list[Any]) -> Any:
    """Pytrees of single runs as one pytree with a leading run axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
