"""What only timm's variant has."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects


def test_corrected_decay_goes_down_with_the_square_of_the_rate() -> None:
    rates = jnp.array([0.1, 0.05])
    tx = dialects.timm(
        lambda count: rates[count],
        weight_decay=0.5,
        decoupled_decay=True,
        corrected_weight_decay=True,
        max_lr=0.2,
    )
    params = jnp.array(2.0)
    state = tx.init(params)
    for rate in (0.1, 0.05):
        update, state = tx.update(jnp.array(0.0), state, params)
        assert float(update) == pytest.approx(-(rate**2) / 0.2 * 0.5 * 2, rel=1e-6)


def test_a_schedule_does_not_tell_its_peak() -> None:
    with pytest.raises(ValueError, match="needs `max_lr`"):
        dialects.timm(
            optax.constant_schedule(0.1),
            decoupled_decay=True,
            corrected_weight_decay=True,
        )


def test_a_peak_without_corrected_decay_has_no_effect() -> None:
    with pytest.raises(ValueError, match=r"`max_lr`=0\.1 has no effect"):
        dialects.timm(max_lr=0.1, corrected_weight_decay=True)


@pytest.mark.parametrize(
    "arguments",
    [{"caution": True}, {"lr_in_momentum": False}, {"corrected_weight_decay": True}],
)
def test_what_timm_ignores_is_ignored(arguments: dict[str, Any]) -> None:
    grads = jnp.array([1.0, 0.0, -2.0])
    made = []
    for given in ({}, arguments):
        tx = dialects.timm(weight_decay=0.1, **given)
        params = jnp.ones(3)
        made.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_array_equal(made[0], made[1])
