"""Whatever is given to the command line: it does it or says in one line what is wrong, and then it has written nothing.

Training, measuring and the estimate of memory, which compiles, are left out of a command, so that a good one is as cheap as a bad
one. `SSLJAX_FUZZ=20 pytest tests/test_fuzz.py` tries twenty times as many cases.
"""

import contextlib
import csv
import functools
import io
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssljax import augment, cli, config, data, determinism, flags, forecast, pipeline, planning, processes
from ssljax.augment.catalogue import TRANSFORMS
from ssljax.augment.sets import SETS
from ssljax.methods import METHODS
from ssljax.train import memory
from ssljax.train.memory import Memory

TIMES = int(os.environ.get("SSLJAX_FUZZ", "1"))


def cases(number: int) -> Callable:
    """So many cases, always the same ones."""
    return settings(
        max_examples=number * TIMES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Outcome(NamedTuple):
    """What came of a command: its exit code, what it printed, and what is in its folder that was not there, or is other now."""

    code: int
    out: str
    err: str
    changed: list[str]
    defects: list[str]


class Bench:
    """Runs commands in a folder; `cache` and `tmp` in it are the program's own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.runs = 0

    def __call__(self, *argv: str, workdir: str | None = "w") -> Outcome:
        """Runs a command, and forgets the workdir that it made."""
        before = self._state()
        own = [] if workdir is None else [f"--workdir={workdir}"]
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["run.py", f"--cache_dir={self.folder / 'cache'}", *own, *argv])
        out.flush()
        after = self._state()
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        for name in sorted(set(after) - set(before), reverse=True):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        logs = list((self.folder / "tmp").glob("ssljax-*.log"))
        defects = [log.read_text(errors="replace") for log in logs]
        for log in logs:
            log.unlink()
        self.runs += 1
        text = out.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
        return Outcome(code, text, err.getvalue(), changed, defects)

    def _state(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for place, folders, files in os.walk(self.folder):
            if place == str(self.folder):
                folders[:] = [name for name in folders if name not in ("cache", "tmp")]
            for name in (*folders, *files):
                path = os.path.join(place, name)
                status = os.lstat(path)
                found[os.path.relpath(path, self.folder)] = (
                    0 if name in folders else status.st_size,
                    0 if name in folders else status.st_mtime_ns,
                )
        return found


def judge(argv: Sequence[str], outcome: Outcome) -> None:
    """The property that every command has."""
    said = f"{list(argv)!r}\n{outcome.err[-2000:]}\n{''.join(outcome.defects)[-4000:]}"
    assert outcome.code in (0, 2), said
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == (1 if outcome.code else 0) and errors == lines[len(lines) - len(errors) :], said
    assert "Traceback" not in outcome.err + outcome.out and not outcome.defects, said
    if outcome.code:
        assert len(errors[0]) > len("error: x") and not outcome.changed, f"{outcome.changed}\n{said}"


@contextlib.contextmanager
def benched(folder: Path) -> Iterator[Bench]:
    """A bench in a folder, with all that costs time left out of the program."""
    (folder / "tmp").mkdir()
    before = Path.cwd(), tempfile.tempdir
    load = functools.cache(data.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        patch.setattr(cli, "_quiet", lambda: None)
        patch.setattr(cli, "_cache_compilations", lambda: None)
        patch.setattr(determinism, "ask", lambda: None)
        patch.setattr(processes.jax.distributed, "initialize", _alone)
        patch.setattr(pipeline, "_do", lambda *_: None)
        patch.setattr(pipeline, "_evaluate_baselines", lambda *_: None)
        patch.setattr(pipeline, "preview", lambda *_: None)
        patch.setattr(forecast, "dry_run", functools.partial(forecast.dry_run, measured=False))
        patch.setattr(memory, "estimate", lambda *_: Memory(1, 1, 1, 1))
        patch.setattr(
            planning.data, "load", lambda name, **own: (load if name == "digits" else load.__wrapped__)(name, **own)
        )
        yield Bench(folder)


def _alone(*_: object, **__: object) -> None:
    raise RuntimeError("there is no other process")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, one_layer):
    with benched(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


BASE = ("--dataset=digits", "--backbone=one_layer", "--stages=pretrain", "--epochs=20")

# What has broken programs of this kind: numbers that are none, or that only some parsers take; names of devices, ways out of the
# folder; text that cannot be encoded, printed or split; what has a meaning to a shell, a format string, or to our own syntax.
NASTY = (
    *("", " ", "0", "-0", "-1", "1", "2", "3.5", "1e400", "-1e400", "1e-400", "nan", "inf", "-inf", "٣", "1_000", "0x10", "1e3"),
    *("9" * 400, "0." + "0" * 400 + "1", "4294967296", "18446744073709551616", "1..1000000000", "0:1:3", "0:1:1000000000"),
    *(",", ",,", "5,5", "5,6,7", "1,٣", "a,b", ":", "=", "==", "a=", "=a", "a=1", "+", "|", "&", "@", "~", "#", "%", "%s", "{}"),
    *("\0", "a\0b", "\n", "a\nb", "\r", "\x1b[2J", "\x85", "\u2028", "\udcff", "\ud800", "\ufeff", "ü" * 300, "a" * 5000),
    *("..", ".", "/", "../..", "/dev/null", "/dev/full", "/proc/self/mem", "/nonexistent/x", "~", "~nobody9", "$HOME", "*"),
    *("(", ")", "{", "}", "((((", "'", '"', "\\", "--", "-", "--seeds", "none", "None", "true", "auto", "random", "digits"),
)  # fmt: skip
FLAGS = ("workdir", "stages", "help_method", "yes", "deterministic", "help", "coordinator", "num_processes", "process_id")
FLAGS = (*config.fields(), *FLAGS, "distributed", "dry_run", "flagfile", "undefok", "nosuchflag", "noyes", "h", "learning_rat")

numbers = st.one_of(st.integers(-3, 200), st.floats(), st.integers()).map(str)
nasty = st.sampled_from(NASTY)
junk = st.text(st.characters(codec=None), max_size=12)
texts = st.one_of(nasty, nasty, numbers, junk, st.lists(st.one_of(nasty, numbers), min_size=2, max_size=3).map(",".join))


@st.composite
def values(draw: st.DrawFn, name: str) -> str:
    """A value for a flag: often one of its own, near it, or of its type."""
    field = config.fields().get(name)
    if field is None:
        return draw(st.one_of(texts, st.sampled_from(("pretrain", "report", "pretrain,report", "evaluate", "export,embed"))))
    meta = field.metadata
    known: list[str] = [*meta["choices"], str(meta["low"]), str(meta["high"]), str(field.default)]
    known += {"method": [*METHODS], "transforms": [*SETS], "evaluations": [*config.EVALUATIONS]}.get(name, [])
    return draw(st.one_of(st.sampled_from(known), texts, texts))


@st.composite
def flag(draw: st.DrawFn) -> str:
    """One argument."""
    name = draw(st.sampled_from(FLAGS))
    value = draw(values(name))
    form = draw(st.sampled_from(("--{}={}", "--{}={}", "--{}={}", "--{}={}", "-{}={}", "--{}", "--no{}", "--{} {}", "{}={}", "{1}")))
    return form.format(name, value)


@cases(200)
@given(st.lists(flag(), min_size=1, max_size=3))
def test_flags(bench, given):
    workdir = None if any(one.lstrip("-").startswith("workdir") for one in given) else "w"
    argv = [*BASE, *given]
    judge(argv, bench(*argv, workdir=workdir))


# A line of a flagfile that may be one of ours, or garbled.
line = st.one_of(
    flag(),
    nasty,
    junk,
    st.sampled_from(("# a remark", "", "--flagfile=f.cfg", "--flagfile=g.cfg", "--flagfile=.", "--flagfile=", "--epochs=20", "  ")),
)


@cases(80)
@given(st.lists(line, max_size=5), st.lists(line, max_size=2), st.binary(max_size=30), st.sampled_from(("f.cfg", "w/flagfile.cfg")))
def test_flagfiles(bench, lines, others, tail, name):
    (bench.folder / "w").mkdir(exist_ok=True)
    path = bench.folder / name
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + tail)
    (bench.folder / "g.cfg").write_bytes("\n".join(others).encode("utf-8", "surrogatepass"))
    argv = [*BASE, f"--flagfile={path}"] if name == "f.cfg" else ["--stages=report"]
    try:
        judge([*argv, lines, others, tail], bench(*argv, workdir=None if any("workdir" in one for one in lines + others) else "w"))
    finally:
        path.unlink(missing_ok=True)
        shutil.rmtree(bench.folder / "w", ignore_errors=True)


@st.composite
def transform(draw: st.DrawFn) -> str:
    """A transform of the catalogue with parameters of its own, in or out of their range, or of none."""
    name = draw(st.sampled_from([*TRANSFORMS, *SETS, "none", "nosuch"]))
    if name not in TRANSFORMS or draw(st.booleans()):
        return name
    made = TRANSFORMS[name]()
    known = [*made.ranges, *made.options, "nosuch"]
    chosen = draw(st.lists(st.sampled_from(known), max_size=3))
    value = st.one_of(
        numbers,
        st.floats(0, 1).map(str),
        st.sampled_from(("True", "None", "(1,2)", "[]", "'x'", "1e400", "-1", "1+1", "x", "()", "{}", "f()", "1j", "b'1'", "-True")),
    )
    return f"{name}({','.join(f'{one}={draw(value)}' for one in chosen)})"


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A text, or one with something put into it, or cut out of it."""
    if draw(st.booleans()):
        return text
    at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    return text[:at] + draw(st.one_of(st.just(""), nasty, junk)) + text[end:]


definition = st.tuples(transform(), transform(), transform(), st.sampled_from("+|&+"), st.sampled_from(("+", "|", "&", "+ ", "++")))
definition = definition.map(lambda t: f"{t[0]}{t[3]}{t[1]}{t[4]}{t[2]}").flatmap(mutated)


@cases(100)
@given(
    st.one_of(definition, transform().flatmap(mutated)),
    st.sampled_from(("transforms", "second_transforms", "probe_transforms", "finetune_transforms")),
    st.sampled_from([*METHODS]),
)
def test_transforms(bench, text, name, method):
    argv = [*BASE, f"--method={method}", f"--{name}={text}"]
    judge(argv, bench(*argv))


ADDRESSES = (
    *("temperature", "tau.base", "learning_rate", "rotation.degrees", "view1.rotation.degrees", "view2.rotation.probability"),
    *("second.temperature", "second.rotation.degrees", "loss_weights.first", "sinkhorn.epsilon", "solver.tolerance", "epochs"),
    *("warmup_epochs", "random_resized_crop.area_low", "rotation.nosuch", "transforms", "seed", "second", "view1", ".", "a.b.c"),
)  # fmt: skip
span = st.one_of(
    st.tuples(numbers, numbers, st.one_of(st.integers(-1, 5).map(str), nasty)).map(":".join),
    st.lists(st.one_of(st.floats(0, 1).map(str), numbers), min_size=1, max_size=4).map(",".join),
    texts,
)
assignment = st.tuples(st.sampled_from(ADDRESSES).flatmap(mutated), span).map("=".join)


@cases(100)
@given(
    st.lists(st.tuples(st.sampled_from(("sweep", "set")), assignment), min_size=1, max_size=3),
    st.sampled_from([*METHODS]),
    st.sampled_from(("", "--second_transforms=rotation+horizontal_flip")),
)
def test_addresses(bench, given, method, second):
    argv = [*BASE, f"--method={method}", "--transforms=rotation+random_resized_crop", *filter(None, [second])]
    argv += [f"--{name}={value}" for name, value in given]
    judge(argv, bench(*argv))

# Cells that tables have broken on: quotes that never close, a cell beyond csv's limit, what is no text.
cell = st.one_of(
    st.sampled_from(("", "a", "b", "1", "0.5", "train", "test", "0.png", "1.png", "2.png", "3.png", "simclr", "linear", "top1")),
    st.sampled_from(('"', '"a', '""', "a\0b", "\n", "\r", '"x\ny"', "a,b", ";", "\t", "x" * 140_000, "../0.png", "/dev/null", "stack.npy")),
    numbers,
    nasty,
    junk,
)


@st.composite
def table(draw: st.DrawFn, header: Sequence[str], rows: st.SearchStrategy[list[list[str]]]) -> bytes:
    """A CSV whose columns are mostly as they should be, with something wrong in it or not."""
    columns = list(header)
    match draw(st.integers(0, 7)):
        case 0:
            columns.remove(draw(st.sampled_from(columns)))
        case 1:
            columns.insert(draw(st.integers(0, len(columns))), draw(cell))
    lines = [columns, *draw(rows)]
    if draw(st.integers(0, 3)) == 0:
        lines[draw(st.integers(0, len(lines) - 1))] = draw(st.lists(cell, max_size=5))
    if draw(st.integers(0, 2)) == 0 and all(lines):
        chosen = draw(st.integers(0, len(lines) - 1))
        lines[chosen] = [draw(cell) if draw(st.booleans()) else one for one in lines[chosen]]
    mark, comma, end = draw(st.sampled_from(((b"", ",", "\n"), (b"\xef\xbb\xbf", ",", "\r\n"), (b"", ";", "\r"), (b"\xff\xfe", ",", "\n"))))
    if draw(st.booleans()):
        mark, comma, end = b"", ",", "\n"
    tail = draw(st.one_of(st.just(b""), st.just(b""), st.sampled_from((b"\0", b'"', b"\xff", b"\n\n")), st.binary(max_size=20)))
    return mark + end.join(map(comma.join, lines)).encode("utf-8", "surrogatepass") + tail


TARGET = ("transforms", "method", "backbone", "evaluation", "target", "metric", "value", "source")
targets = table(TARGET, st.lists(st.just(["", "simclr", "one_layer", "linear", "label", "top1", "0.5", "Table 1"]), max_size=3))
supers = table(("class", "superclass"), st.just([[str(n), "even" if n % 2 == 0 else "odd"] for n in range(10)]))


@cases(40)
@given(st.one_of(st.tuples(st.just("targets"), targets), st.tuples(st.just("superclasses"), supers)), st.sampled_from(("", "--focus=even,3")))
def test_tables_that_a_flag_names(bench, given, focus):
    name, content = given
    path = bench.folder / "t.csv"
    path.write_bytes(content)
    argv = [*BASE, "--stages=pretrain,report", f"--{name}={path}", *filter(None, [focus])]
    judge([*argv, content], bench(*argv))


RESULT = ("run", "seed", "color_jitter.hue", "method", "backbone", "dataset", "transforms", "epoch", "evaluation", "target")
RESULT = (*RESULT, "class", "metric", "value")
sweep = [
    [f"x/{hue}-{seed}", str(seed), str(hue), "simclr", "resnet18", "mine", "crops", "9", "linear", "label", name, "accuracy", value]
    for seed in (1, 2)
    for hue in (0.0, 0.25, 0.5)
    for name, value in (("cat", str(0.5 + hue / 2 + seed / 50)), ("dog", str(0.7 - hue / 3 - seed / 90)))
]
per_class = table(RESULT, st.one_of(st.just(sweep), st.just(sweep[:4]), st.just([])))


@cases(40)
@given(per_class, st.one_of(st.none(), per_class), st.sampled_from(("", "--focus=cat", "--study_of=linear:f1", "--superclasses=k.csv", "--compare=seed")))
def test_tables_of_finished_folders(bench, content, other, setting):
    (bench.folder / "k.csv").write_text("class,superclass\ncat,pet\ndog,pet\n")
    folders = ["theirs", *(["others"] if other is not None else [])]
    for name, each in zip(folders, (content, other)):
        (bench.folder / name).mkdir()
        (bench.folder / name / "per_class.csv").write_bytes(each)
    argv = ["--stages=report", *filter(None, [setting])]
    try:
        judge([*argv, content, other], bench(*argv, workdir=",".join(folders)))
    finally:
        for name in folders:
            shutil.rmtree(bench.folder / name)


def encoded(kind: str, pixels: np.ndarray) -> bytes:
    """An image as a file of some kind."""
    if kind == "NPY":
        np.save(file := io.BytesIO(), pixels)
    else:
        Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colours: int, content: bytes) -> bytes:
    """A PNG that says of itself what it likes."""
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


