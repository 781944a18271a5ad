"""What a step costs on a TPU and a GPU that are not there, as their compilers say."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from matplotlib.axes import Axes

from benchmarks import _collectives, _devices, _limit
from benchmarks._devices import DEVICES, H200, V5E, Device, Measured
from benchmarks._picture import BLACK, BLUE, ORANGE, figure, tidy
from benchmarks._rows import (
    GROUPS,
    QUICK,
    RATE,
    REASONS,
    Goal,
    Row,
    Transformation,
)
from benchmarks._suite import Suite, say
from benchmarks._summary import Found, table
from rmsprop_optax import low_precision, parallel, rmsprop, sparse

LEGEND = """\
A cell is the bytes that a step moves a parameter, the bytes of temporary memory a
parameter, and the number of kernels; "or" is between the branches of a conditional.
Needed: parameters and state are read and written, gradients are read (twice, where a norm
or a check of all of them comes first). A cell that misses its goal is **bold**."""
TABLES = """\
A table of 1,000,000 rows, of which a step changes 4,096: MB that the step moves / MB of
temporary memory / MB of parameters, state and gradients. By rows: in the formats of
`parallel.row_formats`, which are the default of a GPU."""
LEAVES = "40 leaves of 256 x 256: kernels of a step."
SHARDED = """\
A training step on 4 layers of 4096 x 4096, 269 MB in float32: MB of arguments and
temporary memory on a device, and MB that it sends."""
Curves = dict[str, Any]

HEIGHT, IDS, WIDTHS, NARROW = 1_000_000, 4096, (32, 64, 96, 128, 192, 256), (64,)
BY_ROWS: dict[str, Transformation] = {
    "rmsprop": rmsprop(RATE),
    "sparse.lazy(optax.adam)": sparse.lazy(optax.adam(RATE)),
    "rmsprop, int8": rmsprop(RATE, moment_storage="int8"),
}
DEFAULT, ROWS = LAYOUTS = ("default", "by rows")
COUNT, SMALL = 40, (256, 256)
SMALL_STEPS: dict[str, Transformation] = {
    "rmsprop, momentum": rmsprop(RATE, momentum=0.9),
    "optax.rmsprop, momentum": optax.rmsprop(RATE, momentum=0.9),
    "rmsprop, momentum, global norm": rmsprop(RATE, momentum=0.9, global_clipnorm=1.0),
    "optax.rmsprop, momentum, global norm": optax.chain(
        optax.clip_by_global_norm(1.0), optax.rmsprop(RATE, momentum=0.9)
    ),
    "optax.adam, int8": low_precision(optax.adam(RATE), "int8"),
    "optax.adam": optax.adam(RATE),
}
LAYERS, WIDTH, BATCH = 4, 4096, 256
ADAMS: dict[str, Transformation] = {
    "float32": optax.adam(RATE),
    "int8": low_precision(optax.adam(RATE), "int8"),
}
KINDS = {
    "data_parallel": parallel.data_parallel,
    "sharded_data_parallel": parallel.sharded_data_parallel,
}


class Slice(NamedTuple):
    """Devices that work together, and the axes of their mesh."""

    device: Device
    shape: tuple[int, ...]
    names: tuple[str, ...]
    topology: str | None = None


SLICES = {
    "16 v5e, one axis": Slice(V5E, (16,), ("data",), "v5e:4x4"),
    "16 v5e, axes of 4 and 4": Slice(V5E, (4, 4), ("x", "y"), "v5e:4x4"),
    "8 H200": Slice(H200, (8,), ("data",)),
}


def measure(peer: str, quick: bool) -> Found:
    """The tables of all devices whose compilers are installed."""
    del peer
    absent = {name: _devices.not_installed(device) for name, device in DEVICES.items()}
    here = [DEVICES[name] for name, note in absent.items() if note is None]
    notes = [note for note in absent.values() if note is not None]
    notes.append("Compilers: " + ", ".join(_compilers(here)) + ". Nothing was run.")
    if quick:
        here = [device for device in here if device is V5E]
    costs, curves = _Costs(), Curves()
    tables = [
        _group(title, GROUPS[title], here, costs, curves)
        for title in (QUICK if quick else GROUPS)
    ]
    tables.append(_tables(NARROW if quick else WIDTHS, here, curves))
    if not quick:
        sharded, missing = _sharded(here)
        tables += [_small_leaves(here), sharded]
        notes += [*missing, _collectives.NOTE]
    return {"tables": tables, "notes": notes, "curves": curves}


def _compilers(devices: Iterable[Device]) -> list[str]:
    names = dict.fromkeys(name for device in devices for name in device.packages)
    return [f"{name} {importlib.metadata.version(name)}" for name in names]


class _Costs:
    """What steps on one leaf cost, each compiled once."""

    def __init__(self) -> None:
        self._known = dict[Any, Curves]()

    def of(self, name: str, tx: Transformation, row: Row, device: Device) -> Curves:
        """Bytes a parameter, and kernels, of the row's step with ``tx``."""
        shape = row.shape or (device.side, device.side)
        key = name, shape, row.dtype, device
        if key not in self._known:
            leaf = jax.ShapeDtypeStruct(shape, row.dtype)
            held = leaf, jax.eval_shape(tx.init, leaf)
            needed = row.readings * _limit.tree_bytes(leaf) + 2 * _limit.tree_bytes(held)
            found = _devices.measure(partial(row.step, tx), (held, leaf), (0,), device)
            self._known[key] = {
                "needed": round(needed / leaf.size, 2),
                "moved": [round(moved / leaf.size, 2) for moved in found.moved],
                "temporary": round(found.temporary / leaf.size, 2),
                "kernels": found.kernels,
            }
        return self._known[key]


