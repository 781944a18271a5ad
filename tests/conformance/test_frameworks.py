"""Parameters held by others: Flax NNX and Equinox, and Optax's own wrappers."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from tests.conformance._table import EVERYTHING

X = jnp.linspace(-1, 1, 32)[:, None]
Y = jnp.sin(3 * X)


def test_flax_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="pip install flax")
    model = nnx.Sequential(
        nnx.Linear(1, 16, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(16, 1, rngs=nnx.Rngs(1))
    )
    tx = ro.rmsprop(0.01, momentum=0.5, weight_decay=1e-4, use_ema=True)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(100)]
    assert losses[-1] < 0.5 * losses[0]


def test_equinox() -> None:
    eqx = pytest.importorskip("equinox", reason="pip install equinox")
    model = eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    tx = ro.rmsprop(0.01, momentum=0.5, weight_decay=1e-4, use_ema=True)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any) -> Any:
        def loss_fn(m: Any) -> jax.Array:
            return jnp.mean((jax.vmap(m)(X) - Y) ** 2)

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(100):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    averaged = ro.finalize(eqx.filter(model, eqx.is_inexact_array), state)
    assert jax.tree.structure(averaged) == jax.tree.structure(
        eqx.filter(model, eqx.is_inexact_array)
    )


class Injected:
    """A run under `optax.inject_hyperparams`, of one program for all cases."""

    def __init__(self) -> None:
        self.arguments = {k: v for k, v in EVERYTHING.items() if k != "weight_decay_mask"}
        self.arguments |= {"learning_rate": 0.1, "rho": 0.9, "epsilon": 1e-3}
        self.arguments |= {"initial_scale": 0.5, "ema_overwrite_frequency": 3}
        self.tx = optax.inject_hyperparams(ro.rmsprop)(**self.arguments)
        self.step = self._compiled(self.tx)
        self.unchanged = self.run()

    def _compiled(self, tx: Any) -> Any:
        @jax.jit
        def step(params: Any, state: Any, gradient: Any) -> Any:
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return step

    def run(self, **changed: float) -> np.ndarray:
        """The parameters after 8 steps; other values from the third step on."""
        return self._train(self.tx, self.step, changed)

    def without(self) -> np.ndarray:
        """The parameters without `optax.inject_hyperparams`."""
        tx = ro.rmsprop(**self.arguments)
        return self._train(tx, self._compiled(tx), {})

    def _train(self, tx: Any, step: Any, changed: dict[str, float]) -> np.ndarray:
        start = jnp.arange(1.0, 4.0)
        params, state = start, tx.init(start)
        for t in range(8):
            for name, value in changed.items() if t == 2 else ():
                old = state.hyperparams[name]
                state.hyperparams[name] = old * 0 + value  # of the old one's type
            params, state = step(params, state, jnp.cos(start + t))
        return np.asarray(params)


@pytest.fixture(scope="module")
def injected() -> Injected:
    return Injected()


def test_inject_hyperparams_is_the_factory(injected: Injected) -> None:
    np.testing.assert_allclose(injected.unchanged, injected.without(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.5),
        ("rho", 0.5),
        ("momentum", 0.1),
        ("epsilon", 1.0),
        ("weight_decay", 0.5),
        ("global_clipnorm", 0.01),
        ("ema_momentum", 0.1),
        ("ema_overwrite_frequency", 1),
        ("gradient_accumulation_steps", 3),
    ],
)
def test_inject_hyperparams(injected: Injected, name: str, value: float) -> None:
    changed = injected.run(**{name: value})
    assert np.abs(changed - injected.unchanged).max() > 1e-5
    assert injected.step._cache_size() == 1


class VariantsTest(chex.TestCase):
    """`chex.variants`: with and without jit, on the device and off, under pmap."""

    @chex.all_variants()
    def test_a_step(self) -> None:
        tx = ro.rmsprop(0.1, **EVERYTHING)
        params = {"w": jnp.ones(3), "bias": jnp.ones(2)}
        state = tx.init(params)
        for expected in (0.0, 1.0):
            step: Any = self.variant(tx.update)
            updates, state = step(params, state, params)
            assert bool(jnp.any(updates["w"] != 0)) == bool(expected)


def test_tree_set() -> None:
    tx = ro.rmsprop(0.1, momentum=0.9, use_ema=True)
    params = jnp.ones(3)
    state = optax.tree.set(tx.init(params), nu=4 * params, trace=2 * params)
    np.testing.assert_array_equal(optax.tree.get(state, "nu"), 4)
    updates, state = tx.update(jnp.zeros(3), state, params)
    np.testing.assert_allclose(updates, 1.8, rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(state, "nu"), 3.6, rtol=1e-6)


FACTORIES = {"rmsprop": ro.rmsprop} | {
    name: getattr(ro.dialects, name) for name in ro.dialects.__all__
}
WRAPPERS = {
    "accumulate_gradients": lambda tx: ro.accumulate_gradients(tx, 2),
    "cautious": ro.cautious,
    "dynamic_loss_scale": ro.dynamic_loss_scale,
    "in_float32": ro.in_float32,
    "lazy": ro.sparse.lazy,
    "low_precision": lambda tx: ro.low_precision(tx, "int8"),
    "skip_nonfinite": ro.skip_nonfinite,
    "split_complex": ro.split_complex,
}
MAKERS = {name: lambda make=make: make(0.1) for name, make in FACTORIES.items()} | {
    name: lambda wrap=wrap: wrap(ro.rmsprop(0.1, weight_decay=0.1, use_ema=True))
    for name, wrap in WRAPPERS.items()
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_whole_equinox_model_as_parameters(name: str) -> None:
    """Functions, integers and random keys have no gradient, and are never looked at."""
    eqx = pytest.importorskip("equinox", reason="pip install equinox")

    class Model(eqx.Module):
        w: Any
        key: Any
        size: int
        ids: Any
        activation: Any

    model = Model(jnp.ones(3), jax.random.key(0), 3, jnp.arange(3), jnp.tanh)
    trained = eqx.filter(model, eqx.is_inexact_array)
    grads = eqx.filter_grad(lambda m: jnp.sum(m.w**2))(model)
    tx = MAKERS[name]()

    def run(params: Any) -> Any:
        _, state = tx.update(grads, tx.init(trained), params)
        return tx.update(grads, state, params)[0]

    updates = run(model)
    np.testing.assert_array_equal(updates.w, run(trained).w)
    moved = eqx.apply_updates(model, updates)
    assert np.all(np.asarray(moved.w) < 1)
    assert moved.size == 3
    assert moved.activation is jnp.tanh
    np.testing.assert_array_equal(moved.ids, np.arange(3))


def test_partitioned_parameters_of_linen() -> None:
    """A box around an array is no part of its path, and stays around the average."""
    linen = pytest.importorskip("flax.linen", reason="pip install flax")
    params = {"kernel": linen.Partitioned(jnp.ones((2, 3)), names=(None, None))}
    tx = ro.rmsprop(0.1, use_ema=True, momentum=0.9)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    averaged = ro.finalize(params, state)
    assert jax.tree.structure(averaged) == jax.tree.structure(params)
    np.testing.assert_array_equal(averaged["kernel"].value, params["kernel"].value)
    assert "kernel/value" not in str(ro.state_bytes(tx, params))


@pytest.mark.parametrize("name", ["accumulate_gradients", "dynamic_loss_scale"])
def test_a_state_that_would_change_its_dtype(name: str) -> None:
    """`optax.adam` widens the moments of bfloat16 parameters to the gradients' dtype."""
    params, grads = jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.float32)
    tx = WRAPPERS[name](optax.adam(0.1))
    state = tx.init(params)
    update = jax.jit(tx.update)
    _, after_one = update(grads, state, params)
    updates, after_two = update(grads, after_one, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after_one, after_two)
    np.testing.assert_allclose(updates, -0.1, rtol=0.02)


OPTIONS = [
    {"momentum": 0.9, "centered": True},
    {"use_ema": True, "weight_decay": 0.1},
    {"gradient_accumulation_steps": 2, "skip_nonfinite": True, "loss_scale_factor": 2.0},
    {"gradient_accumulation_steps": 2, "accumulate_rows": {"w": 2}},
    {"moment_storage": "int8", "momentum": 0.9},
    {"moment_storage": "bfloat16"},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_init_of_shapes_alone(options: dict[str, Any], dtype: str) -> None:
    _same_state_of_shapes(ro.rmsprop(0.1, **options), dtype)


@pytest.mark.parametrize("name", FACTORIES)
def test_dialects_init_of_shapes_alone(name: str) -> None:
    _same_state_of_shapes(FACTORIES[name](0.1), "complex64")


def _same_state_of_shapes(tx: optax.GradientTransformation, dtype: str) -> None:
    params = {"w": jnp.zeros((64, 64), dtype)}
    shapes = {"w": jax.ShapeDtypeStruct((64, 64), dtype)}
    chex.assert_trees_all_equal(tx.init(params), tx.init(shapes))
