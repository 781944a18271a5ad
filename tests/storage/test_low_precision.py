"""`low_precision` around any transformation: what it stores, and where that goes."""

import itertools
import pickle
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro
from rmsprop_optax import sparse
from rmsprop_optax.sparse import RowSlices
from rmsprop_optax.storage._low_precision import LowPrecisionState, decode_state
from tests.conformance._table import EVERYTHING

INT8 = ro.MomentStorage("int8", block_size=16, min_size=0)
NEAREST = ro.MomentStorage("int8", block_size=16, min_size=0, rounding="nearest")

ANY: dict[str, Any] = {
    "adam": lambda: optax.adam(0.02),
    "adamw": lambda: optax.adamw(0.02),
    "lion": lambda: optax.lion(0.005),
    "sgd": lambda: optax.sgd(0.05, momentum=0.9),
    "adagrad": lambda: optax.adagrad(0.3),
    "rmsprop": lambda: optax.rmsprop(0.01, momentum=0.5),
    "ours": lambda: ro.rmsprop(0.01, momentum=0.5, centered=True),
}


def values(state: LowPrecisionState) -> Any:
    """The inner state with moments as arrays of numbers."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), decode_state(state))


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """Drawn with NumPy, which compiles nothing for a new shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inner(state: Any) -> Any:
    """The inner state of the one `low_precision` in a state."""
    is_it = lambda node: isinstance(node, LowPrecisionState)  # noqa: E731
    (found,) = [x for x in jax.tree.leaves(state, is_leaf=is_it) if is_it(x)]
    return found


def train(tx: Any, steps: int = 300) -> float:
    """The loss of a linear regression of 64 by 128 after some steps."""
    x, w = normal((256, 64)), normal((64, 128), 1)

    def loss_fn(params: Any) -> jax.Array:
        return jnp.mean((x @ params["w"] - x @ w) ** 2)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"w": jnp.zeros((64, 128))}
    carry = params, tx.init(params)
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return float(loss_fn(params))


# A first and a second moment, a momentum with a sign alone, a sum of squares, and ours.
BY_DEFAULT = {"adam", "lion", "adagrad", "ours"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.slow)
        for name in ANY
    ],
)
@pytest.mark.parametrize(
    "kind", ["int8", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_any_transformation_trains(name: str, kind: str) -> None:
    exact, low = train(ANY[name]()), train(ro.low_precision(ANY[name](), kind))
    assert low < max(1.25 * exact, 2e-2)


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda: ro.rmsprop(moment_storage="int8"), 1.1),
        (lambda: ro.rmsprop(momentum=0.9, moment_storage="int8"), 2.2),
        (lambda: ro.low_precision(optax.adam(1e-3), "int8"), 2.2),
        (lambda: ro.low_precision(optax.adam(1e-3), "bfloat16"), 4.1),
    ],
)
def test_bytes_a_parameter(make: Any, bound: float) -> None:
    params = {"w": jnp.zeros((256, 512)), "b": jnp.zeros(512)}
    assert ro.state_bytes(make(), params).per_parameter < bound


OLD_XLA = pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="XLA makes other loops of other blocks"
)


@pytest.mark.parametrize(
    "storage",
    [
        ro.MomentStorage("int8"),
        pytest.param(ro.MomentStorage("int8", block_size=256), marks=OLD_XLA),
        ro.MomentStorage("bfloat16"),
    ],
    ids=["int8", "int8 in blocks of 256", "bfloat16"],
)
@pytest.mark.parametrize("name", ["rmsprop", "ours", "adam"])
def test_temporary_memory_of_a_step(name: str, storage: Any) -> None:
    """Little more than copies of the state: no root and no moment in float32."""
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    tx = ro.low_precision(ANY[name](), storage)

    def step(held: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, held[1], held[0])
        return optax.apply_updates(held[0], updates), state

    held = leaf, jax.eval_shape(tx.init, leaf)
    compiled = jax.jit(step, donate_argnums=0).lower(held, leaf).compile()
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 1.2 * ro.state_bytes(tx, leaf).total


def _every_kind_of_operation(updates: Any, moments: Any) -> Any:
    """Calls, branches, loops, products and a sort of a moment and of its gradient."""
    g = jax.nn.relu(updates) - jax.nn.relu(-updates * jnp.tanh(moments + 1))
    g = jax.checkpoint(lambda x: jnp.exp(-(x**2)) * x)(g)
    g = g @ jnp.eye(g.shape[1]) / (1 + jnp.linalg.norm(moments))
    g = jax.lax.cond(g.sum() > 0, lambda x: x, lambda x: 2 * x, g)
    g = jax.lax.fori_loop(0, 3, lambda _, x: x * 1.1, g)
    g, _ = jax.lax.scan(lambda x, row: (x + row, None), g, moments)
    return g + 1e-3 * jnp.sort(moments, axis=0)


@pytest.mark.parametrize(
    "storage", [NEAREST, ro.MomentStorage("bfloat16", rounding="nearest")]
)
def test_a_compiled_step_is_the_step(storage: Any) -> None:
    """Where XLA computes an elementwise operation again, and nothing else."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        mu = jax.tree.map(_every_kind_of_operation, updates, state.mu)
        nu = jax.tree.map(lambda m, v: 0.9 * v + m**2, mu, state.nu)
        new = jax.tree.map(lambda m, v: m * jax.lax.rsqrt(v + 1e-3), mu, nu)
        return new, state._replace(mu=new, nu=nu)

    inner = optax.GradientTransformation(optax.scale_by_adam().init, update)
    tx, params = ro.low_precision(inner, storage), {"w": normal((32, 32))}
    state = tx.init(params)
    for _ in range(2):
        expected, found = (f(params, state) for f in (tx.update, jax.jit(tx.update)))
        assert jax.tree.structure(expected) == jax.tree.structure(found)
        np.testing.assert_allclose(found[0]["w"], expected[0]["w"], rtol=2e-5, atol=1e-6)
        ours, theirs = (values(x[1]) for x in (found, expected))
        chex.assert_trees_all_close(ours, theirs, rtol=0.02, atol=1e-3)
        state = found[1]


def test_gradients_of_each_device_and_moments_of_all() -> None:
    tx = ro.low_precision(optax.rmsprop(0.1, momentum=0.9), NEAREST)
    grads, state = normal((8, 64)), tx.init(jnp.zeros((1, 64)))

    def update(grads: Any, state: Any) -> Any:
        updates, state = tx.update(grads, state)
        return updates, optax.tree.get(decode_state(state), "trace")

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P("data"), P()), "out_specs": P("data")}
    found = jax.jit(jax.shard_map(update, mesh=mesh, **specs))(grads, state)
    each = [update(row, state) for row in jnp.split(grads, 8)]
    expected = jax.tree.map(lambda *rows: jnp.concatenate(rows), *each)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_what_a_transformation_reads_or_counts_happens_once_a_step() -> None:
    rates, params = itertools.count(1), {"w": jnp.ones((64, 64))}
    tx = ro.rmsprop(lambda: 0.1 * next(rates), moment_storage="int8", momentum=0.9)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        _, state = step(params, state, params)
    jax.block_until_ready(state)
    assert next(rates) == 4


def test_which_leaves() -> None:
    params = {
        "embedding": jnp.zeros((100, 64)),
        "kernel": jnp.zeros((64, 100)),
        "bias": jnp.zeros(100),
        "scalar": jnp.zeros(()),
        "empty": jnp.zeros((0, 4)),
        "none": None,
        "complex": jnp.zeros((64, 100), jnp.complex64),
    }

    def is_embedding(path: str, param: jax.Array) -> bool:
        return path == "embedding" and param.ndim == 2

    storage = ro.MomentStorage("int8", exclude=is_embedding)
    init = ro.low_precision(ro.scale_by_stddev(), storage).init
    state = jax.eval_shape(init, params)
    nu, (_, scales) = state.inner_state.nu, state.scales
    assert state.inner_state.mu["complex"].dtype == "complex64"
    assert nu["complex"].dtype == "uint8"  # the mean of |g|² is real
    for name in ("embedding", "bias", "scalar"):
        assert nu[name].dtype == "float32"
        assert scales[name].shape == ()
    assert nu["kernel"].shape == (64, 100)
    assert nu["kernel"].dtype == "uint8"
    assert state.inner_state.mu["kernel"].dtype == "int8"
    assert scales["kernel"].shape == (64, 1)  # one block of 100
    init = ro.low_precision(ro.scale_by_rms(), INT8).init
    nu = jax.eval_shape(init, params).inner_state.nu
    coded = {n for n, x in nu.items() if x is not None and x.dtype == "uint8"}
    assert coded == {"embedding", "kernel", "bias", "complex"}


def test_fields_that_are_known_and_those_that_are_not() -> None:
    params = {"w": jnp.ones((64, 64))}
    chain = optax.chain(optax.ema(0.9), ro.average_params())
    with pytest.warns(UserWarning, match="No moment is stored"):
        state = ro.low_precision(chain, "int8").init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state) if x.ndim} == {"float32"}

    storage = ro.MomentStorage("int8", fields={"ema": "signed"})
    state = ro.low_precision(optax.ema(0.9), storage).init(params)
    assert state.inner_state.ema["w"].dtype == "int8"


class Mine(NamedTuple):
    """A state of a user's, with a field that Optax's states have too."""

    nu: Any


def test_a_class_that_is_not_known_is_asked_for() -> None:
    params = {"w": jnp.ones((64, 64))}
    mine = optax.GradientTransformation(
        lambda params: Mine(jax.tree.map(jnp.zeros_like, params)),
        lambda updates, state, params=None: (updates, state),
    )
    words = r"The state 'nu/w' is in a field 'nu' of Mine, which is not known: .*fields="
    with pytest.raises(ValueError, match=words):
        ro.low_precision(mine, "int8").init(params)
    storage = ro.MomentStorage("int8", fields={"nu": "signed"})
    assert (
        ro.low_precision(mine, storage).init(params).inner_state.nu["w"].dtype == "int8"
    )
    bare = optax.GradientTransformation(lambda params: params, mine.update)
    with pytest.raises(ValueError, match=r"The state 'w' is in a field '' of no class"):
        ro.low_precision(bare, "int8").init(params)


@pytest.mark.parametrize(
    ("make", "rounding"),
    [
        (optax.sm3, "nearest"),
        (optax.adan, "stochastic"),
        pytest.param(optax.sm3, "stochastic", marks=pytest.mark.slow),
        pytest.param(optax.adan, "nearest", marks=pytest.mark.slow),
    ],
)
def test_signs_are_kept(make: Any, rounding: Any) -> None:
    """Of a momentum called `nu`, and of an average of differences called `v`."""
    storage = ro.MomentStorage("int8", min_size=0, rounding=rounding)
    steps = {"exact": make(0.1), "low": ro.low_precision(make(0.1), storage)}
    signs = jnp.tile(jnp.array([1.0, -1.0]), 32).reshape(8, 8)
    found = {}
    for kind, tx in steps.items():
        update, state = jax.jit(tx.update), tx.init(signs)
        for step in range(5):
            found[kind], state = update(signs * (1 + 0.1 * step), state, signs)
    np.testing.assert_allclose(found["low"], found["exact"], rtol=0.05)


def test_a_negative_second_moment_is_nan() -> None:
    """Never a positive one, in silence."""
    storage = ro.MomentStorage("int8", min_size=0, fields={"nu": "second_moment"})
    mine = optax.GradientTransformation(
        lambda params: Mine(params),
        lambda updates, state, params=None: (updates, Mine(updates)),
    )
    tx, params = ro.low_precision(mine, storage), jnp.ones((2, 64))
    _, state = jax.jit(tx.update)(params.at[0, 3].set(-1.0), tx.init(params), params)
    nu = np.asarray(decode_state(state).nu)
    assert np.isnan(nu[0]).all()
    np.testing.assert_allclose(nu[1], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "params"),
    [
        (lambda: optax.flatten(optax.adam(0.1)), jnp.zeros((64, 64))),
        (lambda: optax.adam(0.1), jnp.zeros((64, 64), jnp.complex64)),
        (lambda: optax.sgd(0.1), jnp.zeros((64, 64))),
    ],
)
def test_where_nothing_is_stored_a_warning_says_so(make: Any, params: Any) -> None:
    tx = ro.low_precision(make(), "int8")
    with pytest.warns(UserWarning, match="No moment is stored as 'int8'"):
        state = tx.init(params)
    jax.eval_shape(tx.update, params, state, params)  # says it no second time


def test_a_state_of_other_blocks() -> None:
    old, new = (
        ro.skip_nonfinite(
            ro.low_precision(optax.adam(0.1), ro.MomentStorage("int8", size, min_size=0))
        )
        for size in (64, 16)
    )
    params = normal((4, 128))
    _, state = jax.jit(old.update)(params, old.init(params), params)
    with pytest.raises(ValueError, match=r"2 blocks .* `block_size` is 16.*encode_state"):
        jax.eval_shape(new.update, params, state, params)
    stored = ro.encode_state(state, new.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(stored, new.init(params))
    assert stored.inner_state.seed == state.inner_state.seed
    before, after = (decode_state(x).inner_state[0] for x in (state, stored))
    np.testing.assert_allclose(
        after.mu, before.mu, atol=0.02 * float(jnp.abs(before.mu).max())
    )
    assert after.count == before.count == 1
    jax.eval_shape(new.update, params, stored, params)


def test_a_run_goes_on_with_other_storage() -> None:
    params = normal((8, 64))
    kinds = [None, "bfloat16", ro.MomentStorage("int8", min_size=0)]
    txs = [ro.rmsprop(0.1, momentum=0.9, moment_storage=kind) for kind in kinds]
    runs = [(tx, jax.jit(tx.update)(params, tx.init(params), params)[1]) for tx in txs]
    for (_, state), (new, _) in itertools.permutations(runs, 2):
        stored = ro.encode_state(state, new.init(params))
        chex.assert_trees_all_equal_shapes_and_dtypes(stored, new.init(params))
        before, after = (optax.tree.get(decode_state(x), "nu") for x in (state, stored))
        np.testing.assert_allclose(np.sqrt(after), np.sqrt(before), rtol=0.01, atol=0.01)
        jax.eval_shape(new.update, params, stored, params)
    with pytest.raises(ValueError, match="not states of one optimizer"):
        ro.encode_state(optax.adam(0.1).init(params), txs[0].init(params))


def test_specs_of_parameters_fit_the_state() -> None:
    """Scales too, where some moments are stored in full."""
    params = {"w": jnp.zeros((64, 64)), "b": jnp.zeros(64), "none": None}
    specs = {"w": P("data"), "b": P(), "none": None}
    tx = ro.low_precision(optax.adam(0.1), "int8")
    found = optax.tree.map_params(
        tx,
        lambda _, spec: spec,
        tx.init(params),
        specs,
        transform_non_params=lambda _: P(),
    )
    assert found.scales == (specs, specs)
    assert found.inner_state[0].nu == specs
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), found)
    state = jax.device_put(tx.init(params), shardings)
    assert state.scales[0]["w"].sharding.spec == P("data")


@pytest.mark.parametrize(
    ("last", "count"),
    [(64, 1), (65, 1), (128, 1), (129, 3), (1000, 8), (1009, 8), (11008, 86), (1, 1)],
)
def test_blocks_are_equal_where_that_is_possible(last: int, count: int) -> None:
    init = ro.low_precision(optax.trace(0.9), "int8").init
    state = jax.eval_shape(init, jnp.zeros((5000, last)))
    assert state.scales[0].shape == (5000, count)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", jnp.bfloat16, "float8_e5m2"])
def test_float_dtypes(kind: Any) -> None:
    params = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(2, jnp.bfloat16)}
    tx = ro.rmsprop(momentum=0.9, moment_storage=kind)
    state = tx.init(params)
    for name in ("nu", "trace"):
        held = optax.tree.get(state, name)
        assert all(held[leaf].dtype == jnp.dtype(kind) for leaf in params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = jax.jit(tx.update)(grads, state, params)
    np.testing.assert_allclose(updates["w"], -0.001 / np.sqrt(0.1), rtol=1e-5)
    nu = optax.tree.get(state, "nu")["w"].astype(jnp.float32)
    np.testing.assert_allclose(nu, 0.1, rtol=0.2)


def test_float64_holds_everything() -> None:
    with jax.enable_x64(True):
        tx = ro.low_precision(ro.scale_by_rms(), "float64")
        _, state = tx.update(jnp.float32(0.1), tx.init(jnp.float32(1.0)))
        assert state.inner_state.nu.dtype == "float64"
        np.testing.assert_allclose(state.inner_state.nu, 0.001, rtol=1e-6)


@partial(jax.jit, static_argnums=0)
def _constant_gradient(storage: Any, decay: Any, steps: Any, g: Any, state: Any) -> Any:
    """One program for all decays and numbers of steps."""
    tx = ro.low_precision(ro.scale_by_rms(decay), storage)
    return jax.lax.fori_loop(0, steps, lambda _, state: tx.update(g, state)[1], state)


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_an_average_reaches_its_fixed_point(
    kind: str, decay: float, start: float
) -> None:
    """A constant gradient: nu goes to g², within what the storage tells apart."""
    g = jnp.array(np.logspace(-1, 0, 256), jnp.float32).reshape(4, 64)
    storage = ro.MomentStorage(kind, min_size=0)
    state = ro.low_precision(ro.scale_by_rms(initial_scale=start), storage).init(g)
    steps = int(12 / (1 - decay))
    state = _constant_gradient(storage, decay, steps, g, state)
    nu = np.asarray(values(state).nu, np.float64)
    past = decay ** np.float64(steps)
    root = np.sqrt(np.asarray(g, np.float64) ** 2 * (1 - past) + start * past)
    code = root.max(axis=1, keepdims=True) / 255 if kind == "int8" else root / 128
    assert np.all(np.abs(np.sqrt(nu) - root) <= 2 * code)
    # On average over many values, much nearer than one code.
    assert abs(np.mean((np.sqrt(nu) - root) / code)) < 0.2


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_an_average_of_noise_has_no_bias(kind: str) -> None:
    """Where steps of the average are far below a code, against float64."""
    decay, steps = 0.9999, 40_000
    tx = ro.low_precision(ro.scale_by_rms(decay), ro.MomentStorage(kind, min_size=0))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        state, exact = carry
        g = jax.random.normal(key, (8, 64))
        return (tx.update(g, state)[1], decay * exact + (1 - decay) * g * g), None

    start = (tx.init(jnp.zeros((8, 64))), jnp.zeros((8, 64)))
    keys = jax.random.split(jax.random.key(0), steps)
    state, exact = jax.jit(lambda c: jax.lax.scan(step, c, keys)[0])(start)
    ratio = np.asarray(values(state).nu) / np.asarray(exact)
    assert abs(ratio.mean() - 1) < 0.02
    assert ratio.std() < 0.15


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_rounded_to_the_nearest_it_stands_still(kind: str) -> None:
    storage = ro.MomentStorage(kind, min_size=0, rounding="nearest")
    tx = ro.low_precision(ro.scale_by_rms(0.9999, initial_scale=1.0), storage)
    g = jnp.array(np.linspace(0.5, 1, 64), jnp.float32)

    def step(state: Any, _: None) -> tuple[Any, None]:
        return tx.update(g, state)[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=60_000))(tx.init(g))
    nu = np.asarray(values(state).nu)
    np.testing.assert_allclose(nu, 1.0, rtol=1e-2)  # where g² is 0.25 to 1


@pytest.mark.parametrize("centered", [False, True])
def test_gradients_that_hurt(centered: bool) -> None:
    """Neither NaN nor a zero denominator, for anything that float32 has."""
    rng = np.random.default_rng(0)
    make = ro.scale_by_stddev if centered else ro.scale_by_rms
    tx = ro.low_precision(make(0.9, eps=0.0), INT8)
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros((6, 32)))
    for _ in range(30):
        g = rng.normal(size=(6, 32)) * 10 ** rng.uniform(-18, 15, size=(6, 32))
        g[0] = 1e-30 * rng.normal(size=32)  # squares to zero
        g[1] = rng.normal(size=32)
        g[1, rng.integers(32)] = 1e30  # squares to infinity
        g[2] = 1e18 * rng.normal(size=32)
        updates, state = update(jnp.array(g, jnp.float32), state)
        nu = np.asarray(values(state).nu)
        assert np.all(np.isfinite(nu))
        assert np.all(nu[1:] > 0)
        assert np.all(np.isfinite(np.asarray(updates)[1:]))


def test_a_new_largest_value_leaves_the_others_at_least_one_code() -> None:
    tx = ro.low_precision(ro.scale_by_rms(0.5, eps=0.0), INT8)
    g = jnp.full(16, 1e-3).at[3].set(1e3)
    _, state = tx.update(g, tx.init(g))
    nu = np.asarray(values(state).nu)
    np.testing.assert_allclose(nu[3], 5e5, rtol=1e-6)
    np.testing.assert_allclose(np.delete(nu, 3), 5e5 / 255**2, rtol=1e-5)


def test_near_to_float32_over_a_run() -> None:
    params = {"w": normal((64, 128)), "b": normal((128,))}
    runs = {}
    for storage in (None, "int8", "bfloat16"):
        tx = ro.rmsprop(0.01, momentum=0.9, centered=True, moment_storage=storage)
        p, state = params, tx.init(params)
        step = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p))
        for t in range(30):
            g = jax.tree.map(lambda x, t=t: x + normal(x.shape, t), p)
            updates, state = step(g, state, p)
            p = optax.apply_updates(p, updates)
        runs[storage] = np.asarray(p["w"]) - np.asarray(params["w"])
    moved = np.linalg.norm(runs[None])
    assert np.linalg.norm(runs["int8"] - runs[None]) < 0.05 * moved
    assert np.linalg.norm(runs["bfloat16"] - runs[None]) < 0.02 * moved


@pytest.mark.parametrize(
    "storage", [INT8, pytest.param("bfloat16", marks=pytest.mark.slow)]
)
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


def test_rows_that_are_not_touched_keep_their_codes() -> None:
    table = jnp.zeros((50, 8))
    tx = ro.rmsprop(momentum=0.9, moment_storage=INT8)
    grads = RowSlices(jnp.arange(50), normal((50, 8)), (50, 8))
    update = jax.jit(tx.update)
    _, state = update(grads, tx.init(table))
    grads = RowSlices(np.resize([3, 7], 50), normal((50, 8), 1), (50, 8))
    updates, new = update(grads, state)
    assert list(updates.indices) == [3, 7, *[50] * 48]
    others = np.setdiff1d(np.arange(50), [3, 7])
    before, after = jax.tree.leaves(inner(state)), jax.tree.leaves(inner(new))
    for old, x in zip(before, after, strict=True):
        if x.ndim:
            old, x = np.asarray(old), np.asarray(x)
            np.testing.assert_array_equal(old[others], x[others])
            assert np.all(np.any(old[[3, 7]] != x[[3, 7]], axis=1))


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
    chex.assert_trees_all_close(a, b, rtol=1e-6)
    np.testing.assert_allclose(updates, rows.to_dense(), rtol=1e-6)


def test_rows_of_one_value_are_refused() -> None:
    tx = sparse.lazy(ro.low_precision(ro.scale_by_rms(), INT8))

    def update() -> Any:
        grads = {"t": RowSlices(jnp.array([1]), jnp.ones(1), (50,))}
        return tx.update(grads, tx.init({"t": jnp.zeros(50)}))

    with pytest.raises(ValueError, match=r"'t' comes by rows .*scales/0/t'.*exclude"):
        jax.eval_shape(update)


def step_of(tx: Any) -> Any:
    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


SHARDED = {
    "rows": ((16, 1024), P("x")),
    "columns": ((16, 1024), P(None, "x")),
    "22 blocks of 64 do not divide by 8": ((8, 1376), P(None, "x")),
    "shards of 67, a prime number": ((8, 536), P(None, "x")),
    "a vector": ((4096,), P("x")),
}
TRANSFORMATIONS = {
    "adam": lambda storage: ro.low_precision(optax.adam(1e-3), storage),
    "rmsprop": lambda storage: ro.rmsprop(momentum=0.9, moment_storage=storage),
}


# Whole rows, blocks that are cut, and one axis; each type of axis.
SHARDED_BY_DEFAULT = {
    (AxisType.Auto, "adam", "int8", "rows"),
    (AxisType.Explicit, "adam", "int8", "shards of 67, a prime number"),
    (AxisType.Auto, "adam", "int8", "a vector"),
}


@pytest.mark.parametrize(
    ("axis_type", "name", "kind", "where"),
    [
        pytest.param(
            *case,
            marks=[] if case in SHARDED_BY_DEFAULT else pytest.mark.slow,
        )
        for case in itertools.product(
            (AxisType.Auto, AxisType.Explicit),
            TRANSFORMATIONS,
            ("int8", "bfloat16"),
            SHARDED,
        )
    ],
)
def test_sharded(axis_type: Any, name: str, kind: str, where: str) -> None:
    """Shardings stay what they are, nothing compiles twice, and eight are as one."""
    shape, spec = SHARDED[where]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, spec)
    tx = TRANSFORMATIONS[name](ro.MomentStorage(kind, min_size=0))
    params, grads = normal(shape), normal(shape, 1)
    p, g = jax.device_put(params, sharding), jax.device_put(grads, sharding)
    state, step = tx.init(p), step_of(tx)
    # With the blocks of the sharded state: one device would choose others.
    alone, single = params, jax.tree.map(jnp.asarray, jax.device_get(state))
    placed = [x.sharding for x in jax.tree.leaves(state)]
    nu = optax.tree.get(state, "nu")
    assert nu.sharding.is_equivalent_to(sharding, len(shape))
    for _ in range(3):
        p, state = step(p, state, g)
        for x, before in zip(jax.tree.leaves(state), placed, strict=True):
            assert x.ndim == 0 or x.sharding.is_equivalent_to(before, x.ndim)
    assert step._cache_size() <= 2  # the scalars of `init` are on one device
    for _ in range(3):
        alone, single = step(alone, single, grads)
    np.testing.assert_allclose(p, alone, rtol=1e-5, atol=1e-6)


def test_a_sharded_axis_that_no_blocks_fit_is_refused() -> None:
    mesh = jax.make_mesh((8,), ("x",))
    p = jax.device_put(jnp.zeros((2, 8 * 1009)), NamedSharding(mesh, P(None, "x")))
    with pytest.raises(ValueError, match=r"'w', of size 8072 on 8 devices.*exclude"):
        ro.low_precision(optax.adam(1e-3), "int8").init({"w": p})


def test_each_device_rounds_with_numbers_of_its_own() -> None:
    """The same values on all devices of a `shard_map`, in codes that differ."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    tx = ro.low_precision(ro.scale_by_rms(), INT8)
    g = jnp.tile(normal((1, 64)), (8, 1))

    def local(g: jax.Array, state: Any) -> Any:
        return tx.update(g, state)[1].inner_state.nu

    state = tx.init(g)
    specs = jax.tree.map(lambda x: P("x") if x.ndim else P(), state)
    run = jax.shard_map(local, mesh=mesh, in_specs=(P("x"), specs), out_specs=P("x"))
    codes = np.asarray(jax.jit(run)(g, state))
    assert len(np.unique(codes, axis=0)) == 8


def test_numpy_parameters_and_shapes() -> None:
    array = np.ones((64, 64), np.float32)
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    for tx in (
        ro.rmsprop(moment_storage="int8"),
        ro.low_precision(optax.adam(1), "int8"),
    ):
        expected = tx.init({"w": jnp.asarray(array)})
        for p in (array, shape):
            chex.assert_trees_all_equal(tx.init({"w": p}), expected)
        abstract = jax.eval_shape(tx.init, {"w": shape})
        chex.assert_trees_all_equal_shapes_and_dtypes(abstract, expected)


def test_map_params_with_specs() -> None:
    params = {"w": jnp.zeros((64, 64)), "b": jnp.zeros(64)}
    specs = {"w": P("x", None), "b": P()}
    for storage in ("int8", "bfloat16", ro.MomentStorage("int8", rounding="nearest")):
        tx = ro.low_precision(optax.adam(1e-3), storage)
        state = tx.init(params)
        mapped = optax.tree.map_params(
            tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: P()
        )
        assert optax.tree.get(mapped.inner_state, "nu") == specs
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
        shardings = jax.tree.map(
            partial(NamedSharding, mesh), mapped, is_leaf=lambda x: isinstance(x, P)
        )
        placed = jax.device_put(state, shardings)
        assert placed.inner_state[0].nu["w"].sharding.spec == P("x", None)


