"""What only PyTorch has: parameter groups, complex parameters, an L2 penalty."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, exclude_paths, interchange
from tests.parity import _peers
from tests.parity._installed import peer
from tests.parity._problem import differences, draw_problem, ours


def _train(tx: Any, params: Any, grads: list[Any]) -> Any:
    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for gradient in grads:
        params, state = step(params, state, gradient)
    return params


def test_parameter_groups_are_a_partition() -> None:
    torch = peer("torch", "torch")
    problem = draw_problem(0, np.float32)
    groups = {
        "matrices": dict(lr=0.01, momentum=0.9, weight_decay=1e-3),
        "others": dict(lr=0.003, alpha=0.9, centered=True),
    }
    labels = {n: "matrices" if "kernel" in n else "others" for n in problem.params}
    tensors = {n: torch.tensor(p) for n, p in problem.params.items()}
    optimizer = torch.optim.RMSprop(
        [
            {"params": [tensors[n] for n in tensors if labels[n] == group], **given}
            for group, given in groups.items()
        ]
    )
    for t in range(problem.steps):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(problem.grads[name][t])
        optimizer.step()
    tx = optax.partition({g: dialects.torch(**a) for g, a in groups.items()}, labels)
    grads = [{n: g[t] for n, g in problem.grads.items()} for t in range(problem.steps)]
    params = _train(tx, problem.params, grads)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(params[name], tensor.numpy(), rtol=2e-5)


@pytest.mark.parametrize("centered", [False, True])
def test_complex_parameters_are_two_real_ones(centered: bool) -> None:
    torch = peer("torch", "torch")
    rng = np.random.default_rng(3)
    arguments: dict[str, Any] = dict(lr=0.01, momentum=0.9, centered=centered)
    if not centered:
        arguments["weight_decay"] = 1e-2

    def draw() -> Any:
        # The parts differ in scale: sharing their moments would show.
        return rng.normal(size=6) + 1000j * rng.normal(size=6)

    start, grads = np.complex64(draw()), [np.complex64(draw()) for _ in range(200)]
    tensor = torch.tensor(start)
    optimizer = torch.optim.RMSprop([tensor], **arguments)
    for gradient in grads:
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
    params = _train(dialects.torch(**arguments), jnp.asarray(start), grads)
    theirs = tensor.numpy()
    np.testing.assert_allclose(params.real, theirs.real, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(params.imag, theirs.imag, rtol=2e-5, atol=2e-6)
    shared = dialects.optax(0.01, 0.99, 1e-8, eps_in_sqrt=False, momentum=0.9)
    assert (
        np.abs(_train(shared, jnp.asarray(start), grads).real - theirs.real).max() > 0.1
    )


def test_a_complex_gradient_of_jax_is_the_conjugate_of_torchs() -> None:
    """The same loss, |p - (1 - 2i)|², descended by both."""
    torch = peer("torch", "torch")
    target = 1 - 2j
    tensor = torch.tensor(0.5 + 0.5j, dtype=torch.complex64, requires_grad=True)
    optimizer = torch.optim.RMSprop([tensor], lr=0.05)
    tx = dialects.torch(lr=0.05)
    params = jnp.asarray(0.5 + 0.5j, jnp.complex64)
    state = tx.init(params)
    for _ in range(60):
        optimizer.zero_grad()
        (tensor - target).abs().square().backward()
        optimizer.step()
        grads = jax.grad(lambda p: jnp.abs(p - target) ** 2)(params)
        updates, state = tx.update(grads.conj(), state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, tensor.detach().numpy(), rtol=1e-4)
    assert abs(complex(params) - target) < 0.1


@pytest.mark.parametrize("name", ["torch", "timm"])
def test_a_penalty_beside_a_centered_gradient(name: str) -> None:
    """Not over twelve decades, where the penalty drowns the spread of the gradient."""
    problem = draw_problem(1, np.float32, decades=1)
    arguments = dict(lr=0.01, momentum=0.5, centered=True, weight_decay=1e-3)
    theirs = getattr(_peers, name)(problem, **arguments)
    mine = ours(getattr(dialects, name), problem, **arguments)
    assert differences(mine, theirs).max() < 2e-5


def test_corrected_weight_decay_under_a_scheduler() -> None:
    problem = draw_problem(2, np.float64)
    rates = 0.01 * 0.5 ** (np.arange(problem.steps) // 30)
    arguments = dict(
        momentum=0.9, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True
    )
    theirs = _peers.timm(problem, rates, lr=0.01, **arguments)
    mine = ours(dialects.timm, problem, rates, "lr", max_lr=0.01, **arguments)
    assert differences(mine, theirs).max() < 1e-12


@pytest.mark.parametrize("kind", ["torch", "timm", "timm, decoupled"])
def test_a_mask_is_a_group_without_decay(kind: str) -> None:
    torch = peer("torch", "torch")
    kind, _, decoupled = kind.partition(", ")
    made = _peers.timm_file().RMSpropTF if kind == "timm" else torch.optim.RMSprop
    options = {"decoupled_decay": True} if decoupled else {}
    problem = draw_problem(0, np.float32)
    tensors = {n: torch.tensor(p) for n, p in problem.params.items()}
    decays = [n for n in tensors if n != "dense/bias"]
    optimizer = made(
        [
            {"params": [tensors[n] for n in decays], "weight_decay": 0.01},
            {"params": [tensors["dense/bias"]], "weight_decay": 0.0},
        ],
        lr=0.01,
        **options,
    )
    for t in range(problem.steps):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(problem.grads[name][t])
        optimizer.step()
    mask = exclude_paths("bias")
    ours_made = getattr(dialects, kind)
    tx = ours_made(lr=0.01, weight_decay=0.01, weight_decay_mask=mask, **options)
    grads = [{n: g[t] for n, g in problem.grads.items()} for t in range(problem.steps)]
    params = _train(tx, problem.params, grads)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(params[name], tensor.numpy(), rtol=2e-5)
    # The import compares the groups with the mask.
    order = [*decays, "dense/bias"]
    place = tx.init(problem.params)
    torch_import = interchange.torch.import_state
    torch_import(optimizer.state_dict(), place, tx, order=order)
    other = ours_made(lr=0.01, weight_decay=0.01, **options)
    with pytest.raises(ValueError, match=r"`weight_decay` of `param_groups\[1\]` is 0"):
        torch_import(optimizer.state_dict(), place, other, order=order)


def test_a_mask_of_complex_parameters() -> None:
    """A function of the parameters as they are, not of their two parts."""
    params = {"w": jnp.ones(2, jnp.complex64), "b": jnp.ones(2, jnp.complex64)}
    grads = jax.tree.map(jnp.zeros_like, params)
    mask = exclude_paths("b$")
    tx = dialects.torch(lr=0.1, weight_decay=0.5, weight_decay_mask=mask)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["b"], np.zeros(2))
    assert np.all(np.real(updates["w"]) < 0)
