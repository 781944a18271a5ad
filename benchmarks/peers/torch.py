"""`torch.optim.RMSprop`, eager and compiled, against `dialects.torch`."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from benchmarks._problem import DECAY, EPSILON, LEARNING_RATE, Configuration, Problem
from benchmarks._summary import OURS
from benchmarks._timing import Contender
from benchmarks.peers.jitted import transformation
from rmsprop_optax import dialects

EAGER, COMPILED = "PyTorch, eager", "PyTorch, compiled"
MOST_COMPILED = 64  # leaves; its compiler takes about a second for each


def contenders(c: Configuration, problem: Problem) -> list[Contender]:
    """Ours and PyTorch's, whose optimizer has no decoupled decay and no average."""
    if c.extras:
        return []
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.compiler.reset()  # it stops compiling after eight variants
    arguments: dict[str, Any] = {
        "lr": LEARNING_RATE,
        "alpha": DECAY,
        "eps": EPSILON,
        "momentum": c.momentum,
        "centered": c.centered,
    }
    ours = transformation(OURS, dialects.torch(**arguments), problem)
    found = [ours, _peer(torch, EAGER, arguments, problem, lambda step: step)]
    if len(problem.params) <= MOST_COMPILED:
        found.append(_peer(torch, COMPILED, arguments, problem, torch.compile))
    return found


def _peer(
    torch: Any,
    name: str,
    arguments: dict[str, Any],
    problem: Problem,
    wrap: Callable[[Any], Callable[[], None]],
) -> Contender:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = [torch.tensor(p, device=device) for p in problem.params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = torch.optim.RMSprop(params, **arguments)
    step = wrap(lambda: optimizer.step())

    def prepare(seed: int) -> None:
        """In place, because a compiled step is compiled again for other tensors."""
        for p, g in zip(params, problem.grads[seed % len(problem.grads)], strict=True):
            p.grad.copy_(torch.from_numpy(g))

    def run(_: None) -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    return Contender(name, run, prepare, lambda: [p.cpu().numpy() for p in params])
