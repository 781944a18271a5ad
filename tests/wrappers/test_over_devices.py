"""A gradient that is not finite on one device is dropped on every device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rmsprop_optax import dynamic_loss_scale, rmsprop, skip_nonfinite


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("data",))


@pytest.mark.parametrize(("place", "bad"), [(0, np.nan), (5, np.inf), (15, -np.inf)])
@pytest.mark.parametrize("wrap", [skip_nonfinite, dynamic_loss_scale])
def test_every_device_skips_alike(wrap: Any, place: int, bad: float) -> None:
    tx = wrap(rmsprop(0.1, momentum=0.9), axis_name="data")
    alone = wrap(rmsprop(0.1, momentum=0.9))
    params = {"w": jnp.arange(16.0), "b": jnp.ones(2)}
    state = tx.init(params)
    specs = {"w": P("data"), "b": P()}
    state_specs = jax.tree.map(
        lambda leaf: P("data") if leaf.shape == (16,) else P(), state
    )
    update = jax.jit(
        jax.shard_map(
            tx.update,
            mesh=_mesh(),
            in_specs=(specs, state_specs, specs),
            out_specs=(specs, state_specs),
        )
    )
    expected_state = alone.init(params)
    for step in range(4):
        grads = {"w": jnp.cos(params["w"] + step), "b": jnp.ones(2)}
        if step in (1, 2):
            grads["w"] = grads["w"].at[place].set(bad)
        updates, state = update(grads, state, params)
        expected, expected_state = alone.update(grads, expected_state, params)
        for a, b in zip(
            jax.tree.leaves((updates, state)),
            jax.tree.leaves((expected, expected_state)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        if step in (1, 2):
            assert not updates["w"].any()
            assert not updates["b"].any()


@pytest.mark.parametrize("wrap", [skip_nonfinite, dynamic_loss_scale])
def test_inside_pmap(wrap: Any) -> None:
    tx = wrap(rmsprop(0.1), axis_name="i")
    g = jnp.ones(8).at[3].set(jnp.nan)
    updates = jax.pmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="i")(g)
    np.testing.assert_array_equal(updates, np.zeros(8))


@pytest.mark.parametrize("wrap", [skip_nonfinite, dynamic_loss_scale])
def test_an_empty_tree_is_finite(wrap: Any) -> None:
    tx = wrap(rmsprop(0.1), axis_name="data")
    state = jax.shard_map(
        lambda: tx.update({}, tx.init({}))[1], mesh=_mesh(), in_specs=(), out_specs=P()
    )()
    assert getattr(state, "total_notfinite", 0) == 0
    assert getattr(state, "loss_scale", 2.0**15) == 2.0**15
