"""A leaf without a gradient stays as it was, whatever is inside of a wrapper."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "accumulate_gradients": lambda tx: ro.accumulate_gradients(tx, 1),
    "skip_nonfinite": ro.skip_nonfinite,
    "dynamic_loss_scale": lambda tx: ro.dynamic_loss_scale(tx, 1.0),
    "split_complex": ro.split_complex,
    "in_float32": ro.in_float32,
    "low_precision": lambda tx: ro.low_precision(tx, "float32"),
    "several": lambda tx: ro.skip_nonfinite(ro.accumulate_gradients(tx, 1)),
}
# What Optax's own do with None: an error, and a moment that is None.
INNER: dict[str, Callable[[], Any]] = {
    "adamw": lambda: optax.chain(optax.clip(9.0), optax.adamw(0.1)),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "lamb": lambda: optax.lamb(0.1),
    "yogi": lambda: optax.yogi(0.1),
}
BY_DEFAULT = ("adamw", "momentum")
PARAMS = {"w": jnp.ones((2, 3)), "z": jnp.array([1 + 2j, 3j]), "scalar": jnp.array(2.0)}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "inner",
    [pytest.param(n, marks=[] if n in BY_DEFAULT else pytest.mark.slow) for n in INNER],
)
@pytest.mark.parametrize("missing", ["w", "scalar"])
def test_optax_runs_on_the_others(wrapper: str, inner: str, missing: str) -> None:
    params = PARAMS if wrapper == "split_complex" else {**PARAMS, "z": jnp.ones(2)}
    tx = WRAPPERS[wrapper](INNER[inner]())
    update = jax.jit(tx.update)
    others = {name: p for name, p in params.items() if name != missing}
    state, alone = tx.init(params), tx.init(others)
    for gradient in (params[missing], None, None):
        before = state
        updates, state = update({**others, missing: gradient}, state, params)
        expected, alone = update(others, alone, others)
        assert jax.tree.structure(state) == jax.tree.structure(before)
        for name in others:
            np.testing.assert_allclose(updates[name], expected[name], rtol=2e-6)
        moments = [
            (x, y)
            for (keys, x), y in zip(
                jax.tree_util.tree_leaves_with_path(state),
                jax.tree.leaves(before),
                strict=True,
            )
            if gradient is None and missing in jax.tree_util.keystr(keys)
        ]
        assert (updates[missing] is None) == (gradient is None)
        assert moments or gradient is not None
        for now, then in moments:
            np.testing.assert_array_equal(now, then)


def test_what_takes_none_by_itself_says_what_its_update_is() -> None:
    inner = optax.chain(ro.scale_by_rms(), ro.zeros_for_missing())
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = ro.skip_nonfinite(inner)
    updates, _ = tx.update({"a": params["a"], "b": None}, tx.init(params), params)
    assert not updates["b"].any()


def test_another_error_is_that_of_the_transformation() -> None:
    tx = ro.skip_nonfinite(optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1)))
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="params"):
        tx.update({"a": params["a"], "b": None}, tx.init(params))
