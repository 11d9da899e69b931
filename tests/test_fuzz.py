"""Whatever is given to the command line: it does it or says in one line what is wrong, and then it has written nothing.

Training, measuring and the estimate of memory, which compiles, are left out of a command, so that a good one is as cheap as a bad
one. `SSLJAX_FUZZ=20 pytest tests/test_fuzz.py` tries twenty times as many cases.
"""

import contextlib
import functools
import io
import json
import os
import shutil
import struct
import subprocess
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
from matplotlib.figure import Figure
from PIL import Image

from ssljax import cli, config, data, determinism, forecast, pipeline, planning, processes
from ssljax.augment.catalogue import TRANSFORMS
from ssljax.augment.sets import SETS
from ssljax.methods import METHODS
from ssljax.models import BACKBONES
from ssljax.report import joined
from ssljax.train import memory
from ssljax.train.memory import Memory
from ssljax.train.optimizers import OPTIMIZERS

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
            code = cli.main(["run.py", *own, *argv])
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
    load = functools.cache(data.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SSLJAX_CACHE", str(folder / "cache"))
        patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        patch.setattr(cli, "_quiet", lambda: None)
        patch.setattr(cli, "_cache_compilations", lambda: None)
        patch.setattr(determinism, "ask", lambda: None)
        patch.setattr(processes.jax.distributed, "initialize", _alone)
        patch.setattr(pipeline, "_do", lambda *_: None)
        patch.setattr(pipeline, "_evaluate_baselines", lambda *_: None)
        patch.setattr(pipeline, "preview", lambda *_: None)
        patch.setattr(forecast, "dry_run", functools.partial(forecast.dry_run, measured=False))
        patch.setattr(joined, "write_joined", functools.partial(joined.write_joined, draws=2))
        patch.setattr(
            Figure,
            "savefig",
            lambda self, file, **_: Path(file).write_bytes(b"drawn") if isinstance(file, str | Path) else None,
        )
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
FLAGS = (
    "workdir",
    "stages",
    "help_method",
    "yes",
    "deterministic",
    "help",
    "coordinator",
    "num_processes",
    "process_id",
)
FLAGS = (*FLAGS, "distributed", "dry_run", "flagfile", "undefok", "nosuchflag", "noyes", "h", "learning_rat")

numbers = st.one_of(st.integers(-3, 200), st.floats(), st.integers()).map(str)
nasty = st.sampled_from(NASTY)
junk = st.text(st.characters(codec=None), max_size=12)
texts = st.one_of(
    nasty, nasty, numbers, junk, st.lists(st.one_of(nasty, numbers), min_size=2, max_size=3).map(",".join)
)


SOUND_TEXTS = {
    "method": [*METHODS],
    "second_method": [*METHODS],
    "transforms": [*SETS, *TRANSFORMS],
    "second_transforms": [*SETS, *TRANSFORMS],
    "evaluations": [*config.EVALUATIONS, "knn@10%", "kmeans@k4", "linear,knn", "finetune@1%", "logreg@digits"],
    "preset": ["paper", "solo", "digits"],
    "optimizer": [*OPTIMIZERS],
    "backbone": ["one_layer", *BACKBONES],
    "seeds": ["1", "1,2,3", "0,4294967295"],
    "focus": ["3", "3,4"],
    "mesh": ["run:1", "data:1", "run:1,data:1", "run:2", "data:8,run:1", "run:0"],
    "compare": ["method=simclr vs method=byol", "method=mocov2plus vs method=random", "seed=1 vs seed=2", ";", " vs "],
    "study_of": ["knn", "linear:f1", "linear@10%", "nosuch", ":", "knn:"],
    "embed_on": ["train", "test", "train,test"],
    "probe_learning_rates": ["0.1,1", "0.1", "0"],
    "dataset": [
        "digits",
        "digits:",
        "miniature:",
        "folder:",
        "npz:",
        "table:",
        "nosuch",
        "npz:/dev/null",
        "table:/dev/null",
    ],
}


@st.composite
def values(draw: st.DrawFn, name: str) -> str:
    """A value for a flag: often one of its own, near it, or of its type."""
    field = config.fields().get(name)
    if field is None:
        return draw(
            st.one_of(texts, st.sampled_from(("pretrain", "report", "pretrain,report", "evaluate", "export,embed")))
        )
    meta = field.metadata
    least = meta["low"] or 0
    sound = st.sampled_from(meta["choices"] or ("",))
    if not meta["choices"] and meta["kind"] in (int, float):
        sound = (st.integers(int(least), int(least) + 3) if meta["kind"] is int else st.floats(least, least + 1)).map(
            str
        )
    elif name in SOUND_TEXTS:
        sound = st.sampled_from(SOUND_TEXTS[name])
    near = st.sampled_from((str(meta["low"]), str(meta["high"]), str(field.default), str(least - 1)))
    return draw(st.one_of(sound, sound, near, texts))


@st.composite
def flag(draw: st.DrawFn) -> str:
    """One argument."""
    name = draw(
        st.one_of(st.sampled_from([*config.fields()]), st.sampled_from([*config.fields()]), st.sampled_from(FLAGS))
    )
    value = draw(values(name))
    odd = st.sampled_from(("-{}={}", "--{}", "--no{}", "--{} {}", "{}={}", "{1}"))
    return (draw(odd) if draw(st.integers(0, 7)) == 0 else "--{}={}").format(name, value)


@cases(200)
@given(st.lists(flag(), min_size=1, max_size=3))
@example(["--noyes=1"])
@example([f"--epochs={'9' * 400}"])
@example(["--pretrained=/"])
@example(["--resize=99999999999"])
@example([f"--checkpoint={'9' * 400}"])
@example(["--data_dir=\udcff"])
@example(["--lpips_heads=a\nb"])
@example([f"--mesh=run:{'9' * 5000}"])
@example([f"--evaluations=kmeans@k{'9' * 5000}"])
@example(["--method=simclr", "--temperature=1e39"])
@example(["--stages=evaluate"])
@example(["--method=simclr", "--sweep=temperature=0:1:1000000000", "--yes"])
@example(["--method=simclr", "--sweep=temperature=.1:1:9999", "--sweep=learning_rate=.1:1:9999", "--yes"])
@example(
    [f"--{name}={','.join(map(str, range(2, 32)))}" for name in ("epochs", "batch_size", "hidden_dim", "output_dim")]
)
def test_flags(bench, given):
    workdir = None if any(one.lstrip("-").startswith("workdir") for one in given) else "w"
    argv = [*BASE, *given]
    judge(argv, bench(*argv, workdir=workdir))


# A line of a flagfile that may be one of ours, or garbled.
line = st.one_of(
    flag(),
    nasty,
    junk,
    st.sampled_from(
        ("# a remark", "", "--flagfile=f.cfg", "--flagfile=g.cfg", "--flagfile=.", "--flagfile=", "--epochs=20", "  ")
    ),
)


@cases(80)
@given(
    st.lists(line, max_size=5),
    st.lists(line, max_size=2),
    st.binary(max_size=30),
    st.sampled_from(("f.cfg", "w/flagfile.cfg")),
)
@example([], [], b"\xff", "f.cfg")
@example(["--data_dir=a\0b"], [], b"", "f.cfg")
def test_flagfiles(bench, lines, others, tail, name):
    (bench.folder / "w").mkdir(exist_ok=True)
    path = bench.folder / name
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + tail)
    (bench.folder / "g.cfg").write_bytes("\n".join(others).encode("utf-8", "surrogatepass"))
    argv = [*BASE, f"--flagfile={path}"] if name == "f.cfg" else ["--stages=report"]
    try:
        judge(
            [*argv, lines, others, tail],
            bench(*argv, workdir=None if any("workdir" in one for one in lines + others) else "w"),
        )
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
        st.sampled_from(
            ("True", "None", "(1,2)", "[]", "'x'", "1e400", "-1", "1+1", "x", "()", "{}", "f()", "1j", "b'1'", "-True")
        ),
    )
    return f"{name}({','.join(f'{one}={draw(value)}' for one in chosen)})"


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A text, or one with something put into it, or cut out of it."""
    if draw(st.booleans()):
        return text
    at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    return text[:at] + draw(st.one_of(st.just(""), nasty, junk)) + text[end:]


definition = st.tuples(
    transform(), transform(), transform(), st.sampled_from("+|&+"), st.sampled_from(("+", "|", "&", "+ ", "++"))
)
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
good = st.sampled_from(("0.2,0.4", "0.3:0.5:2", "0.25", "1,2", "0.5:0.5:1"))
one_good = st.sampled_from(("0.25", "1", "0.5:0.5:1", "0.9"))
sound = st.sampled_from(ADDRESSES[:9])
assignment = st.one_of(
    st.tuples(st.sampled_from(("sweep", "set")), sound, st.one_of(one_good, span)),
    st.tuples(st.just("sweep"), sound, good),
    st.tuples(st.just("set"), st.sampled_from(ADDRESSES), one_good),
    st.tuples(st.sampled_from(("sweep", "set")), st.sampled_from(ADDRESSES).flatmap(mutated), span),
).map(lambda t: f"--{t[0]}={t[1]}={t[2]}")


@cases(100)
@given(
    st.lists(assignment, min_size=1, max_size=3),
    st.sampled_from([*METHODS]),
    st.sampled_from(("", "--second_transforms=rotation+horizontal_flip")),
)
def test_addresses(bench, given, method, second):
    argv = [*BASE, f"--method={method}", "--transforms=rotation+random_resized_crop", *filter(None, [second]), *given]
    judge(argv, bench(*argv))


# Cells that tables have broken on: quotes that never close, a cell beyond csv's limit, what is no text.
cell = st.one_of(
    st.sampled_from(
        ("", "a", "b", "1", "0.5", "train", "test", "0.png", "1.png", "2.png", "3.png", "simclr", "linear", "top1")
    ),
    st.sampled_from(
        (
            '"',
            '"a',
            '""',
            "a\0b",
            "\n",
            "\r",
            '"x\ny"',
            "a,b",
            ";",
            "\t",
            "x" * 140_000,
            "../0.png",
            "/dev/null",
            "stack.npy",
        )
    ),
    numbers,
    nasty,
    junk,
)


@st.composite
def table(draw: st.DrawFn, header: Sequence[str], rows: st.SearchStrategy[list[list[str]]]) -> bytes:
    """A CSV as it should be, or with one or two things wrong in it."""
    lines = [list(header), *map(list, draw(rows))]
    mark, comma, end, tail = b"", ",", "\n", b""
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(header) - 1))
        match draw(st.integers(0, 9)):
            case 0:
                lines = [one[:column] + one[column + 1 :] for one in lines]
            case 1:
                new = draw(cell)
                lines = [[*one[:column], new, *one[column:]] for one in lines]
            case 2:
                lines[row] = draw(st.lists(cell, max_size=5))
            case 3:
                lines.insert(row, draw(st.sampled_from(lines)))
            case 4:
                mark, comma, end = draw(
                    st.sampled_from(((b"\xef\xbb\xbf", ",", "\r\n"), (b"", ";", "\r"), (b"\xff\xfe", ",", "\n")))
                )
            case 5:
                tail = draw(
                    st.one_of(st.sampled_from((b"\0", b'"', b"\xff", b"\n\n", b",", b'"a\n')), st.binary(max_size=9))
                )
            case _:
                lines[row] = [draw(cell) if n == column else one for n, one in enumerate(lines[row])]
    return mark + end.join(map(comma.join, lines)).encode("utf-8", "surrogatepass") + tail


TARGET = ("transforms", "method", "backbone", "evaluation", "target", "metric", "value", "source")
targets = table(
    TARGET, st.lists(st.just(["", "simclr", "one_layer", "linear", "label", "top1", "0.5", "Table 1"]), max_size=3)
)
supers = table(("class", "superclass"), st.just([[str(n), "even" if n % 2 == 0 else "odd"] for n in range(10)]))


@cases(40)
@given(
    st.one_of(st.tuples(st.just("targets"), targets), st.tuples(st.just("superclasses"), supers)),
    st.sampled_from(("", "--focus=even,3")),
)
@example(("superclasses", b"class,superclass\n3," + b"x" * 140_000), "")
def test_tables_that_a_flag_names(bench, given, focus):
    name, content = given
    path = bench.folder / "t.csv"
    path.write_bytes(content)
    argv = [*BASE, "--stages=pretrain,report", f"--{name}={path}", *filter(None, [focus])]
    judge([*argv, content], bench(*argv))


RESULT = (
    "run",
    "seed",
    "color_jitter.hue",
    "method",
    "backbone",
    "dataset",
    "transforms",
    "epoch",
    "evaluation",
    "target",
)
RESULT = (*RESULT, "class", "metric", "value")
sweep = [
    [
        f"x/{hue}-{seed}",
        str(seed),
        str(hue),
        "simclr",
        "resnet18",
        "mine",
        "crops",
        "9",
        "linear",
        "label",
        name,
        "accuracy",
        value,
    ]
    for seed in (1, 2)
    for hue in (0.0, 0.25, 0.5)
    for name, value in (("cat", str(0.5 + hue / 2 + seed / 50)), ("dog", str(0.7 - hue / 3 - seed / 90)))
]
per_class = table(RESULT, st.sampled_from((sweep, sweep, sweep[:4], [])))


@cases(40)
@given(
    per_class,
    st.one_of(st.none(), per_class),
    st.sampled_from(("", "--focus=cat", "--study_of=linear:f1", "--superclasses=k.csv", "--compare=seed")),
)
@example("\n".join(map(",".join, (RESULT, *sweep))).encode(), None, "--compare=seed")
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
    "a header that does not end": b"\x93NUMPY\x01\0\x0a\0{'descr': (\n",
    "a TIFF of no rows": SOUND["TIFF"].replace(b"\x01\x01\x04\0\x01\0\0\0\x10", b"\x01\x01\x04\0\x01\0\0\0\0"),
    "a TIFF of no such colours": SOUND["TIFF"].replace(b"\x06\x01\x03\0\x01\0\0\0\x02\0", b"\x06\x01\x03\0\x01\0\0\0\x02."),
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


OF_FILES = (
    "",
    "--resize=8",
    "--stream=decode",
    "--channels=3",
    "--label=none",
    "--max_images=2",
    "--channel_files={stem}_{a,b}.*",
)
OF_PICTURES = ("--batch_size=2", "--transforms=horizontal_flip", "--evaluations=knn", "--knn_k=1", "--image_size=8")
NAMES = ("x", "a b", "ü", "x_a", "y_b", "[1]", "{stem}", "x.npy[3]", "%s", "a|b", "-x", "\udcff", "\n")


@cases(100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("cat", "dog", "cat", "dog", "cat/deeper", "", "train/cat", "test/cat", ".git")),
            st.sampled_from(NAMES),
            picture(),
        ),
        max_size=3,
    ),
    st.sampled_from((0, 8, 8, 8)),
    st.lists(st.sampled_from(OF_FILES), max_size=2),
)
@example([("cat", "x", (".png", content)) for content in ODD.values()], 8, ["--resize=8", "--channels=3"])
def test_folders(bench, files, sound, settings):
    root = bench.folder / "images"
    files = [
        *files,
        *(("cat" if number % 2 else "dog", f"sound{number}", (".png", SOUND["PNG"])) for number in range(sound)),
    ]
    root.mkdir()
    for number, (place, name, (end, content)) in enumerate(files):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / f"{number}{name}{end}").write_bytes(content)
    argv = [*BASE, f"--dataset=folder:{root}", *OF_PICTURES, *filter(None, settings)]
    try:
        judge([*argv, files], bench(*argv))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)


LISTED = table(
    ("path", "label", "split", "plate"),
    st.just([[f"{n}.png", "ab"[n % 2], "test" if n > 5 else "train", str(n // 2)] for n in range(8)]),
)


@cases(60)
@given(
    LISTED,
    picture(),
    st.lists(
        st.sampled_from(
            (
                "--label=plate",
                "--label=none",
                "--group=plate",
                "--split_column=none",
                "--path_column=path,label",
                *OF_FILES,
            )
        ),
        max_size=2,
    ),
)
def test_listed_images(bench, content, last, settings):
    root = bench.folder / "listed"
    root.mkdir()
    for number in range(7):
        (root / f"{number}.png").write_bytes(SOUND["PNG"])
    (root / "7.png").write_bytes(last[1])
    (root / "stack.npy").write_bytes(ODD["a stack"])
    (root / "t.csv").write_bytes(content)
    argv = [*BASE, f"--dataset=table:{root / 't.csv'}", *OF_PICTURES, *filter(None, settings)]
    try:
        judge([*argv, content, last], bench(*argv))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)


json_text = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(("x", "mocov2plus", "seed=5"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ("program", "run", "epoch", "loss", "diverged", "data", "encoders", "wall_seconds", "programs")
            ),
            inner,
            max_size=4,
        ),
    ),
).map(json.dumps)
garbled = st.one_of(
    json_text.map(str.encode), st.lists(json_text, max_size=3).map("\n".join).map(str.encode), st.binary(max_size=20)
)
whole = [[*row[:8], "knn", "label", "", "top1", row[-1]] for row in sweep]


@cases(50)
@given(
    st.dictionaries(
        st.sampled_from(("run.json", "metrics.jsonl", "checkpoints/execution.json", "artifacts/x.npz", "flagfile.cfg")),
        garbled,
        max_size=2,
    ),
    st.one_of(st.none(), per_class),
    st.one_of(st.none(), per_class),
    st.sampled_from(("--stages=report", "--stages=pretrain,report", "--stages=evaluate,report")),
)
@example({"run.json": b"null"}, None, None, "--stages=report")
@example(
    {"run.json": b'{"data": [], "encoders": 0, "wall_seconds": {"pretrain": ""}}'},
    None,
    None,
    "--stages=pretrain,report",
)
@example({}, None, "\n".join(map(",".join, (RESULT, *sweep))).encode(), "--stages=report")
def test_workdirs_that_something_befell(bench, others, per_class, results, stages):
    root = bench.folder / "w"
    for name in ("checkpoints", "artifacts"):
        (root / name).mkdir(parents=True)
    (root / "flagfile.cfg").write_text("--dataset=digits\n--backbone=one_layer\n--epochs=20\n")
    tables = {"per_class.csv": per_class, "results.csv": results}
    for name, content in {**others, **{n: c for n, c in tables.items() if c is not None}}.items():
        (root / name).write_bytes(content)
    argv = [stages, "--dataset=digits", "--backbone=one_layer", "--epochs=20"]
    try:
        outcome = bench(*argv)
        # Its own notes are written before what it reads is looked at; what was measured stays as it is.
        measured = [
            name
            for name in outcome.changed
            if name.endswith((".csv", ".jsonl", ".npz")) and name[2:] in (*others, *tables)
        ]
        judge([*argv, others, per_class, results], outcome._replace(changed=measured))
    finally:
        shutil.rmtree(root)


def archived(**arrays: np.ndarray) -> bytes:
    """An .npz file."""
    np.savez(file := io.BytesIO(), **arrays)
    return file.getvalue()


ARCHIVES = (
    archived(images=np.stack([PIXELS] * 8), labels=np.arange(8) % 2),
    archived(train_images=np.stack([PIXELS] * 4), test_images=np.stack([PIXELS] * 4)),
    archived(images=np.array([{}], object)),
    archived(),
)


@cases(30)
@given(
    st.sampled_from(ARCHIVES),
    st.floats(0, 1),
    st.binary(max_size=8),
    st.sampled_from(("", "--label=x", "--resize=4", "--stream=decode")),
)
def test_archives(bench, content, place, new, setting):
    path = bench.folder / "a.npz"
    at = int(place * len(content))
    path.write_bytes(content[:at] + new + content[at + len(new) :] if place < 0.9 else content[:at])
    argv = [*BASE, f"--dataset=npz:{path}", *OF_PICTURES, *filter(None, [setting])]
    try:
        judge([*argv, at, new], bench(*argv))
    finally:
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)


ENCODER = {"a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"ssljax": "{}"}}


@cases(30)
@given(
    st.sampled_from((".safetensors", ".pth", ".ckpt", ".npz")),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(("F32", "U8", "x", "format", ""))),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from((*ENCODER["a.weight"], *ENCODER, "x")), inner, max_size=4),
        ),
    ),
    st.sampled_from(("", "head", "cut", "long")),
    st.sampled_from(("--stages=evaluate", "--stages=pretrain", "--stages=embed")),
)
def test_files_of_encoders(bench, end, found, wrong, stage):
    head = json.dumps(ENCODER if wrong else found).encode()
    length = struct.pack("<Q", len(head) if wrong != "long" else 2**62)
    path = bench.folder / f"encoder{end}"
    path.write_bytes((length + head + b"\0" * 16)[: 20 if wrong == "cut" else None])
    name = "checkpoint" if stage == "--stages=embed" else "pretrained"
    argv = ["--dataset=digits", stage, f"--{name}={path}"]
    judge([*argv, path.read_bytes()], bench(*argv))


# What each exit code of the documentation means, in processes of their own, with nothing left out.
TINY = (
    "--dataset=digits",
    "--backbone=vgg11_bn",
    "--width=0.03125",
    "--image_size=8",
    "--method=simclr",
    "--epochs=1",
    "--warmup_epochs=0",
)
COMMANDS = (
    (0, "--help"),
    (0, "--help_method=mira"),
    (2, "--help_method=moco"),
    (2, "--nosuch=1"),
    (2, "stray"),
    (2, "--epochs"),
    (2, "--epochs=٣.5"),
    (2, "--flagfile={binary}"),
    (2, "--flagfile={cycle}", "--flagfile={cycle}", "stray"),
    (2, "--seeds=1..1000000000"),
    (2, "--sweep=temperature=0:1:1000000000000"),
    (2, "--sweep=temperature=0.1:1:5000", "--method=simclr", "--epochs=20"),
    (2, "--transforms=rotation(degrees=1e400)"),
    (2, "--dataset=folder:{pictures}", "--method=simclr"),
    (2, "--dataset=table:{binary}"),
    (2, "--targets={binary}"),
    (2, "--workdir={binary}", *TINY),
    (2, "--workdir={empty}", "--stages=report"),
    (0, "--workdir={theirs}", "--stages=report"),
    (0, "--workdir={new}", "--stages=pretrain", *TINY),
    (0, "--workdir={new}", "--stages=report"),
    (2, "--workdir={new}", "--stages=pretrain", *TINY, "--batch_size=32"),
)


@pytest.mark.slow
def test_real_commands(tmp_path):
    places = {name: tmp_path / name for name in ("binary", "cycle", "pictures", "empty", "theirs", "new")}
    places["binary"].write_bytes(bytes(range(256)))
    places["cycle"].write_text(f"--flagfile={places['cycle']}\n--epochs=20\n")
    for name in ("pictures", "empty", "theirs"):
        places[name].mkdir()
    for name in ("bomb", "deep giant", "a stack of a billion", "empty"):
        (places["pictures"] / f"{name}.png").write_bytes(ODD[name])
    (places["theirs"] / "per_class.csv").write_text("\n".join(map(",".join, (RESULT, *sweep))))
    script = Path(__file__).parents[1] / "experiments" / "run.py"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "SSLJAX_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }
    for code, *asked in COMMANDS:
        argv = [argument.format(**places) for argument in asked]
        if not any(one.startswith("--workdir") for one in argv):
            argv.append(f"--workdir={tmp_path / 'none'}")
        ran = subprocess.run(
            [sys.executable, script, *argv], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
        )
        said = f"{argv}\n{ran.stdout[-500:]}\n{ran.stderr[-2000:]}"
        assert ran.returncode == code, said
        errors = [one for one in ran.stderr.splitlines() if one.startswith("error: ")]
        assert len(errors) == (code == 2) and "Traceback" not in ran.stdout + ran.stderr, said
        assert not (tmp_path / "none").exists() and not list(tmp_path.glob("ssljax-*.log")), said
