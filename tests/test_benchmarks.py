"""The peers of the benchmarks do what ssljax does: the same views, the same loss, the same steps."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ssljax
from ssljax import augment, config, sweeps
from ssljax.augment.geometry import crop_box
from ssljax.methods import Batch, Course, build
from ssljax.models import backbone
from ssljax.train import optimizers

torch = pytest.importorskip("torch")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import machines  # noqa: E402
import peers  # noqa: E402
import processes  # noqa: E402
import scaling_page  # noqa: E402
import torch_networks  # noqa: E402
import torch_peer  # noqa: E402
import torch_transforms  # noqa: E402
from collectives import Collective, collectives  # noqa: E402

SIDES = {"mnist_first": (8, 16, 1), "mnist_second": (12, 16, 1), "cifar": (16, 16, 3)}  # given, wanted, channels
SETS = sorted(SIDES)


def images_of(name, count):
    side, _, channels = SIDES[name]
    return np.random.default_rng(3).random((count, side, side, channels)).astype(np.float32)


def our_draws(name, count, seed=0):
    """What ssljax draws for `count` images, by transform."""
    chosen = augment.SETS[name]
    values = augment.hyper(chosen)["view1"]
    keys = jax.random.split(jax.random.key(seed), count)
    drawn = jax.jit(jax.vmap(lambda key: augment.sample_view(chosen.views[0], key, values)))(keys)
    return jax.tree.map(np.asarray, drawn)


def as_peer(name, drawn):
    """The same choices under the peer's names, the crop's box in its coordinates."""
    top, left, height, width = np.asarray(jax.vmap(lambda d: crop_box(d, jnp.ones(2)))(drawn["random_resized_crop"])).T
    named = {"box": np.stack([2 * left + width - 1, 2 * top + height - 1, width, height], 1)}
    if name == "mnist_first":
        named |= {"share": drawn["padding"]["share"], "inverted": drawn["color_inversion"]["applied"]}
    if name == "mnist_second":
        erasing = drawn["random_erasing"]
        root, stretch = np.sqrt(erasing["area"]), np.sqrt(erasing["ratio"])
        flips = [drawn[flip]["applied"] for flip in ("horizontal_flip", "vertical_flip")]
        place = np.stack([erasing["y"], erasing["x"]], 1)
        named |= {"flipped": np.stack(flips, 1), "erased": erasing["applied"], "place": place}
        named |= {"heights": root * stretch, "widths": root / stretch}
    if name == "cifar":
        jitter = drawn["color_jitter"]
        factors = np.stack([jitter[part] for part in ("brightness", "contrast", "saturation")], 1)
        named |= {"flipped": drawn["horizontal_flip"]["applied"], "order": jitter["order"].astype(np.int64)}
        named |= {"factors": factors, "hue": jitter["hue"]}
    else:
        named["angle"] = drawn["rotation"]["angle"]
    return {key: torch.tensor(value) for key, value in named.items()}


@pytest.mark.parametrize("name", SETS)
def test_the_same_choices_give_the_same_views(name):
    images, drawn = images_of(name, 64), our_draws(name, 64)
    view, wanted = augment.SETS[name].views[0], SIDES[name][1]
    ours = jax.jit(jax.vmap(lambda i, d: augment.compose.apply_drawn(view, i, d, (wanted, wanted))))(images, drawn)
    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    theirs = torch_transforms.SETS[name].apply(given, as_peer(name, drawn), wanted).permute(0, 2, 3, 1)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_the_peer_draws_from_the_same_distributions(name):
    count = 20_000
    torch.manual_seed(1)
    theirs, ours = torch_transforms.SETS[name].draw(count, "cpu"), as_peer(name, our_draws(name, count))
    assert theirs.keys() == ours.keys()
    for key, value in ours.items():
        a, b = theirs[key].double().reshape(count, -1), value.double().reshape(count, -1)
        error = 5 * b.std(0) * (2 / count) ** 0.5  # five standard errors of a difference of two means
        assert ((a.mean(0) - b.mean(0)).abs() <= error + 1e-6).all(), key
        for q in (0.05, 0.5, 0.95):
            spread = (b.quantile(0.999, 0) - b.quantile(0.001, 0)) * 0.03
            assert ((a.quantile(q, 0) - b.quantile(q, 0)).abs() <= spread + 1e-6).all() or a.unique().numel() < 5, key


def weights_of(params, prefix=""):
    """Parameters of ssljax under the peer's names and in PyTorch's layouts."""
    named = {}
    for key, value in params.items():
        if isinstance(value, dict):
            named |= weights_of(value, prefix if key == "dense" else f"{prefix}{key}.")
            continue
        value = np.asarray(value)
        if key == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        leaf = "bias" if key == "bias" else "weight"
        named[f"{prefix}{leaf}".replace("projector.", "").replace("backbone.layer", "backbone.blocks.layer")] = value
    return named


@pytest.mark.parametrize(
    "method, network, optimizer",
    [
        ("mocov2plus", "vgg11_bn", "adam"),
        pytest.param("mocov2plus", "vgg11", "sgd", marks=pytest.mark.slow),
        pytest.param("simclr", "resnet18", "sgd", marks=pytest.mark.slow),
    ],
)
def test_three_steps_of_the_peer_are_those_of_ssljax(method, network, optimizer):
    shared = {
        "method": method, "backbone": network, "width": 1 / 16, "image_size": 16, "hidden_dim": 12, "output_dim": 8,
        "batch_size": 8, "optimizer": optimizer, "learning_rate": 0.02, "weight_decay": 0.01, "epochs": 3,
        "warmup_epochs": 1.0, "transforms": "mnist_first", "temperature": 0.2,
    }  # fmt: skip
    memory_only = {"queue_size": 16, "tau_base": 0.9, "tau_final": 0.99} if method == "mocov2plus" else {}
    settled = config.resolve(ssljax.Config(**shared, **memory_only))
    hyper = sweeps.hyper(settled, sweeps.runs(settled)[0])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 16, 16, 1), dtype=np.uint8)  # two steps an epoch
    views = rng.random((3, 2, 8, 16, 16, 1)).astype(np.float32)
    mean, std = images.mean() / 255, images.std() / 255
    ours = build(settled, backbone(network, width=1 / 16, convolution="lax"), Course(16, 2, 6))
    params, stats, memory = ours.init(jax.random.key(0), (jnp.zeros((1, 16, 16, 1)),) * 2)

    @jax.jit
    def step(params, stats, memory, state, pair, number):
        batch = Batch(tuple((view - mean) / std for view in pair), jnp.arange(8))
        (loss, (stats, memory, _)), gradients = jax.value_and_grad(ours.loss, has_aux=True)(
            params, stats, memory, batch, hyper, number, jax.random.key(0)
        )
        rate = optimizers.learning_rate(
            hyper["learning_rate"], number, total_steps=6, warmup_steps=2, start=hyper["warmup_learning_rate"], end=0.0
        )
        rule = optimizers.rule(optimizer, hyper, params)
        direction, state = rule.update(gradients, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda d: -rate * d, direction))
        return loss, params, stats, ours.update(params, memory, hyper, number), state

    peer = torch_peer.Trainer(torch_networks.Settings(**shared, **memory_only), images, "cpu", {"channels_last"})
    weights = {name: torch.tensor(value) for name, value in weights_of(params).items()}
    trained = [name for name, _ in peer.model.online.named_parameters()]
    assert sorted(weights) == sorted(trained)
    peer.model.online.load_state_dict(weights, strict=False)
    if method == "mocov2plus":
        peer.model.target.load_state_dict(weights, strict=False)
        peer.model.queue.copy_(torch.tensor(np.asarray(memory["queue"])))
    state = optimizers.rule(optimizer, hyper, params).init(params)
    for number, pair in enumerate(views):
        loss, params, stats, memory, state = step(params, stats, memory, state, pair, number)
        theirs = peer.step_views(*torch.from_numpy(pair).permute(0, 1, 4, 2, 3))
        np.testing.assert_allclose(theirs.item(), loss, rtol=1e-4, err_msg=f"step {number}")
    if method == "mocov2plus":
        np.testing.assert_allclose(peer.model.queue.numpy(), memory["queue"], atol=2e-3)


def test_a_measurement_of_the_peer_is_one_line():
    flags = ["--width=0.03125", "--image_size=8", "--batch_size=64", "--queue_size=128", "--hidden_dim=8"]
    command = [sys.executable, str(BENCHMARKS / "torch_peer.py"), *flags, "--seconds=0.05", "--variant=channels_last"]
    row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert row["images/s"] == pytest.approx(64e3 / row["ms/step"])
    assert row["ms low"] <= row["ms/step"] <= row["ms high"]
    assert row["start-up s"] > 0.5  # it imports torch


def test_a_comparison_takes_its_ratio_within_rounds_and_keeps_those_it_had_time_for():
    def side(*speeds):
        rows = iter([{"images/s": s, "peak MB": 1.0, "start-up s": 2.0} for s in speeds])

        def measure():
            try:
                return next(rows)
            except StopIteration:
                raise processes.Missing("out of time") from None

        return measure

    row = peers.compare(side(100.0, 30.0, 90.0, 1.0), side(50.0, 10.0, 30.0), rounds=5)
    assert (row["rounds"], row["ratios"], row["ratio"]) == (3, [2.0, 3.0, 3.0], 3.0)
    assert (row["ours images/s"], row["theirs images/s"]) == (90.0, 30.0)
    with pytest.raises(processes.Missing, match="out of time"):
        peers.compare(side(), side(1.0), rounds=2)


def test_a_process_that_fails_or_comes_too_late_says_why():
    def measure(code, left=60.0, **options):
        return processes.measure(["-c", code], processes.Clock(time.time() + left), {}, **options)

    assert measure("print('noise'); print('{\"a\": 2}')") == {"a": 2}
    with pytest.raises(processes.Missing, match="ValueError: no such thing"):
        measure("raise ValueError('no such thing')")
    with pytest.raises(processes.Missing, match="out of time"):
        measure("print(1)", left=1.0)


def test_the_peer_takes_the_settings_of_a_config():
    settled = peers.settle(["--preset=paper", "--method=simclr", "--batch_size=256", "--precision=bfloat16"])
    given = dict(flag[2:].split("=", 1) for flag in peers.peer_flags(settled, "images.npz"))
    expected = {
        "data": "images.npz",
        "backbone": "resnet18",
        "transforms": "cifar",
        "batch_size": "256",
        "hidden_dim": "2048",
    }
    assert given.items() >= (expected | {"optimizer": "sgd", "learning_rate": "0.4", "precision": "bfloat16"}).items()
    assert "queue_size" not in given  # SimCLR has none


def convolutions(blocks, bottleneck):
    """(side of the input, kernel, stride, channels in, channels out) of a ResNet at 224 px, from table 1 of He et al., 2016."""
    yield 224, 7, 2, 3, 64
    side, given = 56, 64  # after the pool
    for stage, count in enumerate(blocks):
        wide = 64 * 2**stage
        out = 4 * wide if bottleneck else wide
        for block in range(count):
            stride = 2 if stage and not block else 1  # of the first 3x3, as torchvision has it
            inner = side // stride
            if bottleneck:
                yield from ((side, 1, 1, given, wide), (side, 3, stride, wide, wide), (inner, 1, 1, wide, out))
            else:
                yield from ((side, 3, stride, given, wide), (inner, 3, 1, wide, out))
            if stride != 1 or given != out:
                yield side, 1, stride, given, out
            side, given = inner, out


def products(side, kernel, stride, given, out, inside):
    """Multiplications of a convolution: of all taps, or only of those inside the image."""
    places = np.arange(0, side, stride)[:, None] + np.arange(kernel) - kernel // 2
    taps = ((places >= 0) & (places < side)).sum() if inside else places.size
    return int(taps) ** 2 * given * out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, blocks, published", [("resnet50", (3, 4, 6, 3), 4.09e9), ("resnet18", (2, 2, 2, 2), 1.81e9)]
)
def test_the_flops_that_are_counted_are_those_of_the_network(name, blocks, published):
    each = list(convolutions(blocks, name == "resnet50"))
    assert sum(products(*one, inside=False) for one in each) == pytest.approx(published, rel=0.01)
    network = backbone(name, stem="imagenet", convolution="lax")
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(images.shape)))
    cost = jax.jit(lambda v, x: network.apply(v, x)).lower(variables, images).cost_analysis()
    # XLA leaves out the taps that only see padding, and counts normalisation, ReLU and the pool beside: 1 to 2 %.
    inside = 2 * 2 * sum(products(*one, inside=True) for one in each)
    assert inside < cost["flops"] < 1.02 * inside


HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body.1 (s: (f32[3000])) -> (f32[3000]) {
  %r = f32[3000]{0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%condition.1 (s: (f32[3000])) -> pred[] {
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %w = (f32[3000]{0}) while(%p), condition=%condition.1, body=%body.1
  %two = (f32[1,4]{1,0}, /*index=1*/bf16[8]{0}) all-reduce(%a, %b), replica_groups=mesh['run'=2,'data'=4] {'data'}, to_apply=%add
  %g = s32[64]{0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
  %s = f32[2,2]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %c = u8[10]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %alone = f32[9]{0} all-reduce(%p), replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %none = f32[64]{0} add(%p, %p)
}
"""


