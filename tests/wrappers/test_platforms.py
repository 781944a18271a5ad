"""The forms that other platforms get: their numbers on a CPU, and who gets them."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import sparse
from tests._platforms import force
from tests.conformance._table import BFLOAT16, INT8

STEPS = 12
WRAPPED: dict[str, Callable[[], Any]] = {
    "skip_nonfinite": lambda: ro.rmsprop(
        0.1, momentum=0.9, clipnorm=1.0, skip_nonfinite=True
    ),
    "skip_nonfinite, int8": lambda: ro.skip_nonfinite(ro.rmsprop(moment_storage=INT8)),
    "skip_nonfinite, bfloat16": lambda: ro.skip_nonfinite(
        ro.low_precision(optax.adam(0.1), BFLOAT16)
    ),
    "skip_nonfinite, counted": lambda: ro.skip_nonfinite(
        optax.adam(0.1), max_consecutive_errors=1
    ),
    "dynamic_loss_scale": lambda: ro.dynamic_loss_scale(
        optax.adam(0.1), dynamic_growth_steps=2
    ),
    "accumulate_gradients": lambda: ro.accumulate_gradients(
        ro.rmsprop(0.1, global_clipnorm=1.0), 3
    ),
    "accumulate_gradients, rows": lambda: ro.accumulate_gradients(
        sparse.lazy(optax.adam(0.1)), 2, sparse.RowSums({"w": 4})
    ),
}


def run(tx: Any, by_rows: bool) -> Any:
    """Some steps, a third of which have an infinity or a NaN."""
    params = {"w": jnp.linspace(-1, 1, 64).reshape(4, 16), "b": jnp.ones(3)}
    state, found = tx.init(params), []

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(STEPS):
        grads = jax.tree.map(lambda p, t=t: jnp.cos(p + t), params)
        bad = jnp.nan if t == 4 else jnp.inf
        if t in (4, 5, 8):
            grads["w"] = grads["w"].at[1, 3].set(bad)
        if by_rows:
            ids = jnp.array([t % 4, 2])
            grads["w"] = sparse.RowSlices(ids, grads["w"][ids], (4, 16))
        params, state = step(params, state, grads)
        found.append((params, state))
    return found


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_form_has_the_same_numbers(
    name: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rows = name.endswith("rows")
    expected = run(WRAPPED[name](), by_rows)
    force(monkeypatch, platform)
    found = run(WRAPPED[name](), by_rows)
    for (params, state), (ours, after) in zip(expected, found, strict=True):
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        chex.assert_trees_all_close(ours, params, rtol=2e-6, atol=1e-7)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found[3][0]))


DIFFER = {
    ("skip_nonfinite, int8", "cuda"),
    ("skip_nonfinite, int8", "tpu"),
    ("accumulate_gradients", "cuda"),
}
"""Where the form is not that of a CPU."""


@pytest.mark.parametrize("name", ["skip_nonfinite, int8", "accumulate_gradients"])
@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_a_program_gets_the_form_of_the_platform_that_it_is_lowered_for(
    name: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that of the process, which runs on a CPU."""
    params = jax.ShapeDtypeStruct((8, 256), jnp.float32)

    def lower() -> str:
        tx = WRAPPED[name]()
        state = jax.eval_shape(tx.init, params)
        traced = jax.jit(lambda g, s, p: tx.update(g, s, p)).trace(params, state, params)
        lowered = traced.lower(lowering_platforms=(platform,))
        return lowered.as_text()

    def operations(text: str) -> list[str]:
        names = ("reduce", "maximum", "select", "add", "divide")
        return [f"{n}: {text.count(f'stablehlo.{n}')}" for n in names]

    found = operations(lower())
    force(monkeypatch, platform)
    assert operations(lower()) == found
    if (name, platform) in DIFFER:
        force(monkeypatch, "cpu")
        assert operations(lower()) != found
