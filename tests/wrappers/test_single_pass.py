"""`single_pass` without XLA's flag, and what it refuses.

The tests with the flag are in `_single_pass_switched.py`. XLA reads it but once, so they
run in a process of their own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro
from rmsprop_optax.wrappers._single_pass import FLAG

SWITCHED = "tests/wrappers/_single_pass_switched.py"


def _params() -> dict[str, jax.Array]:
    return {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}


def test_without_the_flag_it_warns_and_is_the_transformation_inside() -> None:
    inner = ro.rmsprop(0.1, momentum=0.9, global_clipnorm=1.0)
    tx, params = ro.single_pass(inner, min_size=0), _params()
    with pytest.warns(
        UserWarning, match=f"no effect: XLA needs the flag XLA_FLAGS={FLAG}"
    ):
        ours = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
    theirs = jax.jit(inner.update).lower(params, tx.init(params), params).compile()
    assert ours.cost_analysis() == theirs.cost_analysis()
    results = (program(params, tx.init(params), params) for program in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_outside_of_a_compiled_step_it_is_called_once() -> None:
    calls = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        calls.append(updates)
        return updates, state

    grads = _params()
    tx = ro.single_pass(optax.GradientTransformation(optax.init_empty_state, update))
    tx.update(grads, tx.init(grads))
    assert len(calls) == 1
    assert calls[0] is grads


def test_other_devices_need_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tx, params = ro.single_pass(ro.rmsprop(0.1), min_size=0), _params()
    jax.jit(tx.update)(params, tx.init(params), params)  # without a warning


def test_the_state_is_that_of_the_transformation_inside() -> None:
    inner = ro.rmsprop(0.1, momentum=0.9, centered=True, use_ema=True)
    ours, theirs = ro.single_pass(inner).init(_params()), inner.init(_params())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    with pytest.raises(ValueError, match=r"`min_size` .* got -1"):
        ro.single_pass(inner, min_size=-1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ro.rmsprop(gradient_accumulation_steps=2),
            r"loops in a `cond` that returns arrays, here float32\[3\]\. Put the branch "
            r"around single_pass, as in accumulate_gradients\(single_pass\(rmsprop\(\)\)",
        ),
        (lambda: ro.rmsprop(skip_nonfinite=True), "a `cond` that returns arrays"),
        (lambda: optax.apply_if_finite(optax.adam(0.1), 5), "a `cond`"),
        (
            lambda: ro.rmsprop(lambda: 0.1),
            r"can't have effects: IO\. .*optax\.inject_hyperparams",
        ),
    ],
)
def test_branches_and_effects_are_refused(make: Callable[[], Any], message: str) -> None:
    tx, params = ro.single_pass(make()), _params()
    with pytest.raises(ValueError, match=message):
        jax.jit(tx.update)(params, tx.init(params), params)


def test_a_norm_over_devices_is_refused() -> None:
    tx = ro.single_pass(ro.rmsprop(global_clipnorm=1.0, axis_name="data"))
    params = {"w": jnp.ones(8)}
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def update(params: Any) -> Any:
        return tx.update(params, tx.init(params), params)[0]

    sharded = jax.shard_map(update, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(ValueError, match="a clip by a norm over devices before it"):
        jax.jit(sharded)(params)


def test_gradients_by_rows_are_left_alone() -> None:
    tx, params = (
        ro.single_pass(ro.rmsprop(momentum=0.9), min_size=0),
        {"w": jnp.ones((2, 3))},
    )
    rows = {"w": ro.sparse.RowSlices(jnp.array([1]), jnp.ones((1, 3)), (2, 3))}
    jax.jit(tx.update)(rows, tx.init(params), params)  # without a warning


def _with_the_flag(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "XLA_FLAGS": FLAG},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_with_the_flag() -> None:
    _with_the_flag(SWITCHED)


@pytest.mark.slow
def test_with_the_flag_in_other_dtypes() -> None:
    _with_the_flag(SWITCHED, "-m", "slow")


@pytest.mark.slow
def test_with_the_flag_it_is_what_every_transformation_is() -> None:
    _with_the_flag("tests/conformance", "-k", "single_pass")
