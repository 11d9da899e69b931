"""Two losses at once: a method under one transform set plus a method under another, on one encoder.

L = w1 L1(views of the first set) + w2 L2(views of the second set): No Free Lunch in SSL, section 2.2; Exploring SSL
biases for microscopy, section 3.4 ("two independent SSRL losses"). Independent is taken at its word: each loss has
its own views, heads and memory, so that a queue of one set's keys is no negative of the other's. `shared_heads`
gives both losses the same projector (and predictor, prototypes); memory stays apart.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssljax.methods.base import Batch, Method, Stage, Tree, of_second_loss, retarget

ENCODER = "backbone"


def weighted_sum(first: Method, second: Method, *, shared_heads: bool = False) -> Method:
    """The method that trains one backbone on both losses.

    The second's traced values stand in `hyper["second"]`, the weights in `hyper["loss_weights"]`. Batch statistics of the
    backbone pass through the first loss's views and then the second's. Where the two give the backbone different learning
    rates, the first's holds; there is one schedule, the first's unless only the second's has stages. Pseudo-labels are of one
    loss each: the sum has no `scores`.

    Args:
      first, second: on the same backbone.
      shared_heads: whether both losses use the first's heads; the two must then be the same method with the same settings.
    """

    def sides(hyper: Tree, views: tuple[jax.Array, ...] = ()) -> tuple[tuple[str, Method, Tree, Any], ...]:
        """What belongs to each loss: its name, its method, its values, its views."""
        n = len(first.views)
        return ("first", first, hyper, views[:n]), ("second", second, hyper["second"], views[n:])

    def part(tree: Tree, side: str) -> Tree:
        return tree if shared_heads else {ENCODER: tree[ENCODER], **tree[side]}

    def join(backbone: Tree, own: dict[str, Tree]) -> Tree:
        heads = {side: {k: v for k, v in tree.items() if k != ENCODER} for side, tree in own.items()}
        return {ENCODER: backbone, **heads}

    def joined(own: dict[str, Tree], merge: Callable[[Any, Any], Any]) -> Tree:
        """One tree like params from one of each side, merged where both have a say."""
        if shared_heads:
            return jax.tree.map(merge, own["first"], own["second"])
        return join(jax.tree.map(merge, own["first"][ENCODER], own["second"][ENCODER]), own)

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        # The first side starts as it would alone, so that a second loss of weight 0 changes none of its weights.
        n = len(first.views)
        params: dict[str, Tree] = {}
        stats: dict[str, Tree] = {}
        memory: dict[str, Tree] = {}
        for side, method, views_of_side, own in (
            ("first", first, views[:n], key),
            ("second", second, views[n:], jax.random.fold_in(key, 1)),
        ):
            params[side], stats[side], memory[side] = method.init(own, views_of_side)
        if shared_heads:
            all_params, all_stats = params["first"], stats["first"]
        else:
            all_params, all_stats = join(params["first"][ENCODER], params), join(stats["first"][ENCODER], stats)
        memory["second"] = retarget(memory["second"], part(all_params, "second"), part(all_stats, "second"))
        return all_params, all_stats, memory

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        total = jnp.float32(0)
        memory = dict(memory)
        metrics: dict[str, jax.Array] = {}
        for side, method, values, views in sides(hyper, batch.views):
            mine = batch._replace(views=views)
            value, (new, memory[side], told) = method.loss(
                part(params, side), part(stats, side), memory[side], mine, values, step, key
            )
            key = of_second_loss(key)
            total += hyper["loss_weights"][side] * value
            heads = {k: v for k, v in new.items() if k != ENCODER}
            stats = new if shared_heads else {**stats, ENCODER: new[ENCODER], side: heads}
            metrics |= {f"loss.{side}": value, **{f"{side}.{name}": m for name, m in told.items()}}
        return total, (stats, memory, metrics)

    def update(params: Tree, memory: Tree, hyper: Tree, step: jax.Array) -> Tree:
        return {
            side: method.update(part(params, side), memory[side], values, step)
            for side, method, values, _ in sides(hyper)
        }

    def trainable(params: Tree, step: jax.Array, hyper: Tree) -> Tree:
        masks = {}
        for side, method, values, _ in sides(hyper):
            mine = part(params, side)
            masks[side] = (
                method.trainable(mine, step, values) if method.trainable else jax.tree.map(lambda _: 1.0, mine)
            )
        return joined(masks, lambda a, b: a * b)

    def rates(params: Tree, rate: jax.Array, peak: jax.Array) -> Tree:
        each = {}
        for side, method in (("first", first), ("second", second)):
            mine = part(params, side)
            each[side] = method.rates(mine, rate, peak) if method.rates else jax.tree.map(lambda _: rate, mine)
        return joined(each, lambda a, b: a)

    def stage(hyper: Tree, step: jax.Array) -> Stage:
        if first.stage is not None:
            return first.stage(hyper, step)
        assert second.stage is not None
        return second.stage({**hyper, **hyper["second"]}, step)

    def on_epoch(params: Tree, memory: Tree, hyper: Tree, key: jax.Array) -> Tree:
        memory = dict(memory)
        for side, method, values, _ in sides(hyper):
            if method.on_epoch:
                memory[side] = method.on_epoch(part(params, side), memory[side], values, key)
            key = jax.random.fold_in(key, 1)
        return memory

    def fill(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> Tree:
        memory = dict(memory)
        for side, method, values, views in sides(hyper, batch.views):
            if method.fill:
                mine = batch._replace(views=views)
                memory[side] = method.fill(part(params, side), part(stats, side), memory[side], mine, values, step, key)
        return memory

    def constrain(params: Tree) -> Tree:
        own = {}
        for side, method in (("first", first), ("second", second)):
            mine = part(params, side)
            own[side] = method.constrain(mine) if method.constrain else mine
        # Constraints are on heads; shared heads are of one method, so that either side's are both's.
        return own["first"] if shared_heads else join(params[ENCODER], own)

    def encode(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        return first.encode(part(params, "first"), part(stats, "first"), images)

    return Method(
        views=(*first.views, *(view._replace(source=f"second.{view.source}") for view in second.views)),
        init=init,
        loss=loss,
        update=update,
        encode=encode,
        trainable=trainable if first.trainable or second.trainable else None,
        stage=stage if first.stage or second.stage else None,
        rates=rates if first.rates or second.rates else None,
        on_epoch=on_epoch if first.on_epoch or second.on_epoch else None,
        constrain=constrain if first.constrain or second.constrain else None,
        fill=fill if first.fill or second.fill else None,
        labels=first.labels or second.labels,
    )
