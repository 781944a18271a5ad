"""Runs that come in or go out while their moments are kept in fewer bytes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax.interchange._slots import read, write


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_it_reads_values_and_keeps_them_as_before(kind: str, centered: bool) -> None:
    params = {"w": jnp.zeros((4, 64)), "b": jnp.zeros(3)}
    storage = ro.MomentStorage(kind, min_size=64)
    makes: Any = {"centered": centered, "momentum": 0.9}
    wide, narrow = ro.rmsprop(**makes), ro.rmsprop(**makes, moment_storage=storage)
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), "f4"), params)
    update = jax.jit(wide.update)
    _, state = update(grads, wide.init(params))
    written = write(narrow.init(params), read(state))
    assert jax.tree.structure(written) == jax.tree.structure(narrow.init(params))
    held, back = read(state), read(written)
    assert back.lr_in_trace
    for name in ("nu", "mu", "trace"):
        if getattr(held, name) is None:
            continue
        for leaf, exact in getattr(held, name).items():
            got = getattr(back, name)[leaf]
            assert got.dtype == np.float32
            # One code of 127 in the root, where the largest of the block is 1.
            np.testing.assert_allclose(got, exact, atol=0.02 * np.abs(exact).max())
    updates, _ = jax.jit(narrow.update)(grads, written)
    expected, _ = update(grads, state)
    assert optax.tree.norm(optax.tree.sub(updates, expected)) < 0.05 * optax.tree.norm(
        expected
    )
