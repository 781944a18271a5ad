"""What steps cost on a TPU that is not there, by its compiler: none gets worse.

The compiler is loaded in processes of its own, never in one that runs other tests. Run as
a program, this compiles the conformance table.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import rmsprop_optax as ro
from benchmarks import _collectives, _hlo
from benchmarks._devices import ENVIRONMENT, V5E, measure, not_installed
from tests.conformance._table import TABLE

ROOT = Path(__file__).parents[1]
PROBE = "from benchmarks._devices import V5E, mesh_of; mesh_of(V5E)"
# On a v5e: at most so many bytes moved a parameter, and of temporary memory. What a step
# needs to move, except for those in 8 bits, and for `cautious`. For tables, MB.
BOUNDS = {
    "rmsprop": (20.0, 0.0),
    "momentum": (28.0, 0.0),
    "centered": (28.0, 0.0),
    "centered, momentum": (36.0, 0.0),
    "centered, Nesterov momentum, weight decay, global norm, EMA": (48.0, 0.0),
    "skip_nonfinite": (24.0, 0.0),
    "skip_nonfinite, Adam": (32.0, 0.0),
    "dynamic_loss_scale": (24.0, 0.0),
    "dynamic_loss_scale, Adam": (32.0, 0.0),
    "gradient_accumulation_steps=4": (44.0, 0.0),
    "global_clipnorm": (24.0, 0.0),
    "clipnorm": (24.0, 0.0),
    "use_ema": (28.0, 0.0),
    "cautious, momentum": (34.0, 1.0),
    "rmsprop, bfloat16 parameters": (14.0, 0.0),
    "rmsprop, apply_updates_stochastic": (14.0, 0.0),
    "in_float32(optax.adam)": (22.0, 0.0),
    "int8, rmsprop": (24.5, 1.1),
    "int8, momentum": (29.0, 2.1),
    "int8, centered, momentum": (38.5, 3.1),
    "int8, Adam": (33.0, 2.1),
    "bfloat16, rmsprop": (16.5, 0.0),
    "bfloat16, momentum": (20.5, 0.0),
    "bfloat16, centered, momentum": (24.5, 0.0),
    "bfloat16, Adam": (20.5, 0.0),
    "float16, rmsprop": (16.5, 0.0),
    "float16, momentum": (20.5, 0.0),
    "float16, centered, momentum": (24.5, 0.0),
    "float16, Adam": (20.5, 0.0),
    "rmsprop, 64 columns": (6.4, 0.3),
    "sparse.lazy(optax.adam), 64 columns": (12.7, 0.3),
    "rmsprop, int8, 64 columns": (15.2, 0.3),
}


# A branch that copies and one that does not, a table whose rows are changed in place, and
# an array in on-chip memory.
PROGRAM = """\
HloModule step, is_scheduled=true

%rows (p.0: f32[1000,8], p.1: f32[4,8], p.2: s32[4]) -> f32[1000,8] {
  %p.0 = f32[1000,8]{1,0} parameter(0)
  %p.1 = f32[4,8]{1,0} parameter(1)
  %p.2 = s32[4]{0} parameter(2)
  ROOT %s = f32[1000,8]{1,0} scatter(%p.0, %p.2, %p.1), to_apply=%add
}

%copies (x.0: f32[100]) -> f32[100] {
  %x.0 = f32[100]{0} parameter(0)
  ROOT %c.0 = f32[100]{0} copy(%x.0)
}

%keeps (x.1: f32[100]) -> f32[100] {
  ROOT %x.1 = f32[100]{0} parameter(0)
}

