"""Every row of the table against everything that must hold for all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.conformance._table import CORE, MANY, TABLE, rows

every_row = pytest.mark.parametrize("make", rows(TABLE), indirect=True)
core_rows = pytest.mark.parametrize("make", rows(CORE), indirect=True)
single_rows = pytest.mark.parametrize("make", rows(TABLE.keys() - MANY), indirect=True)
core_single_rows = pytest.mark.parametrize("make", rows(CORE - MANY), indirect=True)
STEPS = 4


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return TABLE[request.param]


class Layer(NamedTuple):
    kernel: Any
    bias: Any


def _params(dtype: Any = jnp.float32) -> Any:
    """Scalars, empty leaves, None, and containers in containers."""
    return {
        "layers": [
            Layer(jnp.ones((8, 2), dtype), jnp.zeros(2, dtype)),
            (jnp.asarray(3, dtype), None),
        ],
        "empty": jnp.zeros((0, 3), dtype),
    }


def _grads(step: int, dtype: Any) -> Any:
    def draw(p: jax.Array) -> jax.Array:
        rng = np.random.default_rng([step, *p.shape])
        return jnp.asarray(rng.normal(size=p.shape), dtype)

    return jax.tree.map(draw, _params())


def _run(tx: Any, params: Any, grads: list[Any], wrap: Any = jax.jit) -> tuple[Any, ...]:
    """Trains; returns parameters, those and the state on the way, and the last update."""

    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, updates

    step = wrap(step)
    way, updates = [(params, tx.init(params))], None
    for gradient in grads:
        *after, updates = step(*way[-1], gradient)
        way.append(tuple(after))
    return way[-1][0], way, updates


def _signature(tree: Any) -> Any:
    def of(leaf: Any) -> tuple[Any, ...]:
        aval = jax.typeof(leaf)
        return aval.shape, aval.dtype, aval.weak_type

    return jax.tree.structure(tree), [of(leaf) for leaf in jax.tree.leaves(tree)]


def _assert_close(a: Any, b: Any, rtol: float = 1e-5) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


def _widens(make: Any) -> bool:
    """`unscale_loss` returns float32, in which a small gradient does not vanish."""
    return make is TABLE["unscale_loss"]


# Of the parameters and of the gradients, and the rows that have them by default.
DTYPES = {
    ("bfloat16", "bfloat16"): CORE,
    ("bfloat16", "float32"): {},
    ("float16", "float32"): {},
    ("float32", "bfloat16"): CORE - MANY,
    ("float32", "float64"): {},
    ("float64", "float32"): CORE - MANY,
    ("complex64", "complex64"): CORE - MANY,
}


@pytest.mark.parametrize(
    ("make", "kept", "given"),
    [
        pytest.param(
            *row.values, *dtypes, id=f"{row.id}-{'-'.join(dtypes)}", marks=row.marks
        )
        for dtypes, default in DTYPES.items()
        for row in rows(default)
    ],
    indirect=["make"],
)
def test_one_compilation_and_a_state_that_stays_what_it_is(
    make: Callable[[], Any], kept: str, given: str
) -> None:
    with jax.enable_x64("64" in (kept[-2:], given[-2:]) and "complex" not in kept):
        chex.clear_trace_counter()

        def once(step: Any) -> Any:
            return jax.jit(chex.assert_max_traces(step, n=1))

        params = _params(kept)
        gradients = [_grads(i, given) for i in range(STEPS)]
        after, states, updates = _run(make(), params, gradients, once)
        for state in states[1:]:
            assert _signature(state) == _signature(states[0])
        assert not any(leaf[2] for leaf in _signature(states[0])[1])
        assert _signature(after) == _signature(params)
        dtype = jnp.promote_types(given, "float32") if _widens(make) else given
        assert all(u.dtype == dtype for u in jax.tree.leaves(updates))
        assert all(np.isfinite(p).all() for p in jax.tree.leaves(after))


@core_rows
def test_jit_scan_and_cond_change_nothing(make: Callable[[], Any]) -> None:
    tx, params = make(), _params()
    grads = [_grads(i, jnp.float32) for i in range(STEPS)]
    _, jitted, _ = _run(tx, params, grads)
    # Two steps have all branches, each of which is compiled again at each eager step.
    _, eager, _ = _run(tx, params, grads[:2], wrap=lambda f: f)
    _assert_close(eager, jitted[:3])

    def scanned(carry: Any, gradient: Any) -> Any:
        def train() -> Any:
            updates, state = tx.update(gradient, carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), state

        return jax.lax.cond(gradient["layers"][1][0] < 1e9, train, lambda: carry), None

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    carry, _ = jax.lax.scan(scanned, (params, tx.init(params)), stacked)
    _assert_close(carry, jitted[-1])


@core_single_rows
def test_vmap_is_a_loop(make: Callable[[], Any]) -> None:
    tx, params = make(), _params()
    many = [_grads(i, jnp.float32) for i in range(3)]

    @jax.jit
    def train(gradient: Any) -> Any:
        after, _, _ = _run(tx, params, [gradient] * 2, wrap=lambda f: f)
        return after

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *many)
    together = jax.jit(jax.vmap(train))(stacked)
    for index, gradient in enumerate(many):
        _assert_close(jax.tree.map(lambda p, i=index: p[i], together), train(gradient))


@every_row
def test_shapes_alone_are_enough(make: Callable[[], Any]) -> None:
    tx, params = make(), _params()
    state = jax.eval_shape(tx.init, params)
    assert _signature(state) == _signature(tx.init(params))
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@every_row
@pytest.mark.parametrize("params", [{}, 2.0, [], (None, {"a": None})])
def test_odd_trees(make: Callable[[], Any], params: Any) -> None:
    tx = make()
    updates, state = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


@single_rows
def test_a_gradient_that_is_none_leaves_its_leaf(make: Callable[[], Any]) -> None:
    tx, params = make(), {"a": jnp.ones(2), "b": jnp.full(3, 5.0)}
    state = tx.init(params)
    gradient, updates = {"a": jnp.ones(2), "b": None}, {"b": None}
    for _ in range(2):
        updates, state = tx.update(gradient, state, params)
    assert updates["b"] is None or not np.any(updates["b"])
    at_init = make().init(params)
    for name in ("nu", "mu", "trace", "acc_grads"):
        for (_, moment), (_, before) in zip(
            optax.tree.get_all_with_path(state, name),
            optax.tree.get_all_with_path(at_init, name),
            strict=True,
        ):
            if isinstance(moment, dict):
                chex.assert_trees_all_equal(moment["b"], before["b"])


@single_rows
def test_masked_and_partition(make: Callable[[], Any]) -> None:
    params = {"a": jnp.ones(2), "b": jnp.full(3, 5.0)}
    tx = optax.masked(make(), {"a": True, "b": False})
    alone = make()
    masked, _ = tx.update(params, tx.init(params), params)
    expected, _ = alone.update(
        {"a": params["a"]}, alone.init({"a": params["a"]}), {"a": params["a"]}
    )
    _assert_close(masked, {"a": expected["a"], "b": params["b"]})

    parts = optax.partition(
        {"ours": make(), "frozen": optax.set_to_zero()}, {"a": "ours", "b": "frozen"}
    )
    updates, _ = jax.jit(parts.update)(params, parts.init(params), params)
    _assert_close(updates, {"a": expected["a"], "b": jnp.zeros(3)})


@every_row
def test_tree_map_params_finds_the_moments(make: Callable[[], Any]) -> None:
    tx, params = make(), _params()
    state = tx.init(params)
    marked = optax.tree.map_params(tx, lambda leaf: leaf + 7, state)
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    for name in ("nu", "mu", "trace", "ema", "acc_grads"):
        for (_, a), (_, b) in zip(
            optax.tree.get_all_with_path(state, name),
            optax.tree.get_all_with_path(marked, name),
            strict=True,
        ):
            _assert_close(jax.tree.map(lambda leaf: leaf + 7, a), b)


@core_single_rows
def test_sharded_over_eight_devices_is_one_device(make: Callable[[], Any]) -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 8
    rows = NamedSharding(mesh, P("data"))
    params = {"w": jnp.arange(16.0).reshape(8, 2), "bias": jnp.ones(8)}
    sharded = jax.device_put(params, rows)
    gradients = [jax.tree.map(lambda p: jnp.cos(p + 1), params)] * 2
    expected, _, _ = _run(make(), params, gradients)
    after, states, _ = _run(make(), sharded, gradients)
    _assert_close(after, expected)
    for state in states:
        for leaf in jax.tree.leaves(state):
            if leaf.shape in {(8, 2), (8,)}:
                assert leaf.sharding.is_equivalent_to(rows, leaf.ndim)


@core_rows
def test_inside_shard_map_with_gradients_that_were_averaged(
    make: Callable[[], Any],
) -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    tx, params = make(), {"w": jnp.arange(1.0, 4.0)}
    data = jnp.linspace(0.0, 1.0, 16)

    def gradient(params: Any, data: jax.Array) -> Any:
        return {"w": params["w"] * data.mean()}

    def step(params: Any, state: Any, data: jax.Array) -> Any:
        mean = jax.lax.pmean(gradient(params, data), "data")
        updates, state = tx.update(mean, state, params)
        return optax.apply_updates(params, updates), state

    together = jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=(P(), P())
        )
    )
    many = one = (params, tx.init(params))
    update = jax.jit(tx.update)
    for _ in range(3):
        many = together(*many, data)
        updates, state = update(gradient(one[0], data), one[1], one[0])
        one = (optax.apply_updates(one[0], updates), state)
    _assert_close(many, one)


@every_row
def test_donated_buffers_are_reused(make: Callable[[], Any]) -> None:
    tx, params = make(), {"w": jnp.arange(1.0, 4.0)}

    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    state, gradient = tx.init(params), {"w": jnp.ones(3)}
    for _ in range(3):
        before = params["w"]
        params, state = donating(params, state, gradient)
        assert before.is_deleted()
    assert np.isfinite(params["w"]).all()
