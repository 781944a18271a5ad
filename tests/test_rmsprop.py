"""The factory: a chain of the public transforms, with Keras's signature and numbers."""

import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import rmsprop
from tests.reference.keras import KerasRMSprop

STEPS = 200
POSITIONAL = {
    "learning_rate": 0.001,
    "rho": 0.9,
    "momentum": None,
    "epsilon": 1e-7,
    "centered": False,
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "name": "rmsprop",
}


def _trajectory(tx: optax.GradientTransformation, params: Any, gs: Any) -> Any:
    """Parameters after each step, in one compiled scan."""

    def step(carry: Any, g: Any) -> tuple[Any, Any]:
        params, opt_state = carry
        updates, opt_state = tx.update(g, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), gs)[1])()


def _problem(dtype: Any, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (2, 3), "bias": (3,)}
    params = {
        n: (3 + np.abs(rng.normal(size=s))).astype(dtype) for n, s in shapes.items()
    }
    gs = {n: rng.normal(0.3, 1.0, size=(steps, *s)) for n, s in shapes.items()}
    return params, {n: g.astype(dtype) for n, g in gs.items()}


def test_the_signature_is_that_of_keras() -> None:
    parameters = inspect.signature(rmsprop).parameters.values()
    positional = {
        p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert list(positional.items()) == list(POSITIONAL.items())
    assert keyword_only[:2] == ["loss_scale_factor", "gradient_accumulation_steps"]


def test_the_seed_example() -> None:
    tx = rmsprop(learning_rate=0.1)
    params = jnp.array(10.0)
    grads = jax.grad(lambda p: p**2 / 2)(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates), 9.683772, rtol=1e-7)


def _simple_chain() -> optax.GradientTransformation:
    step = optax.chain(ro.scale_by_rms(0.9, 1e-7), ro.scale_by_learning_rate(0.001))
    return optax.chain(ro.in_float32(step), ro.zeros_for_missing())


def _full_chain() -> optax.GradientTransformation:
    step = optax.chain(
        ro.clip_by_global_norm(1.5),
        ro.scale_by_stddev(0.8, 1e-3),
        ro.scale_by_learning_rate(0.05),
        optax.trace(0.9, nesterov=True),
        ro.decay_weights(0.1, 0.05, ro.exclude_paths("bias")),
    )
    step = ro.accumulate_gradients(ro.in_float32(step), 2)
    step = optax.chain(ro.unscale_loss(4.0), step)
    average = ro.average_params(0.9, 3, gradient_accumulation_steps=2)
    return ro.skip_nonfinite(optax.chain(step, ro.zeros_for_missing(), average))


FULL = dict(
    learning_rate=0.05,
    rho=0.8,
    momentum=0.9,
    epsilon=1e-3,
    centered=True,
    weight_decay=0.1,
    global_clipnorm=1.5,
    use_ema=True,
    ema_momentum=0.9,
    ema_overwrite_frequency=3,
    loss_scale_factor=4.0,
    gradient_accumulation_steps=2,
    nesterov=True,
    weight_decay_mask=ro.exclude_paths("bias"),
    skip_nonfinite=True,
)


@pytest.mark.parametrize(
    ("arguments", "chain"), [({}, _simple_chain()), (FULL, _full_chain())]
)
def test_is_nothing_but_a_chain(
    arguments: dict[str, Any], chain: optax.GradientTransformation
) -> None:
    params, gs = _problem(np.float32, 20)
    tx = rmsprop(**arguments)
    assert jax.tree.structure(tx.init(params)) == jax.tree.structure(chain.init(params))
    jax.tree.map(
        np.testing.assert_array_equal,
        _trajectory(tx, params, gs),
        _trajectory(chain, params, gs),
    )