ENTRY %main (a: f32[1000,8], b: f32[4,8], i: s32[4], x: f32[100]) -> f32[1000,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  %i = s32[4]{0} parameter(2)
  %x = f32[100]{0} parameter(3)
  %near = f32[100]{0:T(128)S(1)} negate(%x)
  %y = f32[100]{0} conditional(%i, %x, %x), branch_computations={%copies, %keeps}
  ROOT %t = f32[1000,8]{1,0} fusion(%a, %b, /*index=2*/%i), kind=kCustom, calls=%rows
}
"""
COLLECTIVES = """\
HloModule step

ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  %r = f32[64]{0} all-reduce(%a), replica_groups=mesh['x'=4,'y'=2] {'x','y'}
  %s = f32[16]{0} reduce-scatter(%r), replica_groups={{0,1,2,3},{4,5,6,7}}
  %g = ((f32[16]{0}), f32[32]{0}) all-gather-start(%s), replica_groups=[4,2]<=[8]
  ROOT %d = f32[32]{0} all-gather-done(%g)
}
"""


def test_what_a_program_moves_is_counted_by_parts_and_by_branches() -> None:
    rows = 128 + 16 + 128 + 128  # new rows and ids are read, rows are read and written
    assert _hlo.cost(PROGRAM).cases == [(400 + 800 + rows, 3), (400 + rows, 2)]


def test_what_a_device_sends_is_that_of_rings() -> None:
    found = _collectives.sent(COLLECTIVES, devices=8)
    assert str(found) == "1 all-gather, 1 all-reduce, 1 reduce-scatter"
    assert found.bytes == 2 * 256 * 7 / 8 + 256 * 3 / 4 + 128 / 2


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips where the compiler is not there; one that does not work is an error in CI."""
    note = not_installed(V5E)
    if note is not None:
        pytest.skip(note)
    if jax.__version_info__ < (0, 12):
        pytest.skip("libtpu, as pyproject.toml names it, is for jax 0.12 and newer")
    done = _run("-c", PROBE)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"libtpu does not work here: {done.stderr.splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_no_step_moves_or_holds_more_than_its_bound(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    done = _run("-m", "benchmarks", "--suite", "compiled", "--quick", *out)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "compiled.json").read_text())
    groups = summary["peers"]["optax"]["curves"][V5E.name].values()
    found = {name: row["ours"] for group in groups for name, row in group.items()}
    assert set(found) == set(BOUNDS)
    worse = {
        name: f"{cost['moved']} bytes moved, {cost['temporary']} temporary, not {bound}"
        for name, bound in BOUNDS.items()
        for cost in [found[name]]
        if round(max(cost["moved"]), 1) > bound[0] or cost["temporary"] > bound[1]
    }
    assert not worse


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_the_conformance_table_compiles() -> None:
    done = _run("-m", "tests.test_compiled")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def _leaves(dtype: Any, **shapes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}


TREES = {
    "float32": _leaves(jnp.float32, w=(256, 384), bias=(384,), scalar=(), empty=(0, 3)),
    "bfloat16": _leaves(jnp.bfloat16, w=(256, 384), bias=(384,)),
    "float16": _leaves(jnp.float16, w=(256, 384), bias=(384,)),
    "complex64": _leaves(jnp.complex64, w=(64, 32), bias=(32,)),
    "odd": _leaves(jnp.float32, w=(257, 131), bias=(7,), conv=(3, 3, 5, 17)),
}
EVERY_SIZE = partial(ro.MomentStorage, "int8", min_size=0)
MORE = {
    "float8_e4m3fn": lambda: ro.rmsprop(momentum=0.9, moment_storage="float8_e4m3fn"),
    "float8_e5m2": lambda: ro.rmsprop(moment_storage="float8_e5m2"),
    "float16 moments": lambda: ro.rmsprop(moment_storage="float16"),
    "int8, centered": lambda: ro.rmsprop(
        momentum=0.9, centered=True, moment_storage=EVERY_SIZE()
    ),
    "int8, a scale a row": lambda: ro.rmsprop(
        momentum=0.9, moment_storage=EVERY_SIZE(block_size="row")
    ),
    "int8, optax.lion": lambda: ro.low_precision(
        optax.lion(0.1), EVERY_SIZE(rounding="nearest")
    ),
}


def _failures() -> Iterator[tuple[str, str]]:
    """What does not compile for a v5e, and why."""
    for dtype, params in TREES.items():
        for name, make in {**TABLE, **MORE}.items():
            tx = make()
            try:
                state = jax.eval_shape(tx.init, params)
                measure(tx.update, (params, state, params), (1,), V5E)
            except Exception as error:
                yield f"{dtype}, {name}", f"{type(error).__name__}: {error}"[:500]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dict(_failures())))
