"""A half-finished run in neutral terms: what is taken out of a state, or put into one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from rmsprop_optax._foundation._checks import check_whole_number
from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax._foundation._trees import (
    Keys,
    leaves_with_keys,
    map_with_keys,
    path_of,
    unbox,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import cast_like
from rmsprop_optax.storage._low_precision import (
    LowPrecisionState,
    decode_state,
    encode_state,
)
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.transforms._learning_rate import ScaleByLearningRateState
from rmsprop_optax.transforms._loss_scale import UnscaleLossState
from rmsprop_optax.transforms._scale_by_rms import ScaleByRmsWithCountState
from rmsprop_optax.transforms._scale_by_stddev import (
    ScaleByStddevState,
    ScaleByStddevWithCountState,
)
from rmsprop_optax.transforms._weight_decay import DecayWeightsState
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState
from rmsprop_optax.wrappers._loss_scale import DynamicLossScaleState
from rmsprop_optax.wrappers._skip_nonfinite import SkipNonfiniteState

Leaves = dict[str, np.ndarray]
RATE_NAMES = ("learning_rate", "lr")


LOSS_SCALE = "a loss scale (of `dynamic_loss_scale`)"


class LossScale(NamedTuple):
    """A loss scale that adapts, and the finite steps since it changed."""

    scale: float
    count: int


class Slots(NamedTuple):
    """What frameworks keep between steps; arrays by the path of their parameter.

    Attributes:
      updates: Updates so far; None where the state does not count them.
      micro: Calls since the last update, where gradients are accumulated, else 0.
      calls: Calls so far, as the average of the parameters counts them, or None.
      nu: Means of squares; of a complex parameter that is two real ones, both in one.
      mu: Means of gradients; None where the run is not centered.
      trace: Momentum, in the sign in which it is subtracted; None without.
      ema: Averages of the parameters; None without.
      acc_grads: Sums of the gradients since the last update; None without.
      hyperparams: What `optax.inject_hyperparams` keeps in the state, by the path of
        the parameter that is trained with it; None without it.
      lr_in_trace: Whether the learning rate is inside the momentum; None without one.
      loss_scale: That of `dynamic_loss_scale`; None without it.
    """

    updates: int | None
    micro: int
    calls: int | None
    nu: Leaves
    mu: Leaves | None = None
    trace: Leaves | None = None
    ema: Leaves | None = None
    acc_grads: Leaves | None = None
    hyperparams: Mapping[str, Mapping[str, float]] | None = None
    lr_in_trace: bool | None = None
    loss_scale: LossScale | None = None

    def of(self, paths: Sequence[str]) -> "Slots":
        """What is held of some of the parameters, in this order."""

        def some(slot: Mapping[str, Any] | None) -> Any:
            return {p: slot[p] for p in paths if p in slot} or None if slot else None

        each = ("nu", "mu", "trace", "ema", "acc_grads", "hyperparams")
        return self._replace(**{name: some(getattr(self, name)) for name in each})

    @property
    def learning_rate(self) -> float | None:
        """The rate, where it is kept in the state."""
        injected = (self.hyperparams or {}).values()
        found = {x[name] for x in injected for name in RATE_NAMES if name in x}
        if len(found) > 1:
            raise ValueError(
                f"The optimizer state has the learning rates {sorted(found)}, and this "
                "framework has one for all parameters."
            )
        return found.pop() if found else None

    def check_rate_place(self, inside: bool, framework: str, dialect: str) -> None:
        """The momentum of both sides has the learning rate in it, or neither's has."""
        if self.lr_in_trace is not None and self.lr_in_trace != inside:
            has, has_not = ("inside", "outside") if inside else ("outside", "inside")
            raise ValueError(
                f"The momentum of {framework} has the learning rate {has}, that of the "
                f"optimizer state {has_not}: they are different quantities. Use "
                f"`dialects.{dialect}`."
            )


_SECONDS = (optax.ScaleByRmsState, ScaleByStddevState)
_NODES = (
    *_SECONDS,
    ScaleByRmsWithCountState,
    ScaleByStddevWithCountState,
    optax.TraceState,
    ScaleByLearningRateState,
    optax.ScaleByScheduleState,
    DecayWeightsState,
    AverageParamsState,
    AccumulateGradientsState,
    UnscaleLossState,
    DynamicLossScaleState,
    SkipNonfiniteState,
    LowPrecisionState,
    optax.InjectStatefulHyperparamsState,
)


