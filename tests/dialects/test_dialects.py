"""What holds for all dialects: names, defaults, errors, one chain."""

import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax
from rmsprop_optax import dialects

SIGNATURES = {
    "keras": "learning_rate=0.001, rho=0.9, momentum=None, epsilon=1e-07, "
    "centered=False, weight_decay=None, clipnorm=None, clipvalue=None, "
    "global_clipnorm=None, use_ema=False, ema_momentum=0.99, "
    "ema_overwrite_frequency=None, name='rmsprop'",
    "tf_keras": "learning_rate=0.001, rho=0.9, momentum=None, epsilon=1e-07, "
    "centered=False, name='RMSprop'",
    "tf_keras_2_11": "learning_rate=0.001, rho=0.9, momentum=None, epsilon=1e-07, "
    "centered=False, weight_decay=None, clipnorm=None, clipvalue=None, "
    "global_clipnorm=None, use_ema=False, ema_momentum=0.99, "
    "ema_overwrite_frequency=100, jit_compile=True, name='RMSprop'",
    "tf1": "learning_rate, decay=0.9, momentum=None, epsilon=1e-10, use_locking=False, "
    "centered=False, name='RMSProp'",
    "torch": "lr=0.01, alpha=0.99, eps=1e-08, weight_decay=None, momentum=None, "
    "centered=False, capturable=False, foreach=None, maximize=False, "
    "differentiable=False",
    "timm": "lr=0.01, alpha=0.9, eps=1e-10, weight_decay=None, momentum=None, "
    "centered=False, decoupled_decay=False, corrected_weight_decay=False, "
    "lr_in_momentum=True, caution=False, foreach=None",
    "optax": "learning_rate, decay=0.9, eps=1e-08, initial_scale=0.0, "
    "eps_in_sqrt=True, centered=False, momentum=None, nesterov=False, "
    "bias_correction=False",
}
every_dialect = pytest.mark.parametrize("name", dialects.__all__)


def _rate_name(name: str) -> str:
    return next(iter(inspect.signature(getattr(dialects, name)).parameters))


@every_dialect
def test_arguments_order_and_defaults_are_the_frameworks(name: str) -> None:
    """But for None in the place of a 0.0 that switches a stage off."""
    positional = [
        p.replace(annotation=p.empty)
        for p in inspect.signature(getattr(dialects, name)).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert ", ".join(map(str, positional)) == SIGNATURES[name]


@every_dialect
@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ("rate", -0.1, ValueError),
        ("rate", "0.1", TypeError),
        ("momentum", 1.5, ValueError),
        ("centered", 1, TypeError),
    ],
)
def test_errors_name_the_dialects_own_argument(
    name: str, kind: str, value: Any, error: type[Exception]
) -> None:
    rate = _rate_name(name)
    argument = rate if kind == "rate" else kind
    with pytest.raises(error, match=f"`{argument}` must be"):
        getattr(dialects, name)(**{rate: 0.1, argument: value})


@every_dialect
def test_a_rate_of_every_kind(name: str) -> None:
    """A number, an array, a schedule, and a callable that is read live under jit."""
    now = {"rate": 0.5}
    grads = jnp.array([1.0, -3.0])

    def first_update(rate: Any) -> Any:
        tx = getattr(dialects, name)(**{_rate_name(name): rate})
        state, update = tx.init(grads), jax.jit(tx.update)
        return lambda: update(grads, state)[0]

    expected = first_update(0.5)()
    for rate in (jnp.array(0.5), lambda count: 0.5):
        np.testing.assert_allclose(first_update(rate)(), expected, rtol=1e-7)
    live = first_update(lambda: now["rate"])
    np.testing.assert_allclose(live(), expected, rtol=1e-7)
    now["rate"] = 0.25
    np.testing.assert_allclose(live(), expected / 2, rtol=1e-7)


def test_keras_is_the_factory() -> None:
    assert dialects.keras is rmsprop_optax.rmsprop


def test_a_rate_that_drops_parts_the_dialects() -> None:
    """With momentum, what was gathered before the drop stays in Keras, not in torch.

    A constant gradient and no decay of the mean square: each update is 1 before the rate.
    The rate is 1, then 0: Keras still moves by 0.5, torch stands still.
    """
    rates = jnp.array([1.0, 0.0])

    def schedule(count: Any) -> Any:
        return rates[count]

    def second_update(tx: optax.GradientTransformation) -> float:
        state = tx.init(jnp.array(0.0))
        _, state = tx.update(jnp.array(1.0), state)
        return float(tx.update(jnp.array(1.0), state)[0])

    given = {"momentum": 0.5}
    assert second_update(dialects.keras(schedule, 0.0, epsilon=0.0, **given)) == -0.5
    assert second_update(dialects.optax(schedule, 0.0, eps=0.0, **given)) == -0.5
    assert second_update(dialects.tf1(schedule, 0.0, epsilon=0.0, **given)) == -0.5
    assert second_update(dialects.timm(schedule, 0.0, eps=0.0, **given)) == -0.5
    torch = dialects.torch(schedule, 0.0, eps=0.0, **given)
    assert second_update(torch) == 0.0
    outside = dialects.timm(schedule, 0.0, eps=0.0, lr_in_momentum=False, **given)
    assert second_update(outside) == 0.0


def test_torch_accepts_what_is_always_so_in_jax() -> None:
    made = []
    for given in ({}, {"foreach": True, "capturable": True, "differentiable": True}):
        tx = dialects.torch(**given)
        made.append(tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0])
    np.testing.assert_array_equal(made[0], made[1])
    with pytest.raises(TypeError, match="`foreach` must be True or False"):
        dialects.torch(foreach="yes")


def test_torch_decay_needs_the_parameters() -> None:
    tx = dialects.torch(weight_decay=0.1)
    with pytest.raises(ValueError, match="not passing `params`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", dialects.__all__)
def test_injected_hyperparameters_change_nothing(name: str, dtype: str) -> None:
    """The defaults are handed over as arrays in the dtype of the parameters."""
    make = getattr(dialects, name)
    params = {"w": jnp.asarray([1.0, -2.0, 3.0], dtype)}
    plain, injected = make(0.125), optax.inject_hyperparams(make)(0.125)
    state, injected_state = plain.init(params), injected.init(params)
    inner = injected_state.inner_state
    chex.assert_trees_all_equal_shapes_and_dtypes(inner, state)
    assert jax.tree.structure(inner) == jax.tree.structure(state)
    for gradient in ({"w": params["w"] / 4}, {"w": -params["w"]}):
        updates, state = plain.update(gradient, state)
        found, injected_state = injected.update(gradient, injected_state)
        tolerance = 1e-6 if dtype == "float32" else 0.1  # 0.99 becomes 0.988
        chex.assert_trees_all_close(found, updates, rtol=tolerance)


@pytest.mark.parametrize("name", dialects.__all__)
def test_a_rounded_hyperparameter_is_explained(name: str) -> None:
    make, params = getattr(dialects, name), {"w": jnp.ones(3, jnp.bfloat16)}
    decay = next(
        n for n in ("rho", "decay", "alpha") if n in inspect.signature(make).parameters
    )
    tx = optax.inject_hyperparams(make)(0.1, **{decay: 0.999})
    with pytest.raises(ValueError, match=rf"`{decay}` .*hyperparam_dtype=jnp\.float32"):
        tx.init(params)
    injected = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
    injected(0.1, **{decay: 0.999}).init(params)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("lr", "`dialects.torch`, `dialects.timm` have it"),
        ("alpha", "`dialects.torch`, `dialects.timm` have it"),
        ("eps", "`dialects.optax`"),
        ("decay", "`dialects.tf1`"),
        ("beta_2", "Those of `rmsprop` are learning_rate, rho, momentum, epsilon"),
    ],
)
def test_arguments_of_another_framework_are_named(argument: str, hint: str) -> None:
    with pytest.raises(TypeError, match=rf"`rmsprop` has no argument `{argument}`\."):
        rmsprop_optax.rmsprop(**{argument: 0.5})
    with pytest.raises(TypeError) as raised:
        rmsprop_optax.rmsprop(0.1, **{argument: 0.5})
    assert hint in str(raised.value)
    with pytest.raises(TypeError, match=r"`rmsprop`, .* have it"):
        dialects.torch(epsilon=1e-3)
