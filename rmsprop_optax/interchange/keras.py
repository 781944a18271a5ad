"""Runs of `keras.optimizers.RMSprop`, in and out, from memory and from Keras's files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np

from rmsprop_optax._foundation._checks import check_whole_number
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange import _keras_files as files
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    as_number,
    check_rate_place,
    give,
    places,
    read_for,
    take,
)
from rmsprop_optax.interchange._slots import RATE_NAMES, Slots, read, write
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState

__all__ = ["export_state", "import_state", "save_state"]

# In the order in which `build` makes them: `base_optimizer.py`, then `rmsprop.py`.
_SLOTS = {
    "ema": "average",
    "acc_grads": "gradient_accumulator",
    "nu": "velocity",
    "trace": "momentum",
    "mu": "average_gradient",
}
_ITERATION, _RATE = (f"`{x}` of the Keras state" for x in ("iteration", "learning_rate"))


def import_state(
    foreign: Any,
    opt_state: PyTree,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    gradient_accumulation_steps: int | None = None,
) -> PyTree:
    """Puts the state of a Keras 3 optimizer into one of ours.

    Args:
      foreign: The optimizer itself, built; or the arrays of its ``variables``, in their
        order, as a sequence or as the mapping that ``save_own_variables`` fills; or the
        path of a ``.keras`` or ``.weights.h5`` file, which is read by h5py, without
        Keras.
      opt_state: The place to put it: ``tx.init(params)`` of
        [`rmsprop`][rmsprop_optax.rmsprop] with the arguments that the run had.
      order: The paths of our parameters in the order of ``model.trainable_variables``.
        None: our own order, that of `jax.tree.leaves`, is Keras's.
      convert: By path, a function that brings a NumPy array of Keras's layout into ours.
      gradient_accumulation_steps: As given to both optimizers; needed to read Keras's
        count of calls where gradients are accumulated.

    Returns:
      A state like ``opt_state``, of the same structure, dtypes and shardings. Under
      `optax.inject_hyperparams` the learning rate is in it too; else the
      transformation's own goes on.

    Raises:
      ValueError: For what does not fit, by variable and path: too many or too few, a
        wrong shape or dtype, values that are not finite, a file that is damaged.
      ImportError: For a path, where h5py is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax
      >>> import rmsprop_optax
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]  # the last: velocity
      >>> opt_state = rmsprop_optax.rmsprop(0.01).init({"w": jnp.ones(2)})
      >>> opt_state = rmsprop_optax.interchange.keras.import_state(variables, opt_state)
      >>> print(optax.tree.get(opt_state, "nu")["w"])
      [4. 9.]
    """
    current = read(opt_state)
    check_rate_place(current, True, "Keras", "keras")
    where = places(current, order, convert)
    values = _values(foreign, current)
    names = _layout(current, where, len(values))
    result: dict[str, Any] = {}
    for (slot, place), value in zip(names, values, strict=True):
        if place is not None:
            key = f"`{_SLOTS[slot]}` of '{place.path}'"
            square = slot == "nu"
            result.setdefault(slot, {})[place.path] = take(
                value, key, place, square=square
            )
    calls = as_count(values[0], _ITERATION)
    updates, micro = _split_calls(calls, current, gradient_accumulation_steps)
    rate: dict[str, float] = {}
    if names[1][0] == "learning_rate":
        rate = {
            n: as_number(values[1], _RATE)
            for n in current.hyperparams or ()
            if n in RATE_NAMES
        }
    slots = Slots(updates=updates, micro=micro, calls=calls, hyperparams=rate, **result)
    return write(opt_state, slots)


def export_state(
    opt_state: PyTree,
    like: Any,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    gradient_accumulation_steps: int | None = None,
    step: int | None = None,
) -> list[np.ndarray]:
    """Our state as the arrays of ``optimizer.variables``, in their order.

    Load it by ``variable.assign(array)`` for each pair of the two, or put it into a file
    of Keras's with [`save_state`][rmsprop_optax.interchange.keras.save_state].

    Args:
      opt_state: A state of [`rmsprop`][rmsprop_optax.rmsprop].
      like: The Keras optimizer that is to go on, built; or its variables, or its file, as
        ``foreign`` of [`import_state`][rmsprop_optax.interchange.keras.import_state]. Its
        learning rate is kept, unless ours is in the state (`optax.inject_hyperparams`).
      order: As for `import_state`.
      convert: By path, a function that brings a NumPy array of our layout into Keras's.
      gradient_accumulation_steps: As for `import_state`.
      step: How many updates the run has made. None: as the state counts them; where
        nothing in it needs a count, as ``like`` says.

    Returns:
      As many arrays as ``like`` has variables, of their shapes.

    Raises:
      ValueError: For what this Keras optimizer cannot hold, by name.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> import rmsprop_optax
      >>> opt_state = rmsprop_optax.rmsprop(0.01).init({"w": jnp.ones(2)})
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]
      >>> rmsprop_optax.interchange.keras.export_state(opt_state, variables)
      [array(30, dtype=int32), array(0.01, dtype=float32), array([0., 0.], dtype=float32)]
    """
    holds = (AverageParamsState, AccumulateGradientsState)
    current = read_for("Keras's RMSprop", opt_state, holds)
    check_rate_place(current, True, "Keras", "keras")
    where = places(current, order, convert)
    likes = _values(like, current)
    result = []
    for (slot, place), old in zip(
        _layout(current, where, len(likes)), likes, strict=True
    ):
        if slot == "iteration":
            k = _steps(current, gradient_accumulation_steps)
            known = current.updates if step is None else step
            if known is not None:
                calls = known * k + current.micro
            elif current.calls is not None:  # the average of the weights counts calls
                calls = current.calls
            else:
                calls = as_count(old, _ITERATION) // k * k + current.micro
            result.append(np.asarray(calls, np.int32))
        elif slot == "learning_rate":
            rate = (
                as_number(old, _RATE)
                if current.learning_rate is None
                else current.learning_rate
            )
            result.append(np.asarray(rate, np.float32))
        elif place is not None:
            array = give(getattr(current, slot)[place.path], place)
            if array.shape != np.shape(old):
                raise ValueError(
                    f"`{_SLOTS[slot]}` of '{place.path}' has shape {array.shape}, the "
                    f"variable of Keras {np.shape(old)}: give `convert` or `order`."
                )
            result.append(array)
    return result


def save_state(arrays: Sequence[np.ndarray], path: str | PathLike[str]) -> None:
    """Puts exported arrays into a ``.keras`` or ``.weights.h5`` file, atomically.

    The file is one that Keras saved, with the same optimizer in it; its other contents
    stay what they are. Keras's own loading then goes on from the state.

    Args:
      arrays: What [`export_state`][rmsprop_optax.interchange.keras.export_state]
        returned.
      path: The file. It is replaced whole, or not at all.

    Raises:
      ValueError: For a file without an optimizer, or with another one, or damaged.
      ImportError: Where h5py is missing.

    Examples:
      >>> from rmsprop_optax.interchange import keras
      >>> keras.save_state([], "nothing.weights.h5")
      Traceback (most recent call last):
      ...
      FileNotFoundError: [Errno 2] No such file or directory: 'nothing.weights.h5'
    """
    files.write_variables(fspath(path), arrays)


def _values(foreign: Any, current: Slots) -> list[Any]:
    """The arrays of the variables, wherever they are."""
    if isinstance(foreign, (str, PathLike)):
        largest = max([1, *(array.size for array in current.nu.values())])
        return files.read_variables(fspath(foreign), largest)
    if isinstance(foreign, Mapping):
        missing = [str(i) for i in range(len(foreign)) if str(i) not in foreign]
        if missing:
            raise ValueError(f"The Keras state lacks the variables {missing}.")
        return [np.asarray(foreign[str(i)]) for i in range(len(foreign))]
    variables = getattr(foreign, "variables", foreign)
    return [np.asarray(getattr(variable, "value", variable)) for variable in variables]


def _layout(
    current: Slots, where: list[Place], length: int
) -> list[tuple[str, Place | None]]:
    """What each variable is: its slot, and the place of its array."""
    slots = list(_slots_of(current, where))
    heads = {1: ["iteration"], 2: ["iteration", "learning_rate"]}
    head = heads.get(length - len(slots))
    if head is None:
        counted = ", ".join(f"{n} `{_SLOTS[s]}`" for s, n in _count(slots).items())
        raise ValueError(
            f"The Keras state has {length} variables; with the options of the optimizer "
            f"state it would be `iteration`, `learning_rate` (not with a schedule), "
            f"{counted}. Build the transformation with the options of the run; the state "
            "of a LossScaleOptimizer is that of its `inner_optimizer`."
        )
    return [(name, None) for name in head] + slots


def _slots_of(current: Slots, where: list[Place]) -> Iterator[tuple[str, Place | None]]:
    for slot in _SLOTS:
        if getattr(current, slot) is not None:
            yield from ((slot, place) for place in where)


def _count(slots: list[tuple[str, Place | None]]) -> dict[str, int]:
    return {slot: [s for s, _ in slots].count(slot) for slot, _ in slots}


def _steps(current: Slots, every_k: int | None) -> int:
    if current.acc_grads is None:
        return 1
    if every_k is None:
        raise ValueError(
            "Gradients are accumulated: give `gradient_accumulation_steps`, by which "
            "Keras's count of calls is told from the updates."
        )
    check_whole_number("gradient_accumulation_steps", every_k, least=2)
    return every_k


def _split_calls(calls: int, current: Slots, every_k: int | None) -> tuple[int, int]:
    return divmod(calls, _steps(current, every_k))
