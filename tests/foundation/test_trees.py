"""The states that are looked for inside of others."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import rmsprop_optax as ro
from rmsprop_optax._foundation._trees import find_states


class _Namesake(NamedTuple):
    loss_scale: Any


def test_states_inside_of_states_are_found_by_class() -> None:
    _Namesake.__name__ = "UnscaleLossState"
    scaled = ro.skip_nonfinite(ro.unscale_loss(2.0)).init({})
    around = ro.DynamicLossScaleState(*map(jnp.asarray, (0, 1.0, 0, 0)), scaled)
    params = {"UnscaleLossState": jnp.ones(2), "w": _Namesake(jnp.ones(2))}
    opt_state = (optax.trace(0.9).init(params), around)
    found = find_states(opt_state, ro.UnscaleLossState, ro.DynamicLossScaleState)
    assert [state for _, state in found] == [around, scaled.inner_state]
    assert [path for path, _ in found] == ["1", "1/inner_state/inner_state"]
    assert not find_states(opt_state, ro.AverageParamsState)
    assert not find_states(None, ro.AverageParamsState)
