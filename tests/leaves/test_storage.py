"""Moments in fewer bytes: what is chosen, what converges, and what it goes through."""

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro
from rmsprop_optax._foundation._stored import BlockCodes, is_stored
from rmsprop_optax.leaves import read_moment
from rmsprop_optax.sparse import RowSlices
from tests.conformance._table import EVERYTHING

ONE_BYTE = ro.MomentStorage("one_byte", block_size=16, min_size=0)
NEAREST = ro.MomentStorage("one_byte", block_size=16, min_size=0, rounding="nearest")


def values(moments: Any) -> Any:
    return jax.tree.map(read_moment, moments, is_leaf=is_stored)


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_which_leaves() -> None:
    params = {
        "embedding": jnp.zeros((100, 64)),
        "kernel": jnp.zeros((64, 100)),
        "bias": jnp.zeros(100),
        "scalar": jnp.zeros(()),
        "empty": jnp.zeros((0, 4)),
        "none": None,
    }

    def is_embedding(path: str, param: jax.Array) -> bool:
        return path == "embedding" and param.ndim == 2

    storage = ro.MomentStorage("one_byte", keep_wide=is_embedding)
    nu = ro.scale_by_rms(moment_storage=storage).init(params).nu
    assert nu["embedding"].dtype == nu["bias"].dtype == nu["scalar"].dtype == "float32"
    assert nu["empty"].shape == (0, 4)
    assert nu["none"] is None
    codes = nu["kernel"]
    assert codes.codes.shape == (64, 100)
    assert codes.codes.dtype == "uint8"
    assert codes.scale.shape == (64, 2)  # two blocks of 50: neither needs padding
    assert codes.scale.dtype == "float32"
    mu = ro.scale_by_stddev(moment_storage=storage).init(params).mu
    assert mu["kernel"].codes.dtype == "int8"
    nu = ro.scale_by_rms(moment_storage=ONE_BYTE).init(params).nu
    small = {name for name, moment in nu.items() if isinstance(moment, BlockCodes)}
    assert small == {"embedding", "kernel", "bias"}


@pytest.mark.parametrize(
    ("last", "count"),
    [(64, 1), (65, 2), (128, 2), (1000, 20), (1009, 16), (1, 1), (3, 1)],
)
def test_blocks_are_equal_where_that_is_possible(last: int, count: int) -> None:
    params = jnp.zeros((5000, last))
    state = ro.trace(0.9, moment_storage="one_byte").init(params)
    assert state.trace.scale.shape == (5000, count)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", jnp.bfloat16, "float8_e5m2"])
def test_float_dtypes(kind: Any) -> None:
    params = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(2, jnp.bfloat16)}
    tx = ro.rmsprop(momentum=0.9, moment_storage=kind)
    state = tx.init(params)
    nearest = ro.MomentStorage(kind, rounding="nearest")
    plain = ro.rmsprop(moment_storage=nearest).init(params)
    for name in ("nu", "trace"):
        held = optax.tree.get(state, name)
        assert all(held[leaf].values.dtype == jnp.dtype(kind) for leaf in params)
    assert optax.tree.get(plain, "nu")["w"].dtype == jnp.dtype(kind)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = jax.jit(tx.update)(grads, state, params)
    np.testing.assert_allclose(updates["w"], -0.001 / np.sqrt(0.1), rtol=1e-5)
    np.testing.assert_allclose(values(optax.tree.get(state, "nu"))["w"], 0.1, rtol=0.2)


def test_float64_holds_everything() -> None:
    with jax.enable_x64(True):
        tx = ro.scale_by_rms(moment_storage="float64")
        _, state = tx.update(jnp.float32(0.1), tx.init(jnp.float32(1.0)))
        assert state.nu.dtype == "float64"
        np.testing.assert_allclose(state.nu, 0.1 * np.float32(0.1) ** 2, rtol=1e-7)


@pytest.mark.parametrize("kind", ["one_byte", "bfloat16"])
@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_an_average_reaches_its_fixed_point(
    kind: str, decay: float, start: float
) -> None:
    """A constant gradient: nu goes to g², within what the storage tells apart."""
    g = jnp.array(np.logspace(-1, 0, 256), jnp.float32).reshape(4, 64)
    storage = ro.MomentStorage(kind, min_size=0)
    tx = ro.scale_by_rms(decay, initial_scale=start, moment_storage=storage)
    steps = int(12 / (1 - decay))

    def step(state: Any, _: None) -> tuple[Any, None]:
        return tx.update(g, state)[1], None

    run = jax.jit(lambda state: jax.lax.scan(step, state, length=steps)[0])
    nu = np.asarray(values(run(tx.init(g)).nu), np.float64)
    past = decay ** np.float64(steps)
    root = np.sqrt(np.asarray(g, np.float64) ** 2 * (1 - past) + start * past)
    code = root.max(axis=1, keepdims=True) / 255 if kind == "one_byte" else root / 128
    assert np.all(np.abs(np.sqrt(nu) - root) <= 2 * code)
    # On average over many values, much nearer than one code.
    assert abs(np.mean((np.sqrt(nu) - root) / code)) < 0.2


