"""After 2**31 calls: a count stays the largest int32, and what reads it goes on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import dialects, interchange, rmsprop

LARGEST = 2**31 - 1
GRADIENT, PARAMS = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, 4.0])}


def _with_counts(state: Any, value: int, *names: str) -> Any:
    """A state with that value in its counts, or in those of these names."""

    def replace(keys: Any, leaf: Any) -> Any:
        if leaf.dtype != jnp.int32 or (
            names and getattr(keys[-1], "name", None) not in names
        ):
            return leaf
        return jnp.full_like(leaf, value)

    return jax.tree_util.tree_map_with_path(replace, state)


def _counts(state: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]


DECAY = optax.linear_schedule(1.0, 0.25, 100)
CONFIGURATIONS: dict[str, Any] = {
    "schedules": rmsprop(DECAY, weight_decay=DECAY, momentum=0.9),
    "corrected": rmsprop(0.1, bias_correction=True),
    "centered": rmsprop(0.1, centered=True, bias_correction=True),
    "average": rmsprop(0.1, use_ema=True, skip_nonfinite=True),
    "stochastic": rmsprop(DECAY, momentum=0.9, moment_storage="bfloat16"),
    "keras": dialects.keras(DECAY, weight_decay=0.1, use_ema=True, centered=True),
    "tf_keras": dialects.tf_keras(DECAY, momentum=0.9, centered=True),
    "tf1": dialects.tf1(DECAY, momentum=0.9),
    "torch": dialects.torch(DECAY, momentum=0.9, centered=True, weight_decay=0.1),
    "timm": dialects.timm(DECAY, momentum=0.9, weight_decay=0.1),
    "optax": dialects.optax(DECAY, centered=True, bias_correction=True),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_last_step_repeats(kind: str) -> None:
    """With all counts at their end, as with them at a million."""
    tx = CONFIGURATIONS[kind]
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = update(GRADIENT, state, PARAMS)
    expected, _ = update(GRADIENT, _with_counts(state, 10**6), PARAMS)
    for count in (LARGEST - 1, LARGEST):
        found, after = update(GRADIENT, _with_counts(state, count), PARAMS)
        np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)
        assert np.isfinite(found["w"]).all()
        assert found["w"].any()
        assert all((count >= 0).all() for count in _counts(after))


@pytest.mark.parametrize("k", [2, 7, 8])
def test_a_schedule_under_accumulation_stays_at_its_end(k: int) -> None:
    seen = []

    def schedule(count: Any) -> Any:
        jax.debug.callback(lambda count: seen.append(int(count)), count)
        return optax.linear_schedule(1.0, 0.25, 100)(count)

    tx = rmsprop(schedule, gradient_accumulation_steps=k)
    update, start = jax.jit(tx.update), tx.init(PARAMS)
    last = (LARGEST + 1) // k - 1  # the last update whose last call is an int32
    for count in (0, 1000, last - 1, last, last + 1, LARGEST - 1, LARGEST):
        state = _with_counts(start, count, "count", "gradient_step")
        state = (state[0]._replace(count=jnp.int32(k - 1)), *state[1:])
        updates, state = update(GRADIENT, state, PARAMS)
        jax.effects_barrier()
        assert seen == [min(count * k + k - 1, LARGEST)]
        assert state[0].gradient_step == min(count + 1, LARGEST)
        assert updates["w"].any()
        seen.clear()


@pytest.mark.parametrize(
    ("k", "frequency"), [(1, 1), (1, 3), (1, 4), (2, 3), (3, 2), (4, 4), (1, 2**30)]
)
def test_the_average_overwrites_in_time(k: int, frequency: int) -> None:
    tx = ro.average_params(0.5, frequency, k)
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    start = LARGEST - 3 * k
    state = state._replace(count=jnp.int32(start))
    for call in range(start, start + 40):
        average = (np.asarray(state.ema["w"]) + PARAMS["w"] + GRADIENT["w"]) / 2
        updates, state = update(GRADIENT, state, PARAMS)
        overwrites = (call // k + 1) % frequency == 0
        expected = average - PARAMS["w"] if overwrites else GRADIENT["w"]
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-6)
        assert state.count >= k


@pytest.mark.parametrize(("k", "frequency"), [(1, None), (7, None), (8, 2**31 - 1)])
def test_an_average_of_updates_goes_on_without_overwriting(
    k: int, frequency: Any
) -> None:
    tx = ro.average_params(0.5, frequency, k, per_update=True)
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    start = LARGEST - 2
    state = state._replace(count=jnp.int32(start))
    for call in range(start, start + 20):
        before = np.asarray(state.ema["w"])
        updates, state = update(GRADIENT, state, PARAMS)
        moves = call % k == k - 1
        new = PARAMS["w"] + GRADIENT["w"]
        expected = (before + new) / 2 if moves else before
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-6)
        np.testing.assert_array_equal(updates["w"], GRADIENT["w"])
        assert state.count > LARGEST - k - 2


def test_a_row_that_was_touched_as_often() -> None:
    """A row at its last count beside one that is not."""
    tx = rmsprop(0.1, centered=True, bias_correction=True)
    params = {"w": jnp.ones((2, 3))}
    state = _with_counts(tx.init(params), LARGEST, "count")
    rows = {"w": jnp.array([[LARGEST], [4]], jnp.int32)}
    state = optax.tree.set(state, row_counts=rows)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert np.isfinite(updates["w"]).all()
    counts = optax.tree.get(state, "row_counts")["w"]
    np.testing.assert_array_equal(counts, [[LARGEST], [5]])


def test_wrappers_whose_count_ends() -> None:
    tx: Any = ro.dynamic_loss_scale(optax.sgd(1.0), 8.0, LARGEST)
    state = tx.init(PARAMS)._replace(count=jnp.int32(LARGEST))
    _, state = tx.update(GRADIENT, state, PARAMS)
    assert (state.loss_scale, state.count) == (16.0, 0)
    tx = ro.accumulate_gradients(optax.sgd(1.0), LARGEST)
    state = tx.init(PARAMS)._replace(count=jnp.int32(LARGEST))
    _, state = tx.update(GRADIENT, state, PARAMS)
    assert (state.gradient_step, state.count) == (1, 0)


@pytest.mark.parametrize("k", [2, 7, 8])
def test_keras_is_given_a_count_with_the_right_remainder(k: int) -> None:
    tx = rmsprop(optax.constant_schedule(0.1), gradient_accumulation_steps=k)
    state = _with_counts(tx.init(PARAMS), LARGEST - 5, "count", "gradient_step")
    state = (state[0]._replace(count=jnp.int32(1)), *state[1:])
    variables = [30, 0.1, np.ones(2, np.float32), np.ones(2, np.float32)]
    iteration, *_ = interchange.keras.export_state(state, variables, tx)
    assert LARGEST - k < iteration <= LARGEST
    assert iteration % k == 1
