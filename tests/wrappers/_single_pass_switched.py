"""`single_pass` where XLA has its switch; `test_single_pass.py` runs this file."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro

EVERYTHING: dict[str, Any] = {
    "momentum": 0.9,
    "nesterov": True,
    "centered": True,
    "weight_decay": 0.1,
    "global_clipnorm": 1.0,
    "use_ema": True,
}
TRANSFORMATIONS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "plain": lambda: ro.rmsprop(0.1),
    "momentum": lambda: ro.rmsprop(0.1, momentum=0.9),
    "centered": lambda: ro.rmsprop(0.1, centered=True),
    "everything": lambda: ro.rmsprop(0.1, **EVERYTHING),
    "torch": lambda: ro.dialects.torch(0.1, momentum=0.9, weight_decay=0.1),
    "tf1": lambda: ro.dialects.tf1(0.1, momentum=0.9, centered=True),
    "adam": lambda: optax.adam(0.1),
}
_single_pass = partial(ro.single_pass, min_size=0)
every_one = pytest.mark.parametrize("name", TRANSFORMATIONS)


def _params(dtype: Any = jnp.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(64, 32)), dtype),
        "layers": [jnp.asarray(rng.normal(size=(32, 16)), dtype)],
    }


def _step(tx: optax.GradientTransformation) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def _program(tx: optax.GradientTransformation, params: Any) -> Any:
    state = jax.eval_shape(tx.init, params)
    return _step(tx).lower(params, state, params).compile()


def _loops(program: Any) -> tuple[list[int], int]:
    """How many arrays each loop over arrays returns; and how many are copied."""
    text = program.as_text()
    loops = re.findall(r" = (\S.*?) (fusion|copy)\(", text[text.index("ENTRY") :])
    arrays = [(kind, len(re.findall(r"\[\d+,\d+\]", made))) for made, kind in loops]
    fusions = [count for kind, count in arrays if kind == "fusion" and count]
    return fusions, sum(count for kind, count in arrays if kind == "copy")


def _run(tx: optax.GradientTransformation, params: Any, gradients: list[Any]) -> Any:
    state, step = tx.init(params), _step(tx)
    params = jax.tree.map(jnp.copy, params)
    for grads in gradients:
        params, state = step(params, state, grads)
    return params, state


def _assert_same(
    tx: optax.GradientTransformation,
    other: optax.GradientTransformation,
    params: Any,
    gradients: list[Any],
    rtol: float,
) -> None:
    ours, theirs = (_run(which, params, gradients) for which in (tx, other))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10)


def _gradients(like: Any, count: int) -> list[Any]:
    def draw(step: int) -> Any:
        rng = np.random.default_rng(step)
        return jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), like
        )

    return [draw(step) for step in range(count)]


@every_one
def test_one_loop_for_each_parameter(name: str) -> None:
    inner, params = TRANSFORMATIONS[name](), _params()
    moments = sum(leaf.ndim > 0 for leaf in jax.tree.leaves(inner.init(params))) // 2
    loops, copies = _loops(_program(_single_pass(inner), params))
    joined = [count for count in loops if count > 1]  # a norm has loops of its own
    assert (joined, copies) == ([1 + moments] * 2, 0)
    ordinary, _ = _loops(_program(inner, params))
    assert 1 + moments not in ordinary


@every_one
@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param("float64", marks=pytest.mark.slow),
        pytest.param("complex64", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:single_pass has no effect")  # complex numbers
def test_the_numbers_are_those_of_the_transformation_inside(
    name: str, dtype: str
) -> None:
    with jax.enable_x64(dtype == "float64"):
        inner, params = TRANSFORMATIONS[name](), _params(dtype)
        rtol = 1e-13 if dtype == "float64" else 2e-5
        _assert_same(_single_pass(inner), inner, params, _gradients(params, 5), rtol)


def test_values_that_hurt() -> None:
    params = jnp.ones((4, 2))
    hurt = jnp.array([[0.0, -0.0], [jnp.inf, jnp.nan], [1e-30, 1e30], [1e-45, 3e38]])
    for arguments in ({}, {"momentum": 0.9, "centered": True}):
        inner = ro.rmsprop(0.1, **arguments)
        _assert_same(_single_pass(inner), inner, params, [hurt] * 3, rtol=1e-6)


def test_a_norm_is_taken_once() -> None:
    inner, params = ro.rmsprop(0.1, momentum=0.9, global_clipnorm=1.0), _params()
    ours, theirs = (
        _program(tx, params).as_text().count(" reduce(")
        for tx in (_single_pass(inner), inner)
    )
    assert ours == theirs > 0


@pytest.mark.parametrize(
    "wrap",
    [
        ro.skip_nonfinite,
        ro.dynamic_loss_scale,
        partial(ro.accumulate_gradients, every_k=2),
    ],
)
def test_inside_of_a_branch(wrap: Callable[..., Any]) -> None:
    inner, params = ro.rmsprop(0.1, momentum=0.9, centered=True), _params()
    ours, theirs = wrap(_single_pass(inner)), wrap(inner)
    _assert_same(ours, theirs, params, _gradients(params, 4), rtol=2e-5)
    memory, expected = (_temporaries(tx, params) for tx in (ours, theirs))
    assert memory < expected + 2000  # a leaf is 8192


def test_without_parameters() -> None:
    """Then updates are written (with momentum, they would be the moment itself)."""
    inner, params = ro.rmsprop(0.1, centered=True), _params()
    tx = _single_pass(inner)
    state = inner.init(params)
    update = jax.jit(tx.update, donate_argnums=1)
    loops, copies = _loops(update.lower(params, state).compile())
    assert (loops, copies) == ([3, 3], 0)
    expected = jax.jit(inner.update)(params, state)
    for a, b in zip(
        jax.tree.leaves(update(params, state)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-5)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_what_can_t_be_in_one_loop_stays_as_it_is(storage: str) -> None:
    narrow = ro.MomentStorage(storage, min_size=0)
    inner, params = ro.rmsprop(0.1, momentum=0.9, moment_storage=narrow), _params()
    ours, theirs = _program(_single_pass(inner), params), _program(inner, params)
    assert sorted(_loops(ours)[0]) == sorted(_loops(theirs)[0])
    assert _loops(ours)[1] == _loops(theirs)[1] == 0


def test_in_a_training_step_no_moment_is_copied() -> None:
    """The gradients come out of a network, which XLA optimizes together with the step."""
    rng = np.random.default_rng(0)
    sizes = [(64, 128), (128, 128), (128, 10)]
    params = [
        (jnp.asarray(rng.normal(size=size) / 8, jnp.float32), jnp.zeros(size[1]))
        for size in sizes
    ]
    x = jnp.asarray(rng.normal(size=(32, 64)), jnp.float32)
    y = jnp.asarray(rng.integers(10, size=32))

    def loss(params: Any) -> jax.Array:
        h = x
        for w, b in params[:-1]:
            h = jax.nn.gelu(h @ w + b)
        logits = h @ params[-1][0] + params[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    inner = ro.rmsprop(0.01, momentum=0.9, centered=True)
    copied, ends = [], []
    for tx in (_single_pass(inner), inner):

        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            grads = jax.grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        held = jax.tree.map(jnp.copy, params)
        state = tx.init(held)
        program = jax.jit(step, donate_argnums=(0, 1)).lower(held, state).compile()
        copied.append(_loops(program)[1])
        for _ in range(10):
            held, state = program(held, state)
        ends.append(float(loss(held)))
    assert copied[0] <= copied[1]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert ends[0] < float(loss(params)) / 2


@pytest.mark.parametrize("more", [{}, {"bias_correction": True}])
def test_a_step_with_too_much_in_it_is_run_as_it_is(more: dict[str, Any]) -> None:
    """XLA joins loops of fewer than 20 operands; of one parameter, all numbers count."""
    params = {"w": jnp.ones((256, 128))}
    inner = ro.rmsprop(0.1, **EVERYTHING, **more)
    with pytest.warns(UserWarning, match="no effect: XLA would copy moments, .* values"):
        ours = _program(_single_pass(inner), params)
    assert _loops(ours) == _loops(_program(inner, params))


def test_arrays_that_vary_over_devices_are_updated_as_they_are() -> None:
    inner, params = ro.rmsprop(0.1, momentum=0.9), {"w": jnp.ones((16, 8))}
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def step(tx: Any, grads: Any) -> Any:
        return tx.update(grads, tx.init(grads), grads)[0]

    ours, theirs = (
        jax.jit(
            jax.shard_map(
                partial(step, tx), mesh=mesh, in_specs=P("data"), out_specs=P("data")
            )
        )(params)
        for tx in (_single_pass(inner), inner)
    )
    np.testing.assert_array_equal(ours["w"], theirs["w"])


def test_a_learning_rate_that_is_injected() -> None:
    params = _params()
    wrapped = optax.inject_hyperparams(
        lambda learning_rate: _single_pass(ro.rmsprop(learning_rate, momentum=0.9))
    )(learning_rate=0.1)
    loops, copies = _loops(_program(wrapped, params))
    assert (loops, copies) == ([3, 3], 0)


def test_extra_arguments_reach_the_transformation_inside() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, by: Any) -> Any:
        del params
        return jax.tree.map(lambda g: g * by, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx, params = _single_pass(inner), _params()
    updates, _ = jax.jit(lambda g, by: tx.update(g, tx.init(g), by=by))(params, 3.0)
    np.testing.assert_allclose(updates["w"], 3 * params["w"], rtol=1e-6)


def _temporaries(tx: optax.GradientTransformation, params: Any) -> int:
    return _program(tx, params).memory_analysis().temp_size_in_bytes
