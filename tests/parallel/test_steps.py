"""What a step gives each device, what it consumes, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import rmsprop_optax as ro
from rmsprop_optax import parallel
from tests.parallel._problem import mesh

KINDS = ["data_parallel", "sharded_data_parallel"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def _step(kind: str, loss_fn: Any, tx: Any, devices: int = 8, **options: Any) -> Any:
    return getattr(parallel, kind)(loss_fn, tx, mesh(devices), **options)


def _mean_square(params: Any, batch: Any) -> Any:
    return jnp.mean((batch @ params["w"] - 1) ** 2)


@every_kind
@pytest.mark.parametrize("micro_steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_device_and_micro_step_has_its_own_key(kind: str, micro_steps: int) -> None:
    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        draw = jax.random.uniform(key)
        # Three means tell whether the draws are many: of x, x^2 and of a 0 or 1.
        return jnp.mean(batch) * 0 + params.sum(), {"x": draw, "square": draw**2}

    step = _step(kind, loss_fn, ro.rmsprop(), has_aux=True, micro_steps=micro_steps)
    params = jnp.zeros(8)
    moments = []
    for seed in (0, 1, 0):
        copy = jnp.array(params)
        *_, aux = step(copy, ro.rmsprop().init(copy), jnp.zeros(16), jax.random.key(seed))
        moments.append((float(aux["x"]), float(aux["square"])))
    first, second, again = moments
    assert first == again
    assert first != second
    for mean, square in (first, second):
        assert square - mean**2 > 0.01, "one draw for all"


@every_kind
def test_aux_is_averaged(kind: str) -> None:
    def loss_fn(params: Any, batch: Any) -> Any:
        aux = {"mean": batch.mean(), "hits": jnp.sum(batch > 7), "one": 1, "flag": True}
        return jnp.mean(batch) * params.sum(), aux

    step = _step(kind, loss_fn, ro.rmsprop(), has_aux=True, micro_steps=2)
    params = jnp.ones(8)
    *_, loss, aux = step(params, ro.rmsprop().init(params), jnp.arange(16.0))
    assert loss == 8 * 7.5
    assert aux == {"mean": 7.5, "hits": 0.5, "one": 1.0, "flag": 1.0}


@every_kind
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_parameters_and_state_are_consumed_and_one_program_serves(
    kind: str, axis_type: Any
) -> None:
    some = jax.make_mesh(
        (4,), ("data",), axis_types=(axis_type,), devices=jax.devices()[:4]
    )
    tx = ro.rmsprop(momentum=0.9)
    traces = []

    def loss_fn(params: Any, batch: Any) -> Any:
        traces.append(1)
        return _mean_square(params, batch)

    step = getattr(parallel, kind)(loss_fn, tx, some)
    params = {"w": jnp.ones(8)}
    opt_state = tx.init(params)
    for i in range(4):
        before = params, opt_state
        params, opt_state, loss = step(params, opt_state, np.ones((8, 8), np.float32))
        assert np.isfinite(loss)
        if i > 0:  # in the first step there is something to move
            assert all(x.is_deleted() for x in jax.tree.leaves(before))
    assert len(traces) == 1


@every_kind
def test_a_nan_on_one_device_is_skipped_by_all_alike(kind: str) -> None:
    tx = ro.dynamic_loss_scale(ro.rmsprop(0.1, momentum=0.9))
    step = _step(kind, _mean_square, tx)
    params = {"w": jnp.ones(8)}
    opt_state = tx.init(params)
    good = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    for i in range(4):
        batch = good.copy()
        if i == 2:
            batch[5, 3] = np.nan
        before = jax.tree.map(np.asarray, (params, opt_state.inner_state))
        params, opt_state, loss = step(params, opt_state, batch)
        after = jax.tree.map(np.asarray, (params, opt_state.inner_state))
        same = jax.tree.map(np.array_equal, before, after)
        assert all(jax.tree.leaves(same)) == (i == 2)
        assert np.isnan(loss) == (i == 2)
        for leaf in jax.tree.leaves(params):
            shards = [np.asarray(s.data) for s in leaf.addressable_shards]
            assert all(np.array_equal(shards[0], shard) for shard in shards)
    assert opt_state.loss_scale == 2.0**14
    assert opt_state.count == 1


def test_low_precision_gradients_are_added_up_in_float32() -> None:
    """256 micro-steps of 1/256 at a time: bfloat16 would stop short."""

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.mean(batch * params)

    tx = optax.sgd(1.0)
    step = parallel.data_parallel(loss_fn, tx, mesh(1), micro_steps=512)
    params = jnp.zeros((), jnp.bfloat16)
    batch = jnp.ones(512, jnp.bfloat16)
    after, *_ = step(params, tx.init(params), batch)
    assert after == -1.0
    assert after.dtype == jnp.bfloat16


@every_kind
def test_a_batch_that_cannot_be_split_is_named(kind: str) -> None:
    tx = ro.rmsprop()
    params = {"w": jnp.ones(8)}

    def loss_fn(params: Any, batch: Any) -> Any:
        return _mean_square(params, batch["x"])

    step = _step(kind, loss_fn, tx, micro_steps=2)
    with pytest.raises(
        ValueError,
        match=r"Batch 'x' of shape \(24, 8\).*8 devices with 2.*multiple of 16",
    ):
        step(params, tx.init(params), {"x": np.ones((24, 8))})
    with pytest.raises(ValueError, match=r"Batch 'x' of shape \(\)"):
        step(params, tx.init(params), {"x": np.ones(())})


@every_kind
def test_a_batch_with_nothing_in_a_place(kind: str) -> None:
    def loss_fn(params: Any, batch: Any) -> jax.Array:
        assert batch["mask"] is None
        return jnp.mean(batch["x"] * params)

    tx = ro.rmsprop()
    step = getattr(parallel, kind)(loss_fn, tx, jax.make_mesh((8,), ("data",)))
    params = jnp.ones(2)
    batch = {"x": jnp.ones((8, 2)), "mask": None}
    assert float(step(params, tx.init(params), batch)[2]) == 1.0


@every_kind
def test_a_mesh_without_that_axis(kind: str) -> None:
    make = getattr(parallel, kind)
    with pytest.raises(ValueError, match=r"no axis 'model'.*\{'data': 8\}"):
        make(_mean_square, ro.rmsprop(), mesh(8), "model")
    with pytest.raises(ValueError, match=r"no axis 'model'"):
        parallel.state_sharding(ro.rmsprop(), {}, mesh(8), ("data", "model"))
    with pytest.raises(TypeError, match=r"`mesh` must be a jax.sharding.Mesh, got 8"):
        make(_mean_square, ro.rmsprop(), 8)


@every_kind
def test_a_state_from_another_mesh_is_named(kind: str) -> None:
    tx = ro.rmsprop(momentum=0.9)
    params = {"w": jnp.ones(8)}
    batch = np.ones((8, 8), np.float32)
    make = getattr(parallel, kind)
    few, many = (make(_mean_square, tx, mesh(n)) for n in (2, 8))
    params, opt_state, _ = few(params, tx.init(params), batch)
    words = r"Parameter 'w' is on the mesh \{'data': 2\} of devices \[0, 1\].*'data': 8"
    with pytest.raises(ValueError, match=words):
        many(params, opt_state, batch)
    params = jax.device_put(params, jax.NamedSharding(mesh(8), jax.P()))
    with pytest.raises(ValueError, match=r"Optimizer state '\w.*' is on the mesh"):
        many(params, opt_state, batch)
    single = jax.device_put(jnp.ones(8), jax.devices()[3])
    with pytest.raises(ValueError, match=r"Parameter 'w' is on devices \[3\]"):
        many({"w": single}, tx.init(params), batch)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({}, r"missing: \S*trace/w\)"),
        ({"momentum": 0.9, "use_ema": True}, r"\(not known: 2/count"),
    ],
)
def test_a_state_of_another_transformation_is_named(before: Any, words: str) -> None:
    tx = ro.rmsprop(momentum=0.9)
    step = parallel.sharded_data_parallel(_mean_square, tx, mesh(2))
    params = {"w": jnp.ones(8)}
    with pytest.raises(ValueError, match=f"Optimizer state is not what.*{words}"):
        step(params, ro.rmsprop(**before).init(params), np.ones((8, 8), np.float32))


def test_a_sharded_state_is_not_gathered_behind_ones_back() -> None:
    tx = ro.rmsprop(momentum=0.9)
    params = {"w": jnp.ones(8)}
    shardings = parallel.state_sharding(tx, params, mesh(8))
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    step = parallel.data_parallel(_mean_square, tx, mesh(8))
    with pytest.raises(ValueError, match=r"nu/w' is sharded.*sharded_data_parallel"):
        step(params, opt_state, np.ones((8, 8), np.float32))


@every_kind
def test_an_axis_name_is_not_for_these_steps(kind: str) -> None:
    """The transformation sees whole gradients, outside of the `shard_map`."""
    tx = ro.rmsprop(global_clipnorm=1.0, axis_name="data")
    step, params = _step(kind, _mean_square, tx), {"w": jnp.ones(8)}
    with pytest.raises(ValueError, match=r"no axis 'data' here.*leave it out"):
        step(params, tx.init(params), np.ones((8, 8), np.float32))


def test_a_zero_size_leaf_and_everything_at_once() -> None:
    def loss_fn(params: Any, batch: Any) -> Any:
        return _mean_square(params, batch) + params["none"].sum()

    tx = ro.skip_nonfinite(ro.rmsprop(0.1, gradient_accumulation_steps=2, use_ema=True))
    params = {"w": jnp.ones(8), "none": jnp.zeros((0, 2))}
    opt_state, step = tx.init(params), _step("sharded_data_parallel", loss_fn, tx, 2)
    batch, losses = np.ones((8, 8), np.float32), []
    for _ in range(3):
        params, opt_state, loss = step(params, opt_state, batch)
        losses.append(loss)
    assert np.isfinite(losses).all()


@every_kind
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_parameters_sharded_over_another_axis_stay_so(kind: str, axis_type: Any) -> None:
    """And a state that `tx.init` made for them is split further."""
    both = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    by_columns = jax.NamedSharding(both, jax.P(None, "model"))
    tx = ro.rmsprop(0.1, momentum=0.9)

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.mean((batch @ params) ** 2)

    def train(step: Any, params: Any) -> Any:
        opt_state = tx.init(params)
        for _ in range(3):
            params, opt_state, _ = step(params, opt_state, np.ones((8, 8), np.float32))
        return params, opt_state

    params = jnp.arange(32.0).reshape(8, 4)
    expected, _ = train(parallel.data_parallel(loss_fn, tx, mesh(1)), params)
    params = jax.device_put(jnp.arange(32.0).reshape(8, 4), by_columns)
    after, opt_state = train(getattr(parallel, kind)(loss_fn, tx, both), params)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert after.sharding.is_equivalent_to(by_columns, 2)
    split = jax.P(None if kind == "data_parallel" else "data", "model")
    nu = optax.tree.get(opt_state, "nu")
    assert nu.sharding.is_equivalent_to(jax.NamedSharding(both, split), 2)


@every_kind
def test_arrays_that_are_in_parameters_and_state_twice(kind: str) -> None:
    """They are donated, and no buffer can be donated twice."""

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.mean((batch @ params["in"] @ params["out"] - 1) ** 2)

    tx = optax.GradientTransformation(
        lambda params: (optax.TraceState(params), params["in"]),
        lambda updates, state, params: (jax.tree.map(jnp.negative, updates), state),
    )
    step, tied = _step(kind, loss_fn, tx), jnp.eye(8)
    params = {"in": tied, "out": tied}
    state = tx.init(params)
    for _ in range(2):
        params, state, _ = step(params, state, np.ones((8, 8), np.float32))
    for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, np.eye(8))
