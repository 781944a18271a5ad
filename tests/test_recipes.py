"""The recipes of the guide against their sources' own lines, in NumPy."""

import doctest
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import finalize

PAGE = (Path(__file__).parents[1] / "docs/guides/recipes.md").read_text()
STEPS = 40
EPOCH = 1281167 / 2048


def _recipes() -> dict[str, Any]:
    section = PAGE.split("## Published recipes")[1].split("| recipe |")[0]
    names: dict[str, Any] = {"jnp": jnp, "optax": optax}
    exec("from rmsprop_optax import dialects", names)
    for example in doctest.DocTestParser().get_examples(section):
        exec(example.source, names)
    return names


RECIPES = _recipes()


def _tf1(rate: Callable[[int], float], rho: float, mu: float, eps: float) -> Any:
    """TensorFlow 1's kernel."""

    def make() -> Any:
        ms, mom = np.ones(3), np.zeros(3)

        def step(t: int, var: Any, grad: Any) -> Any:
            nonlocal ms, mom
            ms = ms + (grad * grad - ms) * (1 - rho)
            mom = mu * mom + rate(t) * grad / np.sqrt(ms + eps)
            return var - mom

        return step

    return make


def _tf1_centered(lr: float, rho: float, eps: float) -> Any:
    """The same with `centered=True` and no momentum."""

    def make() -> Any:
        ms, mg = np.ones(3), np.zeros(3)

        def step(t: int, var: Any, grad: Any) -> Any:
            nonlocal ms, mg
            ms = ms + (grad * grad - ms) * (1 - rho)
            mg = mg + (grad - mg) * (1 - rho)
            return var - lr * grad / np.sqrt(ms - mg * mg + eps)

        return step

    return make


def _mobilenet() -> Any:
    """torchvision: StepLR(2, .973) of `torch.optim.RMSprop`."""
    v, b = np.zeros(3), np.zeros(3)

    def step(t: int, p: Any, g: Any) -> Any:
        nonlocal v, b
        g = g + 1e-5 * p
        v = 0.9 * v + 0.1 * g * g
        b = 0.9 * b + g / (np.sqrt(v) + 0.0316)
        return p - 0.064 * 0.973 ** (t // (2 * 1252)) * b

    return step


def _nature() -> Any:
    """`NeuralQLearner.lua`, with its sign turned to descend."""
    g, g2 = np.zeros(3), np.zeros(3)

    def step(t: int, w: Any, dw: Any) -> Any:
        nonlocal g, g2
        g = 0.95 * g + 0.05 * dw
        g2 = 0.95 * g2 + 0.05 * dw * dw
        return w - 0.00025 * dw / np.sqrt(g2 - g * g + 0.01)

    return step


def _graves() -> Any:
    """Equations 38 to 45."""
    n, g, delta = np.zeros(3), np.zeros(3), np.zeros(3)

    def step(t: int, w: Any, eps_i: Any) -> Any:
        nonlocal n, g, delta
        n = 0.95 * n + 0.05 * eps_i**2
        g = 0.95 * g + 0.05 * eps_i
        delta = 0.9 * delta - 1e-4 * eps_i / np.sqrt(n - g**2 + 1e-4)
        return w + delta

    return step


def _warm_up(t: int) -> float:
    if t < int(5 * EPOCH):
        return 0.128 * t / int(5 * EPOCH)
    return 0.128 * 0.97 ** math.floor(t / (2.4 * EPOCH))


def _clipped(make: Any) -> Any:
    def clipped() -> Any:
        step = make()

        def clip(t: int, p: Any, g: Any) -> Any:
            return step(t, p, g * min(1.0, 2.0 / np.linalg.norm(g)))

        return clip

    return clipped


SOURCES = {
    "efficientnet": lambda: _with_penalty(_tf1(_warm_up, 0.9, 0.9, 1e-3)()),
    "mobilenet_v3": _mobilenet,
    "inception_v3": _clipped(_tf1(lambda t: 0.045, 0.9, 0.9, 1.0)),
    "nature_dqn": _nature,
    "dopamine_dqn": _tf1_centered(2.5e-4, 0.95, 1e-5),
    "impala": _tf1(lambda t: 4.8e-4 * (1 - t / 1_250_000), 0.99, 0.0, 0.1),
    "graves": _graves,
}


def _with_penalty(step: Any) -> Any:
    return lambda t, p, g: step(t, p, g + 1e-5 * p)


@pytest.mark.parametrize("name", SOURCES)
def test_a_recipe_is_its_source(name: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=3) + 3
    grads = rng.normal(size=(STEPS, 3)) * np.array([1e-2, 1.0, 30.0])
    step, theirs = SOURCES[name](), start
    for t, gradient in enumerate(grads):
        theirs = step(t, theirs, gradient)
    with jax.enable_x64(True):
        tx, params = RECIPES[name], jnp.asarray(start)
        state = tx.init(params)
        for gradient in jnp.asarray(grads):
            updates, state = jax.jit(tx.update)(gradient, state, params)
            params = optax.apply_updates(params, updates)
    moved = np.abs(theirs - start)
    assert (np.abs(np.asarray(params) - theirs) < 1e-6 * moved).all()


@pytest.mark.parametrize("t", [0, 1, 3126, 3127, 3128, 100_000, 218_948])
def test_the_schedule_of_efficientnet(t: int) -> None:
    rate = RECIPES["warm_up_then_staircase"](t)
    np.testing.assert_allclose(rate, _warm_up(t), rtol=1e-5)


def test_staircases_step_with_the_epochs() -> None:
    """Two epochs at the first rate; the next step is the first at the second."""
    mobilenet = RECIPES["mobilenet_v3"].config.learning_rate
    np.testing.assert_allclose(mobilenet(2 * 1252 - 1), 0.064, rtol=1e-6)
    np.testing.assert_allclose(mobilenet(2 * 1252), 0.064 * 0.973, rtol=1e-6)


def test_batch_norms_do_not_decay_in_efficientnet() -> None:
    params = {"conv/kernel": jnp.ones(1), "batch_norm/scale": jnp.ones(1)}
    tx = RECIPES["efficientnet"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    _, state = tx.update(zeros, state, params)  # at the first rate, which is 0
    updates, state = tx.update(zeros, state, params)
    assert float(updates["conv/kernel"][0]) < 0
    assert float(updates["batch_norm/scale"][0]) == 0.0
    assert float(finalize(params, state)["batch_norm/scale"][0]) == 1.0


def test_every_recipe_is_in_the_table() -> None:
    table = PAGE.split("| recipe |")[1].split("\n\n")[0]
    for name in SOURCES:
        assert f"| `{name}`" in table
