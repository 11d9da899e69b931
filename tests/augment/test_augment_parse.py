"""Transform sets as text: what is read, what is written back, what is refused and how."""

import doctest

import numpy as np
import pytest

from ssljax import augment
from ssljax.augment import SETS, compose, parse
from ssljax.errors import UserError


def described(chosen):
    return [[(t.name, t.defaults, t.options) for t in view] for view in chosen.views]


def test_a_definition_says_what_it_says():
    chosen = parse(" rotation(degrees=25)+random_resized_crop(area_low=.5, area_high=.9)+horizontal_flip ")
    rotation, crop, flip = chosen.views[0]
    assert chosen.views[0] == chosen.views[1]
    assert rotation.defaults == {"probability": 1.0, "degrees": 25.0}
    assert (crop.name, crop.defaults["area_low"], crop.defaults["area_high"]) == (
        "random_resized_crop",
        0.5,
        0.9,
    )
    assert flip.defaults == {"probability": 0.5}


def test_set_names_expand_and_views_differ():
    assert parse("mnist_first") is SETS["mnist_first"]
    chosen = parse("solo_asym+equalize|none")
    assert chosen.views[0][:-1] == SETS["solo_asym"].views[0]
    assert chosen.views[0][-1].name == "equalize"
    assert chosen.views[1] == ()
    assert described(parse("solo_asym|solo_asym")) == described(SETS["solo_asym"])
    assert parse("solo_asym+none").views == SETS["solo_asym"].views


@pytest.mark.parametrize("name", SETS)
def test_text_and_back(name):
    assert described(parse(augment.to_text(SETS[name]))) == described(SETS[name])


def test_local_crops_that_are_not_view_1s_go_by_the_name_of_their_set():
    assert augment.to_text(SETS["twist"]) == "twist" and "+" in augment.to_text(SETS["swav"])
    local = compose.local_view(SETS["swav"].views[0], area=(0.05, 0.2))
    assert local[0].defaults["area_high"] == 0.2 and local[1:] == SETS["swav"].views[0][1:]
    mine = augment.transform_set("mine", SETS["swav"].views[0], local=local)
    with pytest.raises(UserError, match="transform set 'mine' has local crops of its own"):
        augment.to_text(mine)


def test_options_survive_the_round_trip():
    text = "gaussian_blur(kernel_size=5)+random_resized_crop(beyond_border=True)+center_crop(side=.5)"
    chosen = parse(text + "|color_jitter(hue_probability=.3)")
    assert chosen.views[0][0].options == {"kernel_size": 5}
    assert described(parse(augment.to_text(chosen))) == described(chosen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mnist_frist", "did you mean 'mnist_first'"),
        ("rotatoin(degrees=3)", "unknown transform 'rotatoin'; did you mean 'rotation'"),
        ("rotation(degree=3)", "did you mean 'degrees'"),
        ("rotation(3)", r"expected rotation\(parameter=value\)"),
        ("rotation(**x)", r"expected rotation\(parameter=value\)"),
        ("rotation(degrees=x)", "rotation.degrees is x, expected a number"),
        ("rotation(degrees=__import__('os').getpid())", "expected a number"),
        ("rotation(degrees='3')", "rotation.degrees is '3', expected a number"),
        ("rotation(degrees=1e999)", r"rotation.degrees is inf, expected a number in \[0, inf\)"),
        ("rotation(degrees=-1)", r"rotation.degrees is -1, expected a number in \[0, inf\)"),
        ("rotation(degrees=3,degrees=4)", "rotation.degrees is given twice"),
        ("horizontal_flip(probability=1.5)", r"is 1.5, expected a number in \[0, 1\]"),
        ("horizontal_flip(probability=True)", "is True, expected a number"),
        ("random_resized_crop(area_low=0)", r"area_low is 0, expected a number in \(0, inf\)"),
        ("random_resized_crop(area_low=.9,area_high=.5)", "area_low is 0.9, expected at most area_high=0.5"),
        ("random_resized_crop(beyond_border=2)", "expected True or False"),
        ("padding(low=.5,high=.1)", "padding.low is 0.5, expected at most high=0.1"),
        ("gaussian_blur(sigma_low=0)", r"sigma_low is 0, expected a number in \(0, inf\)"),
        ("gaussian_blur(kernel_size=4)", "kernel_size is 4, expected an odd positive integer"),
        ("color_jitter(hue=.6)", r"hue is 0.6, expected a number in \[0, 0.5\]"),
        ("color_jitter(hue_probability=2)", "hue_probability is 2"),
        ("center_crop(area=.5,side=.5)", "expected one of them"),
        ("mnist_first(rotation=3)", "takes no parameters"),
        ("rotation|rotation|rotation", "is no transform; expected"),
        ("rotation+(hue|hue)", "is no transform; expected"),
        ("rotation-hue", "is no transform; expected"),
        ("rotation+", "is no transform set; expected"),
        ("", "'' is no transform set"),
        ("rotation()()", "is no transform; expected"),
        ("\0", "is no transform set"),
        ("(" * 5000, "is no transform set"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(text, "--transforms")
    assert str(caught.value).startswith("--transforms: ")
    assert "\n" not in str(caught.value)


def test_swept_values_are_checked_alike():
    assert augment.check_value("color_jitter", "hue_probability", np.float32(0.5)) == 0.5
    assert augment.check_value("center_crop", "side", 1) == 1.0
    for name, parameter, value, message in [
        ("colour_jitter", "hue", 0.1, "did you mean 'color_jitter'"),
        ("color_jitter", "heu", 0.1, "did you mean 'hue'"),
        ("color_jitter", "hue", 0.7, "--sweep: color_jitter.hue is 0.7"),
        ("color_jitter", "hue", float("nan"), "is nan, expected a number"),
        ("rotation", "degrees", "ten", "is 'ten', expected a number"),
        ("affine", "shear", 90, r"expected a number in \[0, 89\]"),
        ("random_erasing", "ratio_low", 0.0, r"expected a number in \(0, inf\)"),
    ]:
        with pytest.raises(UserError, match=message):
            augment.check_value(name, parameter, value, "--sweep")


def test_the_examples_in_the_documentation_run():
    import jax
    import jax.numpy as jnp

    names = {"jax": jax, "jnp": jnp, **{name: getattr(augment, name) for name in augment.__all__}}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for function in (augment.parse, augment.transform_set, compose.apply_view):
        for test in finder.find(function, globs=names):
            assert runner.run(test).failed == 0
    assert runner.tries > 0
