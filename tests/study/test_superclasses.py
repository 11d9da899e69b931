import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.study.curves import Curves
from ssljax.study.superclasses import read_superclasses, superclass_curves, superclasses

# Krizhevsky 2009, section 3.1: three of the twenty rows of the published table of CIFAR-100's superclasses.
PUBLISHED = {
    "aquatic mammals": {"beaver", "dolphin", "otter", "seal", "whale"},
    "reptiles": {"crocodile", "dinosaur", "lizard", "snake", "turtle"},
    "trees": {"maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"},
}


@pytest.fixture
def csv_file(tmp_path):
    def write(text):
        (tmp_path / "map.csv").write_text(text, encoding="utf-8")
        return tmp_path / "map.csv"

    return write


def test_the_packaged_map_is_cifar100s_published_one():
    classes = [*PUBLISHED["reptiles"], *PUBLISHED["trees"], *PUBLISHED["aquatic mammals"]]
    found = superclasses("cifar100", classes)
    for above, members in PUBLISHED.items():
        assert {name for name in classes if found[name] == above} == members
    assert list(found) == classes


def test_cifar100_is_known_by_its_classes_and_by_its_name_and_nothing_else_is():
    from importlib import resources

    with resources.as_file(resources.files("ssljax.study").joinpath("cifar100_superclasses.csv")) as path:
        whole = read_superclasses(path)
    above = list(whole.values())
    assert len(whole) == 100 and {above.count(name) for name in set(above)} == {5} and len(set(above)) == 20
    assert superclasses("folder:some/where", list(whole)) == whole
    for spelt in ("cifar100:3.0.2", "CIFAR-100"):
        assert superclasses(spelt, ["wolf", "rose"]) == {"wolf": "large carnivores", "rose": "flowers"}
    assert superclasses("folder:flowers", ["rose", "tulip"]) is None  # as much any other set of flowers
    assert superclasses("cifar10", ["cat", "dog"]) is None
    assert superclasses("cifar100", ["0", "1"]) is None


def test_any_csv_with_the_two_columns_is_a_map(csv_file):
    path = csv_file('\ufeffsuperclass,id,class\nround,1,eight\n"straight, or so",2,"one"\nround,3,zero\n')
    assert read_superclasses(path) == {"eight": "round", "one": "straight, or so", "zero": "round"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,above\na,b\n", r"map\.csv: column superclass is missing, expected class, superclass"),
        ("", r"map\.csv: column class, superclass is missing"),
        ("class,superclass\na,b\nc,\n", r"map\.csv: row 3 lacks its class or its superclass"),
        ("class,superclass\na,b\nc\n", r"map\.csv: row 3 lacks"),
        ("class,superclass\na,b\nc,d\na,d\n", r"map\.csv: row 4, class 'a' stands twice"),
    ],
)
def test_a_bad_map_is_named_with_its_row(csv_file, text, message):
    with pytest.raises(UserError, match=message):
        read_superclasses(csv_file(text))


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_superclasses(tmp_path / "none.csv")


def test_a_superclass_curve_is_the_mean_of_its_classes():
    rng = np.random.default_rng(0)
    accuracy, overall = rng.random((4, 2, 5)), rng.random((4, 2))
    accuracy[3, 1, 4] = np.nan
    of = {"a": "vowel", "b": "other", "c": "other", "d": "other", "e": "vowel", "z": "unused"}
    setting = ("simclr", "resnet18", "digits", "rotation", "linear", "label", "accuracy", (), "rotation.degrees")
    made = superclass_curves(Curves(*setting, np.arange(4.0), (5, 6), tuple("abcde"), accuracy, overall), of)
    assert made.classes == ("other", "vowel") and made.target == "superclass"
    np.testing.assert_allclose(made.accuracy[2, 1, 0], (accuracy[2, 1, 1] + accuracy[2, 1, 2] + accuracy[2, 1, 3]) / 3)
    np.testing.assert_allclose(made.accuracy[:3, 0, 1], (accuracy[:3, 0, 0] + accuracy[:3, 0, 4]) / 2)
    assert np.argwhere(np.isnan(made.accuracy)).tolist() == [[3, 1, 1]]
    assert made.overall is overall
    with pytest.raises(UserError, match=r"superclasses: class 'e' has none \(1 of 5 classes\)"):
        superclass_curves(made._replace(classes=tuple("abcde"), accuracy=accuracy), dict(list(of.items())[:4]))
