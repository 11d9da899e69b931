"""What a compiled program's devices send to each other: the collectives of its HLO text, their bytes and their groups."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "f16": 16}  # the others say their own: f32, s64, u8

_CALL = re.compile(rf"= (?P<result>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|branch_computations|async_execution_thread)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)


class Collective(NamedTuple):
    """One collective operation of a step.

    Attributes:
      kind: of `KINDS`.
      bytes: of its result on one device.
      group: how many devices take part together.
      looped: whether it stands in a loop, so that it runs once an iteration.
    """

    kind: str
    bytes: int
    group: int
    looped: bool = False

    @property
    def sent(self) -> float:
        """Bytes that each device sends (and receives) by the ring algorithms; of an all-reduce 2(n-1)/n of the array."""
        n = self.group
        shares = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        return self.bytes * shares.get(self.kind, (n - 1) / n)


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program, from its text, as one device executes it; those of a device alone are left out."""
    found: dict[str, list[Collective]] = {}
    called: dict[str, set[str]] = {}
    bodies: set[str] = set()
    name = ""
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[1]
            continue
        callees = {each.strip(" %") for each in _CALLED.findall(line) for each in each.split(",")}
        called.setdefault(name, set()).update(callees)
        if " while(" in line:
            bodies |= callees
        if call := _CALL.search(line):
            group = _group(call["kind"], call["rest"])
            if group > 1:
                found.setdefault(name, []).append(Collective(call["kind"], _size(call["result"]), group))
    looped = set(bodies)
    while more := set().union(*(called.get(each, set()) for each in looped)) - looped:
        looped |= more
    return [each._replace(looped=name in looped) for name, many in found.items() for each in many]


def _size(result: str) -> int:
    """Bytes of an array or a tuple of them, as f32[8,128]{1,0} or (f32[2], s32[])."""
    return sum(
        math.prod(map(int, filter(None, shape.split(",")))) * (_BITS.get(kind) or int(re.sub(r"\D", "", kind))) // 8
        for kind, shape in _ARRAY.findall(result)
    )


def _group(kind: str, attributes: str) -> int:
    """How many devices a collective is over; a permutation is over two."""
    if kind == "collective-permute":
        return 2
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(counted[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    raise ValueError(f"a collective without groups: {attributes[:200]}")
