"""One run on a device that is at hand: `python -m benchmarks.on_device --device gpu`.

It runs the numerical tests of what has a form of its own for a platform, and times the
steps of the suite `compiled`, in less than eight minutes. It prints both results.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _limit
from benchmarks._rows import GROUPS, QUICK, RATE, Row, Transformation
from benchmarks._suite import say
from rmsprop_optax import parallel, rmsprop, sparse

ROOT = Path(__file__).parents[1]
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}
# Formulas, stored moments, branches, rows: what needs one device, and no framework.
TESTS = (
    "tests/rules",
    "tests/storage/test_codes.py",
    "tests/storage/test_rounding.py",
    "tests/storage/test_hash_bits.py",
    "tests/storage/test_apply_updates.py",
    "tests/wrappers/test_platforms.py",
    "tests/wrappers/test_skip_nonfinite.py",
    "tests/wrappers/test_loss_scale.py",
    "tests/sparse/test_row_slices.py",
)
MANY_DEVICES = (
    "tests/sparse/test_row_slices.py::test_it_crosses_scan_cond_vmap_and_shard_map",
)
FEW = ("tests/storage/test_codes.py", "tests/rules/test_norm.py")
TESTS_S, ALL_S = 240, 450
TURNS, STEPS = 3, 10
HEIGHT, COLUMNS, IDS = 1_000_000, (64, 128), 4096
FEW_ROWS = ("rmsprop", "int8, rmsprop", "skip_nonfinite")
# GB/s: of the bytes that the step needs to move.
HEADER = ("step", "ms", "Optax's ms", "GB/s", "temporary", "compiled in s")


class Cost(NamedTuple):
    """What a step takes: milliseconds, seconds to compile, temporary bytes."""

    ms: float
    compile_s: float
    temporary: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Tests, then times; the exit code is that of pytest."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_device", description=__doc__
    )
    add: Any = parser.add_argument
    add("--device", choices=PLATFORMS, default="cpu", help="cpu by default")
    add("--small", action="store_true", help="a few steps on small leaves, a few tests")
    options = parser.parse_args(arguments)
    begin, platforms = time.monotonic(), PLATFORMS[options.device]
    # The tests come first: a TPU is open to one process at a time.
    code = _test(FEW if options.small else TESTS, platforms)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_platforms", platforms)
    lines = [HEADER, ["---"] * len(HEADER)]
    side = 256 if options.small else 8192
    for name, measure in _measurements(side, options.small):
        if time.monotonic() - begin > ALL_S:
            lines.append([name, "no time left", *[""] * (len(HEADER) - 2)])
            continue
        say(f"  {name}")
        lines.append([name, *measure()])
    kind = jax.devices()[0].device_kind
    words = f"{kind}, jax {jax.__version__}; one leaf of {side} x {side} unless said"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    sys.stdout.write(f"{words}\n\n{table}\n\npytest: exit code {code}\n")
    return code


def _test(files: Sequence[str], platforms: str) -> int:
    """The exit code of pytest on the device; 124 where there was not enough time."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": platforms,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # else a product has 8 or 11 bits
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    left_out = [f"--deselect={test}" for test in MANY_DEVICES]
    options = ["-n0", "-q", "-p", "no:cacheprovider", *left_out, *files]
    command = [sys.executable, "-m", "pytest", *options]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=TESTS_S)
    except subprocess.TimeoutExpired:
        return 124
    return done.returncode


def _measurements(side: int, small: bool) -> Iterator[tuple[str, Any]]:
    """Each row's name, and what measures it; the most important ones first."""
    for title in QUICK:
        for name, row in GROUPS[title].items():
            if not small or name in FEW_ROWS:
                yield name, partial(_time_row, row, side)
    height = 1000 if small else HEIGHT
    for columns in COLUMNS:
        for by_rows in (False, True):
            layout = "row_formats" if by_rows else "the default layout"
            name = f"{IDS} rows of a table ({height}, {columns}), {layout}"
            yield name, partial(_time_table, (height, columns), by_rows)


def _time_row(row: Row, side: int) -> list[str]:
    """The cells of a step on a matrix, beside Optax's."""
    leaf = jax.ShapeDtypeStruct((side, side), row.dtype)
    held = leaf, jax.eval_shape(row.tx.init, leaf)
    needed = row.readings * _limit.tree_bytes(leaf) + 2 * _limit.tree_bytes(held)
    ours = _time(row.tx, row, leaf)
    theirs = _time(row.peer[1], row, leaf) if row.peer else None
    return _cells(ours, theirs, needed, leaf.size)


def _cells(ours: Cost, theirs: Cost | None, needed: float, size: int) -> list[str]:
    bandwidth = needed / ours.ms / 1e6
    temporary = f"{ours.temporary / size:.1f} B a parameter"
    optax_ms = "" if theirs is None else f"{theirs.ms:.3g}"
    return [
        f"{ours.ms:.3g}",
        optax_ms,
        f"{bandwidth:,.0f}",
        temporary,
        f"{ours.compile_s:.1f}",
    ]


def _time(tx: Transformation, row: Row, leaf: jax.ShapeDtypeStruct) -> Cost:
    """A dense step on a leaf of random numbers."""
    params, grads = (
        jax.random.normal(jax.random.key(seed), leaf.shape, leaf.dtype)
        for seed in range(2)
    )
    return _race(partial(row.step, tx), (params, tx.init(params)), grads)


def _time_table(shape: tuple[int, int], by_rows: bool) -> list[str]:
    """A step of `rmsprop` on some rows of a table."""
    tx, (height, columns) = rmsprop(RATE), shape
    params = jnp.ones(shape)
    held = params, tx.init(params)
    ids = np.random.default_rng(0).integers(height, size=IDS)
    grads = sparse.RowSlices(jnp.asarray(ids), jnp.ones((IDS, columns)), shape)
    formats = None
    if by_rows:
        mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        formats = parallel.row_formats(tx, params, ["<the root>"], mesh)
        held = jax.device_put(held, formats)
    cost = _race(partial(_limit.step, tx), held, grads, formats)
    # Parameters and one moment are read and written, the new rows are read.
    return _cells(cost, None, 5 * 4 * columns * IDS, params.size)


def _race(step: Any, held: Any, grads: Any, formats: Any = None) -> Cost:
    """The median of some turns; each step takes what the one before it has returned."""
    begin = time.perf_counter()
    program = jax.jit(step, donate_argnums=0, out_shardings=formats)
    compiled = program.lower(held, grads).compile()
    compile_s = time.perf_counter() - begin
    held, turns = jax.block_until_ready(compiled(held, grads)), []
    for _ in range(TURNS):
        begin = time.perf_counter()
        for _ in range(STEPS):
            held = compiled(held, grads)
        jax.block_until_ready(held)
        turns.append((time.perf_counter() - begin) * 1e3 / STEPS)
    return Cost(float(np.median(turns)), compile_s, _limit.temporary_bytes(compiled))


if __name__ == "__main__":
    sys.exit(main())
