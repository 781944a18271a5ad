"""Keras 3's own RMSprop, driven step by step."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="pip install keras: the peer of this test")
if keras.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)


def trajectory(
    params: dict[str, Any],
    grads: list[dict[str, Any]],
    exclude: list[str] | None = None,
    **arguments: Any,
) -> list[dict[str, np.ndarray]]:
    """The parameters after each step of `keras.optimizers.RMSprop`."""
    variables = {
        name: keras.Variable(value, name=name.replace("/", "_"))
        for name, value in params.items()
    }
    optimizer = keras.optimizers.RMSprop(**arguments)
    if exclude:
        optimizer.exclude_from_weight_decay(var_names=exclude)
    optimizer.build(list(variables.values()))
    steps = []
    for gradient in grads:
        scale = arguments.get("loss_scale_factor") or 1.0
        pairs = [(jnp.asarray(gradient[n]) * scale, variables[n]) for n in variables]
        optimizer.apply_gradients(pairs)
        steps.append({name: np.asarray(v.value) for name, v in variables.items()})
    return steps
