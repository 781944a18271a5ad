"""A half-finished run in neutral terms: what is taken out of a state, or put into one."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._stored import is_stored
from rmsprop_optax._foundation._trees import path_of
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._moments import Leaves, mean_square, variance
from rmsprop_optax.leaves import read_moment, write_moment
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.transforms._centered import ScaleByStddevState
from rmsprop_optax.transforms._learning_rate import ScaleByLearningRateState
from rmsprop_optax.transforms._loss_scale import UnscaleLossState
from rmsprop_optax.transforms._second_moment import ScaleByRmsState
from rmsprop_optax.transforms._weight_decay import DecayWeightsState
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState
from rmsprop_optax.wrappers._dynamic_loss_scale import DynamicLossScaleState
from rmsprop_optax.wrappers._skip_nonfinite import SkipNonfiniteState
from rmsprop_optax.wrappers._split_complex import RealPair

RATE_NAMES = ("learning_rate", "lr")


class Slots(NamedTuple):
    """What frameworks keep between steps; arrays by the path of their parameter.

    Attributes:
      updates: Updates so far.
      micro: Calls since the last update, where gradients are accumulated, else 0.
      calls: Calls so far, as the average of the parameters counts them.
      nu: Means of squares; of a complex parameter that is two real ones, both in one.
      mu: Means of gradients; None where the run is not centered.
      trace: Momentum, in the sign in which it is subtracted; None without.
      ema: Averages of the parameters; None without.
      acc_grads: Sums of the gradients since the last update; None without.
      hyperparams: What `optax.inject_hyperparams` keeps in the state; None without it.
      lr_in_trace: Whether the learning rate is inside the momentum; None without one.
    """

    updates: int
    micro: int
    calls: int
    nu: Leaves
    mu: Leaves | None = None
    trace: Leaves | None = None
    ema: Leaves | None = None
    acc_grads: Leaves | None = None
    hyperparams: dict[str, float] | None = None
    lr_in_trace: bool | None = None

    @property
    def learning_rate(self) -> float | None:
        """The rate, where it is kept in the state."""
        held = self.hyperparams or {}
        found = [held[name] for name in RATE_NAMES if name in held]
        return found[0] if found else None


_NODES = (
    ScaleByRmsState,
    ScaleByStddevState,
    optax.TraceState,
    ScaleByLearningRateState,
    DecayWeightsState,
    AverageParamsState,
    AccumulateGradientsState,
    UnscaleLossState,
    DynamicLossScaleState,
    SkipNonfiniteState,
    optax.InjectStatefulHyperparamsState,
)


def read(opt_state: PyTree) -> Slots:
    """The slots of a state, as NumPy arrays of the dtypes in which they are kept."""
    leaves: dict[str, Leaves] = {}
    rest: dict[str, Any] = {"updates": 0, "micro": 0, "calls": 0}
    for node, lr_inside in _in_order(opt_state):
        match node:
            case ScaleByRmsState():
                _collect(leaves, "nu", node.nu)
                rest["updates"] = int(node.count)
            case ScaleByStddevState():
                mu = _collect(leaves, "mu", node.mu)
                _collect(leaves, "nu", node.nu, lambda n, w, mu=mu: mean_square(w, mu[n]))
                rest["updates"] = int(node.count)
            case optax.TraceState():
                sign = -1 if lr_inside else 1
                _collect(leaves, "trace", node.trace, lambda _, b, sign=sign: sign * b)
                rest["lr_in_trace"] = lr_inside
            case AverageParamsState():
                _collect(leaves, "ema", node.ema)
                rest["calls"] = int(node.count)
            case AccumulateGradientsState():
                _collect(leaves, "acc_grads", node.acc_grads)
                rest["micro"] = int(node.count)
            case optax.InjectStatefulHyperparamsState():
                held = node.hyperparams.items()
                rest["hyperparams"] = {name: np.asarray(x).item() for name, x in held}
    if "nu" not in leaves:
        raise ValueError(
            "The state holds no second moment: give the state that `init` of `rmsprop` "
            f"or of a dialect returned, got a {type(opt_state).__name__}."
        )
    return Slots(**leaves, **rest)


def write(opt_state: PyTree, slots: Slots) -> PyTree:
    """``opt_state`` with what ``slots`` holds in it; the rest stays what it is."""
    inside = iter([lr_inside for _, lr_inside in _in_order(opt_state)])
    nu, mu, trace = slots.nu, slots.mu or {}, slots.trace or {}

    def fill(node: Any) -> Any:
        lr_inside = next(inside)
        match node:
            case ScaleByRmsState():
                return ScaleByRmsState(_as(node.count, slots.updates), _fill(node.nu, nu))
            case ScaleByStddevState():
                made = {n: variance(nu[n], mu[n]) for n, _ in _parameters(node.nu)}
                count = _as(node.count, slots.updates)
                return ScaleByStddevState(count, _fill(node.mu, mu), _fill(node.nu, made))
            case optax.TraceState():
                sign = -1 if lr_inside else 1
                signed = {n: sign * b for n, b in trace.items()}
                return optax.TraceState(_fill(node.trace, signed))
            case ScaleByLearningRateState() | DecayWeightsState():
                return node._replace(count=_as(node.count, slots.updates))
            case AverageParamsState() if slots.ema is not None:
                count = _as(node.count, slots.calls)
                return AverageParamsState(count, _fill(node.ema, slots.ema))
            case AccumulateGradientsState() if slots.acc_grads is not None:
                return node._replace(
                    count=_as(node.count, slots.micro),
                    acc_grads=_fill(node.acc_grads, slots.acc_grads),
                )
            case optax.InjectStatefulHyperparamsState():
                return _inject(node, slots)
        return node

    return _map_nodes(opt_state, fill)


def nodes(opt_state: PyTree) -> list[Any]:
    """Every state inside of ``opt_state``, from outside in, and any stray array."""
    found = []
    _map_nodes(opt_state, lambda node: found.append(node) or node)
    return found


def _in_order(opt_state: PyTree) -> Iterator[tuple[Any, bool]]:
    """Each node, and whether the learning rate comes before it in its chain."""
    lr_seen = False
    for node in nodes(opt_state):
        if isinstance(node, (ScaleByRmsState, ScaleByStddevState)):
            lr_seen = False
        lr_seen = lr_seen or isinstance(node, ScaleByLearningRateState)
        yield node, lr_seen


def _map_nodes(opt_state: PyTree, visit: Callable[[Any], Any]) -> PyTree:
    """``opt_state`` with ``visit`` applied to each node, and to what is inside of it."""

    def go(node: Any) -> Any:
        made = visit(node)
        if hasattr(made, "inner_state"):
            made = made._replace(inner_state=_map_nodes(made.inner_state, visit))
        return made

    return jax.tree.map(go, opt_state, is_leaf=lambda node: isinstance(node, _NODES))


def _inject(node: Any, slots: Slots) -> Any:
    given = slots.hyperparams or {}
    hyperparams = {
        name: _as(old, given[name]) if name in given else old
        for name, old in node.hyperparams.items()
    }
    count = _as(node.count, slots.calls)
    return node._replace(count=count, hyperparams=hyperparams)


def _is_parameter(node: Any) -> bool:
    alone = isinstance(node, (RealPair, optax.MaskedNode)) or is_stored(node)
    return node is None or alone


def _parameters(moments: PyTree) -> Iterator[tuple[str, Any]]:
    """Each moment there is behind the path of its parameter."""
    for path, node in jax.tree_util.tree_leaves_with_path(moments, is_leaf=_is_parameter):
        if node is not None and not isinstance(node, optax.MaskedNode):
            yield path_of(path), node


def _collect(
    found: dict[str, Leaves],
    slot: str,
    moments: PyTree,
    change: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
) -> Leaves:
    leaves = found.setdefault(slot, {})
    for path, node in _parameters(moments):
        if path in leaves:
            raise ValueError(
                f"The state holds two {slot} for the parameter '{path}': give the state "
                "of one optimizer."
            )
        leaves[path] = change(path, _values(node))
    return leaves


def _fill(moments: PyTree, leaves: Leaves) -> PyTree:
    def put(path: tuple[Any, ...], node: Any) -> Any:
        if node is None or isinstance(node, optax.MaskedNode):
            return node
        new = leaves[path_of(path)]
        if isinstance(node, RealPair):
            return RealPair(_put(node.real, np.real(new)), _put(node.imag, np.imag(new)))
        return _put(node, new)

    return jax.tree_util.tree_map_with_path(put, moments, is_leaf=_is_parameter)


def _values(node: Any) -> np.ndarray:
    if isinstance(node, RealPair):
        node = jax.lax.complex(read_moment(node.real), read_moment(node.imag))
        return np.asarray(node)
    return np.asarray(read_moment(node))


def _put(held: Any, new: Any) -> Any:
    """``new``, kept as ``held`` is."""
    if not is_stored(held):
        return _as(held, new)
    return jax.tree.map(_as, held, write_moment(held, jnp.asarray(new)))


def _as(old: jax.Array, new: Any) -> jax.Array:
    """``new`` in the dtype and the sharding of ``old``."""
    return jax.device_put(jnp.asarray(new, old.dtype), old.sharding)
