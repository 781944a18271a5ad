"""One problem for all steps: a small network, batches, and one device to compare with."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import rmsprop_optax as ro
from rmsprop_optax import scale_loss, sparse

STEPS, BATCH, HEIGHT = 6, 48, 40

# With stochastic rounding: the numbers that it draws are those of one device.
IN_BLOCKS = ro.MomentStorage("int8", 8, min_size=100)
NEAREST = ro.MomentStorage("int8", 8, rounding="nearest", min_size=100)

# Together, every argument of the factory. The gradients' norm is about 1, so both clip.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "momentum": {
        "learning_rate": optax.linear_schedule(0.1, 0.01, STEPS),
        "rho": 0.8,
        "momentum": 0.9,
        "epsilon": 1e-3,
        "nesterov": True,
        "weight_decay": 0.1,
        "weight_decay_mask": ro.exclude_paths("bias"),
        "name": "another",
    },
    "centered": {
        "centered": True,
        "bias_correction": True,
        "eps_in_sqrt": False,
        "epsilon": 1e-2,
        "global_clipnorm": 0.1,
    },
    "average": {
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 2,
        "initial_scale": 1.0,
        "clipvalue": 0.01,
    },
    "accumulation": {
        "gradient_accumulation_steps": 2,
        "momentum": 0.5,
        "clipnorm": 0.05,
        "loss_scale_factor": 64.0,
        "use_ema": True,
        "ema_per_update": True,
    },
    "skipping": {"skip_nonfinite": True},
    "int8": {"momentum": 0.9, "moment_storage": IN_BLOCKS},
    "int8, nearest": {"momentum": 0.9, "moment_storage": NEAREST},
    "bfloat16": {"moment_storage": "bfloat16"},
    "bfloat16, nearest": {
        "moment_storage": ro.MomentStorage("bfloat16", rounding="nearest")
    },
}


def mesh(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",))


def make(arguments: dict[str, Any]) -> Any:
    """The factory's transformation."""
    return ro.rmsprop(**{"learning_rate": 0.05, **arguments})


# Not the factory's: chains, wrappers and Optax's own.
OTHERS: dict[str, Any] = {
    "a clip in a chain": lambda: optax.chain(
        ro.clip_by_global_norm(0.05), ro.rmsprop(0.05, momentum=0.9)
    ),
    "Optax's clip in a chain": lambda: optax.chain(
        optax.clip_by_global_norm(0.05), optax.adam(0.05)
    ),
    "cautious": lambda: ro.cautious(ro.rmsprop(0.05, momentum=0.9)),
    "skip_nonfinite": lambda: ro.skip_nonfinite(ro.rmsprop(0.05, clipnorm=0.05)),
    "a loss scale": lambda: ro.dynamic_loss_scale(ro.rmsprop(0.05)),
    "timm": lambda: ro.dialects.timm(0.05, momentum=0.9, caution=True),
    "adamw in 8 bits": lambda: ro.low_precision(optax.adamw(0.05), IN_BLOCKS),
    "adamw, nearest": lambda: ro.low_precision(optax.adamw(0.05), NEAREST),
    "partition": lambda: optax.partition(
        {"a": optax.adam(0.05), "b": ro.rmsprop(0.05, global_clipnorm=0.05)},
        {"table": "a", "layers": [("b", {"bias": "a"}), ("b", None)], "scale": "b"},
    ),
    "trust ratio": lambda: optax.lamb(0.05),
    "block norms": lambda: optax.chain(optax.clip_by_block_rms(0.01), optax.sgd(0.05)),
}


def params(dtype: Any) -> Any:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "table": draw(HEIGHT, 8),
        "layers": [(draw(8, 16), {"bias": draw(16)}), (draw(16, 3), None)],
        "scale": draw(),
    }


def batches(dtype: Any) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        {
            "ids": rng.integers(0, HEIGHT, (BATCH, 2)),
            "y": rng.normal(size=(BATCH, 3)).astype(dtype),
        }
        for _ in range(STEPS)
    ]


def loss_fn(params: Any, batch: Any) -> Any:
    """The mean over a batch."""
    (first, second), rows = params["layers"], sparse.lookup(params["table"], batch["ids"])
    hidden = jnp.tanh(rows.mean(axis=1) @ first[0] + first[1]["bias"])
    return jnp.mean((params["scale"] * hidden @ second[0] - batch["y"]) ** 2)


def by_rows(loss: Any, has_aux: bool = False) -> Any:
    grads = partial(sparse.value_and_grad, ids=lambda p, batch: {"table": batch["ids"]})
    return grads(loss, has_aux=has_aux)


def one_device(
    tx: Any, params: Any, batches: list[Any], value_and_grad: Any = jax.value_and_grad
) -> tuple[Any, Any, list[Any]]:
    """Parameters, state and losses after all batches, each whole on one device."""

    @jax.jit
    def step(params: Any, opt_state: Any, batch: Any) -> Any:
        def objective(params: Any, batch: Any) -> Any:
            loss = loss_fn(params, batch)
            return scale_loss(loss, opt_state), loss

        (_, loss), grads = value_and_grad(objective, has_aux=True)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = tx.init(params), []
    for batch in batches:
        params, opt_state, loss = step(params, opt_state, batch)
        losses.append(loss)
    return params, opt_state, losses


def run(
    step: Any, tx: Any, params: Any, batches: list[Any]
) -> tuple[Any, Any, list[Any]]:
    opt_state, losses = tx.init(params), []
    for batch in batches:
        params, opt_state, loss = step(params, opt_state, batch)
        losses.append(loss)
    return params, opt_state, losses


def assert_same(ours: Any, expected: Any, dtype: Any) -> None:
    """Float64 to 1e-12; float32 to the order in which a batch is summed."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    tolerance = 1e-12 if np.dtype(dtype) == np.float64 else 2e-5
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
