"""The centered variant against float64, where other libraries turn NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import scale_by_stddev

STEPS, SIZE, DECAY = 1000, 200, 0.9


def _gradients(scale: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(STEPS, SIZE))
    return (scale * (1 + 1e-4 * normal)).astype(np.float32)


def _updates(tx: optax.GradientTransformation, grads: np.ndarray) -> np.ndarray:
    def step(state: Any, g: jax.Array) -> tuple[Any, jax.Array]:
        update, state = tx.update(g, state)
        return state, update

    state = tx.init(jnp.zeros(SIZE, grads.dtype))
    return np.asarray(jax.jit(lambda s, g: jax.lax.scan(step, s, g))(state, grads)[1])


def _exact(grads: np.ndarray, eps: float, eps_in_sqrt: bool, corrected: bool) -> Any:
    """E|g|^2 - |E g|^2 by its definition, in long doubles, at the last step."""
    g = grads.astype(np.longdouble)
    weights = np.longdouble(1 - DECAY) * np.longdouble(DECAY) ** np.arange(STEPS)[::-1]
    total = weights.sum() if corrected else np.longdouble(1)
    mean = (weights[:, None] * g).sum(0) / total
    spread = (weights[:, None] * (g - mean) ** 2).sum(0) / total
    # The past before the first gradient is zero, with the weight that is left over.
    variance = spread + (1 - weights.sum() / total) * mean**2
    root = np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps
    return g[-1] / root


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_no_nan_and_within_1e_3_of_exact(
    scale: float, eps_in_sqrt: bool, corrected: bool
) -> None:
    grads, eps = _gradients(scale), 1e-7
    arguments = (DECAY, eps, 0.0, eps_in_sqrt, corrected)
    ours = _updates(scale_by_stddev(*arguments), grads)
    assert np.isfinite(ours).all()
    exact = _exact(grads, eps, eps_in_sqrt, corrected).astype(float)
    np.testing.assert_allclose(ours[-1], exact, rtol=1e-3)


def test_optax_turns_nan_in_the_same_run() -> None:
    theirs = _updates(optax.scale_by_stddev(DECAY, 1e-7), _gradients(1e3))
    assert np.isnan(theirs).any(0).mean() > 0.5


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_it_is_optaxs_where_nothing_cancels(
    corrected: bool, eps_in_sqrt: bool, decay: float
) -> None:
    with jax.enable_x64(True):
        grads = np.random.default_rng(1).normal(size=(50, SIZE))
        arguments = (decay, 1e-2, 0.0, eps_in_sqrt, corrected)
        ours = _updates(scale_by_stddev(*arguments), grads)
        theirs = _updates(optax.scale_by_stddev(*arguments), grads)
        # At the first corrected step there is no variance, and Optax's is rounding.
        np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-8)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
def test_meta_gradients_are_finite_at_a_zero_gradient(eps_in_sqrt: bool) -> None:
    tx = scale_by_stddev(eps_in_sqrt=eps_in_sqrt)

    def two_steps(g: jax.Array) -> jax.Array:
        _, state = tx.update(g, tx.init(g))
        return tx.update(g, state)[0].sum()

    assert np.isfinite(jax.grad(two_steps)(jnp.zeros(3))).all()
