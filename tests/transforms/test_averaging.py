"""The average of the parameters: its clocks, and where `finalize` finds it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import average_params, finalize, rmsprop, with_average


def _run(tx: optax.GradientTransformation, steps: int, **grads: float) -> Any:
    """Parameters that start at zero, and the state, after constant gradients."""
    given = {name: jnp.asarray(g) for name, g in grads.items()}
    params = optax.tree.zeros_like(given)
    opt_state = tx.init(params)
    for _ in range(steps):
        updates, opt_state = tx.update(given, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def test_the_clocks_of_keras() -> None:
    """Measured with Keras 3.15.1: the average moves at micro-steps."""
    tx = rmsprop(
        0.1,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
    )
    params = jnp.array(0.0)
    opt_state, seen = tx.init(params), []
    step = jax.jit(tx.update)
    for _ in range(8):
        updates, opt_state = step(jnp.array(1.0), opt_state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params))
    measured = [0, -0.31623, -0.31623, -0.43094, -0.43094, -0.62303, -0.57501, -0.66027]
    np.testing.assert_allclose(seen, measured, atol=1e-5)


def test_without_accumulation_an_iteration_is_a_call() -> None:
    tx = average_params(0.5, overwrite_frequency=3)
    params = jnp.array(0.0)
    state, seen = tx.init(params), []
    for _ in range(4):
        updates, state = tx.update(jnp.array(1.0), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params))
    # Averages: 1, 1.5, 2.25, and from there (2.25 + 3.25) / 2.
    assert seen == [1.0, 2.0, 2.25, 3.25]
    assert state.ema == 2.75
    assert state.count == 4


def test_a_decay_that_changes() -> None:
    """With i / (i + 1) the average is the mean of 1, 2, 3 and 4."""
    _, state = _run(average_params(lambda i: i / (i + 1)), 4, a=1.0)
    assert state.ema == {"a": 2.5}
    tx = average_params(lambda i: jnp.array([0.0, 0.5, 0.75])[i], from_initial=True)
    _, state = _run(tx, 3, a=1.0)  # 1, 1.5, 1.875
    assert state.ema == {"a": 1.875}


def test_a_decay_that_is_none() -> None:
    with pytest.raises(TypeError, match="`decay` must be"):
        average_params(lambda: 0.5)
    with pytest.raises(ValueError, match=r"`decay` must be a number in \[0, 1\]"):
        average_params(1.5)
    with pytest.raises(TypeError, match="`decay` must return a real scalar"):
        _run(average_params(lambda i: jnp.ones(2)), 1, a=1.0)


@pytest.mark.parametrize("frequency", [None, 2])
def test_an_average_that_moves_at_updates(frequency: int | None) -> None:
    """As one without accumulation does in half of the calls."""
    options: Any = {"use_ema": True, "ema_momentum": 0.5}
    options["ema_overwrite_frequency"] = frequency
    accumulated = rmsprop(
        0.1, **options, gradient_accumulation_steps=2, ema_per_update=True
    )
    params, state = _run(accumulated, 10, a=1.0, b=-2.0)
    once, expected = _run(rmsprop(0.1, **options), 5, a=1.0, b=-2.0)
    found, wanted = finalize(params, state), finalize(once, expected)
    np.testing.assert_allclose(found["a"], wanted["a"], rtol=1e-6)
    np.testing.assert_allclose(found["b"], wanted["b"], rtol=1e-6)
    np.testing.assert_allclose(params["a"], once["a"], rtol=1e-6)
    _, before = _run(accumulated, 9, a=1.0, b=-2.0)
    assert optax.tree.get(before, "ema")["a"] != optax.tree.get(state, "ema")["a"]


def test_moving_at_updates_needs_an_accumulation_and_an_average() -> None:
    with pytest.raises(ValueError, match="without `gradient_accumulation_steps`"):
        rmsprop(use_ema=True, ema_per_update=True)
    with pytest.raises(ValueError, match="without `use_ema=True`"):
        rmsprop(gradient_accumulation_steps=2, ema_per_update=True)


def _with_masked() -> optax.GradientTransformation:
    return optax.masked(
        optax.chain(optax.identity(), average_params(0.5)), {"a": True, "b": False}
    )


def test_an_average_from_elsewhere_goes_on() -> None:
    params, state = _run(_with_masked(), 1, a=1.0, b=1.0)
    state = with_average(state, {"a": np.float64(4.0), "b": np.zeros(3)}, 7)
    assert finalize(params, state) == {"a": 4.0, "b": 1.0}
    _, state = _with_masked().update(
        {"a": jnp.ones(()), "b": jnp.ones(())}, state, params
    )
    assert finalize(params, state)["a"] == (4.0 + 2.0) / 2
    assert optax.tree.get(state, "count") == 8


def test_an_average_that_does_not_fit() -> None:
    _, state = _run(average_params(0.5), 1, a=1.0)
    with pytest.raises(ValueError, match="`average` does not have the tree"):
        with_average(state, {"b": jnp.ones(())}, 1)
    with pytest.raises(ValueError, match="`average` does not have the tree"):
        with_average(state, {"a": jnp.ones(2)}, 1)
    with pytest.raises(ValueError, match="`count` must be an integer that is at least 1"):
        with_average(state, {"a": jnp.ones(())}, 0)
    with pytest.raises(ValueError, match="`opt_state` has no average"):
        with_average(optax.adam(0.1).init({"a": jnp.ones(())}), {"a": jnp.ones(())}, 1)


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_decays_at_the_ends(decay: float, expected: float) -> None:
    _, state = _run(average_params(decay), 3, a=1.0)
    assert state.ema == {"a": expected}


def test_before_the_first_step_the_average_is_the_parameter() -> None:
    tx = rmsprop(use_ema=True)
    params = {"a": jnp.array(3.0)}
    assert finalize(params, tx.init(params)) == params


def test_where_nothing_is_averaged_parameters_come_back() -> None:
    params, opt_state = _run(rmsprop(), 2, a=1.0)
    assert finalize(params, opt_state) is params


def _averaged() -> optax.GradientTransformation:
    return optax.chain(optax.scale(1.0), average_params(0.5))


WRAPPED: dict[str, Any] = {
    "chain": optax.chain(optax.identity(), _averaged()),
    "named chain": optax.named_chain(("average", _averaged())),
    "inject": optax.inject_hyperparams(lambda scale: _averaged())(scale=1.0),
    "accumulation": optax.apply_if_finite(_averaged(), 3),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_finds_the_average_inside(kind: str) -> None:
    params, opt_state = _run(WRAPPED[kind], 2, a=1.0, b=-2.0)
    assert params == {"a": 2.0, "b": -4.0}
    assert finalize(params, opt_state) == {"a": 1.5, "b": -3.0}


def test_masked_parameters_are_not_averaged() -> None:
    tx = optax.masked(_averaged(), {"a": True, "b": False})
    params, opt_state = _run(tx, 2, a=1.0, b=-2.0)
    assert finalize(params, opt_state) == {"a": 1.5, "b": -4.0}


def test_each_part_of_a_partition_has_its_own() -> None:
    parts = {
        "slow": _averaged(),
        "fast": optax.chain(optax.scale(2.0), average_params(0.0)),
        "none": optax.scale(1.0),
    }
    tx = optax.partition(parts, {"a": "slow", "b": "fast", "c": "none"})
    params, opt_state = _run(tx, 2, a=1.0, b=1.0, c=1.0)
    assert params == {"a": 2.0, "b": 4.0, "c": 2.0}
    assert finalize(params, opt_state) == {"a": 1.5, "b": 4.0, "c": 2.0}


def test_bf16_parameters_are_averaged_in_float32() -> None:
    params = {"a": jnp.array(1.0, jnp.bfloat16)}
    tx = average_params(0.75)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update({"a": jnp.array(0.25, jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
    # 1.25, then 1.3125, then 1.421875, of which bf16 holds 1.421875 too.
    assert state.ema["a"].dtype == jnp.float32
    assert state.ema["a"] == 1.25 * 0.75**2 + 1.5 * 0.25 * 0.75 + 1.75 * 0.25
    final = finalize(params, state)["a"]
    assert (final.dtype, float(final)) == (jnp.bfloat16, 1.421875)


def test_what_is_averaged_is_what_the_user_holds() -> None:
    """In bf16 an update of 1e-3 to 1.0 vanishes, and so it must in the average."""
    params = jnp.array(1.0, jnp.bfloat16)
    tx = average_params(0.5)
    _, state = tx.update(jnp.array(1e-3), tx.init(params), params)
    assert state.ema == 1.0


def test_finalize_runs_compiled() -> None:
    params, opt_state = _run(rmsprop(0.1, use_ema=True, ema_momentum=0.5), 3, a=1.0)
    eager = finalize(params, opt_state)
    assert jax.jit(finalize)(params, opt_state) == eager
    assert eager != params


def test_finalize_with_swapped_or_other_arguments() -> None:
    tx, params = rmsprop(use_ema=True), {"w": jnp.ones(3)}
    opt_state = tx.init(params)
    with pytest.raises(ValueError, match="in this order"):
        finalize(opt_state, params)
    with_a_function = {"params": params, "activation": jnp.tanh}
    for other in (with_a_function, {"w": jnp.ones((3, 3))}):
        with pytest.raises(ValueError, match="`params` does not have the tree"):
            finalize(other, opt_state)
