"""Accumulation: k calls are one step on the mean, and an infinity passes through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import accumulate_gradients, has_updated, rmsprop, skip_nonfinite

INNER = rmsprop(0.1, momentum=0.9, weight_decay=0.1)


@jax.jit
def _one_call(k: Any, g: Any, state: Any, params: Any) -> Any:
    """The number of calls is traced: one program for all."""
    return accumulate_gradients(INNER, k).update(g, state, params)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_is_one_step_on_the_mean(k: int) -> None:
    gs = np.random.default_rng(0).integers(-8, 8, size=(4 * k, 3)).astype(np.float32) * k
    params, inner = jnp.ones(3), INNER
    state, inner_state = accumulate_gradients(inner, k).init(params), inner.init(params)
    expected = params
    for t in range(4 * k):
        updates, state = _one_call(k, gs[t], state, params)
        params = optax.apply_updates(params, updates)
        if (t + 1) % k:
            assert not updates.any()
            assert state.count == (t + 1) % k
            continue
        mean = jnp.asarray(gs[t + 1 - k : t + 1].mean(axis=0))
        updates, inner_state = inner.update(mean, inner_state, expected)
        expected = optax.apply_updates(expected, updates)
        np.testing.assert_allclose(params, expected, rtol=1e-6)
        np.testing.assert_array_equal(state.acc_grads, np.zeros(3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_one_call_is_one_update(wrap: Any, dtype: str) -> None:
    inner = rmsprop(optax.linear_schedule(0.1, 0.0, 9), momentum=0.9, weight_decay=0.1)
    tx, params = accumulate_gradients(inner, 1), jnp.ones(3, dtype)
    state, inner_state = tx.init(params), inner.init(params)
    assert not has_updated(state)
    step, inner_step = wrap(tx.update), wrap(inner.update)
    for g in np.random.default_rng(0).normal(size=(5, 3)):
        updates, state = step(jnp.asarray(g, dtype), state, params)
        expected, inner_state = inner_step(jnp.asarray(g, dtype), inner_state, params)
        assert updates.dtype == expected.dtype
        # A compiled branch rounds elsewhere than what runs operation by operation.
        rtol = 4 * float(jnp.finfo(jnp.float32).eps) if dtype == "float32" else 0.0
        np.testing.assert_allclose(
            updates.astype(jnp.float32), expected.astype(jnp.float32), rtol=rtol
        )
        assert has_updated(state)
        assert not state.acc_grads.any()
    assert state.gradient_step == 5
    with pytest.raises(ValueError, match="at least 1, got 0"):
        accumulate_gradients(inner, 0)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_microbatch_does_not_outlive_its_update(bad: float, place: int) -> None:
    tx = accumulate_gradients(optax.scale(-1.0), 2)
    state = tx.init(jnp.array(0.0))
    cycle = [1.0, 1.0]
    cycle[place] = bad
    _, state = tx.update(jnp.array(cycle[0]), state)
    updates, state = tx.update(jnp.array(cycle[1]), state)
    assert not np.isfinite(updates)
    assert (state.acc_grads, state.count) == (0.0, 0)
    _, state = tx.update(jnp.array(1.0), state)
    updates, _ = tx.update(jnp.array(3.0), state)
    assert updates == -2.0


def test_optax_keeps_the_nan() -> None:
    """What this wrapper is for."""
    tx = optax.MultiSteps(optax.scale(-1.0), 2)
    state: Any = tx.init(jnp.array(0.0))
    for g in (np.inf, 1.0, 1.0, 3.0, 1.0, 3.0):
        updates, state = tx.update(jnp.array(g), state)
    assert np.isnan(state.acc_grads)
    assert np.isnan(updates)


def test_the_inner_update_runs_at_emits_only() -> None:
    calls: list[int] = []

    def counted(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        jax.debug.callback(lambda: calls.append(1))
        return updates, state

    inner = optax.GradientTransformation(optax.init_empty_state, counted)
    tx = accumulate_gradients(inner, 3)
    state = tx.init(jnp.array(0.0))
    update = jax.jit(tx.update)
    for t in range(1, 10):
        _, state = update(jnp.array(1.0), state)
        jax.effects_barrier()
        assert len(calls) == t // 3
    assert update._cache_size() == 1


def test_bf16_gradients_are_summed_in_float32() -> None:
    """300 times 1 in bf16 would stop at 256."""
    tx = accumulate_gradients(optax.identity(), 300)
    g = jnp.array(1.0, jnp.bfloat16)
    state, update = tx.init(g), jax.jit(tx.update)
    for _ in range(299):
        _, state = update(g, state)
    assert state.acc_grads == 299.0
    updates, state = update(g, state)
    assert (float(updates), updates.dtype) == (1.0, jnp.bfloat16)


def test_extra_arguments_go_to_the_inner_update() -> None:
    def scaled(updates: Any, state: Any, params: Any = None, *, by: Any) -> Any:
        del params
        return updates * by, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, scaled)
    tx = accumulate_gradients(inner, 2)
    state = tx.init(jnp.array(0.0))
    for by in (5.0, 7.0):
        updates, state = tx.update(jnp.array(1.0), state, by=by)
    assert updates == 7.0


@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9}, {"centered": True}])
def test_a_donated_step_needs_no_memory_of_its_own(arguments: dict[str, Any]) -> None:
    """Neither zeros for the calls that add, nor copies of moments that wait."""
    tx = rmsprop(0.1, gradient_accumulation_steps=4, **arguments)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    found = compiled.memory_analysis()
    assert found.temp_size_in_bytes < 512 * 512  # a quarter of a leaf; it took two


def test_an_update_in_another_dtype_or_missing_is_what_inner_made() -> None:
    """Updates of another dtype, a complex one, and None."""

    def turned(g: Any, state: Any, params: Any = None) -> Any:
        del params
        grow = {"half": 1.0, "turned": 1j, "missing": 1.0}
        return {n: None if x is None else x * grow[n] for n, x in g.items()}, state

    tx = accumulate_gradients(optax.GradientTransformation(lambda p: (), turned), 2)
    params = {n: jnp.ones(2) for n in ("half", "turned", "missing")}
    grads = {"half": jnp.array([1.5, 2], jnp.bfloat16), "turned": jnp.array([1.0, 2.0])}
    state, updates = tx.init(params), params
    for _ in range(2):
        updates, state = jax.jit(tx.update)(grads | {"missing": None}, state, params)
    assert updates["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["half"].astype(np.float32), [1.5, 2])
    np.testing.assert_array_equal(updates["turned"], [1j, 2j])
    assert updates["missing"] is None
    np.testing.assert_array_equal(jax.tree.leaves(state.acc_grads), np.zeros((3, 2)))


def _calls(step: jax.Array) -> jax.Array:
    """A schedule of k."""
    return jnp.where(step < 2, 2, 3)


@pytest.mark.parametrize(
    ("every_k", "use_grad_mean"),
    [
        (3, False),
        (_calls, True),
        pytest.param(3, True, marks=pytest.mark.slow),
        pytest.param(_calls, False, marks=pytest.mark.slow),
    ],
)
def test_it_is_optax_multi_steps(every_k: Any, use_grad_mean: bool) -> None:
    """A schedule of k, sums or means, and whether the last call was an update."""
    inner = optax.adam(optax.linear_schedule(0.1, 0.0, 5))
    mine = accumulate_gradients(inner, every_k, use_grad_mean=use_grad_mean)
    theirs = optax.MultiSteps(inner, every_k, use_grad_mean=use_grad_mean)
    params = {"w": jnp.ones(4)}
    state, other = mine.init(params), theirs.init(params)
    assert not has_updated(state)
    step, other_step = jax.jit(mine.update), jax.jit(theirs.update)
    rng = np.random.default_rng(0)
    for _ in range(13):
        grads = {"w": jnp.asarray(rng.normal(size=4), jnp.float32)}
        updates, state = step(grads, state, params)
        expected, other = other_step(grads, other, params)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=2e-6, atol=1e-9)
        assert bool(has_updated(state)) == bool(theirs.has_updated(other))
        assert int(state.gradient_step) == int(other.gradient_step)


def test_where_has_updated_looks() -> None:
    params = jnp.ones(2)
    tx = skip_nonfinite(rmsprop(gradient_accumulation_steps=2))
    state = tx.init(params)
    seen = []
    for _ in range(4):
        _, state = tx.update(params, state)
        seen.append(bool(jax.jit(has_updated)(state)))
    assert seen == [False, True, False, True]
    with pytest.raises(ValueError, match="holds 0 states of `accumulate_gradients`"):
        has_updated(rmsprop().init(params))
    with pytest.raises(ValueError, match="holds 2 states"):
        has_updated((state, state))
    with pytest.raises(TypeError, match="`gradient_accumulation_steps`"):
        accumulate_gradients(rmsprop(), lambda a, b: a)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`use_grad_mean`"):
        accumulate_gradients(rmsprop(), 2, use_grad_mean=1)  # pyright: ignore[reportArgumentType]


def test_a_schedule_of_floats_is_rounded_and_at_least_one() -> None:
    """All gradients are 1, so each mean is 1, in whatever number of calls."""
    for schedule in (optax.linear_schedule(1, 4, 4), lambda n: 0, lambda n: -3):
        tx = accumulate_gradients(optax.identity(), schedule)
        state = tx.init(jnp.zeros(()))
        update, found = jax.jit(tx.update), []
        for _ in range(8):
            u, state = update(jnp.ones(()), state)
            found.append(float(u))
        assert found[0] == 1.0
        assert set(found) <= {0.0, 1.0}


def test_the_mean_is_not_rounded_before_the_float32_optimizer() -> None:
    def second_moment(tx: Any, gradients: Any) -> float:
        state = tx.init(gradients[0])
        for g in gradients:
            u, state = tx.update(g, state, gradients[0])
            assert u.dtype == g.dtype
        return float(optax.tree.get(state, "nu"))

    # (1 + 1.0078125) / 2 is between two numbers of bfloat16.
    pair = jnp.array([1.0, 1.0078125], jnp.bfloat16)
    tx = rmsprop(rho=0.0, gradient_accumulation_steps=2)
    assert second_moment(tx, pair) == pytest.approx(1.00390625**2)
    # A sum beyond the largest float16.
    tx = accumulate_gradients(rmsprop(rho=0.0), 2, use_grad_mean=False)
    assert second_moment(tx, jnp.full(2, 6e4, jnp.float16)) == pytest.approx(
        1.2e5**2, 1e-3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_schedule_that_is_not_finite(bad: float) -> None:
    """It would never update again, without a word."""
    tx = accumulate_gradients(optax.identity(), lambda _: np.float32(bad))
    g = jnp.array(1.0)
    state = tx.init(g)
    with pytest.raises(
        ValueError, match=r"_steps` must return a finite.*returned -?(n|i)"
    ):
        tx.update(g, state)
    tx = accumulate_gradients(optax.identity(), lambda n: jnp.where(n < 1, 2, bad))
    update, state = jax.jit(tx.update), tx.init(g)
    found = []
    for _ in range(4):
        updates, state = update(g, state)
        found.append(float(updates))
    np.testing.assert_array_equal(found, [0, 1, np.nan, np.nan])


def test_a_schedule_that_returns_something_else() -> None:
    tx = accumulate_gradients(optax.identity(), lambda _: jnp.ones(2))
    g = jnp.array(1.0)
    with pytest.raises(TypeError, match="_steps` must return a real scalar"):
        tx.update(g, tx.init(g))
    tx = accumulate_gradients(optax.identity(), lambda _: 0.2)
    assert tx.update(g, tx.init(g))[0] == 1.0