KINDS = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif", "NPY": ".npy"}
PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
SOUND = {kind: encoded(kind, PIXELS) for kind in KINDS}
ODD = {
    "empty": b"",
    "one pixel": encoded("PNG", PIXELS[:1, :1]),
    "grey": encoded("PNG", PIXELS[..., 0]),
    "16 bits": encoded("TIFF", PIXELS[..., 0].astype(np.uint16) * 257),
    "floats": encoded("NPY", PIXELS / np.float32(255)),
    "objects": encoded("NPY", np.array([{}], object)),
    "a stack": encoded("NPY", np.stack([PIXELS] * 3)),
    "a stack of none": encoded("NPY", PIXELS[:0, None]),
    "a stack of a billion": encoded("NPY", np.stack([PIXELS] * 2)).replace(b"(2, 16, 16, 3)", b"(1000000000, 16, 16, 3)"),
    "no array": b"\x93NUMPY\x01\x00\xff\xff{'descr': '<u1', 'shape': (1,)}",
    "bomb": png(40_000, 40_000, 8, 2, b"\0" * 1_000),
    "giant": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
    "deep giant": png(2**31 - 1, 2**31 - 1, 16, 2, b""),
    "deep bomb": png(40_000, 40_000, 16, 6, b"\0" * 1_000),
    "no width": png(0, 16, 8, 2, b""),
    "no such colours": png(16, 16, 16, 7, b"\0" * 1_000),
    "text": b"<svg/>",
}  # fmt: skip