def read(opt_state: PyTree) -> Slots:
    """The slots of a state, as NumPy arrays of the dtypes in which they are kept."""
    leaves: dict[str, Leaves] = {}
    rest: dict[str, Any] = {"updates": None, "micro": 0, "calls": None}
    for node, lr_inside in _in_order(opt_state):
        match node:
            case optax.ScaleByRmsState():
                _collect(leaves, "nu", node.nu)
            case ScaleByStddevState():
                mu = _collect(leaves, "mu", node.mu)
                _collect(leaves, "nu", node.nu, lambda n, w, mu=mu: mean_square(w, mu[n]))
            case ScaleByRmsWithCountState() | ScaleByStddevWithCountState():
                raise ValueError(
                    "The state is that of a bias-corrected RMSprop, which no framework "
                    "has: build the transformation without `bias_correction`."
                )
            case optax.TraceState():
                sign = -1 if lr_inside else 1
                _collect(leaves, "trace", node.trace, lambda _, b, sign=sign: sign * b)
                rest["lr_in_trace"] = lr_inside
            case optax.ScaleByScheduleState() | DecayWeightsState():
                rest["updates"] = int(np.asarray(node.count))
            case AverageParamsState():
                _collect(leaves, "ema", node.ema)
                rest["calls"] = int(node.count)
            case AccumulateGradientsState():
                _collect(leaves, "acc_grads", node.acc_grads)
                rest["micro"] = int(node.count)
                rest["updates"] = int(node.gradient_step)
            case DynamicLossScaleState():
                rest["loss_scale"] = LossScale(float(node.loss_scale), int(node.count))
            case optax.InjectStatefulHyperparamsState():
                injected = {n: np.asarray(x).item() for n, x in node.hyperparams.items()}
                known = rest.setdefault("hyperparams", {})
                known.update(dict.fromkeys(_trained_by(node), injected))
                rest["calls"] = int(node.count)
    if "nu" not in leaves:
        raise ValueError(
            "`opt_state` holds no second moment: give the state that `init` of `rmsprop` "
            f"or of a dialect returned, got a {type(opt_state).__name__}."
        )
    if rest["updates"] is None and "acc_grads" not in leaves:
        rest["updates"] = rest["calls"]
    # In the order of the parameters: `optax.partition` sorts its groups by label.
    paths = [path for path, _ in _moments(parameters_like(opt_state))]
    rank = {path: i for i, path in enumerate(paths)}
    in_order = sorted(leaves["nu"], key=lambda path: rank.get(path, len(rank)))
    leaves["nu"] = {path: leaves["nu"][path] for path in in_order}
    return Slots(**leaves, **rest)


_REMEDIES = {
    AverageParamsState: (
        "the average of the parameters",
        "get it with `finalize`, and give the part of the state beside it",
    ),
    AccumulateGradientsState: (
        "accumulated gradients",
        "give its `inner_state` right after an update, when they are zero",
    ),
    DynamicLossScaleState: ("a dynamic loss scale", "give its `inner_state`"),
    SkipNonfiniteState: ("the count of skipped steps", "give its `inner_state`"),
}


def read_for(
    framework: str, opt_state: PyTree, step: int | None, holds: tuple[type, ...] = ()
) -> Slots:
    """The slots of a state, or an error that says what ``framework`` cannot hold.

    Where ``step`` is given, this is its count of updates.
    """
    if step is not None:
        check_whole_number("step", step, least=0)
    current = read(opt_state)
    for node in nodes(opt_state):
        kind = type(node)
        if kind in _REMEDIES and kind not in holds:
            what, remedy = _REMEDIES[kind]
            raise ValueError(
                f"{framework} has no place for {what} ({kind.__name__}): {remedy}."
            )
        if hasattr(node, "dtype"):
            raise ValueError(
                f"The state holds an array of shape {np.shape(node)} that belongs to no "
                "transformation of this library: export the part without it."
            )
    for slot in (current.mu, current.trace):
        shared = [n for n, a in (slot or {}).items() if a.dtype != current.nu[n].dtype]
        if shared:
            raise ValueError(
                f"{framework} has a second moment for each part of a complex parameter, "
                f"the state has one for both parts of {shared}: use `dialects.torch`."
            )
    return current if step is None else current._replace(updates=int(step))


