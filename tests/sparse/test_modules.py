"""Tables that are parameters of linen, NNX and Equinox modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import sparse

HEIGHT, WIDTH = 12, 3
LIFTS = ("scan", "remat", "jit", "vmap")
SLOW = (pytest.param(lift, marks=pytest.mark.slow) for lift in LIFTS)
every_lift = pytest.mark.parametrize("lift", ["plain", *SLOW])
IDS = jnp.array([[3, 7], [7, 1]])
DENSE = {"rtol": 1e-6, "atol": 1e-7}


def _to_dense(grads: Any) -> Any:
    def dense(g: Any) -> Any:
        return g.to_dense() if isinstance(g, sparse.RowSlices) else g

    return jax.tree.map(dense, grads, is_leaf=lambda g: isinstance(g, sparse.RowSlices))


def _compare(loss_fn: Any, ids: Any, params: Any, *args: Any) -> Any:
    """Value and gradients by rows are the dense ones, with `jit` and without."""
    value, expected = jax.jit(jax.value_and_grad(loss_fn))(params, *args)
    grad_fn = sparse.value_and_grad(loss_fn, ids)
    for fn in (grad_fn, jax.jit(grad_fn)):
        found, grads = fn(params, *args)
        np.testing.assert_allclose(found, value, rtol=1e-6)
        jax.tree.map(
            lambda g, e: np.testing.assert_allclose(g, e, **DENSE),
            _to_dense(grads),
            expected,
        )
    return grads


def _rows(grads: Any) -> list[sparse.RowSlices]:
    leaves = jax.tree.leaves(grads, is_leaf=lambda g: isinstance(g, sparse.RowSlices))
    return [leaf for leaf in leaves if isinstance(leaf, sparse.RowSlices)]


@every_lift
def test_linen(lift: str) -> None:
    """Two tables, one of them nested, and what linen does to a module."""
    nn = pytest.importorskip("flax.linen", reason="pip install flax")

    class Embedding(nn.Module):
        @nn.compact
        def __call__(self, ids: Any) -> Any:
            init = nn.initializers.normal(1.0)
            return sparse.lookup(self.param("table", init, (HEIGHT, WIDTH)), ids)

    class Body(nn.Module):
        @nn.compact
        def __call__(self, carry: Any, ids: Any) -> Any:
            inner = {"remat": nn.remat, "jit": nn.jit}.get(lift, lambda m: m)(Embedding)
            return carry + nn.Dense(2, name="dense")(inner(name="words")(ids)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids: Any) -> Any:
            users = Embedding(name="users")(ids[:, 0])
            start = jnp.zeros(2)
            if lift == "scan":
                body = nn.scan(
                    Body, variable_broadcast="params", split_rngs={"params": False}
                )
                out, _ = body(name="body")(jnp.zeros((2, 2)), ids)
            elif lift == "vmap":
                kinds: Any = dict(variable_axes={"params": None}, in_axes=(None, 0))
                body = nn.vmap(Body, split_rngs={"params": False}, **kinds)
                out, _ = body(name="body")(start, ids)
            else:
                out, _ = Body(name="body")(start, ids)
            return jnp.sum(out**2) + jnp.sum(jnp.sin(users))

    model = Model()
    params = jax.jit(model.init)(jax.random.key(0), IDS)["params"]

    def loss_fn(params: Any, ids: Any) -> Any:
        return model.apply({"params": params}, ids)

    def ids(params: Any, ids: Any) -> Any:
        return {"body/words/table": ids, "users/table": ids[:, 0]}

    grads = _compare(loss_fn, ids, params, IDS)
    assert len(_rows(grads)) == 2
    assert not isinstance(grads["body"]["dense"]["kernel"], sparse.RowSlices)


@every_lift
def test_nnx(lift: str) -> None:
    """An `nnx.Param` is handed over as it is."""
    nnx = pytest.importorskip("flax.nnx", reason="pip install flax")

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.words = nnx.Param(jax.random.normal(rngs.params(), (HEIGHT, WIDTH)))
            self.dense = nnx.Linear(WIDTH, 2, rngs=rngs)

        def embed(self, ids: Any) -> Any:
            return self.dense(sparse.lookup(self.words, ids))

        def __call__(self, ids: Any) -> Any:
            if lift == "remat":
                return nnx.remat(Model.embed)(self, ids)
            if lift == "jit":
                return nnx.jit(Model.embed)(self, ids)
            if lift == "vmap":
                return nnx.vmap(Model.embed, in_axes=(None, 0))(self, ids)
            if lift == "scan":
                body = nnx.scan(
                    lambda model, ids: model.embed(ids), in_axes=(None, 0), out_axes=0
                )
                return body(self, ids)
            return self.embed(ids)

    model = Model(nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)

    def loss_fn(params: Any, ids: Any) -> Any:
        return jnp.sum(nnx.merge(graphdef, params)(ids) ** 2)

    grads = _compare(loss_fn, lambda params, ids: {"words": ids}, params, IDS)
    assert len(_rows(grads)) == 1
    optimizer = nnx.Optimizer(model, ro.rmsprop(0.1), wrt=nnx.Param)
    before = np.asarray(model.words[...])
    optimizer.update(model, grads)
    changed = np.any(np.asarray(model.words[...]) != before, axis=1)
    assert np.flatnonzero(changed).tolist() == [1, 3, 7]
    # Without `nnx.Optimizer`: gradients whose rows are inside of Variables.
    for tx in (ro.rmsprop(0.1), sparse.lazy(optax.adam(0.1))):
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        new = optax.apply_updates(params, updates)
        changed = np.any(np.asarray(new["words"][...] != params["words"][...]), axis=1)
        assert np.flatnonzero(changed).tolist() == [1, 3, 7]


@every_lift
@pytest.mark.parametrize(
    "how",
    [
        *(pytest.param(h, marks=pytest.mark.slow) for h in ("combine, is_leaf", "whole")),
        "combine",
    ],
)
def test_equinox(lift: str, how: str) -> None:
    eqx = pytest.importorskip("equinox", reason="pip install equinox")

    class Model(eqx.Module):
        words: Any
        linear: Any
        activation: Any
        layers: int

        def embed(self, ids: Any) -> Any:
            rows = sparse.lookup(self.words, ids)
            return self.activation(rows @ self.linear.weight.T) * self.layers

        def __call__(self, ids: Any) -> Any:
            if lift == "remat":
                return eqx.filter_checkpoint(Model.embed)(self, ids)
            if lift == "jit":
                return eqx.filter_jit(Model.embed)(self, ids)
            if lift == "vmap":
                return jax.vmap(self.embed)(ids)
            if lift == "scan":
                return jax.lax.scan(lambda c, i: (c, self.embed(i)), 0, ids)[1]
            return self.embed(ids)

    linear = eqx.nn.Linear(WIDTH, 2, key=jax.random.key(1))
    table = jax.random.normal(jax.random.key(0), (HEIGHT, WIDTH))
    model = Model(table, linear, jnp.tanh, 2)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: Any, ids: Any) -> Any:
        if how == "combine":
            params = eqx.combine(static, params)
        elif how == "combine, is_leaf":
            is_view = lambda x: isinstance(x, sparse.TableView)  # noqa: E731
            params = eqx.combine(params, static, is_leaf=is_view)
        return jnp.sum(params(ids) ** 2)

    def ids(params: Any, ids: Any) -> Any:
        return {"words": ids}

    if how == "whole":
        value, grads = sparse.value_and_grad(loss_fn, ids)(model, IDS)
        expected = eqx.filter_value_and_grad(loss_fn)(model, IDS)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grads.words.to_dense(), expected[1].words, **DENSE)
        assert grads.activation is None
        assert grads.layers is None
    else:
        grads = _compare(loss_fn, ids, params, IDS)
    tx = ro.rmsprop(0.1)
    updates, _ = tx.update(grads, tx.init(params), model)
    # `eqx.apply_updates` wants arrays.
    new = eqx.combine(optax.apply_updates(params, updates), static)
    changed = np.any(np.asarray(new.words != model.words), axis=1)
    assert np.flatnonzero(changed).tolist() == [1, 3, 7]


def test_ids_that_were_not_announced_are_an_error_where_they_are_known() -> None:
    def loss_fn(params: Any, ids: Any) -> Any:
        return jnp.sum(sparse.lookup(params, ids))

    grad_fn = sparse.value_and_grad(loss_fn, lambda params, ids: {"<the root>": ids[:1]})
    table = jnp.ones((HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"Row 7 is looked up .*did not announce it"):
        grad_fn(table, jnp.array([3, 7]))
    assert np.isnan(jax.jit(grad_fn)(table, jnp.array([3, 7]))[0])


def test_tied_weights_by_a_sampled_softmax() -> None:
    """The recipe for a table that is read at both ends: some rows of it at the output."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(1000, 8)), jnp.float32)
    params = {"table": table, "w": jnp.eye(8)}

    def rows(params: Any, batch: Any) -> Any:
        return {"table": [batch["words"], batch["targets"], batch["negatives"]]}

    def loss_fn(params: Any, batch: Any) -> Any:
        hidden = sparse.lookup(params["table"], batch["words"]) @ params["w"]
        right = sparse.lookup(params["table"], batch["targets"])
        wrong = sparse.lookup(params["table"], batch["negatives"])
        logits = jnp.column_stack([jnp.sum(hidden * right, 1), hidden @ wrong.T])
        labels = jnp.zeros(len(logits), jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    words, targets, negatives = jnp.asarray(rng.integers(0, 1000, size=(3, 16)))
    batch = {"words": words, "targets": targets, "negatives": negatives}
    found, grads = jax.jit(sparse.value_and_grad(loss_fn, rows))(params, batch)
    value, expected = jax.jit(jax.value_and_grad(loss_fn))(params, batch)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(grads["table"].to_dense(), expected["table"], **DENSE)

    def tied(params: Any, batch: Any) -> Any:
        hidden = sparse.lookup(params["table"], batch["words"]) @ params["w"]
        return jnp.sum(hidden @ params["table"].T)

    with pytest.raises(AttributeError, match="leave it out of the `ids`"):
        sparse.value_and_grad(tied, rows)(params, batch)


def test_an_nnx_model_whose_loss_changes_it_is_refused() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="pip install flax")

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.table = nnx.Param(jnp.ones((HEIGHT, 2)))
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

        def __call__(self, ids: Any) -> Any:
            return jnp.sum(self.norm(sparse.lookup(self.table, ids)))

    grad_fn = sparse.value_and_grad(
        lambda model, ids: model(ids), lambda m, i: {"table": i}
    )
    with pytest.raises(TypeError, match="BatchStat, which the loss changes"):
        grad_fn(Model(), jnp.array([1, 2]))