def test_optax_tree_functions() -> None:
    tx = ro.low_precision(optax.adam(1e-3), "bfloat16")
    params = {"w": jnp.ones((8, 8))}
    state = tx.init(params)
    assert optax.tree.norm(optax.tree.get(state, "nu")) == 0
    state = optax.tree.set(state, nu={"w": jnp.ones((8, 8), jnp.bfloat16)})
    assert optax.tree.norm(optax.tree.get(state, "nu")) == 8


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_saved_and_read_again(kind: str, tmp_path: Path) -> None:
    storage = ro.MomentStorage(kind, min_size=64)
    tx = ro.low_precision(optax.adam(1e-3), storage)
    params = {"w": jnp.zeros((4, 40)), "b": jnp.zeros(3)}
    step, state = step_of(tx), tx.init(params)
    for t in range(3):
        grads = jax.tree.map(lambda p, t=t: normal(p.shape, t), params)
        params, state = step(params, state, grads)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        by_orbax = checkpointer.restore(tmp_path / "state", tx.init(params))
    by_flax = serialization.from_bytes(tx.init(params), serialization.to_bytes(state))
    by_pickle = pickle.loads(pickle.dumps(state))
    expected = step(params, state, params)
    for restored in (by_orbax, by_flax, by_pickle):
        chex.assert_trees_all_equal(restored, state)
        chex.assert_trees_all_equal(step(params, restored, params), expected)


