"""A small training program, which a strict type checker accepts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmsprop_optax as ro
from rmsprop_optax import dialects, rmsprop, sparse

Params = dict[str, Any]


def loss_fn(params: Params, ids: jax.Array) -> jax.Array:
    rows = sparse.lookup(params["table"], ids)
    return jnp.mean((rows @ params["w"]) ** 2)


def announce(params: Params, ids: jax.Array) -> dict[str, jax.Array]:
    return {"table": ids}


def initial() -> Params:
    return {"table": np.ones((10, 2), np.float32), "w": np.ones(2, np.float32)}


def train(tx: optax.GradientTransformation, steps: int) -> Any:
    params: Any = initial()
    state = tx.init(params)
    grad_fn = sparse.value_and_grad(loss_fn, announce)
    for _ in range(steps):
        _, grads = grad_fn(params, np.array([1, 2]))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return ro.finalize(params, state)


def main() -> None:
    tx: optax.GradientTransformation = rmsprop(
        optax.linear_schedule(1e-2, 0.0, 100),
        momentum=0.9,
        weight_decay=1e-4,
        weight_decay_mask=ro.exclude_paths("bias"),
        use_ema=True,
        moment_storage=ro.MomentStorage("int8", exclude=lambda path, p: "bias" in path),
    )
    for other in (dialects.torch(lr=1e-2), dialects.tf1(1e-2), dialects.timm(lr=1e-2)):
        print(ro.describe(other), train(other, 2))
    print(train(ro.low_precision(sparse.lazy(optax.adam(1e-3)), "int8"), 2))
    print(train(tx, 2), ro.state_bytes(tx, initial()))
    wrapped = ro.skip_nonfinite(ro.accumulate_gradients(ro.dynamic_loss_scale(tx), 2))
    grads: Params = initial()
    print(wrapped.update(grads, wrapped.init(grads), grads)[0])


if __name__ == "__main__":
    main()