@st.composite
def picture(draw: st.DrawFn) -> tuple[str, bytes]:
    """The end of a file's name, and what is in it: an image, one that is cut or altered, another kind's, or none."""
    kind = draw(st.sampled_from([*KINDS]))
    content = SOUND[kind]
    match draw(st.integers(0, 7)):
        case 0:
            content = content[: draw(st.integers(0, len(content)))]
        case 1 | 2:
            # Most of what decoders read wrongly stands in the first bytes.
            near = draw(st.booleans())
            at = draw(st.integers(0, min(80, len(content)) - 1 if near else len(content) - 1))
            new = draw(st.binary(min_size=1, max_size=6))
            content = content[:at] + new + content[at + len(new) :]
        case 3:
            content = draw(st.binary(max_size=60))
        case 4:
            content = ODD[draw(st.sampled_from([*ODD]))]
        case 5:
            content = content[: draw(st.integers(1, 12))] + draw(st.binary(max_size=60))
        case 6:
            content = SOUND[draw(st.sampled_from([*KINDS]))]
    return KINDS[kind], content


OF_FILES = ("", "--resize=8", "--stream=decode", "--channels=3", "--label=none", "--max_images=2", "--channel_files={stem}_{a,b}.*")
NAMES = ("x", "a b", "ü", "x_a", "y_b", "[1]", "{stem}", "x.npy[3]", "%s", "a|b", "-x", "\udcff", "\n")