def test_collectives_are_read_from_a_program_s_text():
    found = {each.kind + "*" * each.looped: each for each in collectives(HLO)}
    assert found == {
        "all-reduce*": Collective("all-reduce", 12_000, 4, True),
        "all-reduce": Collective("all-reduce", 32, 4),
        "all-gather": Collective("all-gather", 256, 8),
        "reduce-scatter": Collective("reduce-scatter", 16, 4),
        "collective-permute": Collective("collective-permute", 10, 2),
    }
    # A ring of n sends an array of b bytes in pieces of b/n: n-1 of them to sum it up, and as many to hand it round.
    assert (found["all-reduce*"].sent, found["all-gather"].sent) == (2 * 3 * 3000, 7 * 32)
    assert found["reduce-scatter"].sent == 3 * 16


def test_a_step_takes_what_its_parts_take_by_hand():
    machine = machines.Machine("made", 1e12, 1.0, 1.0, nvlink=2e9, adapter=0.1e9, utilisation=0.5, dollars=1.0)
    found = [Collective("all-reduce", 8_000_000, 8), Collective("all-reduce", 8, 8, looped=True)]
    spent = machines.times(machine, 1e10, found, iterations=10, devices=8)
    assert spent.compute == pytest.approx(0.02)
    assert spent.wires == pytest.approx((2 * 7 / 8 * 8_000_000 + 10 * 14) / (0.8 * 2e9))
    assert spent.latency == pytest.approx(11 * 20e-6)
    far = machines.times(machine, 1e10, found, iterations=10, devices=64)
    # Eight adapters of a node are slower than its NVLink.
    assert far.wires == pytest.approx(spent.wires * 2e9 / 0.8e9)
    assert far.latency == pytest.approx(11 * 41e-6)


