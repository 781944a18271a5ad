"""Keras 3's own RMSprop, driven step by step."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity._installed import peer


def load() -> ModuleType:
    """Keras on JAX; not at the top of a file, which every process reads."""
    keras = peer("keras", "keras")
    if keras.backend.backend() != "jax":
        pytest.skip("needs KERAS_BACKEND=jax")
    return keras


def trajectory(
    params: dict[str, Any],
    grads: list[dict[str, Any]],
    exclude: list[str] | None = None,
    **arguments: Any,
) -> list[dict[str, np.ndarray]]:
    """The parameters after each step of `keras.optimizers.RMSprop`."""
    keras = load()
    variables = {
        name: keras.Variable(value, name=name.replace("/", "_"))
        for name, value in params.items()
    }
    optimizer = keras.optimizers.RMSprop(**arguments)
    if exclude:
        optimizer.exclude_from_weight_decay(var_names=exclude)
    optimizer.build(list(variables.values()))
    scale = arguments.get("loss_scale_factor") or 1.0
    batches = [jnp.stack([jnp.asarray(g[n]) for g in grads]) * scale for n in params]

    def step(carry: Any, gradient: list[Any]) -> tuple[Any, Any]:
        values, state = carry
        values, state = optimizer.stateless_apply(state, gradient, values)
        return (values, state), values

    start = (
        [v.value for v in variables.values()],
        [v.value for v in optimizer.variables],
    )
    _, values = jax.jit(lambda: jax.lax.scan(step, start, batches))()
    values = jax.device_get(values)
    return [
        dict(zip(params, (v[t] for v in values), strict=True)) for t in range(len(grads))
    ]
