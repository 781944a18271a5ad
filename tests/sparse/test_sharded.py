"""Tables by rows over a mesh: the same numbers, and no collective as large as a table."""

import math
import re
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import rmsprop_optax as ro
from rmsprop_optax import sparse

HEIGHT, WIDTH, IDS = 8000, 4, 24


def _loss(params: Any, ids: Any) -> Any:
    rows = sparse.lookup(params["table"], ids)
    return jnp.sum(jnp.tanh(rows @ params["dense"]) ** 2)


def _step(tx: Any) -> Any:
    grad_fn = sparse.value_and_grad(_loss, lambda params, ids: {"table": ids})

    def step(params: Any, state: Any, ids: Any) -> Any:
        _, grads = grad_fn(params, ids)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _transformation() -> Any:
    return ro.rmsprop(
        0.1,
        momentum=0.9,
        centered=True,
        weight_decay=0.1,
        global_clipnorm=1.0,
        use_ema=True,
    )


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_equal_to_one_device_and_no_table_is_gathered(kind: Any) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    by_rows = jax.NamedSharding(mesh, jax.P("data", None))
    rng = np.random.default_rng(0)
    params = {
        "table": jnp.asarray(rng.normal(size=(HEIGHT, WIDTH)), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)), jnp.float32),
    }
    whole = jax.NamedSharding(mesh, jax.P())
    sharded = jax.device_put(params, {"table": by_rows, "dense": whole})
    tx = _transformation()
    state, sharded_state = tx.init(params), tx.init(sharded)
    step = jax.jit(_step(tx))
    batches = [jnp.asarray(rng.integers(0, HEIGHT, IDS)) for _ in range(3)]
    compiled = step.lower(sharded, sharded_state, batches[0]).compile()
    for ids in batches:
        params, state = step(params, state, ids)
        sharded, sharded_state = step(sharded, sharded_state, ids)
    assert sharded["table"].sharding.is_equivalent_to(by_rows, 2)
    for mine, theirs in zip(
        jax.tree.leaves((sharded, sharded_state)),
        jax.tree.leaves((params, state)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    sizes = _collective_sizes(compiled.as_text())
    assert sizes, "a sharded table can't be read without a collective"
    assert max(sizes) <= IDS * WIDTH


WRAPPED = {
    "accumulated": lambda: ro.rmsprop(
        0.1, momentum=0.9, gradient_accumulation_steps=2, accumulate_rows={"table": 16}
    ),
    "skip_nonfinite": lambda: ro.skip_nonfinite(ro.rmsprop(0.1)),
    "dynamic_loss_scale": lambda: ro.dynamic_loss_scale(ro.rmsprop(0.1)),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("spec", [jax.P("data"), jax.P(None, "data")])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("ambient", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sums_and_branches_on_explicit_axes(
    name: str, spec: Any, by_hand: bool, ambient: bool
) -> None:
    """Also where rows are not sharded as the table is, and as many as it has."""
    mesh, tx = jax.make_mesh((8,), ("data",)), WRAPPED[name]()
    grad_fn = sparse.value_and_grad(_loss, lambda params, ids: {"table": ids})

    @jax.jit
    def step(params: Any, state: Any, ids: Any) -> Any:
        grads = grad_fn(params, ids)[1]
        if by_hand:
            grads["table"] = sparse.RowSlices(ids, jnp.ones((5, 8)), (16, 8))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def train(params: Any) -> Any:
        state = tx.init(params)
        for ids in jnp.arange(20).reshape(4, 5) % 16:
            params, state = step(params, state, ids)
        return params, state

    rng = np.random.default_rng(0)
    params = {
        "table": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
    }
    sharding = jax.NamedSharding(mesh, spec)
    placed = jax.device_put(
        params, {"table": sharding, "dense": jax.NamedSharding(mesh, jax.P())}
    )
    with jax.set_mesh(mesh) if ambient else nullcontext():
        found = train(placed)
    assert found[0]["table"].sharding.is_equivalent_to(sharding, 2)
    for mine, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(train(params)), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def _collective_sizes(text: str) -> list[int]:
    """How many values each array has that a collective of the program moves."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    lines = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", text)
    shapes = [shape for line in lines for shape in re.findall(r"\w+\[([\d,]*)\]", line)]
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