def test_the_published_speed_is_what_the_a100_s_utilisation_says():
    a100, h100, _ = machines.MACHINES
    assert a100.utilisation * a100.flops / machines.RESNET50_FLOPS == pytest.approx(3510, rel=0.01)
    # As much faster as its memory.
    assert h100.utilisation * h100.flops / (a100.utilisation * a100.flops) == pytest.approx(3.35 / 2.039)


# Counts of a tiny network without batch statistics on eight simulated devices: two streamed runs along "data", eight along "run".
COUNTS = """
import json, sys
sys.path.insert(0, "benchmarks")
import scaling

tiny = "--dataset=digits --method=simclr --backbone=alexnet --width=0.0625 --image_size=32 --batch_size=64 --epochs=2".split()
tiny += ["--warmup_epochs=1", "--transforms=horizontal_flip", *scaling.GPU]
for own, streamed in (("--seeds=1,2 --mesh=data:8", True), ("--seeds=1,2,3,4,5,6,7,8 --mesh=run:8", False)):
    found = scaling.count(scaling.settled(*tiny, *own.split()), scaling.Shapes(640, 32, 10, streamed))
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_batch_on_eight_devices_is_an_eighth_of_the_work_and_reduces_the_gradient():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", COUNTS], capture_output=True, text=True, env=environment, cwd=BENCHMARKS.parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    batch, runs = map(json.loads, done.stdout.splitlines())
    # XLA counts the loop over two runs once, in the whole and in the part.
    assert 8 * batch["flops"] / batch["flops of all"] < 1.2
    found = [Collective(*each) for each in batch["collectives"]]
    assert {each.group for each in found if each.kind != "collective-permute"} == {8}
    reduced = sum(each.bytes for each in found if each.kind == "all-reduce")
    # Of each of two views its part of the gradient, 4 bytes a parameter; and the gradient of 2 x 64 projections of 64 numbers.
    assert reduced == pytest.approx(2 * 4 * batch["parameters"] + 4 * 128 * 64, rel=0.002)
    # Runs share nothing but the numbers that are told.
    assert runs["flops"] == pytest.approx(runs["flops of all"], rel=0.05)
    assert {kind for kind, *_ in runs["collectives"]} == {"all-gather"}
    assert sum(size for _, size, *_ in runs["collectives"]) < 1000


def test_the_scaling_page_holds_what_was_counted():
    rows = json.loads((BENCHMARKS / "results" / "scaling-cpu.json").read_text())["rows"]
    text = (BENCHMARKS / "scaling.md").read_text()
    assert scaling_page.page(text, rows) == text
    # Three devices' shares of a step add up to the whole of it.
    for each in scaling_page.counts(rows, "imagenet"):
        assert each.found["flops"] * each.devices == pytest.approx(each.found["flops of all"], rel=0.1)