@pytest.mark.parametrize("kind", ["one_byte", "bfloat16"])
def test_an_average_of_noise_has_no_bias(kind: str) -> None:
    """Where steps of the average are far below a code, against float64."""
    decay, steps = 0.9999, 40_000
    tx = ro.scale_by_rms(decay, moment_storage=ro.MomentStorage(kind, min_size=0))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        state, exact = carry
        g = jax.random.normal(key, (8, 64))
        return (tx.update(g, state)[1], decay * exact + (1 - decay) * g * g), None

    start = (tx.init(jnp.zeros((8, 64))), jnp.zeros((8, 64)))
    keys = jax.random.split(jax.random.key(0), steps)
    state, exact = jax.jit(lambda c: jax.lax.scan(step, c, keys)[0])(start)
    ratio = np.asarray(values(state.nu)) / np.asarray(exact)
    assert abs(ratio.mean() - 1) < 0.02
    assert ratio.std() < 0.15


@pytest.mark.parametrize("kind", ["one_byte", "bfloat16"])
def test_rounded_to_the_nearest_it_stands_still(kind: str) -> None:
    storage = ro.MomentStorage(kind, min_size=0, rounding="nearest")
    tx = ro.scale_by_rms(0.9999, initial_scale=1.0, moment_storage=storage)
    g = jnp.array(np.linspace(0.5, 1, 64), jnp.float32)

    def step(state: Any, _: None) -> tuple[Any, None]:
        return tx.update(g, state)[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=60_000))(tx.init(g))
    nu = np.asarray(values(state.nu))
    np.testing.assert_allclose(nu, 1.0, rtol=1e-2)  # where g² is 0.25 to 1


@pytest.mark.parametrize("centered", [False, True])
def test_gradients_that_hurt(centered: bool) -> None:
    """Neither NaN nor a zero denominator, for anything that float32 has."""
    rng = np.random.default_rng(0)
    make = ro.scale_by_stddev if centered else ro.scale_by_rms
    tx = make(0.9, eps=0.0, moment_storage=ONE_BYTE)
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros((6, 32)))
    for _ in range(30):
        g = rng.normal(size=(6, 32)) * 10 ** rng.uniform(-18, 15, size=(6, 32))
        g[0] = 1e-30 * rng.normal(size=32)  # squares to zero
        g[1] = rng.normal(size=32)
        g[1, rng.integers(32)] = 1e30  # squares to infinity
        g[2] = 1e18 * rng.normal(size=32)
        updates, state = update(jnp.array(g, jnp.float32), state)
        nu = np.asarray(values(state.nu))
        assert np.all(np.isfinite(nu))
        assert np.all(nu[1:] > 0)
        assert np.all(np.isfinite(np.asarray(updates)[1:]))


def test_a_new_largest_value_leaves_the_others_at_least_one_code() -> None:
    tx = ro.scale_by_rms(0.5, eps=0.0, moment_storage=ONE_BYTE)
    g = jnp.full(16, 1e-3).at[3].set(1e3)
    _, state = tx.update(g, tx.init(g))
    nu = np.asarray(values(state.nu))
    np.testing.assert_allclose(nu[3], 5e5, rtol=1e-6)
    np.testing.assert_allclose(np.delete(nu, 3), 5e5 / 255**2, rtol=1e-5)


def test_near_to_float32_over_a_run() -> None:
    params = {"w": normal((64, 128)), "b": normal((128,))}
    runs = {}
    for storage in (None, "one_byte", "bfloat16"):
        tx = ro.rmsprop(0.01, momentum=0.9, centered=True, moment_storage=storage)
        p, state = params, tx.init(params)
        step = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p))
        for t in range(30):
            g = jax.tree.map(lambda x, t=t: x + normal(x.shape, t), p)
            updates, state = step(g, state, p)
            p = optax.apply_updates(p, updates)
        runs[storage] = np.asarray(p["w"]) - np.asarray(params["w"])
    moved = np.linalg.norm(runs[None])
    assert np.linalg.norm(runs["one_byte"] - runs[None]) < 0.05 * moved
    assert np.linalg.norm(runs["bfloat16"] - runs[None]) < 0.02 * moved


@pytest.mark.parametrize("storage", [ONE_BYTE, "bfloat16"])
def test_with_everything_else_under_inject_hyperparams(storage: Any) -> None:
    make = optax.inject_hyperparams(
        ro.rmsprop, static_args=("weight_decay_mask", "moment_storage")
    )
    tx = make(learning_rate=0.01, **EVERYTHING, moment_storage=storage)
    params = {"w": normal((4, 40)), "b": normal((7,), 1)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for t in range(4):
        grads = jax.tree.map(lambda p, t=t: normal(p.shape, t), params)
        updates, new = update(grads, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
        params, state = optax.apply_updates(params, updates), new
    assert all(np.all(np.isfinite(p)) for p in jax.tree.leaves(params))
    assert ro.finalize(params, state)["w"].shape == (4, 40)


def test_map_params() -> None:
    tx = ro.rmsprop(momentum=0.9, moment_storage=ONE_BYTE)
    state = tx.init({"w": jnp.zeros((2, 32))})
    ones = optax.tree.map_params(tx, jnp.ones_like, state)
    held = optax.tree.get(ones, "trace")["w"]
    assert np.all(held.codes == 1)
    assert np.all(held.scale == 1)
    assert optax.tree.get(ones, "nu")["w"].codes.shape == (2, 32)


def test_rows_that_are_not_touched_keep_their_codes() -> None:
    table = jnp.zeros((50, 8))
    tx = ro.rmsprop(momentum=0.9, moment_storage=ONE_BYTE)
    grads = RowSlices(jnp.arange(50), normal((50, 8)), (50, 8))
    update = jax.jit(tx.update)
    _, state = update(grads, tx.init(table))
    grads = RowSlices(jnp.array([3, 7, 3]), normal((3, 8), 1), (50, 8))
    updates, new = update(grads, state)
    assert list(updates.indices) == [3, 7, 50]
    for name in ("nu", "trace"):
        before, after = optax.tree.get(state, name), optax.tree.get(new, name)
        others = np.setdiff1d(np.arange(50), [3, 7])
        np.testing.assert_array_equal(before.codes[others], after.codes[others])
        np.testing.assert_array_equal(before.scale[others], after.scale[others])
        assert np.all(np.any(before.codes[jnp.array([3, 7])] != after.codes[3], axis=1))


@pytest.mark.parametrize("storage", [NEAREST, ro.MomentStorage("bfloat16")])
def test_all_rows_are_the_dense_step(storage: Any) -> None:
    tx = ro.rmsprop(momentum=0.9, centered=True, moment_storage=storage)
    dense, table = normal((9, 32)), jnp.zeros((9, 32))
    by_rows = RowSlices(jnp.arange(9), dense, (9, 32))
    a = b = tx.init(table)
    update = jax.jit(tx.update)
    updates = rows = None
    for _ in range(3):
        updates, a = update(dense, a)
        rows, b = update(by_rows, b)
    assert isinstance(rows, RowSlices)
    chex.assert_trees_all_close(a, b, rtol=1e-6)
    np.testing.assert_allclose(updates, rows.to_dense(), rtol=1e-6)


def test_rows_of_one_value_are_refused() -> None:
    tx = ro.scale_by_rms(moment_storage=ONE_BYTE)
    grads = {"t": RowSlices(jnp.array([1]), jnp.ones(1), (50,))}
    with pytest.raises(ValueError, match=r"'t' comes by rows of one value.*keep_wide"):
        tx.update(grads, tx.init({"t": jnp.zeros(50)}))


@pytest.mark.parametrize("spec", [P("x"), P(None, "x"), P("x", None)])
@pytest.mark.parametrize("storage", [ONE_BYTE, ro.MomentStorage("bfloat16")])
def test_sharded(spec: P, storage: Any) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, spec)
    tx = ro.rmsprop(momentum=0.9, moment_storage=storage)
    params, grads = normal((16, 1024)), normal((16, 1024), 1)
    alone = tx.init(params)
    sharded = tx.init(jax.device_put(params, sharding))
    held = optax.tree.get(sharded, "nu")
    for array in held.arrays.values():
        assert array.sharding.is_equivalent_to(sharding, 2)
    step = jax.jit(tx.update)
    for _ in range(2):
        updates, alone = step(grads, alone)
        given = jax.device_put(grads, sharding)
        compiled = step.lower(given, sharded).compile()
        across, new = compiled(given, sharded)
        program = compiled.as_text() or ""
        assert "all-reduce" not in program or spec == P(None, "x")
        assert "all-gather" not in program
        assert "all-to-all" not in program
        np.testing.assert_array_equal(updates, across)
        chex.assert_trees_all_equal(jax.device_get(alone), jax.device_get(new))
        for old, array in zip(
            jax.tree.leaves(sharded), jax.tree.leaves(new), strict=True
        ):
            assert array.ndim == 0 or array.sharding.is_equivalent_to(old.sharding, 2)
        sharded = new


def test_in_shard_map() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = ro.scale_by_rms(moment_storage=NEAREST)
    g = normal((8, 64))

    def local(g: jax.Array) -> jax.Array:
        _, state = tx.update(g, tx.init(jnp.zeros_like(g)))
        return read_moment(state.nu)

    spread = jax.shard_map(local, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    np.testing.assert_array_equal(jax.jit(spread)(g), jax.jit(local)(g))


def test_a_checkpoint_goes_on_to_the_bit(tmp_path: Path) -> None:
    tx = ro.rmsprop(momentum=0.9, moment_storage=ONE_BYTE)
    params = {"w": jnp.zeros((4, 40))}
    update, state = jax.jit(tx.update), tx.init(params)
    for t in range(3):
        _, state = update({"w": normal((4, 40), t)}, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    chex.assert_trees_all_equal(state, restored)
    onward = update({"w": normal((4, 40), 9)}, state)
    chex.assert_trees_all_equal(onward, update({"w": normal((4, 40), 9)}, restored))


def test_the_seed_decides() -> None:
    def run(seed: int) -> Any:
        storage = ro.MomentStorage("one_byte", min_size=0, seed=seed)
        tx = ro.scale_by_rms(moment_storage=storage)
        return tx.update(normal((4, 64)), tx.init(jnp.zeros((4, 64))))[1].nu

    chex.assert_trees_all_equal(run(3), run(3))
    assert np.any(run(3).codes != run(4).codes)
    params = {"a": jnp.zeros(64), "b": jnp.zeros(64)}
    nu = ro.scale_by_rms(moment_storage=ONE_BYTE).init(params).nu
    assert nu["a"].key != nu["b"].key


@pytest.mark.parametrize("fill", [1.0, 0.25])
def test_initial_scale(fill: float) -> None:
    tx = ro.scale_by_rms(initial_scale=fill, moment_storage=ONE_BYTE)
    nu = tx.init(jnp.zeros((3, 40))).nu
    np.testing.assert_allclose(read_moment(nu), fill, rtol=1e-6)


@pytest.mark.parametrize(
    "make", [ro.dialects.tf_keras, ro.dialects.torch, ro.dialects.timm]
)
def test_dialects(make: Any) -> None:
    tx = make(momentum=0.9, moment_storage=ONE_BYTE)
    state = tx.init(jnp.zeros((3, 40)))
    assert optax.tree.get(state, "trace").codes.dtype == "int8"
    assert "kept as one byte a value, rounded at random" in ro.describe(tx)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "one_bit"}, ValueError, 'must be "one_byte" or a floating.*one_bit'),
        ({"kind": "int8"}, TypeError, "got 'int8', which is int8"),
        ({"kind": jnp.complex64}, TypeError, "which is complex64"),
        ({"kind": 3}, ValueError, "got 3"),
        ({"kind": jnp.ones(())}, TypeError, 'give it the name, "bfloat16"'),
        ({"kind": "one_byte", "block_size": 0}, ValueError, "at least 1, got 0"),
        ({"kind": "one_byte", "block_size": 1.5}, TypeError, "integer.*got 1.5"),
        ({"kind": "one_byte", "rounding": "up"}, ValueError, "\"nearest\", got 'up'"),
        ({"kind": "one_byte", "min_size": -1}, ValueError, "at least 0, got -1"),
        ({"kind": "one_byte", "seed": -1}, ValueError, "at least 0, got -1"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ro.MomentStorage(**arguments)


def test_bad_input_of_the_factory() -> None:
    with pytest.raises(ValueError, match='`moment_storage` must be "one_byte"'):
        ro.rmsprop(moment_storage="int9")
    tx = ro.trace(0.9, moment_storage="bfloat16")
    with pytest.raises(ValueError, match="'w' is complex64, which can't be kept as 'bf"):
        tx.init({"w": jnp.zeros(3, jnp.complex64)})
