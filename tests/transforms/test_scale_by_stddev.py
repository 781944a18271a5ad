"""`scale_by_stddev` is `optax.scale_by_stddev` where that does not cancel."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import scale_by_stddev

STEPS, WIDTH = 1000, 64


def _updates_of(tx: optax.GradientTransformation, gs: Any) -> Any:
    def step(state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, tx.init(gs[0]), gs)[1])()


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_is_optax_in_float64(eps_in_sqrt: bool, bias_correction: bool) -> None:
    with jax.enable_x64(True):
        gs = jnp.asarray(np.random.default_rng(1).normal(0.5, 1.0, size=(15, 4)))
        # Decay, epsilon and initial scale are numbers of one program.
        numbers = list(itertools.product([0.5, 0.9], [1e-8, 1e-3], [0.0, 1.0]))

        def run(make: Any) -> Any:
            def updates(row: jax.Array) -> Any:
                return _updates_of(make(*row, eps_in_sqrt, bias_correction), gs)

            return jax.jit(jax.vmap(updates))(jnp.array(numbers))

        # Of one bias-corrected gradient the variance is 0, or what Optax rounds to.
        first = 1 if bias_correction else 0
        ours, theirs = run(scale_by_stddev), run(optax.scale_by_stddev)
        for row, mine, expected in zip(numbers, ours, theirs, strict=True):
            np.testing.assert_allclose(
                mine[first:], expected[first:], rtol=1e-8, err_msg=str(row)
            )


def _float64_updates(
    gs: np.ndarray, decay: float, eps: float, eps_in_sqrt: bool, bias_correction: bool
) -> np.ndarray:
    mean, var = np.zeros(gs.shape[1:]), np.zeros(gs.shape[1:])
    made = []
    for t, g in enumerate(gs, start=1):
        c, before = 1 - decay**t, 1 - decay ** (t - 1)
        gain, keep, weight = 1 - decay, decay, 1.0
        if bias_correction:
            gain, keep, weight = (1 - decay) / c, decay * before / c, c
        deviation = g - mean
        var = decay * var + (1 - decay) * keep * deviation**2
        mean = mean + gain * deviation
        nu = var / weight
        made.append(g / (np.sqrt(nu + eps) if eps_in_sqrt else np.sqrt(nu) + eps))
    return np.array(made)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_does_not_cancel(eps_in_sqrt: bool, bias_correction: bool) -> None:
    """The way that parameters have gone after each step, against float64."""
    noise = np.random.default_rng(2).normal(size=(STEPS, WIDTH))
    scales = np.array([1e-3, 1.0, 1e3, 1e6])[:, None]
    gs = (scales * (1 + 1e-4 * noise[:, None])).astype(np.float32)
    arguments = (0.9, 1e-7, 0.0, eps_in_sqrt, bias_correction)
    ours = np.asarray(_updates_of(scale_by_stddev(*arguments), jnp.asarray(gs)))
    expected = _float64_updates(gs.astype(np.float64), 0.9, 1e-7, *arguments[3:])
    assert np.isfinite(ours).all()
    way = np.cumsum(ours.astype(np.float64), axis=0)
    np.testing.assert_allclose(way, np.cumsum(expected, axis=0), rtol=1e-3)
    if not bias_correction:
        np.testing.assert_allclose(ours, expected, rtol=1e-3)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
def test_the_difference_of_means_does_cancel(eps_in_sqrt: bool) -> None:
    """What the recurrence is for: Optax's own, in the run of the test above."""
    noise = np.random.default_rng(2).normal(size=(300, WIDTH))
    gs = jnp.asarray(1e3 * (1 + 1e-4 * noise), jnp.float32)
    theirs = _updates_of(optax.scale_by_stddev(0.9, 1e-7, 0.0, eps_in_sqrt), gs)
    ours = _updates_of(scale_by_stddev(0.9, 1e-7, 0.0, eps_in_sqrt), gs)
    assert np.isnan(np.asarray(jnp.sum(theirs, axis=0))).mean() > 0.5
    assert np.isnan(np.asarray(ours)).sum() == 0


def test_the_mean_square_can_be_had_from_the_state() -> None:
    gs = jnp.asarray(np.random.default_rng(3).normal(1.0, 1.0, size=(7, 3)), jnp.float32)
    for corrected in (False, True):
        tx = scale_by_stddev(0.9, bias_correction=corrected)
        state, mean_square = tx.init(gs[0]), np.zeros(3)
        for g in gs:
            _, state = tx.update(g, state)
            mean_square = 0.9 * mean_square + 0.1 * np.asarray(g, np.float64) ** 2
        weight = 1 - 0.9**7 if corrected else 1
        held = state.nu + weight * state.mu**2
        np.testing.assert_allclose(held, mean_square, rtol=1e-5)
