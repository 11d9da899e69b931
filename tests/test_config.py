"""Config and flags: values checked, comma lists, flagfiles that reproduce, sweeps addressed."""

import json

import numpy as np
import pytest
from absl import flags as absl_flags

from ssljax import config as config_lib
from ssljax import flags, sweeps
from ssljax.config import Config
from ssljax.errors import UserError


def parse(*argv):
    values = absl_flags.FlagValues()
    flags.define(values)
    flags.parse_argv(values, ["run.py", *argv])
    return flags.configs_from_flags(values)


def test_every_field_is_a_flag_and_reads_back():
    for name, field in config_lib.fields().items():
        default = field.default
        kind = field.metadata["kind"]
        low, choices = field.metadata["low"], field.metadata["choices"]
        if field.name in ("seeds", "evaluations", "sweep", "set", "probe_learning_rates"):
            text, expected = {
                "seeds": ("3,4", (3, 4)), "evaluations": ("knn", ("knn",)),
                "sweep": ("temperature=1:2:3", ("temperature=1:2:3",)), "set": ("momentum=0.5", ("momentum=0.5",)),
                "probe_learning_rates": ("0.1,0.3", ("0.1", "0.3")),
            }[field.name]  # fmt: skip
        elif kind is tuple:
            text, expected = "cat,dog", ("cat", "dog")
        elif kind is str:
            text = expected = choices[-1] if choices else "other"
        else:
            expected = kind((low or 0) + 1 / 4 if kind is float else (low or 0) + 2)
            text = str(expected)
        (config,) = parse(f"--{name}={text}")
        assert getattr(config, field.name) == expected, name
        assert getattr(config, field.name) != default or choices, name


def test_comma_lists_on_static_flags_make_their_product_in_order():
    configs = parse(
        "--method=simclr,mocov2plus", "--transforms=mnist_first,rotation(degrees=3,probability=.5)+hue()", "--seeds=1,2"
    )
    sets = ("mnist_first", "rotation(degrees=3,probability=.5)+hue()")
    # fields in the order of Config, where transforms stand before method
    assert [(c.transforms, c.method, c.seeds) for c in configs] == [
        (t, m, (1, 2)) for t in sets for m in ("simclr", "mocov2plus")
    ]


def test_a_flagfile_reproduces_its_configs_and_later_flags_go_over_it(tmp_path):
    configs = parse(
        "--transforms=mnist_first,mnist_second",
        "--sweep=temperature=0.1:0.5:3",
        "--set=momentum=0.5",
        "--seeds=5,6",
        "--tau.base=0.9",
    )
    file = tmp_path / "f.cfg"
    file.write_text(flags.to_flagfile(configs))
    assert flags.read_flagfile(file) == configs
    assert parse(f"--flagfile={file}") == configs
    changed = parse(f"--flagfile={file}", "--seeds=9", "--sweep=temperature=1,2")
    assert [c.seeds for c in changed] == [(9,), (9,)]
    assert changed[0].sweep == ("temperature=1,2",)


def test_configs_that_are_no_product_have_no_flagfile():
    with pytest.raises(UserError, match="not the product"):
        flags.to_flagfile([Config(method="simclr", epochs=1), Config(method="mocov2plus", epochs=2)])


def test_json_round_trip():
    config = Config(seeds=(1, 2), sweep=("temperature=1,2",), tau_base=0.5, width=0.5)
    assert config_lib.from_json(json.loads(json.dumps(config_lib.to_json(config)))) == config


