"""Every row of the table under each of JAX's modes: the numbers are those without it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro
from rmsprop_optax import parallel
from tests.conformance._table import TABLE, rows

MODES: dict[str, Callable[[], Any]] = {
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "debug nans": lambda: jax.debug_nans(True),
    "check leaks": jax.checking_leaks,
}
FAST = ("rmsprop, momentum", "low_precision, optax.adam")
every_row = pytest.mark.parametrize("name", rows(FAST))


def _params(dtype: Any = jnp.float32) -> Any:
    # Rows of 8, to be cut by a mesh of 8; an empty leaf, a scalar and None.
    kernel = jnp.linspace(-1.0, 1.0, 64, dtype=dtype).reshape(8, 8)
    params = {"kernel": kernel, "scale": jnp.asarray(2, dtype), "none": None}
    return params | {"empty": jnp.zeros((0, 3), dtype)}


def _train(tx: Any, params: Any, wrap: Callable[[Any], Any]) -> Any:
    """The state and the parameters after three steps; the second gradient is 0."""

    def step(params: Any, state: Any, factor: jax.Array) -> Any:
        grads = jax.tree.map(lambda p: p * factor.astype(p.dtype), params)
        updates, state = tx.update(grads, state, params)
        new = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
        return new, state

    state, step = tx.init(params), wrap(step)
    for factor in jnp.array([1.0, 0.0, -2.0]):
        params, state = step(params, state, factor)
    return params, state


def _assert_same(
    found: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        x, y = (np.asarray(leaf, np.float64) for leaf in (x, y))
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# Optax's own `adam` and `sgd` add a float to an int32 count: not ours to fix.
NOT_STRICT = ("optax.adam",)


@every_row
@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_modes(name: str, dtype: str) -> None:
    """All four at once, which is cheaper; a failure says which one it was."""
    _check_modes(name, _params(dtype), jax.jit)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TABLE))
def test_modes_without_jit(name: str) -> None:
    _check_modes(name, _params(), lambda step: step)


def _check_modes(name: str, params: Any, wrap: Any) -> None:
    expected = _train(TABLE[name](), params, wrap)
    with ExitStack() as modes:
        for mode, enter in MODES.items():
            if mode != "strict promotion" or not name.endswith(NOT_STRICT):
                modes.enter_context(enter())
        _assert_same(_train(TABLE[name](), params, wrap), expected)


@contextmanager
def _mesh(kind: str, ambient: bool) -> Iterator[Any]:
    types = (AxisType.Explicit if kind == "explicit" else AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), axis_types=types)
    with jax.set_mesh(mesh) if ambient else ExitStack():
        yield mesh


@every_row
@pytest.mark.parametrize(
    "axis", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["rows", "columns"]
)
def test_explicit_meshes(name: str, axis: int) -> None:
    _check_explicit_mesh(name, axis, jax.jit)


# JAX itself refuses an eager callback on an explicit mesh.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TABLE if "live" not in n])
def test_explicit_meshes_without_jit(name: str) -> None:
    _check_explicit_mesh(name, 0, lambda step: step)


def _check_explicit_mesh(name: str, axis: int, wrap: Any) -> None:
    params = _params()
    expected = _train(TABLE[name](), params, wrap)
    with _mesh("explicit", ambient=True) as mesh:
        spec = P("data", None) if axis == 0 else P(None, "data")
        kernel = jax.device_put(params["kernel"], NamedSharding(mesh, spec))
        found = _train(TABLE[name](), params | {"kernel": kernel}, wrap)
    if "low_precision" in name or "int8" in name:
        # Each device rounds with random numbers of its own, in blocks of its own.
        _assert_same(found[0], expected[0], rtol=0.05, atol=0.01)
    else:
        _assert_same(found, expected)
    for leaf in jax.tree.leaves(found):
        if leaf.shape == (8, 8):
            assert jax.typeof(leaf).sharding.spec == spec


@every_row
@pytest.mark.parametrize("kind", ["explicit", "auto"])
def test_sharded_states(name: str, kind: str) -> None:
    """ZeRO-1 under one's own `jit`: parameters and gradients whole, the state sharded."""
    params = _params() | {"vector": jnp.sin(jnp.arange(24.0))}
    expected, _ = _train(TABLE[name](), params, jax.jit)
    with _mesh(kind, ambient=True) as mesh:
        params = jax.device_put(params, NamedSharding(mesh, P()))
        tx = TABLE[name]()
        shardings = parallel.state_sharding(tx, params, mesh)
        sharded = tx._replace(init=jax.jit(tx.init, out_shardings=shardings))
        found, state = _train(sharded, params, jax.jit)
    _assert_same(found, expected)
    for leaf, sharding in zip(
        jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def _loss(params: Any, batch: jax.Array) -> jax.Array:
    hidden = jnp.tanh(batch @ params["kernel"]) * params["scale"]
    return jnp.mean(hidden**2) + jnp.sum(params["empty"]) + params["vector"].var()


class _Run(NamedTuple):
    tx: optax.GradientTransformation
    params: Any
    batch: jax.Array
    trained: Any


@pytest.fixture(scope="module")
def on_one_device() -> _Run:
    """Zero-size leaves, a norm, accumulation and skipping in the chain, 8 bits.

    The vector is cut into 9 blocks, of which the last is padded, and over 8 devices.
    """
    storage = ro.MomentStorage("int8", block_size=17, min_size=0, rounding="nearest")
    tx = optax.chain(
        optax.clip_by_global_norm(0.1),
        ro.rmsprop(
            gradient_accumulation_steps=2, skip_nonfinite=True, moment_storage=storage
        ),
    )
    params = {k: v for k, v in _params().items() if k != "none"}
    params["vector"] = jnp.sin(jnp.arange(152.0))
    batch = jnp.linspace(-1.0, 1.0, 128).reshape(16, 8)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(_loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    trained, state = params, tx.init(params)
    for _ in range(4):
        trained, state = step(trained, state)
    return _Run(tx, params, batch, trained)


@pytest.mark.parametrize("builder", ["data_parallel", "sharded_data_parallel"])
@pytest.mark.parametrize("kind", ["explicit", "auto"])
@pytest.mark.parametrize("ambient", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_parallel_steps(
    on_one_device: _Run, builder: str, kind: str, ambient: bool
) -> None:
    tx, params, batch, trained = on_one_device
    with _mesh(kind, ambient) as mesh:
        step = getattr(parallel, builder)(_loss, tx, mesh)
        found, state = jax.tree.map(jnp.copy, params), tx.init(params)  # it donates
        for _ in range(4):
            found, state, _ = step(found, state, batch)
    _assert_same(found, trained)


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(k, marks=pytest.mark.slow) for k in ("int8", None)), "bfloat16"],
)
def test_states_as_flax_msgpack(kind: Any) -> None:
    """The sums of rows, codes and scales come back to the bit."""
    serialization = pytest.importorskip("flax.serialization", reason="needs flax")
    table = {"table": jnp.ones((6, 8)), "w": jnp.ones((2, 8), jnp.bfloat16)}
    storage = None if kind is None else ro.MomentStorage(kind, 4, min_size=0)
    tx = ro.rmsprop(
        momentum=0.9,
        use_ema=True,
        gradient_accumulation_steps=2,
        accumulate_rows={"table": 4},
        moment_storage=storage,
        loss_scale_factor=8.0,
        skip_nonfinite=True,
    )
    state = tx.init(table)
    rows = ro.sparse.RowSlices(jnp.array([1, 4]), jnp.ones((2, 8)), (6, 8))
    grads = {"table": rows, "w": table["w"]}
    update = jax.jit(tx.update)
    for _ in range(3):
        _, state = update(grads, state, table)
    back = serialization.from_bytes(tx.init(table), serialization.to_bytes(state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(x, y)
    again, expected = update(grads, back, table)[1], update(grads, state, table)[1]
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