def _group(
    title: str,
    rows: Mapping[str, Row],
    devices: Sequence[Device],
    costs: _Costs,
    curves: Curves,
) -> Found:
    """The table of a group, each row with its counterpart; ``curves`` gets all of it."""
    lines, shown = [], set[str]()
    for name, row in rows.items():
        say(f"  {title}: {name}")
        cells, needed, missed = [], "", []
        for device in devices:
            found = costs.of(f"{title}: {name}", row.tx, row, device)
            is_missed = _exceeds(found, row.goals.get(device.name))
            cells.append(f"**{_cell(found)}**" if is_missed else _cell(found))
            missed += [device.name] * is_missed
            needed = f"{found['needed']:.1f}"
            curve = curves.setdefault(device.name, {}).setdefault(title, {})
            curve[name] = {"ours": found}
        lines.append([name, needed, *cells, _goal(row.goals, devices, name, missed)])
        if row.peer is None:
            continue
        peer, tx = row.peer
        theirs = {device.name: costs.of(peer, tx, row, device) for device in devices}
        for where, found in theirs.items():
            curves[where][title][name]["optax"] = found
        if peer not in shown:
            lines.append([f"`{peer}`", "", *map(_cell, theirs.values()), ""])
            shown.add(peer)
    header = ["step", "needed", *(device.name for device in devices), "goal"]
    words = f"{title}. {LEGEND}" if title == QUICK[0] else f"{title}:"
    return table(words, header, lines)


def _exceeds(found: Curves, goal: Goal | None) -> bool:
    if goal is None:
        return False
    return round(max(found["moved"]), 1) > goal[0] or found["temporary"] > goal[1]


def _cell(found: Curves) -> str:
    moved = " or ".join(f"{x:.1f}" for x in dict.fromkeys(found["moved"]))
    return f"{moved} / {found['temporary']:.1f} / {found['kernels']}"


def _goal(
    goals: Mapping[str, Goal], devices: Sequence[Device], name: str, missed: Sequence[str]
) -> str:
    """The goals in words, those of several devices once, and why one is missed."""
    by_goal = dict[Goal, list[str]]()
    for device in devices:
        if device.name in goals:
            by_goal.setdefault(goals[device.name], []).append(device.name)
    words = [
        f"{', '.join(names)}: ≤ {moved:g} / {temporary:g}"
        for (moved, temporary), names in by_goal.items()
    ]
    reasons = [REASONS.get((name, device), "missed") for device in missed]
    return "; ".join([*words, *dict.fromkeys(reasons)])


def _tables(widths: Sequence[int], devices: Sequence[Device], curves: Curves) -> Found:
    """Steps by rows, in the layout that XLA chooses, and in that of `row_formats`."""
    lines = []
    for (name, tx), width, layout in product(BY_ROWS.items(), widths, LAYOUTS):
        say(f"  tables: {name}, {width} columns, {layout}")
        cells = []
        for device in devices:
            if device is H200 and layout == ROWS:
                cells.append("the default")
                continue
            found = _by_rows(tx, width, layout, device)
            sizes = max(found.moved), found.temporary, found.arguments
            moved, temporary, held = (round(size / 1e6, 1) for size in sizes)
            cells.append(f"{moved:,} / {temporary:,} / {held:,}")
            if layout == ROWS:
                cost = {"moved": [moved], "temporary": temporary}
                group = curves[device.name].setdefault("Tables, by rows, MB", {})
                group[f"{name}, {width} columns"] = {"ours": cost}
        lines.append([name, str(width), layout, *cells])
    header = ["step", "columns", "layout", *(device.name for device in devices)]
    return table(TABLES, header, lines)


