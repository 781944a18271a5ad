"""Bytes that a compiled program moves in device memory, and its kernels, from its HLO.

All computations that run are counted: the entry, calls, loops by their trip count, and
each branch of a conditional apart. Arrays in the on-chip memory of a TPU are not counted;
of slices, gathers, scatters and updates in place, the part that moves.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import product
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_OPENING = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_DEFINITION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_KIND = re.compile(r"([\w\-]+)\(")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
ENTRY = "ENTRY"
# What moves nothing, or ends what another operation began.
_FREE = {
    "add-dependency",
    "after-all",
    "all-gather-done",
    "all-reduce-done",
    "async-done",
    "bitcast",
    "collective-permute-done",
    "constant",
    "copy-done",
    "custom-call-start",
    "custom-call-update",
    "domain",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "reduce-scatter-done",
    "slice-done",
    "tuple",
}
_CALLS = {"while": "body", "call": "to_apply", "async-start": "calls"}
# The SparseCores of a TPU gather rows in an asynchronous call.
_PARTS = {"custom-call-done", "dynamic-slice", "gather", "slice"}
_IN_PLACE = {"dynamic-update-slice", "scatter"}


class Op(NamedTuple):
    """An operation; its operands are names."""

    name: str
    kind: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"{attribute}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else ""

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed is None:
            return [self.called(f"{value}_computation") for value in ("false", "true")]
        return [name.strip().lstrip("%") for name in listed.group(1).split(",")]

    @property
    def trips(self) -> int:
        """How often a loop runs; 1 for what is no loop, or of unknown length."""
        found = _TRIPS.search(self.attributes)
        return int(found.group(1)) if found else 1


class Cost(NamedTuple):
    """Bytes and kernels outside of conditionals, and those of each of their branches."""

    moved: float
    kernels: int
    conditionals: tuple[tuple["Cost", ...], ...]

    @property
    def cases(self) -> list[tuple[float, int]]:
        """Bytes and kernels of a call, for each combination of branches."""
        taken = [
            [case for branch in branches for case in branch.cases]
            for branches in self.conditionals
        ]
        return [
            (self.moved + sum(b for b, _ in case), self.kernels + sum(n for _, n in case))
            for case in product(*taken)
        ]


def cost(text: str) -> Cost:
    """What a call of the program with this HLO text moves and launches."""
    return _Counter(parse(text)).of(ENTRY)


def size(type_: str, on_chip: bool = False) -> float:
    """Bytes of the arrays in a type; those in on-chip memory only if asked."""
    return sum(
        int(bits or 8) / 8 * math.prod(int(n) for n in dims.split(",") if n)
        for _, bits, dims, layout in _ARRAY.findall(type_)
        if on_chip or "S(" not in layout
    )


def parse(text: str) -> dict[str, list[Op]]:
    """The operations of each computation; that of the program is called ``ENTRY``."""
    found: dict[str, list[Op]] = {}
    current: list[Op] | None = None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        opening = _OPENING.match(line)
        definition = _DEFINITION.match(line)
        if opening and not line.startswith("HloModule"):
            current = found[ENTRY if opening.group(1) else opening.group(2)] = []
        elif line.startswith("}"):
            current = None
        elif current is not None and definition:
            op = _parse_op(definition, line[definition.end() :])
            current += [op] if op else []
    return found


def _parse_op(definition: re.Match[str], rest: str) -> Op | None:
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    kind = _KIND.match(rest)
    if kind is None:
        return None
    start = kind.end() - 1
    close = start + _closing(rest[start:])
    operands = [x.split(" ")[-1].lstrip("%") for x in elements(rest[start : close + 1])]
    root, name = definition.groups()
    attributes = rest[close + 1 :]
    return Op(name, kind.group(1), type_, tuple(operands), attributes, bool(root))


def _closing(text: str) -> int:
    """Where the parenthesis that a text begins with is closed."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return i
    return len(text) - 1


def elements(tuple_: str) -> list[str]:
    """The elements of a tuple that is written in parentheses."""
    parts, depth = [""], 0
    for char in tuple_[1:-1]:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