def write(opt_state: PyTree, slots: Slots) -> PyTree:
    """``opt_state`` with what ``slots`` holds in it; the rest stays what it is."""
    inside = iter([lr_inside for _, lr_inside in _in_order(opt_state)])
    nu, mu, trace = slots.nu, slots.mu or {}, slots.trace or {}

    def fill(node: Any) -> Any:
        lr_inside = next(inside)
        match node:
            case optax.ScaleByRmsState():
                return optax.ScaleByRmsState(_fill_moments(node.nu, nu))
            case ScaleByStddevState():
                spread = {n: variance(nu[n], mu[n]) for n, _ in _moments(node.nu)}
                return ScaleByStddevState(
                    _fill_moments(node.mu, mu), _fill_moments(node.nu, spread)
                )
            case optax.TraceState():
                sign = -1 if lr_inside else 1
                signed = {n: sign * b for n, b in trace.items()}
                return optax.TraceState(_fill_moments(node.trace, signed))
            case optax.ScaleByScheduleState() | DecayWeightsState():
                return node._replace(count=_count_like(node.count, slots.updates))
            case AverageParamsState() if slots.ema is not None:
                count = _count_like(node.count, slots.calls)
                return AverageParamsState(count, _fill_moments(node.ema, slots.ema))
            case AccumulateGradientsState() if slots.acc_grads is not None:
                return node._replace(
                    count=_count_like(node.count, slots.micro),
                    gradient_step=_count_like(node.gradient_step, slots.updates),
                    acc_grads=_fill_moments(node.acc_grads, slots.acc_grads),
                )
            case DynamicLossScaleState() if slots.loss_scale is not None:
                scale, count = slots.loss_scale
                return node._replace(
                    count=_count_like(node.count, count),
                    loss_scale=cast_like(scale, node.loss_scale, "The loss scale", "it"),
                )
            case optax.InjectStatefulHyperparamsState():
                return _inject(node, slots)
        return node

    filled = _map_nodes(unbox(opt_state), fill)
    return jax.tree.unflatten(jax.tree.structure(opt_state), jax.tree.leaves(filled))


def nodes(opt_state: PyTree) -> list[Any]:
    """Every state inside of ``opt_state``, from outside in, and any stray array."""
    found = []
    _map_nodes(unbox(opt_state), lambda node: found.append(node) or node)
    return found


def parameters_like(opt_state: PyTree) -> PyTree:
    """A tree like the parameters: the second moments, of all groups of a partition."""
    return _merge([node.nu for node in nodes(opt_state) if isinstance(node, _SECONDS)])


def _merge(groups: list[Any]) -> Any:
    """One tree of several, in each of which the rest is masked, by leaves or layers."""
    there = [node for node in groups if not isinstance(node, optax.MaskedNode)]
    if len(there) < 2:
        return (there or groups)[0]
    columns, structures = [], []
    for node in there:
        inside = lambda n, at=node: n is not at  # noqa: E731
        children, structure = jax.tree.flatten(node, is_leaf=inside)
        columns.append(children)
        structures.append(structure)
    alike = all(structure == structures[0] for structure in structures)
    if not alike or jax.tree_util.treedef_is_leaf(structures[0]):
        return there[0]
    merged = [_merge(list(column)) for column in zip(*columns, strict=True)]
    return structures[0].unflatten(merged)


def _in_order(opt_state: PyTree) -> Iterator[tuple[Any, bool]]:
    """Each node, and whether the learning rate comes before it in its chain."""
    rates = (ScaleByLearningRateState, optax.ScaleByScheduleState)
    lr_seen = False
    for node in nodes(opt_state):
        if isinstance(node, _SECONDS):
            lr_seen = False
        lr_seen = lr_seen or isinstance(node, rates)
        yield node, lr_seen


