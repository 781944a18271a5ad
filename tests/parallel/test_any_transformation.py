"""Optax's transformations in the steps, on automatic and on explicit axes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from optax import contrib

from rmsprop_optax import parallel, rmsprop

STEPS = 3
RATED = [
    *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw"),
    *("adamw", "adan", "amsgrad", "fromage", "lamb", "lars", "lion", "nadam", "nadamw"),
    *("novograd", "optimistic_adam_v2", "optimistic_gradient_descent", "radam"),
    *("rmsprop", "rprop", "sgd", "sign_sgd", "sm3", "yogi"),
]
RATED_CONTRIB = [
    *("acprop", "ademamix", "adopt", "dadapt_adamw", "dog", "dowg", "galore", "madgrad"),
    *("muon", "prodigy", "schedule_free_adamw", "schedule_free_sgd"),
    "simplified_ademamix",
]
# Not those that need more than gradients and parameters (a value, a function, a pair).
# Nor `optax.flatten`: its `init` fails for parameters that are sharded on explicit axes.
TABLE: dict[str, Any] = {
    **{name: lambda name=name: getattr(optax, name)(0.05) for name in RATED},
    **{name: lambda name=name: getattr(contrib, name)(0.05) for name in RATED_CONTRIB},
    "cocob": contrib.cocob,
    "mechanize": lambda: contrib.mechanize(optax.adam(0.05)),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(
        optax.adam(0.05)
    ),
    "noisy_sgd": lambda: optax.noisy_sgd(0.05, key=3),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.05), 2),
    "apply_every": lambda: optax.chain(optax.sgd(0.05), optax.apply_every(2)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.05),
    "masked": lambda: optax.masked(
        optax.adam(0.05), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    "measure_with_ema": lambda: optax.chain(optax.ema(0.9), optax.sgd(0.05)),
    "normalize": lambda: optax.chain(contrib.normalize(), optax.sgd(0.05)),
    "centralize": lambda: optax.chain(optax.centralize(), optax.sgd(0.05)),
    "positive": lambda: optax.chain(optax.sgd(0.05), optax.keep_params_nonnegative()),
    **{
        f"{name} in a chain": lambda clip=clip: optax.chain(clip, optax.adam(0.05))
        for name, clip in {
            "adaptive_grad_clip": optax.adaptive_grad_clip(0.01),
            "clip_by_block_rms": optax.clip_by_block_rms(0.01),
            "clip_by_global_norm": optax.clip_by_global_norm(0.05),
            "normalize_by_update_norm": optax.normalize_by_update_norm(),
            "scale_by_trust_ratio": optax.scale_by_trust_ratio(),
            "scale_by_param_block_rms": optax.scale_by_param_block_rms(),
        }.items()
    },
}
MESHES = {
    f"{len(names)}-D {kind.name}": (shape, names, kind)
    for shape, names in (((8,), ("data",)), ((4, 2), ("data", "model")))
    for kind in (AxisType.Auto, AxisType.Explicit)
}
BUILDERS = [parallel.data_parallel, parallel.sharded_data_parallel]
# On explicit axes `adaptive_grad_clip` and `muon` fail by themselves; the fresh state of
# `prodigy` holds the parameters.
FAST = [("adaptive_grad_clip in a chain", "2-D Explicit"), ("prodigy", "1-D Auto")]


def _params() -> Any:
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(24, 16))),
        "layers": [
            jnp.asarray(rng.normal(size=(16, 8))),
            jnp.asarray(rng.normal(size=8)),
        ],
        "scale": jnp.ones(1),
    }


def _arrays(tree: Any) -> list[Any]:
    """Without random keys."""
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]


def _loss(params: Any, batch: jax.Array) -> jax.Array:
    kernel, bias = params["layers"]
    hidden = jnp.tanh(batch @ params["w"])
    return jnp.mean((params["scale"] * hidden @ kernel + bias - 1) ** 2)


def _one_device(tx: Any, params: Any, batches: Any) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(_loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for batch in batches:
        params, state = step(params, state, batch)
    return params, state


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param(name, mesh, marks=[] if (name, mesh) in FAST else pytest.mark.slow)
        for name in TABLE
        for mesh in MESHES
    ],
)
def test_equal_to_one_device(name: str, mesh: str) -> None:
    """The sharding of the state stays, and so does that of a parameter over "model"."""
    shape, names, kind = MESHES[mesh]
    on = jax.make_mesh(shape, names, axis_types=(kind,) * len(names))
    batches = np.random.default_rng(1).normal(size=(STEPS, 16, 24))
    with jax.enable_x64(True):
        expected = _one_device(TABLE[name](), _params(), batches)
        for builder in BUILDERS if mesh == "2-D Explicit" else BUILDERS[-1:]:
            traces = []

            def loss_fn(params: Any, batch: Any, traces: Any = traces) -> Any:
                traces.append(1)
                return _loss(params, batch)

            params, tx = _params(), TABLE[name]()
            state = tx.init(params)
            if "model" in names:
                columns = jax.NamedSharding(on, jax.P(None, "model"))
                params["w"] = jax.device_put(params["w"], columns)
            step, placed = builder(loss_fn, tx, on), None
            for batch in batches:
                params, state, _ = step(params, state, batch)
                before = placed
                placed = [x.sharding for x in jax.tree.leaves((params, state))]
                assert before in (None, placed)
            assert len(traces) == 1
            for ours, theirs in zip(
                *map(_arrays, ((params, state), expected)), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_loss_goes_to_a_transformation_that_wants_its_value(builder: Any) -> None:
    """Not multiplied by the loss scale."""
    mesh = jax.make_mesh((8,), ("data",))
    plateau = contrib.reduce_on_plateau(0.5, patience=1)
    tx = optax.chain(rmsprop(0.0, loss_scale_factor=4.0), plateau)
    params, batch = jnp.ones(16), jnp.zeros((8, 16))
    state = tx.init(params)
    step = builder(lambda p, x: jnp.mean((x - p) ** 2), tx, mesh)
    for _ in range(3):
        params, state, _ = step(params, state, batch)
    assert state[1].best_value == 1.0
    assert state[1].scale == 0.25  # two steps without progress


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_line_search_is_refused(builder: Any) -> None:
    tx = optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(3))
    params, batch = jnp.ones(16), jnp.zeros((8, 16))
    step = builder(
        lambda p, x: jnp.mean((x - p) ** 2), tx, jax.make_mesh((8,), ("data",))
    )
    with pytest.raises(TypeError, match="as line searches do"):
        step(params, tx.init(params), batch)
