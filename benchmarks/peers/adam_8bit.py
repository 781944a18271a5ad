"""8-bit Adam of PyTorch's libraries, `torchao` and `bitsandbytes`, on PyTorch's CPU."""

import importlib
import os
from typing import Any

import numpy as np

from benchmarks import _digits
from benchmarks._problem import Problem
from benchmarks._timing import Contender

RATE, BLOCK = 1e-3, 256  # their block size
MODULES = {"torchao": "torchao.optim", "bitsandbytes": "bitsandbytes.optim"}


def load() -> Any:
    """PyTorch, on all cores."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch


def make(library: str, params: list[Any], rate: float = RATE) -> Any:
    """The 8-bit Adam of a library, or PyTorch's own in float32."""
    if library == "torch":
        return load().optim.Adam(params, rate)
    return importlib.import_module(MODULES[library]).Adam8bit(params, rate)


def contender(library: str, problem: Problem) -> Contender:
    """A step of it."""
    torch = load()
    params = [torch.nn.Parameter(torch.tensor(p)) for p in problem.params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = make(library, params)

    def prepare(seed: int) -> None:
        for p, g in zip(params, problem.grads[seed % len(problem.grads)], strict=True):
            p.grad.copy_(torch.from_numpy(g))

    def values() -> list[np.ndarray]:
        return [p.detach().numpy() for p in params]

    return Contender(
        f"{library}, 8-bit Adam", lambda _: optimizer.step(), prepare, values
    )


def state_bytes(library: str, shape: tuple[int, ...]) -> int:
    """Bytes of the state of one parameter."""
    torch = load()
    param = torch.nn.Parameter(torch.zeros(shape))
    optimizer = make(library, [param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    return sum(_bytes(torch, x) for x in optimizer.state[param].values())


def _bytes(torch: Any, x: Any) -> int:
    parts = [getattr(x, name) for name in ("codes", "scale", "qmap") if hasattr(x, name)]
    if not torch.is_tensor(x):
        return 0
    return sum(part.numel() * part.element_size() for part in parts or [x])


def train(library: str, rate: float, seed: int, steps: int, every: int) -> list[float]:
    """`_digits.train` in PyTorch: the same weights, batches and loss."""
    torch = load()
    images, labels = (torch.from_numpy(x) for x in _digits.load())
    rng = np.random.default_rng(seed)
    begin = [x for layer in _digits.init(rng) for x in layer]
    params = [torch.nn.Parameter(torch.tensor(x)) for x in begin]
    optimizer = make(library, params, rate)

    def loss_of(chosen: Any) -> Any:
        x = images[chosen]
        for at in range(0, len(params), 2):
            x = (torch.relu(x) if at else x) @ params[at] + params[at + 1]
        return torch.nn.functional.cross_entropy(x, labels[chosen])

    losses = []
    for count in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(_digits.batch(rng)).backward()
        optimizer.step()
        if count % every == 0:
            with torch.no_grad():
                losses.append(float(loss_of(slice(_digits.HELD_OUT))))
    return losses