BAD = [
    (["--epochs=many"], "--epochs: expected a whole number, given 'many'"),
    (["--epochs=0"], "--epochs: expected a whole number of at least 1, given 0"),
    (["--momentum=1.5"], "--momentum: expected a number between 0 and 1, given 1.5"),
    (["--learning_rate=nan"], "--learning_rate: expected a number of at least 0, given nan"),
    (["--temperature=.1,.2"], "--temperature: a list of a traced value is a sweep; write --sweep=temperature=.1,.2"),
    (["--stem=cifr"], "--stem: unknown value 'cifr'; did you mean 'cifar'?"),
    (["--evaluations=linaer"], "--evaluations: unknown evaluation 'linaer'; did you mean 'linear'?"),
    (["--evaluations=knn@0%"], "a share of the labels above 0 and up to 100 %, as in knn@10%, given 'knn@0%'"),
    (
        ["--evaluations=finetune@ten"],
        "a share of the labels above 0 and up to 100 %, as in finetune@10%, given 'finetune@ten'",
    ),
    (
        ["--evaluations=linear@nan%"],
        "a share of the labels above 0 and up to 100 %, as in linear@10%, given 'linear@nan%'",
    ),
    (
        ["--evaluations=kmeans@3"],
        "--evaluations: expected two clusters or more after the @, as in kmeans@k4, given 'kmeans@3'",
    ),
    (["--evaluations=logreg@"], "--evaluations: expected a data set after the @, as in logreg@dtd, given 'logreg@'"),
    (["--probe_learning_rates=.1,fast"], "--probe_learning_rates: expected numbers above 0, given 'fast'"),
    (["--probe_learning_rates=0"], "--probe_learning_rates: expected numbers above 0, given '0'"),
    (["--seeds=1,1"], "--seeds: a seed stands twice in 1,1"),
    (["--seeds=-1"], "--seeds: expected whole numbers from 0"),
    (["--seeds="], "--seeds: expected a whole number, given ''"),
    (["--epoch=3"], "unknown flag '--epoch'; did you mean '--epochs'?"),
    (["--width=0.5,0.5"], "--width: a value stands twice"),
    (["--knn_k=5,20"], "--knn_k: expected a whole number, given '5,20'"),
    (["stray"], "unexpected argument 'stray'"),
    (["--flagfile=/nowhere/f.cfg"], "/nowhere/f.cfg"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_flags_are_named_in_one_line(argv, message):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


UNRESOLVED = [
    (dict(method="mocov3plus"), "--method: unknown method 'mocov3plus'; did you mean 'mocov2plus'?"),
    (dict(preset="digit"), "--preset: unknown preset 'digit'; did you mean 'digits'?"),
    (dict(backbone="vgg11bn"), "--backbone: unknown backbone 'vgg11bn'; did you mean 'vgg11_bn'?"),
    (dict(optimizer="adm"), "--optimizer: unknown optimizer 'adm'; did you mean 'adam'?"),
    (dict(transforms="mnist_frist"), "mnist_first"),
    (dict(transforms="rotation(degree=3)"), "degrees"),
    (dict(sweep=("batch_size=1,2",)), "'batch_size' is static"),
    (dict(sweep=("temprature=1,2",)), "did you mean 'temperature'?"),
    (dict(sweep=("rotation.degree=1,2",)), "did you mean 'rotation.degrees'?"),
    (dict(sweep=("tau.base=0,1",), method="simclr"), "'tau.base' has no effect on simclr"),
    (dict(sweep=("momentum=0,1",), optimizer="adam"), "'momentum' has no effect"),
    (dict(sweep=("temperature=0:1",)), "expected address=lo:hi:n"),
    (dict(sweep=("temperature=1,1",)), "a value stands twice"),
    (dict(sweep=("color_inversion.probability=0,2",)), "color_inversion.probability is 2"),
    (dict(sweep=("padding.low=.1,.9",)), "padding.low is 0.9"),
    (dict(sweep=("temperature=-1,1",)), "--temperature: expected a number of at least 1e-06, given -1"),
    (dict(sweep=("rotation.degrees=1,2", "view1.rotation.degrees=3,4")), "both mean view1.rotation.degrees"),
    (dict(epochs=2, warmup_epochs=2), "--warmup_epochs: 2 is not below --epochs=2"),
    (dict(set=("temprature=1",)), "--set: unknown address"),
    (dict(seeds=5.5), "--seeds: expected whole numbers"),
    (dict(sweep=(3,)), "--sweep: expected text, given 3"),
    (dict(set=("temperature=1,2",)), "--set: temperature takes one value"),
]


@pytest.mark.parametrize(("settings", "message"), UNRESOLVED)
def test_bad_settings_are_named_in_one_line(settings, message):
    def use():
        config = config_lib.resolve(Config(**settings))
        for run in sweeps.runs(config):
            sweeps.hyper(config, run)

    with pytest.raises(UserError) as error:
        use()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_are_the_product_of_swept_values_and_seeds():
    runs = sweeps.runs(Config(seeds=(5, 6), sweep=("temperature=0:0.3:4", "rotation.degrees=1,2")))
    assert len(runs) == 16
    assert runs[3] == ("temperature=0,rotation.degrees=2,seed=6", 6, {"temperature": 0.0, "rotation.degrees": 2.0})
    assert sorted({r.swept["temperature"] for r in runs}) == [0, 0.1, 0.2, 0.3]
    assert len({r.name for r in runs}) == 16


def test_an_address_without_a_view_means_every_view_that_has_the_transform():
    config = config_lib.resolve(Config(transforms="solo_asym", dataset="digits", sweep=("solarize.probability=0.7",)))
    leaves = sweeps.hyper(config, sweeps.runs(config)[0])["transforms"]
    assert [
        float(leaves[v]["solarize"]["probability"]) for v in ("view1", "view2") if "solarize" in leaves[v]
    ] == pytest.approx([0.7] * sum("solarize" in leaves[v] for v in leaves))
    one = config_lib.resolve(Config(transforms="mnist_first", sweep=("view2.rotation.degrees=90",)))
    leaves = sweeps.hyper(one, sweeps.runs(one)[0])["transforms"]
    assert [float(leaves[v]["rotation"]["degrees"]) for v in ("view1", "view2")] == [25, 90]


def test_set_goes_under_sweep_and_over_the_config():
    config = config_lib.resolve(
        Config(temperature=0.3, set=("temperature=0.4", "tau.base=0.5"), sweep=("tau.base=0.6",))
    )
    tree = sweeps.hyper(config, sweeps.runs(config)[0])
    assert float(tree["temperature"]) == pytest.approx(0.4)
    assert float(tree["tau"]["base"]) == pytest.approx(0.6)
    assert tree["seed"].dtype == np.uint32


def test_stack_gives_each_leaf_a_run_axis():
    config = config_lib.resolve(Config(sweep=("temperature=0.1,0.2",)))
    stacked = sweeps.stack([sweeps.hyper(config, run) for run in sweeps.runs(config)])
    np.testing.assert_allclose(stacked["temperature"], [0.1, 0.2], rtol=1e-6)


def test_a_set_made_in_python_and_numpys_numbers_are_settings_too():
    from ssljax import augment

    mine = augment.transform_set("mine", [augment.TRANSFORMS["rotation"](degrees=45.0)])
    config = config_lib.resolve(Config(transforms=mine, epochs=np.int64(7), width=np.float32(0.5), seeds=np.arange(2)))
    assert (config.epochs, config.width, config.seeds) == (7, 0.5, (0, 1))
    assert augment.hyper(augment.parse(config.transforms))["view1"]["rotation"]["degrees"] == 45.0