class _Counter:
    """The costs of computations, each computed once."""

    def __init__(self, computations: Mapping[str, Sequence[Op]]) -> None:
        self._computations, self._known = computations, dict[str, Cost]()

    def of(self, name: str) -> Cost:
        if name not in self._known:
            ops = self._computations.get(name, ())
            types = {op.name: op.type for op in ops}
            costs = [self._of_op(op, types) for op in ops if op.kind not in _FREE]
            self._known[name] = reduce(_add, costs, Cost(0.0, 0, ()))
        return self._known[name]

    def _of_op(self, op: Op, types: Mapping[str, str]) -> Cost:
        if op.kind == "conditional":
            return Cost(0.0, 0, (tuple(self.of(name) for name in op.branches),))
        if op.kind in _CALLS:
            inner, n = self.of(op.called(_CALLS[op.kind])), op.trips
            return Cost(n * inner.moved, n * inner.kernels, inner.conditionals)
        return Cost(self._moved(op, types), 1, ())

    def _moved(self, op: Op, types: Mapping[str, str]) -> float:
        operands = [types.get(name, "") for name in op.operands]
        fused = self._computations.get(op.called("calls"))
        if op.kind == "fusion" and fused is not None:
            inside = _Fusion(fused)
            written = min(size(op.type), inside.written)
            return written + sum(map(inside.read, range(len(operands)), operands))
        if op.kind in ("copy-start", "slice-start"):
            return sum(size(part) for part in elements(op.type)[:2])
        if op.kind in _PARTS:
            return 2 * size(op.type)
        if op.kind == "dynamic-update-slice":
            return 2 * size(operands[1])
        if op.kind == "scatter":  # rows are read, added to, and written
            return 3 * size(operands[-1])
        return size(op.type) + sum(map(size, operands))


def _add(a: Cost, b: Cost) -> Cost:
    conditionals = (*a.conditionals, *b.conditionals)
    return Cost(a.moved + b.moved, a.kernels + b.kernels, conditionals)


class _Fusion:
    """What a kernel of several operations reads of its operands, and writes."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops, self._named = ops, {op.name: op for op in ops}

    @cached_property
    def _parameters(self) -> dict[int, str]:
        inputs = (op for op in self._ops if op.kind == "parameter")
        return {int(op.operands[0]): op.name for op in inputs}

    def read(self, index: int, type_: str) -> float:
        """Bytes of an operand that are read: parts, where all uses take parts."""
        whole, parts = size(type_), 0.0
        uses = list(self._uses(self._parameters[index]))
        for name, user in uses:
            if user.operands[0] != name or user.kind not in _PARTS | _IN_PLACE:
                return whole
            if user.kind in _PARTS:
                parts += size(user.type, on_chip=True)
            elif user.kind == "scatter":
                parts += self._size(user.operands[-1])
        return min(parts, whole) if uses else whole

    def _uses(self, name: str) -> Iterator[tuple[str, Op]]:
        """The users of a value, also under another shape, and its name there."""
        for user in self._ops:
            if name in user.operands:
                if user.kind == "bitcast" and not user.is_root:
                    yield from self._uses(user.name)
                else:
                    yield name, user

    @cached_property
    def written(self) -> float:
        """Bytes of the results; of those that are updated in place, the new part."""
        if not any(op.kind in _IN_PLACE for op in self._ops):
            return math.inf
        return sum(self._written_by(op.name) for op in self._ops if op.is_root)

    def _written_by(self, name: str) -> float:
        op = self._named[name]
        if op.kind == "tuple":
            return sum(map(self._written_by, op.operands))
        if op.kind == "bitcast":
            return self._written_by(op.operands[0])
        if op.kind == "scatter":
            return self._size(op.operands[-1])
        if op.kind == "dynamic-update-slice":
            return self._size(op.operands[1])
        return size(op.type, on_chip=True)

    def _size(self, name: str) -> float:
        return size(self._named[name].type, on_chip=True)
