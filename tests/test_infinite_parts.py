"""A complex number with one infinite part: real factors leave the other part as it is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import dialects, parallel, rmsprop, sparse

GRADIENT = jnp.array([complex(np.inf, 1.0), complex(3.0, -np.inf), 3.0 + 4.0j])
ONES = jnp.full(3, 1.0 + 1.0j)


def _unscale() -> Any:
    tx = ro.unscale_loss(2.0)
    return tx.update(GRADIENT, tx.init(ONES))[0], GRADIENT.real / 2, GRADIENT.imag / 2


def _accumulate() -> Any:
    tx = ro.accumulate_gradients(optax.identity(), 2)
    _, state = tx.update(GRADIENT, tx.init(ONES))
    return tx.update(GRADIENT, state)[0], GRADIENT.real, GRADIENT.imag


def _rate() -> Any:
    tx = ro.scale_by_learning_rate(0.5)
    return tx.update(GRADIENT, tx.init(ONES))[0], GRADIENT.real / -2, GRADIENT.imag / -2


def _decay() -> Any:
    tx = ro.decay_weights(0.5, 1.0)
    updates, _ = tx.update(ONES, tx.init(ONES), GRADIENT)
    return updates, 1 - GRADIENT.real / 2, 1 - GRADIENT.imag / 2


def _average() -> Any:
    tx = ro.average_params(0.5, from_initial=True)
    _, state = tx.update(GRADIENT, tx.init(ONES), ONES)
    return state.ema, 1 + GRADIENT.real / 2, 1 + GRADIENT.imag / 2


def _mean() -> Any:
    tx = ro.scale_by_stddev(0.5)
    _, state = tx.update(GRADIENT, tx.init(ONES))
    return state.mu, GRADIENT.real / 2, GRADIENT.imag / 2


def _corrected_mean() -> Any:
    tx = ro.scale_by_stddev(0.5, bias_correction=True)
    _, state = tx.update(GRADIENT, tx.init(ONES))
    return state.mu, GRADIENT.real, GRADIENT.imag


def _root(eps_in_sqrt: bool) -> Any:
    tx = ro.scale_by_rms(0.75, 0.0, eps_in_sqrt=eps_in_sqrt)
    expected = [np.nan, 0.0, 1.2], [0.0, np.nan, 1.6]
    return tx.update(GRADIENT, tx.init(ONES))[0], *expected


def _norm(tx: Any) -> Any:
    updates, _ = tx.update({"w": GRADIENT}, tx.init({"w": ONES}))
    return updates["w"], [np.nan, 0.0, 0.0], [0.0, np.nan, 0.0]


def _cautious() -> Any:
    tx = ro.cautious(optax.stateless(lambda g, _: jax.tree.map(jnp.negative, g)))
    return tx.update(GRADIENT, tx.init(ONES))[0], -GRADIENT.real, -GRADIENT.imag


def _maximize() -> Any:
    """Its parts are two real numbers."""
    tx = dialects.torch(0.5, alpha=0.75, eps=0.0, maximize=True)
    expected = [np.nan, 1.0, 1.0], [1.0, np.nan, 1.0]
    return tx.update(GRADIENT, tx.init(ONES), ONES)[0], *expected


def _devices(**options: Any) -> Any:
    def loss_fn(params: Any, batch: Any) -> Any:
        real, imag = batch[:, 0] * params.real, batch[:, 1] * params.imag
        total = jnp.sum(real - imag)
        return (total, 4 * len(batch)) if options.get("weighted") else total / 4

    tx = optax.identity()
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    step = parallel.data_parallel(loss_fn, tx, mesh, micro_steps=2, **options)
    batch = jnp.tile(jnp.stack([GRADIENT.real, GRADIENT.imag]), (8, 1, 1))
    params, *_ = step(jnp.zeros(3, complex), tx.init(ONES), batch)
    return params, GRADIENT.real / 4, GRADIENT.imag / 4


def _rows() -> Any:
    """The mean over devices of gradients by rows."""
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])

    def mean() -> Any:
        rows = sparse.RowSlices(jnp.arange(3), GRADIENT, (3,))
        return rows.mean_over_devices("data").to_dense()

    whole = jax.P()
    mapped = jax.shard_map(mean, mesh=mesh, in_specs=(), out_specs=whole, check_vma=False)
    return jax.jit(mapped)(), GRADIENT.real, GRADIENT.imag


CASES: dict[str, Callable[[], Any]] = {
    "a loss scale": _unscale,
    "accumulation": _accumulate,
    "a learning rate": _rate,
    "weight decay": _decay,
    "an average": _average,
    "a mean": _mean,
    "a corrected mean": _corrected_mean,
    "a root": lambda: _root(True),
    "a root and epsilon": lambda: _root(False),
    "a norm": lambda: _norm(ro.clip_by_norm(1.0)),
    "a global norm": lambda: _norm(ro.clip_by_global_norm(1.0)),
    "cautious": _cautious,
    "maximize": _maximize,
    "devices": _devices,
    "weighted devices": lambda: _devices(weighted=True),
    "rows": _rows,
}


@pytest.mark.parametrize("kind", CASES)
def test_the_other_part_is_right(kind: str) -> None:
    found, real, imag = CASES[kind]()
    np.testing.assert_allclose(found.real, real, rtol=1e-6)
    np.testing.assert_allclose(found.imag, imag, rtol=1e-6)


def test_a_clipped_mean_is_zero_where_it_is_finite() -> None:
    """The norm was NaN, and made everything NaN."""
    tx = ro.accumulate_gradients(rmsprop(0.1, clipnorm=1.0), 2)
    _, state = tx.update(GRADIENT, tx.init(ONES))
    updates, _ = tx.update(GRADIENT, state)
    assert updates[2] == 0
