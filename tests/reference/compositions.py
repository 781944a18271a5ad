"""Optimizers and wrappers that nest, in float64 NumPy: what a composition should do.

A node has `start(params)` and `step(grads, params)`, which returns updates. Trees are
dictionaries from a leaf's path to its array; a gradient may be None, and its update is
then None. Nothing here is the library's.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Leaves = dict[str, Any]


class Node(Protocol):
    def start(self, params: Leaves) -> None: ...
    def step(self, grads: Leaves, params: Leaves) -> Leaves: ...


def _given(tree: Leaves) -> Leaves:
    return {name: x for name, x in tree.items() if x is not None}


def _finite(tree: Leaves) -> bool:
    return all(np.isfinite(x).all() for x in _given(tree).values())


def _parts(x: Any, f: Callable[[Any], Any]) -> Any:
    """``f`` of a real array, or of both parts of a complex one."""
    if not np.iscomplexobj(x):
        return f(x)
    out = np.empty(x.shape, complex)
    out.real, out.imag = f(x.real), f(x.imag)
    return out


def _times(x: Any, factor: Any) -> Any:
    return _parts(x, lambda part: part * factor)


def _square(x: Any) -> Any:
    return x.real**2 + x.imag**2 if np.iscomplexobj(x) else x * x


def _map(f: Callable[..., Any], grads: Leaves, *others: Leaves) -> Leaves:
    return {
        name: None if g is None else f(g, *(other[name] for other in others))
        for name, g in grads.items()
    }


def clip_value(limit: float) -> Callable[[Leaves], Leaves]:
    return lambda grads: _map(
        lambda g: _parts(g, lambda x: np.clip(x, -limit, limit)), grads
    )


def clip_norm(limit: float) -> Callable[[Leaves], Leaves]:
    def clip(g: Any) -> Any:
        norm = np.sqrt(np.sum(_square(g)))
        return _times(g, 1 / np.maximum(norm / limit, 1))

    return lambda grads: _map(clip, grads)


def clip_global_norm(limit: float) -> Callable[[Leaves], Leaves]:
    def clip(grads: Leaves) -> Leaves:
        norm = np.sqrt(sum((np.sum(_square(g)) for g in _given(grads).values()), 0.0))
        return _map(lambda g: _times(g, 1 / np.maximum(norm / limit, 1)), grads)

    return clip


def agreeing(u: Any, g: Any) -> Any:
    """The part of an update that points against the gradient, grown."""
    if not u.size:
        return u
    agrees = ((u * np.conj(g)).real < 0).astype(float)
    return _times(u, agrees / max(agrees.mean(), 1e-3))


class RMSprop:
    """Every dialect: which of its terms are on is a matter of arguments."""

    def __init__(
        self,
        rate: Callable[[int], float],
        decay: float = 0.9,
        eps: float = 1e-7,
        *,
        eps_outside: bool = False,
        start: float = 0.0,
        centered: bool = False,
        momentum: float | None = None,
        nesterov: bool = False,
        rate_outside: bool = False,
        coupled: float = 0.0,
        decoupled: float = 0.0,
        maximize: bool = False,
        caution: bool = False,
        corrected: bool = False,
    ) -> None:
        self.options = dict(locals())
        self.count = 0

    def start(self, params: Leaves) -> None:
        start = self.options["start"]
        self.nu = {n: np.full(np.shape(p), start) for n, p in params.items()}
        self.past: dict[str, list[Any]] = {n: [] for n in params}
        self.trace = {n: np.zeros_like(p) for n, p in params.items()}

    def _variance(self, past: list[Any], decay: float, corrected: bool) -> Any:
        """E|g|² - |E g|² of the weighted past, as a sum without cancellation."""
        weights = (1 - decay) * decay ** np.arange(len(past))[::-1]
        if corrected:
            weights = weights / weights.sum()
        mean = sum(_times(g, w) for g, w in zip(past, weights, strict=True))
        spread = sum(w * _square(g - mean) for g, w in zip(past, weights, strict=True))
        return spread + max(1 - weights.sum(), 0) * _square(mean)

    def _leaf(self, name: str, g: Any, p: Any, rate: float) -> Any:
        o = self.options
        g = (-g if o["maximize"] else g) + o["coupled"] * p
        self.nu[name] = o["decay"] * self.nu[name] + (1 - o["decay"]) * _square(g)
        correction = 1 - o["decay"] ** (self.count + 1) if o["corrected"] else 1.0
        second = self.nu[name] / correction
        if o["centered"]:
            self.past[name].append(g)
            second = self._variance(self.past[name], o["decay"], o["corrected"])
            second = second + o["start"] * o["decay"] ** len(self.past[name])
        eps = o["eps"]
        root = np.sqrt(second) + eps if o["eps_outside"] else np.sqrt(second + eps)
        step = _parts(g, lambda x: x / root)
        if o["momentum"] is not None:
            inner = step if o["rate_outside"] else _times(step, rate)
            self.trace[name] = o["momentum"] * self.trace[name] + inner
            step = self.trace[name]
            if o["nesterov"]:
                step = o["momentum"] * step + inner
            step = _times(step, rate) if o["rate_outside"] else step
        else:
            step = _times(step, rate)
        step = agreeing(-step, g) if o["caution"] else -step
        return step - rate * o["decoupled"] * p if o["decoupled"] else step

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        rate = self.options["rate"](self.count)
        updates = {
            name: None if g is None else self._leaf(name, g, params[name], rate)
            for name, g in grads.items()
        }
        self.count += 1
        return updates


class Adam:
    def __init__(self, rate: float, decay: float = 0.0) -> None:
        self.rate, self.decay, self.count = rate, decay, 0

    def start(self, params: Leaves) -> None:
        self.mu = {n: np.zeros_like(p) for n, p in params.items()}
        self.nu = {n: np.zeros(np.shape(p)) for n, p in params.items()}

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        self.count += 1
        updates = {}
        for n, g in grads.items():
            self.mu[n] = 0.9 * self.mu[n] + _times(g, 0.1)
            self.nu[n] = 0.999 * self.nu[n] + 0.001 * _square(g)
            root = np.sqrt(self.nu[n] / (1 - 0.999**self.count)) + 1e-8
            mean = _times(self.mu[n], 1 / (1 - 0.9**self.count))
            step = _parts(mean, lambda x, root=root: x / root)
            updates[n] = _times(step + self.decay * params[n], -self.rate)
        return updates


class Before:
    """A function of the gradients, then a node."""

    def __init__(self, function: Callable[[Leaves], Leaves], inner: Node) -> None:
        self.function, self.inner = function, inner
        self.start = inner.start

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        return self.inner.step(self.function(grads), params)


class After:
    """A node, then a function of its updates, the gradients and the parameters."""

    def __init__(self, inner: Node, function: Callable[..., Leaves]) -> None:
        self.inner, self.function = inner, function
        self.start = inner.start

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        return self.function(self.inner.step(grads, params), grads, params)


def _zeros(grads: Leaves) -> Leaves:
    return _map(np.zeros_like, grads)


class Accumulated:
    def __init__(self, inner: Node, k: int) -> None:
        self.inner, self.k, self.calls = inner, k, 0
        self.start = inner.start
        self.total: Leaves | None = None

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        before = self.total
        total = grads if before is None else _map(np.add, grads, before)
        self.calls += 1
        if self.calls % self.k:
            self.total = total
            return _zeros(grads)
        self.total = None
        return self.inner.step(_map(lambda g: _times(g, 1 / self.k), total), params)


class Skipped:
    """Drops steps that are not finite; ``scale`` is a loss scale that adapts."""

    def __init__(self, inner: Node, scale: float = 1.0, grows: int | None = None) -> None:
        self.inner, self.scale, self.grows, self.good = inner, scale, grows, 0
        self.start = inner.start

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        grads = _map(lambda g: _times(g, 1 / self.scale), grads)
        if not _finite(grads):
            self.good = 0
            self.scale = self.scale / 2 if self.grows else self.scale
            return _zeros(grads)
        self.good += 1
        if self.good == self.grows:
            self.scale, self.good = self.scale * 2, 0
        return self.inner.step(grads, params)


class Split:
    """Both parts of a complex leaf as leaves of their own."""

    def __init__(self, inner: Node) -> None:
        self.inner = inner

    def start(self, params: Leaves) -> None:
        self.inner.start(self._apart(params, params))

    def _apart(self, tree: Leaves, params: Leaves) -> Leaves:
        made = {}
        for name, x in tree.items():
            if np.iscomplexobj(params[name]):
                made[name + ".re"] = None if x is None else np.array(x.real)
                made[name + ".im"] = None if x is None else np.array(x.imag)
            else:
                made[name] = x
        return made

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        apart = self._apart(grads, params), self._apart(params, params)
        new = self.inner.step(*apart)
        updates = {}
        for name, g in grads.items():
            if g is None or not np.iscomplexobj(params[name]):
                updates[name] = new.get(name)
                continue
            updates[name] = np.empty(np.shape(params[name]), complex)
            updates[name].real = new[name + ".re"]
            updates[name].imag = new[name + ".im"]
        return updates


class Parted:
    """A node for each group of leaves; without one their gradients pass."""

    def __init__(self, label: Callable[[str], str], nodes: dict[str, Node]) -> None:
        self.label, self.nodes = label, nodes

    def _group(self, tree: Leaves, label: str) -> Leaves:
        return {name: x for name, x in tree.items() if self.label(name) == label}

    def start(self, params: Leaves) -> None:
        for label, node in self.nodes.items():
            node.start(self._group(params, label))

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        updates = dict(grads)
        for label, node in self.nodes.items():
            mine = self._group(grads, label), self._group(params, label)
            updates.update(node.step(*mine))
        return updates


class Averaged:
    """An average of the new parameters, which overwrites them at times."""

    def __init__(self, inner: Node, decay: float, every: int | None, k: int = 1) -> None:
        self.inner, self.decay, self.every, self.k, self.calls = inner, decay, every, k, 0

    def start(self, params: Leaves) -> None:
        self.inner.start(params)
        self.ema = dict(params)

    def step(self, grads: Leaves, params: Leaves) -> Leaves:
        updates = self.inner.step(grads, params)
        iteration, self.calls = self.calls // self.k, self.calls + 1
        beta = 0.0 if iteration == 0 else self.decay
        for name, p in params.items():
            u = updates[name]
            new = p if u is None else p + u
            self.ema[name] = beta * self.ema[name] + (1 - beta) * new
            if self.every and (iteration + 1) % self.every == 0:
                updates[name] = self.ema[name] - p
        return updates
