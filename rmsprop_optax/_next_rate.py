"""The learning rate of the next step, read from a transformation and its state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._chain import rate_at_updates
from rmsprop_optax._composition import Node, Update, node_of, variables_of
from rmsprop_optax._foundation._checks import check_transformation
from rmsprop_optax._foundation._schedules import Rate, as_rate
from rmsprop_optax._foundation._state_leaves import check_has_classes
from rmsprop_optax._foundation._trees import find_states, unbox
from rmsprop_optax._foundation._types import PyTree

_RATE = "learning_rate"


def next_learning_rate(tx: optax.GradientTransformation, opt_state: PyTree) -> Any:
    """The learning rate that the next update uses.

    Call it before ``tx.update``, with the same state, also inside of `jax.jit`. It reads
    the rate of `rmsprop`, of the dialects, of
    [`scale_by_learning_rate`][rmsprop_optax.scale_by_learning_rate], and the argument
    ``learning_rate`` (or ``lr``) of anything inside of `optax.inject_hyperparams`, in
    chains, wrappers and masks. With gradient accumulation it is the rate of the next
    update, not of the next call. A rate that is a callable without arguments is called.

    Args:
      tx: The transformation.
      opt_state: Its state.

    Returns:
      A scalar; for an `optax.partition`, a dictionary from the labels of groups to
      their rates, without the groups that have none.

    Raises:
      ValueError: For a transformation without a rate that can be read, or with several
        rates one after another; for the state of another transformation.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import next_learning_rate, rmsprop
      >>> tx = optax.chain(optax.clip(1.0), rmsprop(optax.linear_schedule(0.4, 0.0, 4)))
      >>> params = jnp.array(1.0)
      >>> opt_state = tx.init(params)
      >>> for _ in range(2):
      ...     print(next_learning_rate(tx, opt_state))
      ...     _, opt_state = tx.update(jnp.array(1.0), opt_state, params)
      0.4
      0.3
    """
    check_transformation("tx", tx)
    check_has_classes(opt_state)
    rates = _rates(tx.update, unbox(opt_state))
    if not rates:
        raise ValueError(
            "`tx` has no learning rate that can be read: an Optax transformation keeps "
            "its own in a closure. Build it with `optax.inject_hyperparams(optax.adam)("
            "learning_rate=...)`, which keeps the rate in the state."
        )
    if len(rates) > 1:
        raise ValueError(
            f"`tx` has {len(rates)} learning rates, one after another: give one part of "
            "the chain, with its part of the state."
        )
    return rates[0]


def _rates(update: Update, state: PyTree) -> list[Any]:
    """The rates of a transformation with this `update`, in the order of a chain."""
    node = node_of(update)
    if node.config is not None:
        return [_value(rate_at_updates(node.config, _RATE), state)]
    if node.name == "scale_by_learning_rate":
        return [_value(as_rate(_RATE, node.values[_RATE]), state)]
    if isinstance(state, optax.InjectStatefulHyperparamsState):
        return _injected_rates(update, state)
    states = _states(node, state)
    found = {label: _rates(node.inner[label], states[label]) for label in node.inner}
    if node.has_labels:
        groups = {label: rates[0] for label, rates in found.items() if len(rates) == 1}
        return [groups] if groups else []
    return [rate for rates in found.values() for rate in rates]


def _value(rate: Rate, state: PyTree) -> jax.Array:
    if not rate.counts:
        return jnp.asarray(rate(None))
    counts = find_states(state, optax.ScaleByScheduleState)
    if len(counts) != 1:
        raise ValueError(
            f"`opt_state` holds {len(counts)} counts of a schedule where `tx` has one: "
            "give the state that `tx` made."
        )
    [(_, found)] = counts
    return jnp.asarray(rate(found.count))


def _injected_rates(
    update: Update, state: optax.InjectStatefulHyperparamsState
) -> list[Any]:
    """Those of what `optax.inject_hyperparams` builds at the next call."""
    made_of, numbers = variables_of(update), dict(state.hyperparams)
    for name, schedule in made_of["sched_hps"].items():
        value = schedule(state.hyperparams_states[name])
        numbers[name] = jnp.asarray(value, jnp.result_type(numbers[name]))
    inner = made_of["inner_factory"](**made_of["other_hps"], **numbers)
    given = [numbers[name] for name in (_RATE, "lr") if name in numbers]
    return _rates(inner.update, state.inner_state) or given


def _states(node: Node, state: PyTree) -> dict[Any, PyTree]:
    """The state of each transformation in a node, by its label there."""
    if isinstance(state, optax.transforms.PartitionState):
        groups: Any = state.inner_states
        return {label: masked.inner_state for label, masked in groups.items()}
    if isinstance(state, dict):  # of `optax.named_chain`
        return state
    if type(state) is tuple and len(state) == len(node.inner):
        return dict(zip(node.inner, state, strict=True))
    inner = [name for name in getattr(state, "_fields", ()) if "inner" in name]
    only = getattr(state, inner[0]) if len(inner) == 1 else state
    return dict.fromkeys(node.inner, only)
