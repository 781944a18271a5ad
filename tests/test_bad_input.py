"""What is wrong is said at once: the argument, the value, the leaf, the remedy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rho": 1.2}, ["`rho`", "[0, 1)", "1.2"]),
        ({"rho": 1.0}, ["`rho`", "[0, 1)", "1.0"]),
        ({"rho": -0.1}, ["`rho`", "-0.1"]),
        ({"rho": float("nan")}, ["`rho`", "nan"]),
        ({"rho": jnp.array(1.5)}, ["`rho`", "1.5"]),
        ({"rho": np.ones(2)}, ["`rho`", "(2,)", "scalar"]),
        ({"epsilon": -1e-7}, ["`epsilon`", "-1e-07"]),
        ({"momentum": 1.1}, ["`momentum`", "[0, 1]", "1.1"]),
        ({"learning_rate": -0.1}, ["`learning_rate`", "-0.1"]),
        ({"weight_decay": -1.0}, ["`weight_decay`", "-1.0"]),
        ({"clipnorm": 0.0}, ["`clipnorm`", "greater than 0", "0.0"]),
        ({"clipvalue": -1}, ["`clipvalue`", "-1"]),
        ({"global_clipnorm": 0}, ["`global_clipnorm`", "greater than 0"]),
        (
            {"clipnorm": 1.0, "global_clipnorm": 2.0},
            ["At most one", "clipnorm=1.0", "global_clipnorm=2.0", "chain"],
        ),
        ({"use_ema": True, "ema_momentum": 1.1}, ["`ema_momentum`", "[0, 1]", "1.1"]),
        (
            {"use_ema": True, "ema_overwrite_frequency": 0},
            ["`ema_overwrite_frequency`", "at least 1", "0"],
        ),
        ({"ema_overwrite_frequency": 5}, ["`ema_overwrite_frequency`", "use_ema=True"]),
        ({"ema_momentum": 0.5}, ["`ema_momentum`", "0.5", "use_ema=True"]),
        ({"gradient_accumulation_steps": 1}, ["`gradient_accumulation_steps`", "2", "1"]),
        ({"loss_scale_factor": 0.0}, ["`loss_scale_factor`", "between 2**-126"]),
        ({"nesterov": True}, ["`nesterov`", "momentum"]),
        ({"weight_decay_mask": {"a": True}}, ["`weight_decay_mask`", "weight_decay"]),
    ],
)
def test_values(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"got|gradients|Gradient|effect") as raised:
        ro.rmsprop(**arguments)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rho": "0.9"}, ["`rho`", "'0.9'", "str"]),
        ({"rho": None}, ["`rho`", "None"]),
        ({"rho": True}, ["`rho`", "True"]),
        ({"rho": 1j}, ["`rho`", "1j"]),
        ({"centered": 1}, ["`centered`", "True or False", "1"]),
        ({"use_ema": "yes"}, ["`use_ema`", "'yes'"]),
        ({"name": ""}, ["`name`", "''"]),
        ({"learning_rate": lambda a, b: a}, ["`learning_rate`", "(a, b)", "partial"]),
        ({"use_ema": True, "ema_overwrite_frequency": 2.0}, ["integer", "2.0"]),
        ({"gradient_accumulation_steps": 2.5}, ["integer", "2.5"]),
    ],
)
def test_types(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TypeError) as raised:
        ro.rmsprop(**arguments)
    assert all(word in str(raised.value) for word in words), raised.value


def test_traced_values_pass() -> None:
    def one_step(bad: jax.Array) -> Any:
        tx = ro.rmsprop(bad, rho=bad, momentum=bad, epsilon=bad, clipnorm=bad)
        return tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0]

    assert jax.jit(one_step)(-2.0).shape == (2,)


@pytest.mark.parametrize(
    ("leaf", "word"),
    [(jnp.arange(3), "int32"), (True, "bool"), ("text", "'text'"), (jnp.tanh, "tanh")],
)
def test_parameters_that_cannot_be_trained(leaf: Any, word: str) -> None:
    with pytest.raises(TypeError) as raised:
        ro.rmsprop().init({"layer": [jnp.ones(2), leaf]})
    message = str(raised.value)
    assert "'layer/1'" in message
    assert word in message
    assert "optax.partition" in message


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        ({"a": jnp.ones(2)}, ["missing: b/0"]),
        (
            {"a": jnp.ones(2), "b": [jnp.ones(3)], "c": jnp.ones(1)},
            ["not known: c"],
        ),
        ({"a": jnp.ones(2), "b": (jnp.ones(3),)}, ["containers of other types"]),
        ({"a": jnp.ones(2), "b": [jnp.ones(4)]}, ["'b/0'", "(4,)", "(3,)", "tx.init"]),
        ({"a": jnp.ones((5, 2)), "b": [jnp.ones(3)]}, ["'a'", "(5, 2)", "(2,)"]),
    ],
)
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_gradients_that_do_not_fit(gradient: Any, words: list[str], wrap: Any) -> None:
    params = {"a": jnp.ones(2), "b": [jnp.ones(3)]}
    tx = ro.rmsprop(momentum=0.9)
    with pytest.raises(ValueError, match=r"got|gradients|Gradient|effect") as raised:
        wrap(tx.update)(gradient, tx.init(params), params)
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_gradient_where_the_parameter_was_none() -> None:
    tx = ro.rmsprop()
    with pytest.raises(ValueError, match=r"'a' is an array.*None when `tx.init`"):
        tx.update({"a": jnp.ones(2)}, tx.init({"a": None}))


def test_a_complex_gradient_of_a_real_parameter() -> None:
    tx = ro.scale_by_stddev()
    with pytest.raises(TypeError, match="'a' is complex64, but its moment is real"):
        tx.update({"a": jnp.ones(2, jnp.complex64)}, tx.init({"a": jnp.ones(2)}))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [({"weight_decay": 0.1}, "Weight decay"), ({"use_ema": True}, "The average")],
)
def test_params_are_asked_for(arguments: dict[str, Any], what: str) -> None:
    tx = ro.rmsprop(**arguments)
    with pytest.raises(ValueError, match=f"{what} .*params=None.*tx.update"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("patterns", [(), (3,), ("a", None)])
def test_exclude_paths_takes_strings(patterns: Any) -> None:
    with pytest.raises(TypeError, match="regular expression"):
        ro.exclude_paths(*patterns)


def test_two_loss_scales_are_an_error_with_their_paths() -> None:
    tx = optax.chain(ro.unscale_loss(2.0), ro.rmsprop(loss_scale_factor=8.0))
    with pytest.raises(ValueError, match=r"2 of the loss scales: \['0', '1/0/0'\]"):
        ro.scale_loss(jnp.array(1.0), tx.init(jnp.array(1.0)))


@pytest.mark.parametrize("dtype", [jax.dtypes.float0, np.int32, np.bool_])
def test_a_gradient_that_is_no_number_to_train_with(dtype: Any) -> None:
    tx, params = ro.rmsprop(), {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match="Gradient 'w': Gradients must be floating"):
        tx.update({"w": np.zeros(2, dtype)}, tx.init(params), params)


@pytest.mark.parametrize(
    ("option", "value"),
    [("epsilon", 1e-40), ("loss_scale_factor", 1e-38), ("loss_scale_factor", 1e38)],
)
def test_numbers_that_xla_takes_as_zero(option: str, value: float) -> None:
    """Subnormal numbers are flushed to 0, and so is the inverse of a large scale."""
    with pytest.raises(ValueError, match=option):
        ro.rmsprop(**{option: value})


@pytest.mark.parametrize("option", ["epsilon", "loss_scale_factor"])
def test_the_range_is_that_of_float32_under_x64_too(option: str) -> None:
    with jax.enable_x64(True), pytest.raises(ValueError, match=option):
        ro.rmsprop(**{option: 1e-46})


@pytest.mark.parametrize("rate", [None, "0.1", 1j, jnp.ones(2), True])
def test_what_a_schedule_returns(rate: Any) -> None:
    tx = ro.rmsprop(lambda count: rate)
    with pytest.raises(TypeError, match="`learning_rate` must return a real scalar"):
        jax.jit(tx.update)(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("rate", [None, "0.1", np.ones(2), 1e39, float("nan")])
def test_what_a_live_rate_returns(rate: Any) -> None:
    tx = ro.rmsprop(lambda: rate)
    with pytest.raises(Exception, match=r"`learning_rate` (must return|returned)"):
        jax.block_until_ready(jax.jit(tx.update)(jnp.ones(2), tx.init(jnp.ones(2))))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda p: {"a": "no"}, "tree of booleans"),
        (lambda p: {"b": True}, "must be the tree of the parameters"),
        ({"b": True}, "must be the tree of the parameters"),
    ],
)
def test_what_a_mask_is_made_of(mask: Any, words: str) -> None:
    tx = ro.rmsprop(weight_decay=0.1, weight_decay_mask=mask)
    params = {"a": jnp.ones(2)}
    with pytest.raises((TypeError, ValueError), match=words):
        tx.update(params, tx.init(params), params)


def test_a_state_that_lost_its_classes() -> None:
    """As that of `nnx.state(optimizer)`: what it holds can't be told."""
    state = {"opt_state": {"0": {"nu": jnp.ones(2)}}}
    for function in (ro.finalize, ro.scale_loss):
        with pytest.raises(ValueError, match=r"give `optimizer\.opt_state`"):
            function(jnp.ones(2), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ro.dialects.tf1(0.1, deacy=0.9),
            r"no argument `deacy`. Did you mean `decay`",
        ),
        (lambda: ro.rmsprop(learning_rat=1), "Did you mean `learning_rate`"),
        (lambda: ro.MomentStorage("int8", blocksize=64), "Did you mean `block_size`"),
        (lambda: ro.MomentStorage(), "`MomentStorage` needs `kind`: it has no default"),
        (lambda: ro.dialects.tf1(), "`dialects.tf1` needs `learning_rate`"),
        (lambda: ro.rmsprop("1e-3"), r"Convert it: float\('1e-3'\)\."),
        (
            lambda: ro.rmsprop(gradient_accumulation_steps="4"),
            r"Convert it: int\('4'\)\.",
        ),
        (lambda: ro.rmsprop("fast"), r"got 'fast' of type str\.$"),
    ],
)
def test_arguments_of_a_configuration_file(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
