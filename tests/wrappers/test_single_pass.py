"""`single_pass` without its switch, what it refuses, and which moments it takes.

What it does with the switch is in `_single_pass_switched.py`: XLA reads it but once, so
those tests have a process of their own.
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
from rmsprop_optax.wrappers._single_pass import SWITCH, _find_moments

NO_EFFECT = "single_pass has no effect: .* XLA_FLAGS=--xla_backend_extra_options"


def _params() -> dict[str, jax.Array]:
    return {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}


def test_without_the_switch_it_warns_and_is_the_transformation_inside() -> None:
    inner = ro.rmsprop(0.1, momentum=0.9, global_clipnorm=1.0)
    tx, params = ro.single_pass(inner, min_size=0), _params()
    with pytest.warns(UserWarning, match=NO_EFFECT):
        program = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
    expected = jax.jit(inner.update).lower(params, tx.init(params), params).compile()
    loops, copies = (
        [text.count(what) for text in (program.as_text(), expected.as_text())]
        for what in (" fusion(", " copy(")
    )
    assert loops[0] == loops[1] > 0
    assert copies[0] == copies[1]
    ours = program(params, tx.init(params), params)
    theirs = expected(params, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_outside_of_a_compiled_step_nothing_is_done_twice() -> None:
    calls = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        calls.append(jax.tree.leaves(updates)[0])
        return updates, state

    tx = ro.single_pass(optax.GradientTransformation(optax.init_empty_state, update))
    tx.update(_params(), tx.init(_params()))
    assert len(calls) == 1
    assert not isinstance(calls[0], jax.core.Tracer)


def test_other_devices_need_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tx, params = ro.single_pass(ro.rmsprop(0.1, momentum=0.9)), _params()
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    assert "optimization_barrier" not in str(jaxpr)


def test_the_state_is_that_of_the_transformation_inside() -> None:
    inner = ro.rmsprop(0.1, momentum=0.9, centered=True, use_ema=True)
    ours, theirs = ro.single_pass(inner).init(_params()), inner.init(_params())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ro.rmsprop(gradient_accumulation_steps=2),
            r"a `cond` that returns arrays, here float32\[3\]\. What branches goes around"
            r" it, as in accumulate_gradients\(single_pass\(rmsprop\(\)\), every_k=4\)",
        ),
        (lambda: ro.rmsprop(skip_nonfinite=True), "a `cond` that returns arrays"),
        (lambda: ro.dynamic_loss_scale(ro.rmsprop()), "a `cond` that returns arrays"),
        (
            lambda: optax.apply_if_finite(optax.adam(0.1), 5),
            "a `cond` that returns arrays",
        ),
        (
            lambda: ro.rmsprop(lambda: 0.1),
            r"felt outside of the program: IO\. .*optax\.inject_hyperparams",
        ),
    ],
)
def test_what_can_t_be_done_again_is_refused(
    make: Callable[[], Any], message: str
) -> None:
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
    with pytest.raises(ValueError, match="a clip by a norm over devices goes before"):
        jax.jit(sharded)(params)


WIDE_UNDER_4 = {"min_size": 4}


@pytest.mark.parametrize(
    ("arguments", "b", "w"),
    [
        ({}, 1, 1),
        ({"momentum": 0.9, "centered": True, "use_ema": True}, 4, 4),
        ({"moment_storage": "bfloat16"}, 0, 0),
        ({"moment_storage": ro.MomentStorage("bfloat16", **WIDE_UNDER_4)}, 1, 0),
        ({"moment_storage": ro.MomentStorage("int8", **WIDE_UNDER_4)}, 1, 0),
    ],
)
def test_which_moments_can_be_in_one_loop(
    arguments: dict[str, Any], b: int, w: int
) -> None:
    tx, params = ro.rmsprop(**arguments), _params()
    state = tx.init(params)
    moments = _find_moments(params, state, params, 0)
    assert {i: len(places) for i, places in moments.items()} == {
        i: count for i, count in enumerate((b, w)) if count
    }
    leaves = jax.tree.leaves(state)
    for i, places in moments.items():
        assert all(leaves[at].shape == [(3,), (2, 3)][i] for at in places)


def test_gradients_by_rows_and_missing_ones_are_not_in_a_loop() -> None:
    tx, params = ro.rmsprop(momentum=0.9), _params()
    rows = ro.sparse.RowSlices(jnp.array([1]), jnp.ones((1, 3)), (2, 3))
    for gradient in (rows, None):
        grads = {"w": gradient, "b": params["b"]}
        moments = _find_moments(grads, tx.init(params), params, 0)
        assert list(moments) == [0]
        assert len(moments[0]) == 2


def test_parameters_and_gradients_of_other_dtypes() -> None:
    """What is written in the end decides: parameters where there are any."""
    tx, params = ro.rmsprop(momentum=0.9), _params()
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    complex_ = jax.tree.map(lambda p: p + 1j, params)
    assert len(_find_moments(narrow, tx.init(params), params, 0)) == 2
    assert len(_find_moments(params, tx.init(params), None, 0)) == 2
    assert _find_moments(params, tx.init(narrow), narrow, 0) == {}
    assert _find_moments(complex_, tx.init(complex_), complex_, 0) == {}


def test_small_parameters_stay_as_they_are() -> None:
    tx, params = ro.rmsprop(momentum=0.9), _params()
    assert list(_find_moments(params, tx.init(params), params, 3)) == [0, 1]
    assert list(_find_moments(params, tx.init(params), params, 4)) == [1]
    assert _find_moments(params, tx.init(params), params, 7) == {}
    with pytest.raises(ValueError, match=r"`min_size` .* got -1"):
        ro.single_pass(tx, min_size=-1)


def test_parameters_in_a_list() -> None:
    """Their paths are those of the chain's own counters too: 0, 1, 2."""
    tx, params = ro.rmsprop(momentum=0.9), [jnp.ones((2, 3)), jnp.ones(4), jnp.ones(3)]
    moments = _find_moments(params, tx.init(params), params, 0)
    assert {i: len(places) for i, places in moments.items()} == {0: 2, 1: 2, 2: 2}


def test_one_array_alone() -> None:
    tx, params = ro.rmsprop(momentum=0.9, centered=True), jnp.ones((2, 3))
    moments = _find_moments(params, tx.init(params), params, 0)
    assert list(moments) == [0]
    assert len(moments[0]) == 3
    assert _find_moments(jnp.ones(()), tx.init(jnp.ones(())), jnp.ones(()), 0) == {}


def _with_the_switch(*arguments: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        env={**os.environ, "XLA_FLAGS": SWITCH},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]


SWITCHED = "tests/wrappers/_single_pass_switched.py"


# There it warns, and the step is the ordinary one.
joins = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11),
    reason="XLA of jaxlib 0.12 makes copies in spite of the switch",
)


@joins
def test_with_the_switch() -> None:
    _with_the_switch(SWITCHED)


@joins
@pytest.mark.slow
def test_with_the_switch_in_other_dtypes() -> None:
    _with_the_switch(SWITCHED, "-m", "slow")


@pytest.mark.slow
def test_with_the_switch_it_is_what_every_transformation_is() -> None:
    _with_the_switch("tests/conformance", "-k", "single_pass")