def _by_rows(tx: Transformation, width: int, layout: str, device: Device) -> Measured:
    """A step that changes some rows of a table."""
    leaf = jax.ShapeDtypeStruct((HEIGHT, width), jnp.float32)
    held = leaf, jax.eval_shape(tx.init, leaf)
    ids = jax.ShapeDtypeStruct((IDS,), jnp.int32)
    values = jax.ShapeDtypeStruct((IDS, width), jnp.float32)
    grads = jax.eval_shape(partial(sparse.RowSlices, shape=leaf.shape), ids, values)
    formats = partial(parallel.row_formats, tx, leaf, ["<the root>"])
    step = partial(_limit.step, tx)
    by_rows = None if layout == DEFAULT else formats
    return _devices.measure(step, (held, grads), (0,), device, by_rows)


def _small_leaves(devices: Sequence[Device]) -> Found:
    """How many kernels a step has where leaves are many and small."""
    leaves, lines = [jax.ShapeDtypeStruct(SMALL, jnp.float32)] * COUNT, []
    for name, tx in SMALL_STEPS.items():
        say(f"  small leaves: {name}")
        held, step = (leaves, jax.eval_shape(tx.init, leaves)), partial(_limit.step, tx)
        found = [_devices.measure(step, (held, leaves), (0,), each) for each in devices]
        lines.append([name, *(str(x.kernels) for x in found)])
    return table(LEAVES, ["step", *(device.name for device in devices)], lines)


def _sharded(devices: Sequence[Device]) -> tuple[Found, list[str]]:
    """Training steps over a mesh, and notes on those that could not be compiled."""
    lines, notes = [], dict[str, None]()
    cases = product(SLICES.items(), KINDS, ADAMS.items())
    for (where, slice_), kind, (moments, tx) in cases:
        if slice_.device not in devices:
            continue
        say(f"  {where}: {kind}, Adam, {moments}")
        try:
            found = _train(slice_, kind, tx)
        except (TypeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            notes[f"Left out: {where}, {kind}, {moments}. {first}"] = None
            continue
        sizes = found.arguments + found.temporary, found.sent.bytes
        cells = [f"{size / 1e6:,.0f}" for size in sizes]
        lines.append([where, kind, moments, *cells, str(found.sent)])
    header = ["devices", "step", "Adam's moments", "memory", "sent", "collectives"]
    return table(SHARDED, header, lines), list(notes)


def _train(slice_: Slice, kind: str, tx: Transformation) -> Measured:
    """A training step of all devices of a slice, compiled from shapes."""
    mesh = _devices.mesh_of(
        slice_.device, slice_.shape, slice_.names, topology=slice_.topology
    )
    step = KINDS[kind](_loss_fn, tx, mesh, slice_.names)
    layer = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    params = dict.fromkeys(_LAYERS, layer)
    batch = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)
    lowered = step.lower(params, jax.eval_shape(tx.init, params), batch)
    return _devices.read(lowered.compile(), mesh.size)


_LAYERS = [f"layer_{i}" for i in range(LAYERS)]


def _loss_fn(params: Any, batch: jax.Array) -> jax.Array:
    for name in _LAYERS:
        batch = jnp.tanh(batch @ params[name])
    return jnp.mean(batch**2)


def draw(found: Found, path: Path) -> None:
    """Bytes a parameter of our steps, of Optax's, and of what is needed."""
    names = [name for name in (V5E.name, H200.name) if name in found["curves"]]
    with figure(path, 12, 10) as drawn:
        panels = drawn.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            groups = found["curves"][name]
            rows = {k: row for title in QUICK for k, row in groups[title].items()}
            for at, row in enumerate(rows.values()):
                _draw_row(axes, at, row)
            axes.set_yticks(range(len(rows)), [fill(x, 34) for x in rows])
            axes.set(xlabel="bytes moved a parameter", title=name, xlim=(0, None))
            for style, color, label in (
                ("o", BLUE, "this library"),
                ("D", ORANGE, "Optax (float32 moments, where ours are narrow)"),
                ("|", BLACK, "needed"),
            ):
                axes.plot([], [], style, ms=8, color=color, label=label)
            tidy(axes)
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, ncols=3, loc="outside upper center", frameon=False)
        drawn.supxlabel("a line joins the branches of a conditional", fontsize=9)


def _draw_row(axes: Axes, at: int, row: Curves) -> None:
    ours, theirs = row["ours"], row.get("optax")
    axes.plot(ours["needed"], at, "|", ms=16, mew=2, color=BLACK)
    if theirs is not None:
        _draw_cost(axes, at + 0.25, theirs, "D", ORANGE)
    _draw_cost(axes, at, ours, "o", BLUE)


def _draw_cost(axes: Axes, at: float, cost: Curves, marker: str, color: str) -> None:
    axes.hlines(at, min(cost["moved"]), max(cost["moved"]), color=color, lw=1.5)
    axes.plot(cost["moved"], [at] * len(cost["moved"]), marker, ms=6, color=color)


SUITE = Suite(
    "what the compilers for TPU and GPU say of a step",
    measure,
    environment=_devices.ENVIRONMENT,
    draw=draw,
)
