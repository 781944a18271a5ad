"""Masked batches: one quotient of sums, whatever part of them a device has."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import rmsprop_optax as ro
from rmsprop_optax import parallel, sparse
from tests.parallel import _problem
from tests.parallel._problem import by_rows, mesh

KINDS = ["data_parallel", "sharded_data_parallel"]
every_kind = pytest.mark.parametrize("kind", KINDS)
ROWS, REAL = 16, 13


def _squares(params: Any, batch: Any) -> Any:
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


def _weighted(params: Any, batch: Any) -> Any:
    return jnp.sum(batch["mask"] * _squares(params, batch)), jnp.sum(batch["mask"])


def _with_aux(params: Any, batch: Any) -> Any:
    total, weight = _weighted(params, batch)
    return (total, weight), {"seen": jnp.sum(batch["mask"] > 0)}


@jax.jit
def _one_device(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        total, weight = _weighted(params, batch)
        return total / weight

    return jax.value_and_grad(loss)(params)


def _batch(mask: Any) -> Any:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(ROWS, 8)).astype(np.float32),
        "y": rng.normal(size=ROWS).astype(np.float32),
        "mask": np.asarray(mask, np.float32),
    }


def _masks() -> list[np.ndarray]:
    """13 of 16 rows, and few of them: two devices, or one row."""
    few = [range(4), [15], [0, 1, 8, 9], [3]]
    chosen = [*itertools.combinations(range(ROWS), REAL)][::20]
    return [np.isin(np.arange(ROWS), [*rows]) for rows in (*chosen, *few)]


@every_kind
@pytest.mark.parametrize("micro_steps", [1, 2])
def test_the_step_is_that_of_one_device(kind: str, micro_steps: int) -> None:
    tx = optax.sgd(1.0)
    step = getattr(parallel, kind)(
        _with_aux,
        tx,
        mesh(8),
        weighted=True,
        has_aux=True,
        aux_reduction="sum",
        micro_steps=micro_steps,
    )
    for mask in _masks():
        batch, params = _batch(mask), {"w": jnp.linspace(-1.0, 1.0, 8)}
        expected, grads = _one_device(params, batch)
        after = params["w"] - grads["w"]
        params, _, loss, aux = step(params, tx.init(params), batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(params["w"], after, rtol=2e-5, atol=2e-5)
        assert aux["seen"] == mask.sum()
        assert aux["seen"].dtype == jnp.int32


def test_weights_are_any_numbers_and_no_mean_of_means() -> None:
    """Weights of tokens, as integers; the plain mean over devices differs."""

    def loss_fn(params: Any, batch: Any) -> Any:
        return jnp.sum(batch * params), jnp.sum(batch).astype(jnp.int32)

    tx = optax.sgd(1.0)
    batch = np.float32([1000, 1, 0, 0, 0, 0, 5, 0])
    step = parallel.data_parallel(loss_fn, tx, mesh(8), weighted=True)
    params, _, loss = step(jnp.float32(3.0), tx.init(jnp.float32(3.0)), batch)
    assert (float(loss), float(params)) == (3.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "micro_steps"),
    [
        ("data_parallel", 3),
        pytest.param("data_parallel", 1, marks=pytest.mark.slow),
        pytest.param("sharded_data_parallel", 1, marks=pytest.mark.slow),
        pytest.param("sharded_data_parallel", 3, marks=pytest.mark.slow),
    ],
)
def test_tables_by_rows(kind: str, micro_steps: int) -> None:
    def weighted(params: Any, batch: Any) -> Any:
        (first, second), table = params["layers"], params["table"]
        hidden = jnp.tanh(sparse.lookup(table, batch["ids"]).mean(axis=1) @ first[0])
        squares = (params["scale"] * hidden @ second[0] - batch["y"]) ** 2
        return jnp.sum(batch["mask"][:, None] * squares), 3 * jnp.sum(batch["mask"])

    def mean(params: Any, batch: Any) -> Any:
        total, weight = weighted(params, batch)
        return total / weight

    tx = ro.rmsprop(0.05, momentum=0.9, global_clipnorm=0.1)
    with jax.enable_x64(True):
        batch = _problem.batches("float64")[0]
        batch["mask"] = (np.arange(_problem.BATCH) % 29 < 7) * 1.0
        params = _problem.params("float64")
        expected, grads = by_rows(mean)(params, batch)
        updates, state = tx.update(grads, tx.init(params), params)
        params_after = optax.apply_updates(params, updates)
        step = getattr(parallel, kind)(
            weighted,
            tx,
            mesh(8),
            weighted=True,
            value_and_grad=by_rows,
            micro_steps=micro_steps,
        )
        found = step(params, tx.init(params), batch)
        _problem.assert_same(found, (params_after, state, expected), "float64")


@every_kind
def test_a_float16_loss_with_a_loss_scale(kind: str) -> None:
    """Sums over many examples do not fit float16, the quotient does."""

    def loss_fn(params: Any, batch: Any) -> Any:
        mask = batch > 0
        total = jnp.sum(mask * batch * params["w"], dtype=jnp.float16)
        return total, jnp.sum(mask)

    tx = ro.dynamic_loss_scale(optax.sgd(1.0), init_scale=8.0)
    step = getattr(parallel, kind)(loss_fn, tx, mesh(8), weighted=True)
    params = {"w": jnp.zeros(8, jnp.float16) + 1}
    batch = np.zeros((2**15, 8), np.float16)
    batch[: 2**12 + 1] = 1.0
    params, state, loss = step(params, tx.init(params), batch)
    assert (float(loss), loss.dtype) == (1.0, jnp.float32)
    np.testing.assert_array_equal(params["w"], np.full(8, 1 - 1 / 8, np.float16))
    assert state.count == 1


@every_kind
def test_without_any_weight_the_step_is_nan_and_can_be_skipped(kind: str) -> None:
    tx = ro.skip_nonfinite(optax.sgd(1.0))
    step = getattr(parallel, kind)(_weighted, tx, mesh(8), weighted=True)
    params = {"w": jnp.ones(8)}
    params, state, loss = step(params, tx.init(params), _batch(np.zeros(ROWS)))
    assert np.isnan(loss)
    assert state.notfinite_count == 1
    np.testing.assert_array_equal(params["w"], np.ones(8))


def test_a_transformation_is_given_the_quotient() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any) -> Any:
        del params, state
        return updates, value

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([]), update)
    tx = ro.dynamic_loss_scale(tx)
    step = parallel.data_parallel(_weighted, tx, mesh(8), weighted=True)
    batch, params = _batch(np.arange(ROWS) < REAL), {"w": jnp.ones(8)}
    expected, _ = _one_device(params, batch)
    _, state, loss = step(params, tx.init(params), batch)
    np.testing.assert_allclose([state.inner_state, loss], expected, rtol=1e-6)


@every_kind
@pytest.mark.parametrize("micro_steps", [1, 2])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_aux_is_averaged_added_or_kept(
    kind: str, micro_steps: int, axis_type: Any
) -> None:
    def loss_fn(params: Any, batch: Any) -> Any:
        squares = (batch - params.sum()) ** 2
        metrics = {"hits": jnp.sum(batch > 7), "half": jnp.sum(batch).astype("float16")}
        kept = {"square": squares, "pair": (jnp.stack([batch, -batch], 1), batch > 7)}
        return jnp.mean(squares), {"mean": 1, "sums": metrics, "kept": kept, "no": None}

    both = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    step = getattr(parallel, kind)(
        loss_fn,
        tx := ro.rmsprop(),
        both,
        ("x", "y"),
        has_aux=True,
        micro_steps=micro_steps,
        aux_reduction={"mean": "mean", "sums": "sum", "kept": "none", "no": "sum"},
    )
    params, batch = jnp.zeros(8), np.arange(16, dtype=np.float32)
    *_, aux = step(params, tx.init(params), batch)
    assert (aux["mean"], aux["no"]) == (1.0, None)
    assert aux["sums"] == {"hits": 8, "half": 120.0}
    assert aux["sums"]["hits"].dtype == jnp.int32
    pair, flags = aux["kept"]["pair"]
    np.testing.assert_array_equal(aux["kept"]["square"], batch**2)
    np.testing.assert_array_equal(pair, np.stack([batch, -batch], 1))
    np.testing.assert_array_equal(flags, batch > 7)
    assert pair.sharding.spec[0] == ("x", "y")


@pytest.mark.parametrize(
    ("options", "returned", "error", "words"),
    [
        (
            {"weighted": True},
            lambda x: x,
            TypeError,
            r"`weighted=True`.*\(total, weight\)",
        ),
        (
            {"weighted": True},
            lambda x: (x, jnp.ones(2)),
            TypeError,
            r"weight of a loss must be scalars, got .*\[2\]",
        ),
        ({"has_aux": True}, lambda x: x, TypeError, r"`has_aux=True`.*\(value, aux\)"),
        ({}, lambda x: (x, 1.0), TypeError, r"must be scalars.*`weighted=True`"),
        (
            {"has_aux": True, "aux_reduction": "none"},
            lambda x: (x, {"a": x}),
            ValueError,
            r"Aux 'a' of shape \(\) has no first axis of \{2\} examples",
        ),
        (
            {"has_aux": True, "aux_reduction": {"b": "sum"}},
            lambda x: (x, {"a": x}),
            ValueError,
            r"`aux_reduction` must be.*got \{'b': 'sum'\}",
        ),
    ],
)
def test_a_loss_that_returns_something_else(
    options: Any, returned: Any, error: Any, words: str
) -> None:
    tx = optax.sgd(1.0)
    step = parallel.data_parallel(
        lambda params, batch: returned(jnp.sum(batch * params)), tx, mesh(8), **options
    )
    with pytest.raises(error, match=words):
        step(jnp.ones(()), tx.init(jnp.ones(())), np.ones(16, np.float32))


def test_a_reduction_that_is_not_there() -> None:
    with pytest.raises(ValueError, match='`aux_reduction` must be "mean" or "sum" or'):
        parallel.data_parallel(
            _weighted, optax.sgd(1.0), mesh(8), has_aux=True, aux_reduction={"a": "max"}
        )