@cases(100)
@given(
    st.lists(st.tuples(st.sampled_from(("", "cat", "dog", "train/cat", "test/cat", ".git")), st.sampled_from(NAMES), picture()), max_size=4),
    st.integers(0, 3),
    st.lists(st.sampled_from(OF_FILES), max_size=2),
)
def test_folders(bench, files, sound, settings):
    root = bench.folder / "images"
    files = [*files, *(("cat", f"sound{number}", (".png", SOUND["PNG"])) for number in range(sound))]
    root.mkdir()
    for number, (place, name, (end, content)) in enumerate(files):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / f"{number}{name}{end}").write_bytes(content)
    argv = [*BASE, f"--dataset=folder:{root}", "--batch_size=2", "--transforms=horizontal_flip", *filter(None, settings)]
    try:
        judge([*argv, files], bench(*argv))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)


LISTED = table(
    ("path", "label", "split", "plate"),
    st.just([["0.png", "a", "train", "1"], ["1.png", "b", "train", "1"], ["2.png", "a", "train", "2"], ["3.png", "a", "test", "3"]]),
)


@cases(60)
@given(
    LISTED,
    picture(),
    st.lists(
        st.sampled_from(("--label=plate", "--label=none", "--group=plate", "--split_column=none", "--path_column=path,label", *OF_FILES)),
        max_size=2,
    ),
)
def test_listed_images(bench, content, last, settings):
    root = bench.folder / "listed"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(SOUND["PNG"])
    (root / "3.png").write_bytes(last[1])
    (root / "stack.npy").write_bytes(ODD["a stack"])
    (root / "t.csv").write_bytes(content)
    argv = [*BASE, f"--dataset=table:{root / 't.csv'}", "--batch_size=2", "--transforms=horizontal_flip", *filter(None, settings)]
    try:
        judge([*argv, content, last], bench(*argv))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)
