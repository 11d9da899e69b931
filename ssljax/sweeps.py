"""The runs of a config: seeds times swept values, and the hyper pytree whose leading axis they share.

An address names one traced value: a field's own path (`temperature`, `tau.base`) or `[view1.|view2.]transform.parameter`
(`color_jitter.hue`); without a view it means every view that has the transform.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment
from ssljax import config as config_lib
from ssljax.config import Config
from ssljax.errors import UserError, unknown
from ssljax.methods import METHODS
from ssljax.train.optimizers import OPTIMIZERS

_FORMS = {"--sweep": "address=lo:hi:n or address=a,b,c", "--set": "address=value"}


class Run(NamedTuple):
    """One training of one model: its seed and the values that its sweep gives it."""

    name: str
    seed: int
    swept: dict[str, float]


def parse_sweep(text: str, flag: str = "--sweep") -> tuple[str, tuple[float, ...]]:
    """An `address=lo:hi:n` or `address=a,b,c` as (address, values).

    Raises:
      UserError: the text has another form.
    """
    address, equals, values = text.partition("=")
    try:
        if not equals or not address.strip():
            raise ValueError
        if ":" in values:
            low, high, count = values.split(":")
            if int(count) < 1:
                raise ValueError
            # 12 digits keep .1 and .30000000000000004 from standing in tables as different things
            numbers = tuple(float(f"{v:.12g}") for v in np.linspace(float(low), float(high), int(count)))
        else:
            numbers = tuple(float(v) for v in values.split(","))
        if not np.all(np.isfinite(numbers)):
            raise ValueError
    except ValueError:
        raise UserError(f"{flag}: expected {_FORMS[flag]}, given '{text}'") from None
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{flag}: a value stands twice in '{text}'")
    return address.strip(), numbers


def runs(config: Config) -> list[Run]:
    """Every run of a config: the product of its swept values, then its seeds (which vary fastest)."""
    axes = dict(parse_sweep(text) for text in config.sweep)
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

    Raises:
      UserError: an address that is static, or that the method, optimizer or transform set does not have; a value out of range.
    """
    tree: dict[str, Any] = {}
    traced = ("learning_rate", "weight_decay", *OPTIMIZERS[config.optimizer], *METHODS[config.method].HYPER)
    known = config_lib.fields()
    for address in traced:
        _store(tree, address.split("."), getattr(config, known[address].name))
    transforms = augment.parse(config.transforms)
    tree["transforms"] = augment.hyper(transforms)
    for text in config.set:
        address, values = parse_sweep(text, "--set")
        if len(values) != 1:
            raise UserError(f"--set: {address} takes one value; several are a --sweep")
        _assign(config, tree, traced, address, values[0], "--set")
    for i, view in enumerate(transforms.views, 1):
        augment.check_hyper(view, tree["transforms"][f"view{i}"], "--set")
    touched: dict[tuple[str, ...], str] = {}
    for address, value in run.swept.items():
        for leaf in _assign(config, tree, traced, address, value, "--sweep"):
            if leaf in touched:
                raise UserError(f"--sweep: {touched[leaf]} and {address} both mean {'.'.join(leaf)}")
            touched[leaf] = address
    for i, view in enumerate(transforms.views, 1):
        augment.check_hyper(view, tree["transforms"][f"view{i}"], "--sweep")
    arrays = jax.tree.map(jnp.float32, tree)
    return {**arrays, "seed": jnp.uint32(run.seed)}


def _store(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _assign(
    config: Config, tree: dict[str, Any], traced: tuple[str, ...], address: str, value: float, flag: str
) -> list[tuple[str, ...]]:
    """Sets the leaf or leaves that an address names, and returns their paths."""
    known = config_lib.fields()
    if address in traced:
        _store(tree, address.split("."), config_lib.checked(known[address], value))
        return [(address,)]
    if address in known:
        field = known[address]
        if field.metadata["traced"]:
            raise UserError(f"{flag}: '{address}' has no effect on {config.method} trained with {config.optimizer}")
        raise UserError(
            f"{flag}: '{address}' is static and cannot differ within a program; give --{address} a comma list"
        )
    views = tree["transforms"]
    view, _, rest = address.partition(".")
    chosen, path = ((view,), rest) if view in views else (tuple(views), address)
    leaves: list[tuple[str, ...]] = [
        (v, t, p) for v in chosen for t in views[v] for p in views[v][t] if f"{t}.{p}" == path
    ]
    if not leaves:
        possible = {f"{t}.{p}" for v in views.values() for t in v for p in v[t]} | set(traced)
        raise unknown("address", address, possible, flag)
    for v, transform, parameter in leaves:
        views[v][transform][parameter] = value
    return leaves


def stack(trees: list[Any]) -> Any:
    """Pytrees of single runs as one pytree with a leading run axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
