"""The factory against the real Keras 3, step by step, over all of its arguments.

Where the two differ on purpose: Keras computes the centered variance as v - m**2, which
cancels. Its float32 numbers are then noise, so with `centered=True` the gradients here
have a mean well below their spread, where the cancellation costs little; what happens
elsewhere is in `tests/transforms/test_centered.py`, against float64.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax import dynamic_loss_scale, exclude_paths, finalize, rmsprop, scale_loss
from tests.parity import _keras
from tests.reference.keras import KerasRMSprop

STEPS = 60
SHAPES = {"dense/kernel": (3, 4), "dense/bias": (4,), "scale": ()}
EXCLUDE = ["bias"]


def _problem(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)

    def draw() -> dict[str, Any]:
        return {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}

    # Far from 0: a relative error says nothing of a parameter that crosses it.
    params = {n: np.float32(3) + np.abs(p) for n, p in draw().items()}
    return params, [draw() for _ in range(STEPS)]


def _ours(
    params: dict[str, Any], grads: list[dict[str, Any]], **arguments: Any
) -> list[dict[str, np.ndarray]]:
    tx = rmsprop(**arguments)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)

    def step(carry: Any, gradient: Any) -> tuple[Any, Any]:
        params, opt_state = carry
        scaled = jax.tree.map(lambda g: scale_loss(g, opt_state), gradient)
        updates, opt_state = tx.update(scaled, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    start = (jax.tree.map(jnp.asarray, params), tx.init(params))
    _, steps = jax.device_get(jax.jit(lambda: jax.lax.scan(step, start, batches))())
    return [{n: p[t] for n, p in steps.items()} for t in range(STEPS)]


def _assert_equal(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) == STEPS
    for step, (mine, keras_params) in enumerate(zip(ours, theirs, strict=True)):
        for name, value in mine.items():
            np.testing.assert_allclose(
                value, keras_params[name], rtol=1e-5, err_msg=f"step {step}, {name}"
            )


def _assert_parity(seed: int, decays: str, **arguments: Any) -> None:
    params, grads = _problem(seed)
    exclude = EXCLUDE if decays == "but biases" else None
    mask = exclude_paths(*EXCLUDE) if exclude else None
    _assert_equal(
        _ours(params, grads, weight_decay_mask=mask, **arguments),
        _keras.trajectory(params, grads, exclude, **arguments),
    )


CLIPS = [{}, {"clipnorm": 1.0}, {"clipvalue": 0.5}, {"global_clipnorm": 1.5}]
DECAYS = [
    ("none", {}),
    ("all", {"weight_decay": 0.1}),
    ("but biases", {"weight_decay": 0.1}),
]
AVERAGES = [
    {},
    {"use_ema": True, "ema_momentum": 0.9},
    {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
]


# The whole grid takes minutes. By default each pair of values of a corner is there, and
# each corner has one row of the grid, another one each.
GRID = list(itertools.product(CLIPS, DECAYS, AVERAGES))
CORNERS = list(itertools.product([0.0, 0.9], [False, True], [None, 2, 3]))


def _slow(value: int | None) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


PAIRWISE = [0, 2, 4, 7, 9, 11]


@pytest.mark.parametrize(
    "corner", [n if n in PAIRWISE else _slow(n) for n in range(len(CORNERS))]
)
@pytest.mark.parametrize("part", [0, *(_slow(part) for part in range(1, len(GRID)))])
def test_every_kind_of_argument_beside_every_other(corner: int, part: int) -> None:
    momentum, centered, accumulation = CORNERS[corner]
    index = (7 * corner + part) % len(GRID)
    clip, (decays, decay), average = GRID[index]
    _assert_parity(
        index,
        decays,
        learning_rate=0.01,
        momentum=momentum,
        centered=centered,
        gradient_accumulation_steps=accumulation,
        loss_scale_factor=[None, 1024.0][index % 2],
        **clip,
        **decay,
        **average,
    )


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    learning_rate=st.floats(1e-4, 0.02),
    rho=st.floats(0.5, 0.99),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    epsilon=st.sampled_from([1e-7, 1e-3, 1.0]),
    centered=st.booleans(),
    decay=st.sampled_from(DECAYS),
    clip=st.sampled_from(CLIPS),
    average=st.sampled_from(AVERAGES),
    loss_scale_factor=st.sampled_from([None, 0.3, 2.0**15]),
    accumulation=st.sampled_from([None, 2, 3, 7]),
)
def test_random_draws_of_all_arguments(
    seed: int,
    learning_rate: float,
    rho: float,
    momentum: float,
    epsilon: float,
    centered: bool,
    decay: tuple[str, dict[str, Any]],
    clip: dict[str, Any],
    average: dict[str, Any],
    loss_scale_factor: float | None,
    accumulation: int | None,
) -> None:
    _assert_parity(
        seed,
        decay[0],
        learning_rate=learning_rate,
        rho=rho,
        momentum=momentum,
        # Without an epsilon to speak of, Keras's first centered steps divide by noise.
        epsilon=max(epsilon, 1e-3) if centered else epsilon,
        centered=centered,
        loss_scale_factor=loss_scale_factor,
        gradient_accumulation_steps=accumulation,
        **decay[1],
        **clip,
        **average,
    )


@pytest.mark.parametrize("accumulation", [2, *(_slow(k) for k in (None, 3))])
@pytest.mark.parametrize("average", AVERAGES)
def test_schedules(accumulation: int | None, average: dict[str, Any]) -> None:
    keras, (params, grads) = _keras.load(), _problem(7)
    arguments = dict(
        momentum=0.9,
        weight_decay=0.05,
        gradient_accumulation_steps=accumulation,
        **average,
    )
    theirs = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.8, staircase=True)
    ours = optax.exponential_decay(0.02, 5, 0.8, staircase=True)
    _assert_equal(
        _ours(params, grads, learning_rate=ours, **arguments),
        _keras.trajectory(params, grads, learning_rate=theirs, **arguments),
    )


def test_finalize_is_finalize_variable_values() -> None:
    keras, (params, grads) = _keras.load(), _problem(3)
    arguments = dict(learning_rate=0.01, use_ema=True, ema_momentum=0.9)
    variable = keras.Variable(params["dense/kernel"])
    optimizer = keras.optimizers.RMSprop(**arguments)
    tx = rmsprop(**arguments)
    p = params["dense/kernel"]
    opt_state = tx.init(p)
    for gradient in grads:
        optimizer.apply_gradients([(gradient["dense/kernel"], variable)])
        updates, opt_state = tx.update(gradient["dense/kernel"], opt_state, p)
        p = optax.apply_updates(p, updates)
    before = np.asarray(variable.value)
    optimizer.finalize_variable_values([variable])
    assert np.abs(np.asarray(variable.value) - before).max() > 0.01
    np.testing.assert_allclose(finalize(p, opt_state), variable.value, rtol=1e-5)


def test_dynamic_loss_scale_is_the_loss_scale_optimizer() -> None:
    keras = _keras.load()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.RMSprop(0.01), initial_scale=1024.0, dynamic_growth_steps=3
    )
    tx = dynamic_loss_scale(rmsprop(0.01), init_scale=1024.0, dynamic_growth_steps=3)
    optimizer.build([keras.Variable(np.float32(5))])
    theirs, their_state = [np.float32(5)], [v.value for v in optimizer.variables]
    their_step = jax.jit(optimizer.stateless_apply)
    scale_at = [v.name for v in optimizer.variables].index("dynamic_scale")
    p, opt_state = np.float32(5), tx.init(np.float32(5))
    bad = {3: np.inf, 4: np.nan, 9: -np.inf, 14: np.nan}
    for step in range(20):
        gradient = np.float32(bad.get(step, np.sin(step) * 1024))
        theirs, their_state = their_step(their_state, [gradient], theirs)
        updates, opt_state = tx.update(gradient, opt_state, p)
        p = optax.apply_updates(p, updates)
        assert float(opt_state.loss_scale) == float(their_state[scale_at]), step
        np.testing.assert_allclose(p, theirs[0], rtol=1e-5, err_msg=str(step))


def test_the_golden_run_of_keras() -> None:
    """`test_correctness_with_golden` of Keras's own `rmsprop_test.py`."""
    golden = [0.9967, 0.9933, 0.9908, 0.9885, 0.9864]
    grads = np.arange(0.1, 1.1, 0.1).astype(np.float32)
    tx = rmsprop(centered=True)
    p = np.ones(10, np.float32)
    opt_state = tx.init(p)
    for step, expected in enumerate(golden):
        gradient = grads if step else np.full(10, 0.01, np.float32)
        updates, opt_state = tx.update(gradient, opt_state, p)
        p = optax.apply_updates(p, updates)
        np.testing.assert_allclose(p, expected, atol=1e-4, err_msg=f"step {step}")


@pytest.mark.slow
def test_the_reference_is_keras_too() -> None:
    params, grads = _problem(11)
    for index, (clip, (decays, decay), average) in enumerate(GRID):
        arguments = dict(
            learning_rate=0.01,
            momentum=[0.0, 0.9][index % 2],
            gradient_accumulation_steps=[None, 2, 3][index % 3],
            loss_scale_factor=[None, 8.0][index // 2 % 2],
            **clip,
            **decay,
            **average,
        )
        exclude = EXCLUDE if decays == "but biases" else []
        reference = KerasRMSprop(params, exclude=tuple(exclude), **arguments)
        scale = arguments["loss_scale_factor"] or 1.0
        mine = [reference.apply({n: g * scale for n, g in d.items()}) for d in grads]
        _assert_equal(mine, _keras.trajectory(params, grads, exclude, **arguments))
