"""States that `nnx.Optimizer` keeps: every array in a `Variable`, at each depth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import dialects, interchange

nnx = pytest.importorskip("flax.nnx", reason="pip install flax")


def _trained(tx: optax.GradientTransformation, steps: int = 10) -> Any:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(steps):
        _step(model, optimizer)
    return model, optimizer


def _step(model: Any, optimizer: Any) -> None:
    def loss(model: Any) -> jax.Array:
        return jnp.mean(model(jnp.ones((4, 2))) ** 2)

    optimizer.update(model, nnx.grad(loss)(model))


def test_finalize_takes_the_state_as_it_is() -> None:
    model, optimizer = _trained(ro.rmsprop(0.1, use_ema=True, ema_momentum=0.5))
    params = nnx.state(model, nnx.Param)
    averaged = ro.finalize(params, optimizer.opt_state)
    assert jax.tree.structure(averaged) == jax.tree.structure(params)
    ema = nnx.as_pure(optax.tree.get(optimizer.opt_state, "ema"))
    np.testing.assert_array_equal(nnx.as_pure(averaged)["kernel"], ema["kernel"])
    assert np.any(np.asarray(model.kernel[...]) != ema["kernel"])
    nnx.update(model, averaged)
    np.testing.assert_array_equal(model.kernel[...], ema["kernel"])


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "centered": True}, {"use_ema": True}],
)
def test_keras_there_and_back(options: dict[str, Any]) -> None:
    model, optimizer = _trained(ro.rmsprop(0.1, **options))
    slots = [np.zeros(3, np.float32), np.zeros((2, 3), np.float32)]
    like = [0, 0.1, *(slots * (1 + len(options)))]
    exported = interchange.keras.export_state(
        optimizer.opt_state, like, optimizer.tx, step=10
    )
    _there_and_back(model, optimizer, interchange.keras, exported)


def test_torch_there_and_back() -> None:
    torch = pytest.importorskip("torch", reason="pip install torch")
    model, optimizer = _trained(dialects.torch(0.1, momentum=0.9))
    parameters = [torch.zeros(3), torch.zeros(2, 3)]
    like = torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9).state_dict()
    exported = interchange.torch.export_state(
        optimizer.opt_state, like, optimizer.tx, step=10
    )
    _there_and_back(model, optimizer, interchange.torch, exported)


def _there_and_back(model: Any, optimizer: Any, framework: Any, exported: Any) -> None:
    """An import into a new state gives the old one, and training goes on from it."""
    new = nnx.Optimizer(model, optimizer.tx, wrt=nnx.Param)
    order = ["bias", "kernel"]
    imported = framework.import_state(exported, new.opt_state, new.tx, order=order)
    assert jax.tree.structure(imported) == jax.tree.structure(optimizer.opt_state)
    held = jax.tree.leaves(optimizer.opt_state)
    for x, y in zip(jax.tree.leaves(imported), held, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    new.opt_state = imported
    _step(model, new)


def test_paths_are_those_of_the_gradients() -> None:
    """At `init` arrays are in Variables, at `update` they are not: one path for both."""
    seen = []

    def exclude(path: str, param: Any) -> bool:
        seen.append((path, param.shape))
        return False

    big = nnx.Linear(64, 64, use_bias=False, rngs=nnx.Rngs(0))
    storage = ro.MomentStorage("int8", exclude=exclude)
    nnx.Optimizer(big, ro.rmsprop(moment_storage=storage), wrt=nnx.Param)
    assert seen == [("kernel", (64, 64))]
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert "kernel/value" not in str(ro.state_bytes(ro.rmsprop(), params))
    mask = ro.exclude_paths("kernel$")(params)
    assert nnx.as_pure(mask) == {"bias": True, "kernel": False}


def test_rows_to_accumulate_have_the_path_of_the_table() -> None:
    table = nnx.Embed(10, 4, rngs=nnx.Rngs(0))
    tx = ro.rmsprop(gradient_accumulation_steps=2, accumulate_rows={"embedding": 4})
    optimizer = nnx.Optimizer(table, tx, wrt=nnx.Param)
    sums = nnx.as_pure(optimizer.opt_state)[0].acc_grads
    assert sums.values["embedding"].shape == (4, 4)