def _map_nodes(opt_state: PyTree, visit: Callable[[Any], Any]) -> PyTree:
    """``opt_state`` with ``visit`` applied to each node, and to what is inside of it."""

    def go(node: Any) -> Any:
        if isinstance(node, LowPrecisionState):
            return encode_state(_map_nodes(decode_state(node), visit), node)
        new = visit(node)
        if hasattr(new, "inner_state"):
            new = new._replace(inner_state=_map_nodes(new.inner_state, visit))
        return new

    return jax.tree.map(go, opt_state, is_leaf=lambda node: isinstance(node, _NODES))


def _inject(node: Any, slots: Slots) -> Any:
    wanted = [(slots.hyperparams or {}).get(path, {}) for path in _trained_by(node)]
    imported = wanted[0] if wanted else {}
    if any(other != imported for other in wanted):
        raise ValueError(
            f"The parameters {_trained_by(node)} have different numbers in the run, and "
            "`tx` has one `optax.inject_hyperparams` for all of them: build it with "
            "`optax.partition`, one for each group."
        )
    hyperparams = {
        name: cast_like(imported[name], old, f"`{name}` of the run", "the number here")
        if name in imported
        else old
        for name, old in node.hyperparams.items()
    }
    count = _count_like(node.count, slots.calls)
    return node._replace(count=count, hyperparams=hyperparams)


def _trained_by(node: Any) -> list[str]:
    """The paths of the parameters whose moments are inside of a state."""
    inside = [x for x in nodes(node.inner_state) if isinstance(x, _SECONDS)]
    return [path for inner in inside for path, _ in _moments(inner.nu)]


def _moments(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Each moment there is behind the path of its parameter."""
    return ((path_of(keys), x) for keys, x in leaves_with_keys(tree, is_leaf=None))


def _collect(
    found: dict[str, Leaves],
    slot: str,
    moments: PyTree,
    change: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
) -> Leaves:
    leaves = found.setdefault(slot, {})
    for path, node in _moments(moments):
        if path in leaves:
            raise ValueError(
                f"The state holds two {slot} for the parameter '{path}': give the state "
                "of one optimizer."
            )
        # NumPy computes with float32 or wider.
        leaves[path] = change(path, np.asarray(cast(node, wide_dtype(node.dtype))))
    return leaves


def _fill_moments(moments: PyTree, leaves: Leaves) -> PyTree:
    def put(keys: Keys, node: Any) -> Any:
        path = path_of(keys)
        return cast_like(leaves[path], node, f"'{path}' of the run", "its moment here")

    return map_with_keys(put, moments)


def _count_like(count: Any, new: int | None) -> Any:
    """A count of the run; None: the one that is there."""
    return count if new is None else cast_like(new, count, "A count of the run", "it")


def mean_square(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean square v = w + |m|², which every framework keeps.

    From the variance w, which is kept here.
    """
    if np.iscomplexobj(variance):
        return _by_part(mean_square, variance, mean)
    wide = _wide(variance.dtype)
    return (variance.astype(wide) + _square(mean, wide)).astype(variance.dtype)


def variance(mean_sq: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The variance w = v - |m|², at least 0.

    It is rounded so that `mean_square` gives v again, bit by bit. Where v < |m|² the
    framework's own root is NaN, and the nearest run that goes on has w = 0.
    """
    if np.iscomplexobj(mean_sq):
        return _by_part(variance, mean_sq, mean)
    wide = _wide(mean_sq.dtype)
    exact = np.maximum(mean_sq.astype(wide) - _square(mean, wide), 0)
    nearest = exact.astype(mean_sq.dtype)
    result = nearest
    for towards in (np.inf, 0.0):
        neighbor = np.nextafter(nearest, mean_sq.dtype.type(towards))
        off = mean_square(result, mean) != mean_sq
        exact = off & (mean_square(neighbor, mean) == mean_sq)
        result = np.where(exact, neighbor, result)
    return result


def _by_part(
    rule: Callable[[np.ndarray, np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """A rule for real moments on each part of a complex parameter by itself."""
    result = np.empty_like(a)
    result.real = rule(np.real(a), np.real(b))
    result.imag = rule(np.imag(a), np.imag(b))
    return result


def _square(mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.real(mean).astype(dtype) ** 2 + np.imag(mean).astype(dtype) ** 2


def _wide(dtype: np.dtype) -> np.dtype:
    """A dtype in which a square of ``dtype`` is exact, or as near as there is one."""
    return np.dtype(np.float64 if dtype.itemsize <= 4 else np.longdouble)
