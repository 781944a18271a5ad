"""The factory: its numbers in float64, its clocks, its live learning rate."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from tests.reference.keras import KerasRMSprop

FULL: dict[str, Any] = {
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "clipnorm": 1.0,
    "use_ema": True,
    "ema_momentum": 0.9,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 2,
    "loss_scale_factor": 8.0,
}


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9}, FULL])
def test_float64_is_the_reference_to_1e_12(
    centered: bool, arguments: dict[str, Any]
) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = {"w": 3 + rng.random((3, 2)), "b": 3 + rng.random(2)}
        grads = [
            {n: rng.normal(size=p.shape) for n, p in params.items()} for _ in range(60)
        ]
        reference = KerasRMSprop(params, centered=centered, **arguments)
        tx = ro.rmsprop(centered=centered, **arguments)
        opt_state, update = tx.init(params), jax.jit(tx.update)
        p: Any = params
        for step, gradient in enumerate(grads):
            updates, opt_state = update(gradient, opt_state, p)
            p = optax.apply_updates(p, updates)
            expected = reference.apply(gradient)
            for name in params:
                np.testing.assert_allclose(
                    p[name], expected[name], rtol=1e-12, err_msg=f"{step} {name}"
                )


def test_the_order_of_arguments_is_keras() -> None:
    parameters = inspect.signature(ro.rmsprop).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [
        "learning_rate",
        "rho",
        "momentum",
        "epsilon",
        "centered",
        "weight_decay",
        "clipnorm",
        "clipvalue",
        "global_clipnorm",
        "use_ema",
        "ema_momentum",
        "ema_overwrite_frequency",
        "name",
    ]


def test_the_clock_of_the_average_when_gradients_are_accumulated() -> None:
    """Measured on Keras 3.15.1 with the JAX backend."""
    measured = [0, -0.31623, -0.31623, -0.43094, -0.43094, -0.62303, -0.57501, -0.66027]
    tx = ro.rmsprop(
        0.1,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
    )
    params: Any = jnp.array(0.0)
    opt_state = tx.init(params)
    for expected in measured:
        updates, opt_state = tx.update(jnp.array(1.0), opt_state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, atol=6e-6)


def test_a_schedule_sees_micro_steps() -> None:
    tx = ro.rmsprop(
        lambda count: count, rho=0.0, epsilon=0.0, gradient_accumulation_steps=3
    )
    opt_state = tx.init(jnp.array(0.0))
    seen = []
    for _ in range(9):
        update, opt_state = tx.update(jnp.array(1.0), opt_state)
        seen.append(float(update))
    assert seen == [0, 0, -2, 0, 0, -5, 0, 0, -8]


def test_a_learning_rate_without_arguments_is_read_out_of_a_compiled_step() -> None:
    rate, traces = {"now": 0.5}, []
    tx = ro.rmsprop(lambda: rate["now"], rho=0.0, epsilon=0.0)

    @jax.jit
    def step(g: jax.Array, opt_state: Any) -> Any:
        traces.append(1)
        return tx.update(g, opt_state)

    opt_state = tx.init(jnp.array(0.0))
    first, opt_state = step(jnp.array(1.0), opt_state)
    rate["now"] = 0.25
    second, opt_state = step(jnp.array(1.0), opt_state)
    assert (float(first), float(second), len(traces)) == (-0.5, -0.25, 1)


def test_it_is_nothing_but_a_chain_of_the_public_transforms() -> None:
    ours = ro.rmsprop(0.01, momentum=0.9, weight_decay=0.1, global_clipnorm=1.0)
    chain = optax.chain(
        ro.clip_by_global_norm(1.0),
        ro.scale_by_rms(0.9, 1e-7),
        ro.scale_by_learning_rate(0.01),
        ro.trace(0.9),
        ro.decay_weights(0.1, 0.01),
    )
    params = {"w": jnp.arange(1.0, 5.0)}
    states = [ours.init(params), chain.init(params)]
    for _ in range(3):
        pairs = [
            tx.update(params, s, params)
            for tx, s in zip((ours, chain), states, strict=True)
        ]
        states = [s for _, s in pairs]
        np.testing.assert_array_equal(pairs[0][0]["w"], pairs[1][0]["w"])


def test_the_name_labels_the_step_in_traces() -> None:
    tx = ro.rmsprop(name="my_rmsprop")
    lowered = jax.jit(tx.update).lower(jnp.ones(3), tx.init(jnp.ones(3)))
    assert "my_rmsprop/" in lowered.as_text(debug_info=True)


@pytest.mark.parametrize(
    ("momentum", "count"), [(None, 0), (0, 0), (0.0, 0), (0.5, 1), (jnp.array(0.0), 1)]
)
def test_only_a_python_zero_means_no_momentum(momentum: Any, count: int) -> None:
    state = ro.rmsprop(momentum=momentum).init(jnp.ones(3))
    assert len(optax.tree.get_all_with_path(state, "trace")) == count


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_a_step_that_is_not_finite_can_be_skipped_whole(bad: float) -> None:
    tx = ro.rmsprop(**FULL, skip_nonfinite=True)
    params = jnp.arange(1.0, 4.0)
    _, before = tx.update(params, tx.init(params), params)
    updates, after = tx.update(params.at[1].set(bad), before, params)
    np.testing.assert_array_equal(updates, 0)
    assert int(after.total_notfinite) == 1
    same = jax.tree.map(np.array_equal, before.inner_state, after.inner_state)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_a_bad_microbatch_leaves_the_accumulator_exactly_zero(bad: float) -> None:
    tx = ro.rmsprop(gradient_accumulation_steps=2)
    opt_state = tx.init(jnp.zeros(3))
    for gradient in (bad, 1.0):
        _, opt_state = tx.update(jnp.full(3, gradient), opt_state)
    np.testing.assert_array_equal(optax.tree.get(opt_state, "acc_grads"), 0)

    theirs = optax.MultiSteps(optax.sgd(0.1), 2)
    multi = theirs.init(jnp.zeros(3))
    for gradient in (bad, 1.0):
        _, multi = theirs.update(jnp.full(3, gradient), multi)
    assert np.isnan(multi.acc_grads).all()


@pytest.mark.parametrize("name", [n for n in ro.__all__ if n[0].islower()])
def test_every_public_function_has_an_example(name: str) -> None:
    doc = inspect.getdoc(getattr(ro, name)) or ""
    assert ">>>" in doc
    assert "Returns:" in doc