REFERENCE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1, "clipnorm": 1.0},
    "centered": {"centered": True, "momentum": 0.9},
    "centered, accumulated": {
        "centered": True,
        "gradient_accumulation_steps": 3,
        "loss_scale_factor": 8.0,
        "global_clipnorm": 1.0,
    },
    "averaged": {
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 4,
        "gradient_accumulation_steps": 2,
        "clipvalue": 0.5,
        "weight_decay": 0.05,
    },
}


@pytest.mark.parametrize("kind", REFERENCE)
def test_is_the_reference_in_float64(kind: str) -> None:
    arguments = {"learning_rate": 0.01, **REFERENCE[kind]}
    params, gs = _problem(np.float64, STEPS)
    reference = KerasRMSprop(params, **arguments)
    with jax.enable_x64(True):
        ours = _trajectory(rmsprop(**arguments), params, gs)
    for t in range(STEPS):
        expected = reference.apply({n: g[t] for n, g in gs.items()})
        for name, value in expected.items():
            np.testing.assert_allclose(
                ours[name][t], value, rtol=1e-12, atol=1e-12, err_msg=f"{t} {name}"
            )


def test_the_name_labels_the_step() -> None:
    for name in ("rmsprop", "encoder_step"):
        tx = rmsprop(name=name)
        params = jnp.ones(2)
        lowered = jax.jit(tx.update).lower(params, tx.init(params), params)
        assert f"/{name}/" in lowered.as_text(debug_info=True)


@pytest.mark.parametrize("momentum", [0, 0.0, None, np.float32(0.0)])
def test_no_momentum_costs_no_memory(momentum: Any) -> None:
    opt_state = rmsprop(momentum=momentum).init(jnp.ones(2))
    assert optax.tree.get(opt_state, "trace", default=None) is None


@pytest.mark.parametrize("momentum", [0.5, jnp.array(0.0), np.float32(0.5)])
def test_an_array_always_has_a_trace(momentum: Any) -> None:
    opt_state = rmsprop(momentum=momentum).init(jnp.ones(2))
    np.testing.assert_array_equal(optax.tree.get(opt_state, "trace"), [0.0, 0.0])


def _public(module: Any, prefix: str = "") -> Iterator[Any]:
    """Every public name, also those of the modules among them."""
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.ismodule(found):
            yield from _public(found, f"{prefix}{name}.")
        elif callable(found):  # a table has its documentation in the source
            yield pytest.param(found, id=prefix + name)


@pytest.mark.parametrize("documented", list(_public(ro)))
def test_public_names_are_documented(documented: Any) -> None:
    text = inspect.getdoc(documented) or ""
    if inspect.isfunction(documented):
        assert "Examples:\n" in text
        assert "Returns:\n" in text or "-> None" in str(inspect.signature(documented))
    elif getattr(documented, "_fields", True):  # a state may be empty
        assert "Attributes:\n" in text or "Args:\n" in text


def test_nesterov_in_a_sweep_over_the_momentum() -> None:
    """A momentum of 0 is no momentum, Nesterov's or not."""
    grads, params = jnp.array([3.0, -2.0]), jnp.ones(2)
    plain = rmsprop(0.1)
    expected, _ = plain.update(grads, plain.init(params))
    for tx in (rmsprop(0.1, momentum=0.0, nesterov=True), rmsprop(0.1, momentum=0)):
        updates, _ = tx.update(grads, tx.init(params))
        np.testing.assert_array_equal(updates, expected)


@pytest.mark.parametrize(
    ("wrap", "scale"),
    [(lambda f: f, jnp.float32(1.0)), (optax.inject_hyperparams, 1.0)],
    ids=["plain", "injected"],
)
def test_the_state_of_a_scalar_is_no_alias(wrap: Any, scale: Any) -> None:
    """A donated step would delete the user's array, or donate one buffer twice."""
    tx, params = wrap(rmsprop)(0.1, initial_scale=scale), {"s": jnp.ones(())}
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1)
    state = tx.init(params)
    for _ in range(2):
        _, state = step(params, state, params)
    assert float(scale) == 1.0