X = jnp.linspace(-1, 1, 32)[:, None]
Y = jnp.sin(3 * X)
SMALL = ro.MomentStorage("int8", min_size=16)


@pytest.mark.parametrize(
    "storage", [SMALL, pytest.param("bfloat16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: optax.adam(0.01), marks=pytest.mark.slow),
        lambda: ro.rmsprop(0.01),
    ],
)
def test_in_nnx(make: Any, storage: Any) -> None:
    model = nnx.Sequential(
        nnx.Linear(1, 64, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(64, 1, rngs=nnx.Rngs(1))
    )
    optimizer = nnx.Optimizer(model, ro.low_precision(make(), storage), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    dtypes = {x.dtype.name for x in jax.tree.leaves(nnx.as_pure(optimizer.opt_state))}
    assert dtypes & {"uint8", "bfloat16"}


def test_in_linen() -> None:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.Dense(1)(jnp.tanh(linen.Dense(64)(x)))

    net = Net()
    params = net.init(jax.random.key(0), X)["params"]
    tx = ro.low_precision(optax.adam(0.01), SMALL)
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    @jax.jit
    def step(state: Any) -> Any:
        def loss_fn(params: Any) -> jax.Array:
            return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(60):
        state, loss = step(state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_in_equinox() -> None:
    model = eqx.nn.MLP(1, 1, 64, 1, activation=jnp.tanh, key=jax.random.key(0))
    tx = ro.rmsprop(0.01, moment_storage=SMALL)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any) -> Any:
        def loss_fn(m: Any) -> jax.Array:
            return jnp.mean((jax.vmap(m)(X) - Y) ** 2)

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, state = tx.update(grads, state, model)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(60):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"]
)
def test_strict_dtype_promotion(kind: str, dtype: str) -> None:
    """Of a centered state; the other rows are in `tests/conformance/test_modes.py`."""
    storage = ro.MomentStorage(kind, min_size=0)
    params = {"w": jnp.ones((4, 32), dtype)}
    with jax.numpy_dtype_promotion("strict"):
        tx = ro.rmsprop(
            momentum=0.9, centered=True, bias_correction=True, moment_storage=storage
        )
        update = jax.jit(tx.update)
        _, state = update(params, tx.init(params), params)
        updates, state = update(params, state, params)
        assert np.isfinite(updates["w"]).all()


def test_the_seed_decides() -> None:
    def run(seed: int) -> Any:
        storage = ro.MomentStorage("int8", min_size=0, seed=seed)
        tx = ro.low_precision(ro.scale_by_rms(), storage)
        params = {"a": jnp.zeros((4, 64)), "b": jnp.zeros((4, 64))}
        g = normal((4, 64))
        _, state = tx.update({"a": g, "b": g}, tx.init(params))
        return state.inner_state.nu

    chex.assert_trees_all_equal(run(3), run(3))
    assert np.any(run(3)["a"] != run(4)["a"])
    assert np.any(run(3)["a"] != run(3)["b"])


@pytest.mark.parametrize("fill", [1.0, 0.25])
def test_initial_scale(fill: float) -> None:
    tx = ro.low_precision(ro.scale_by_rms(initial_scale=fill), INT8)
    nu = values(tx.init(jnp.zeros((3, 40)))).nu
    np.testing.assert_allclose(nu, fill, rtol=1e-6)


@pytest.mark.parametrize(
    "make", [ro.dialects.tf_keras, ro.dialects.torch, ro.dialects.timm]
)
def test_dialects(make: Any) -> None:
    tx = make(momentum=0.9, moment_storage=INT8)
    trace = optax.tree.get_all_with_path(tx.init(jnp.zeros((3, 40))), "trace")
    assert "int8" in {moment.dtype.name for _, moment in trace}
    assert "stored as int8, stochastic rounding" in ro.describe(tx)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "one_bit"}, ValueError, 'must be "int8" or a floating.*one_bit'),
        ({"kind": "int16"}, TypeError, "got 'int16'"),
        ({"kind": jnp.complex64}, TypeError, "complex64"),
        ({"kind": 3}, ValueError, "got 3"),
        ({"kind": jnp.ones(())}, TypeError, 'give it the name, "bfloat16"'),
        ({"kind": "int8", "block_size": 0}, ValueError, "at least 1, got 0"),
        ({"kind": "int8", "block_size": 1.5}, TypeError, "integer.*got 1.5"),
        ({"kind": "int8", "rounding": "up"}, ValueError, "\"nearest\", got 'up'"),
        ({"kind": "int8", "min_size": -1}, ValueError, "at least 0, got -1"),
        ({"kind": "int8", "seed": -1}, ValueError, "at least 0, got -1"),
        ({"kind": "int8", "exclude": "bias"}, TypeError, "`exclude` must be a function"),
        (
            {"kind": "int8", "fields": {"x": "root"}},
            ValueError,
            r"`fields\['x'\]` must be",
        ),
        ({"kind": "int8", "fields": 3}, TypeError, "`fields` must be a mapping"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ro.MomentStorage(**arguments)


def test_bad_input_of_the_factory_and_the_wrapper() -> None:
    with pytest.raises(ValueError, match='`moment_storage` must be "int8"'):
        ro.rmsprop(moment_storage="int9")
    with pytest.raises(TypeError, match="`storage` must be a `MomentStorage`"):
        ro.low_precision(optax.adam(1e-3), None)


@pytest.mark.parametrize("kind", ["float16", "float8_e4m3fn", "float8_e5m2"])
def test_a_moment_beyond_the_range_is_its_largest_number(kind: str) -> None:
    """An infinite or NaN moment would stop its parameter for ever."""
    tx = ro.rmsprop(0.1, momentum=0.9, moment_storage=ro.MomentStorage(kind, min_size=0))
    params = jnp.ones(4)
    update, grads = jax.jit(tx.update), jnp.array([1e4, 100.0, -1e4, 0.0])
    updates, state = update(grads, tx.init(params), params)
    for _ in range(4):
        updates, state = update(grads, state, params)
    assert bool(jnp.all(jnp.isfinite(updates)))
    for leaf in jax.tree.leaves(state):
        assert bool(jnp.all(jnp.isfinite(leaf.astype(jnp.float32))))


@pytest.mark.parametrize("kind", ["float8_e8m0fnu", "float4_e2m1fn"])
def test_dtypes_of_too_few_numbers_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="too few numbers"):
        ro.rmsprop(moment_storage=kind)
