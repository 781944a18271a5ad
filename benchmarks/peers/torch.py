"""PyTorch's RMSprop: a loop over the leaves, operations over all leaves, compiled."""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from benchmarks._problem import DECAY, EPSILON, LEARNING_RATE, Configuration, Problem
from rmsprop_optax import clip_by_global_norm, dialects

MOST_COMPILED = 64  # leaves: its compiler takes about a second for each


def our_transformation(c: Configuration) -> optax.GradientTransformation:
    """This library's dialect of PyTorch, whose epsilon is outside of the root."""
    tx = dialects.torch(
        lr=LEARNING_RATE,
        alpha=DECAY,
        eps=EPSILON,
        momentum=c.momentum,
        centered=c.centered,
    )
    if c.clip is None:
        return tx
    return optax.chain(clip_by_global_norm(c.clip), tx)


def variants(c: Configuration, problem: Problem) -> dict[str, "TorchUpdate"]:
    """Its weight decay is another one, and it keeps no average."""
    if c.ema is not None or c.decay is not None:
        return {}
    live = [_tensor(g) for g in problem.grads[0]]
    make = functools.partial(TorchUpdate, c, problem, live)
    made = {"PyTorch, loop": make(foreach=False), "PyTorch, foreach": make(foreach=True)}
    if len(problem.params) <= MOST_COMPILED:
        made["PyTorch, compiled"] = make(foreach=True, is_compiled=True)
    return made


class TorchUpdate:
    """`benchmarks._problem.Update` of `torch.optim.RMSprop`."""

    def __init__(
        self,
        c: Configuration,
        problem: Problem,
        live: list[Any],
        *,
        foreach: bool,
        is_compiled: bool = False,
    ) -> None:
        self._params = [_tensor(p) for p in problem.params]
        self._live, self._sets = live, problem.grads
        optimizer = _torch().optim.RMSprop(
            self._params,
            lr=LEARNING_RATE,
            alpha=DECAY,
            eps=EPSILON,
            momentum=c.momentum,
            centered=c.centered,
            foreach=foreach,
        )
        step = _step(optimizer, self._params, c.clip, foreach)
        self._step = _compiled(step) if is_compiled else step

    def prepare(self, which: int) -> list[Any]:
        """In place: a compiled step would be compiled anew for other tensors."""
        for live, new in zip(self._live, self._sets[which], strict=True):
            live.copy_(_torch().from_numpy(new))
        for param, grad in zip(self._params, self._live, strict=True):
            param.grad = grad
        return self._live

    def __call__(self, grads: list[Any]) -> None:
        """One step on the gradients that are there."""
        del grads
        self._step()
        if self._params[0].is_cuda:
            _torch().cuda.synchronize()

    def values(self) -> list[np.ndarray]:
        """The parameters."""
        return [param.cpu().numpy() for param in self._params]


def _step(
    optimizer: Any, params: list[Any], clip: float | None, foreach: bool
) -> Callable[[], None]:
    def step() -> None:
        if clip is not None:
            _torch().nn.utils.clip_grad_norm_(params, clip, foreach=foreach)
        optimizer.step()

    return step


def _compiled(step: Callable[[], None]) -> Callable[[], None]:
    # One compiled step at a time: after eight of them it would compile no more.
    _torch().compiler.reset()
    return _torch().compile(step)


def _tensor(array: np.ndarray) -> Any:
    torch = _torch()
    return torch.tensor(array, device="cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def _torch() -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch
