"""`single_pass` in a process with XLA's flag; `test_single_pass.py` runs this file."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro

BOTH = {"momentum": 0.9, "centered": True}
MORE = {"nesterov": True, "weight_decay": 0.1, "global_clipnorm": 1.0, "use_ema": True}
TRANSFORMATIONS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "plain": lambda: ro.rmsprop(0.1),
    "momentum": lambda: ro.rmsprop(0.1, momentum=0.9),
    "centered": lambda: ro.rmsprop(0.1, centered=True),
    "both": lambda: ro.rmsprop(0.1, **BOTH),
    "everything": lambda: ro.rmsprop(0.1, **BOTH, **MORE),
    "corrected": lambda: ro.rmsprop(0.1, **BOTH, **MORE, bias_correction=True),
    "adam": lambda: optax.adam(0.1),
    "optax": lambda: optax.rmsprop(0.1, **BOTH),
}
_single_pass = partial(ro.single_pass, min_size=0)
every_one = pytest.mark.parametrize("name", TRANSFORMATIONS)


class Params(NamedTuple):
    w: jax.Array
    layers: list[jax.Array]


def _draw(seed: int = 0, dtype: Any = jnp.float32) -> Params:
    rng = np.random.default_rng(seed)
    w, layer = rng.normal(size=(64, 256)), rng.normal(size=(32, 128))
    return Params(jnp.asarray(w, dtype), [jnp.asarray(layer, dtype)])


def _run(tx: Any, params: Any, grads: Any, with_params: bool = True) -> Any:
    """The bytes that a step moves for each parameter, and the results of a few steps."""

    def apply(p: Any, update: Any) -> Any:
        return p if update is None else (p + update).astype(p.dtype)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params if with_params else None)
        return jax.tree.map(apply, params, updates), state

    held = jax.tree.map(jnp.copy, params), tx.init(params)
    program = jax.jit(step, donate_argnums=(0, 1)).lower(*held, grads).compile()
    for _ in range(4):
        held = program(*held, grads)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (program.cost_analysis() or {})["bytes accessed"] / size, held


def _compare(
    inner: Any, *given: Any, wrap: Any = _single_pass, rtol: float = 2e-5
) -> tuple[float, float]:
    """The bytes per parameter with `single_pass` and without; results are the same."""
    (found, ours), (ordinary, theirs) = (_run(tx, *given) for tx in (wrap(inner), inner))
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=rtol / 10)
    return found, ordinary


@every_one
def test_one_loop_for_each_parameter_and_the_same_numbers(name: str) -> None:
    """It reads gradient, parameter and moments, and writes the last two."""
    inner, params = TRANSFORMATIONS[name](), _draw()
    state = jax.tree.leaves(inner.init(params))
    moments = sum(leaf.shape == params.w.shape for leaf in state)
    least, norm = 4 * (1 + 2 * (1 + moments)), 8 * (name in ("everything", "corrected"))
    found, ordinary = _compare(inner, params, _draw(1))
    assert least <= found < least + norm + 2  # numbers, and counters by rows
    assert ordinary > found + 7


@every_one
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.filterwarnings("ignore:single_pass has no effect")  # complex numbers
def test_other_dtypes(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        rtol = 1e-13 if dtype == "float64" else 2e-5
        _compare(TRANSFORMATIONS[name](), _draw(0, dtype), _draw(1, dtype), rtol=rtol)


@pytest.mark.parametrize("arguments", [{}, BOTH])
def test_values_that_hurt(arguments: dict[str, Any]) -> None:
    hurt = jnp.array([[0.0, -0.0], [jnp.inf, jnp.nan], [1e-30, 1e30], [1e-45, 3e38]])
    inner, grads = ro.rmsprop(0.1, **arguments), jnp.tile(hurt, (128, 1))
    found, ordinary = _compare(inner, jnp.ones((512, 2)), grads, rtol=1e-6)
    assert found < ordinary


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_array_as_parameters(dtype: str) -> None:
    """In bfloat16 the moments are in float32, and the step is the ordinary one."""
    inner = ro.rmsprop(0.1, momentum=0.9)
    found, ordinary = _compare(inner, _draw(0, dtype).w, _draw(1, dtype).w)
    assert found < ordinary if dtype == "float32" else found == ordinary


def test_moments_in_bfloat16_are_left_alone() -> None:
    storage = ro.MomentStorage("bfloat16", min_size=0)
    inner = ro.rmsprop(0.1, momentum=0.9, moment_storage=storage)
    found, ordinary = _compare(inner, _draw(), _draw(1))
    assert found == ordinary


def test_small_parameters_are_left_alone() -> None:
    inner, params = ro.rmsprop(0.1), _draw()
    found = [
        _compare(inner, params, params, wrap=partial(ro.single_pass, min_size=size))
        for size in (32 * 128, 64 * 256, 64 * 256 + 1)
    ]
    assert found[0][0] < found[1][0] < found[2][0] == found[2][1]


def test_without_parameters_and_with_missing_gradients() -> None:
    inner, params = ro.rmsprop(0.1, centered=True), _draw()
    for grads in (_draw(1), _draw(1)._replace(layers=[None])):
        found, ordinary = _compare(inner, params, grads, False)
        assert found < ordinary


@pytest.mark.parametrize("wrap", [ro.skip_nonfinite, ro.dynamic_loss_scale])
def test_inside_of_a_branch(wrap: Callable[..., Any]) -> None:
    inner = ro.rmsprop(0.1, **BOTH)
    given = wrap(inner), _draw(), _draw(1)
    _compare(*given, wrap=lambda _: wrap(_single_pass(inner)))


def test_in_a_training_step() -> None:
    """The gradients come out of a network, which XLA optimizes together with the step."""
    params = (_draw().w, _draw(1).w.T)

    def loss(params: Any) -> jax.Array:
        return jnp.mean((jnp.tanh(jnp.eye(64) @ params[0]) @ params[1]) ** 2)

    def train(tx: Any) -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any) -> Any:
            return tx.update(jax.grad(loss)(params), state, params)

        return optax.GradientTransformation(tx.init, update)

    inner = ro.rmsprop(0.01, **BOTH)
    ours = train(_single_pass(inner))
    found, ordinary = _compare(
        train(inner), params, params, wrap=lambda _: ours, rtol=1e-4
    )
    assert found < ordinary


def test_a_step_with_too_much_in_it_is_run_as_it_is() -> None:
    inner = optax.chain(*(optax.trace(0.9 - i / 100) for i in range(12)))
    with pytest.warns(UserWarning, match=r"no effect: XLA would move [\d,]+ bytes"):
        found, ordinary = _compare(inner, _draw(), _draw(1))
    assert found == ordinary


def test_arrays_that_vary_over_devices_are_updated_as_they_are() -> None:
    inner, params = ro.rmsprop(0.1, momentum=0.9), {"w": jnp.ones((16, 8))}
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def update(tx: Any) -> Any:
        over = partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        return jax.jit(over(lambda g: tx.update(g, tx.init(g), g)[0]))(params)

    chex.assert_trees_all_equal(update(_single_pass(inner)), update(inner))


def test_an_injected_learning_rate() -> None:
    def inject(wrap: Callable[..., Any]) -> optax.GradientTransformation:
        make = optax.inject_hyperparams(lambda rate: wrap(ro.rmsprop(rate, momentum=0.9)))
        return make(rate=0.1)

    ours, inner = inject(_single_pass), inject(lambda tx: tx)
    found, ordinary = _compare(inner, _draw(), _draw(1), wrap=lambda _: ours)
    assert found < ordinary


def test_extra_arguments_reach_the_transformation_inside() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, by: Any) -> Any:
        return jax.tree.map(lambda g: g * by, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx, params = _single_pass(inner), _draw()
    updates, _ = jax.jit(lambda g, by: tx.update(g, tx.init(g), by=by))(params, 3.0)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: 3 * p, params))
