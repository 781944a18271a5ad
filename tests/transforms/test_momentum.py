"""`trace` is `optax.trace`, with a dtype that holds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import trace


def _run(tx: optax.GradientTransformation, gs: Any) -> tuple[Any, Any]:
    def step(state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, tx.init(gs[0]), gs))()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_is_optax(decay: float, nesterov: bool, dtype: Any) -> None:
    parts = np.random.default_rng(0).normal(size=(2, 20, 3))
    gs = jnp.asarray(parts[0] + (1j * parts[1] if dtype == jnp.complex64 else 0), dtype)
    state, ours = _run(trace(decay, nesterov), gs)
    their_state, theirs = _run(optax.trace(decay, nesterov), gs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.trace, their_state.trace, rtol=1e-5, atol=1e-6)
    assert isinstance(state, optax.TraceState)


def test_the_trace_keeps_its_dtype() -> None:
    tx = trace(0.9)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        state = tx.init(jnp.ones(2, dtype))
        assert state.trace.dtype == jnp.float32
        for gradient_dtype in (jnp.bfloat16, jnp.float32):
            update, state = tx.update(jnp.ones(2, gradient_dtype), state)
            assert state.trace.dtype == jnp.float32
            assert update.dtype == gradient_dtype
