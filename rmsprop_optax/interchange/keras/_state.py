"""The state of Keras 3's RMSprop, in and out."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import optax

from rmsprop_optax._config import is_on
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    as_number,
    check_rate_place,
    check_step,
    give,
    places,
    read_for,
    take,
)
from rmsprop_optax.interchange._hyperparams import (
    Configs,
    check_formula,
    check_ignored,
    compare,
    configurations,
)
from rmsprop_optax.interchange._slots import RATE_NAMES, Slots, read, write
from rmsprop_optax.interchange.keras._files import (
    read_configuration,
    read_variables,
    write_variables,
)
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState

# In the order in which `build` makes them: `base_optimizer.py`, then `rmsprop.py`.
_SLOTS = {
    "ema": "average",
    "acc_grads": "gradient_accumulator",
    "nu": "velocity",
    "trace": "momentum",
    "mu": "average_gradient",
}
_OPTIONS = {
    "learning_rate": "learning_rate",
    "rho": "decay",
    "momentum": "momentum",
    "epsilon": "eps",
    "centered": "centered",
    "weight_decay": "weight_decay",
    "clipnorm": "clipnorm",
    "clipvalue": "clipvalue",
    "global_clipnorm": "global_clipnorm",
    "use_ema": "use_ema",
    "ema_momentum": "ema_momentum",
    "ema_overwrite_frequency": "ema_overwrite_frequency",
    "loss_scale_factor": "loss_scale_factor",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}
_FORMULA = {
    "eps_in_sqrt": True,
    "nesterov": False,
    "coupled_decay": None,
    "maximize": False,
    "cautious": False,
}
_ITERATION, _RATE = (f"`{x}` of the Keras state" for x in ("iteration", "learning_rate"))


def import_state(
    foreign: Any,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
) -> PyTree:
    """Puts the state of a Keras 3 optimizer into one of ours.

    The hyperparameters of the run are compared with those of ``tx``, as far as they are
    known. An optimizer and a ``.keras`` file have all of them; arrays and a
    ``.weights.h5`` file have only the learning rate.

    Args:
      foreign: The optimizer itself, built; or the arrays of its ``variables``, in their
        order, as a sequence or as the mapping that ``save_own_variables`` fills; or the
        path of a ``.keras`` or ``.weights.h5`` file, which is read by h5py, without
        Keras.
      opt_state: The place to put it: ``tx.init(params)``.
      tx: The transformation that goes on: [`rmsprop`][rmsprop_optax.rmsprop] with the
        arguments that the run had, or a chain or a wrapper with it inside.
      order: The paths of our parameters in the order of ``model.trainable_variables``.
        None: parameters are matched by the names of the optimizer's variables, if these
        end with our paths (``sequential_dense_kernel`` with ``dense/kernel``). Otherwise
        Keras's order is taken to be our own, that of `jax.tree.leaves`; this is refused
        if parameters of the same shape could be swapped.
      convert: By path, a function that brings a NumPy array of Keras's layout into ours.
      ignore: Arguments of Keras's that may differ from those of ``tx``, such as
        ``("learning_rate",)``.

    Returns:
      A state like ``opt_state``, of the same structure, dtypes and shardings. Under
      `optax.inject_hyperparams` the learning rate is in it too; else the
      transformation's own goes on.

    Raises:
      ValueError: For what does not fit, by variable and path: too many or too few, a
        wrong shape or dtype, values that are not finite, a file that is damaged, numbers
        that are not those of ``tx``.
      ImportError: For a path, where h5py is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax
      >>> from rmsprop_optax import interchange, rmsprop
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]  # the last: velocity
      >>> tx = rmsprop(0.01)
      >>> opt_state = tx.init({"w": jnp.ones(2)})
      >>> opt_state = interchange.keras.import_state(variables, opt_state, tx)
      >>> print(optax.tree.get(opt_state, "nu")["w"])
      [4. 9.]
    """
    current = read(opt_state)
    check_rate_place(current, True, "Keras", "keras")
    configs = configurations(tx, opt_state, current)
    values = _values(foreign, current)
    slots = _layout(current, len(values))
    where = places(current, order, convert, _names(foreign, slots))
    _compare(foreign, values, slots, where, configs, current, ignore)
    result: dict[str, Any] = {}
    for (slot, i), value in zip(slots, values, strict=True):
        if slot in _SLOTS:
            key = f"`{_SLOTS[slot]}` of '{where[i].path}'"
            array = take(value, key, where[i], square=slot == "nu")
            result.setdefault(slot, {})[where[i].path] = array
    calls = as_count(values[0], _ITERATION)
    updates, micro = divmod(calls, _steps(current, configs))
    rates: dict[str, dict[str, float]] = {}
    if slots[1][0] == "learning_rate":
        rate = as_number(values[1], _RATE)
        rates = {
            path: {name: rate for name in RATE_NAMES if name in injected}
            for path, injected in (current.hyperparams or {}).items()
        }
    imported = Slots(
        updates=updates, micro=micro, calls=calls, hyperparams=rates, **result
    )
    return write(opt_state, imported)


def export_state(
    opt_state: PyTree,
    like: Any,
    tx: optax.GradientTransformation,
    *,
    order: Iterable[str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
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
      tx: The transformation of the run, whose numbers must be those of ``like``.
      order: As for `import_state`.
      convert: By path, a function that brings a NumPy array of our layout into Keras's.
      ignore: As for `import_state`.
      step: How many updates the run has made. None: as the state counts them; where
        nothing in it needs a count, as ``like`` says.

    Returns:
      As many arrays as ``like`` has variables, of their shapes.

    Raises:
      ValueError: For what this Keras optimizer cannot hold, by name.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from rmsprop_optax import interchange, rmsprop
      >>> tx = rmsprop(0.01)
      >>> variables = [30, 0.01, np.array([4.0, 9.0], np.float32)]
      >>> opt_state = tx.init({"w": jnp.ones(2)})
      >>> interchange.keras.export_state(opt_state, variables, tx)
      [array(30, dtype=int32), array(0.01, dtype=float32), array([0., 0.], dtype=float32)]
    """
    check_step(step)
    holds = (AverageParamsState, AccumulateGradientsState)
    current = read_for("Keras's RMSprop", opt_state, holds)
    check_rate_place(current, True, "Keras", "keras")
    configs = configurations(tx, opt_state, current)
    likes = _values(like, current)
    slots = _layout(current, len(likes))
    where = places(current, order, convert, _names(like, slots))
    _compare(like, likes, slots, where, configs, current, ignore)
    result = []
    for (slot, i), old in zip(slots, likes, strict=True):
        if slot == "iteration":
            k = _steps(current, configs)
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
        else:
            path = where[i].path
            array = give(getattr(current, slot)[path], where[i])
            if array.shape != np.shape(old):
                raise ValueError(
                    f"`{_SLOTS[slot]}` of '{path}' has shape {array.shape}, the "
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
    write_variables(fspath(path), arrays)


def _values(foreign: Any, current: Slots) -> list[Any]:
    """The arrays of the variables, wherever they are."""
    if isinstance(foreign, (str, PathLike)):
        largest = max([1, *(array.size for array in current.nu.values())])
        return read_variables(fspath(foreign), largest)
    if isinstance(foreign, Mapping):
        missing = [str(i) for i in range(len(foreign)) if str(i) not in foreign]
        if missing:
            raise ValueError(f"The Keras state lacks the variables {missing}.")
        return [np.asarray(foreign[str(i)]) for i in range(len(foreign))]
    variables = getattr(foreign, "variables", foreign)
    if not isinstance(variables, Sequence):
        raise TypeError(
            "`foreign` (or `like`) must be a Keras optimizer, its variables or a file, "
            f"got {foreign!r}."
        )
    return [np.asarray(getattr(variable, "value", variable)) for variable in variables]


def _layout(current: Slots, length: int) -> list[tuple[str, int]]:
    """What each variable is: its slot, and the number of its parameter in Keras."""
    held = [slot for slot in _SLOTS if getattr(current, slot) is not None]
    n = len(current.nu)
    slots = [(slot, i) for slot in held for i in range(n)]
    heads = {1: ["iteration"], 2: ["iteration", "learning_rate"]}
    head = heads.get(length - len(slots))
    if head is None:
        counted = ", ".join(f"{n} `{_SLOTS[slot]}`" for slot in held)
        raise ValueError(
            f"The Keras state has {length} variables; with the options of the optimizer "
            f"state it would be `iteration`, `learning_rate` (not with a schedule), "
            f"{counted}. Build the transformation with the options of the run; the state "
            "of a LossScaleOptimizer is that of its `inner_optimizer`."
        )
    return [(name, 0) for name in head] + slots


def _names(foreign: Any, slots: list[tuple[str, int]]) -> list[str] | None:
    """Keras's names of the parameters, in those of the optimizer's own variables."""
    variables = getattr(foreign, "variables", None)
    if variables is None:
        return None
    names = [
        variable.path
        for (slot, _), variable in zip(slots, variables, strict=True)
        if slot == "nu"
    ]
    others = [name for name in names if not name.endswith("_velocity")]
    if others:
        raise ValueError(
            f"{foreign!r} is no RMSprop with the options of the optimizer state: it has "
            f"{others} where `velocity` is expected."
        )
    return [name.removesuffix("_velocity") for name in names]


def _compare(
    foreign: Any,
    values: list[Any],
    slots: list[tuple[str, int]],
    where: list[Place],
    configs: Configs,
    current: Slots,
    ignore: Iterable[str],
) -> None:
    """The numbers of the Keras optimizer are those of the transformation.

    But for a learning rate in the state, which is imported and exported.
    """
    ignored = check_ignored(ignore, _OPTIONS)
    numbers = dict(_configuration(foreign))
    numbers.pop("learning_rate", None)  # the variable has the last one
    if not numbers.get("use_ema"):
        numbers.pop("ema_momentum", None)
    if slots[1][0] == "learning_rate":
        numbers["learning_rate"] = as_number(values[1], _RATE)
    for place, decays in zip(where, _decays(foreign, where, configs), strict=True):
        config = configs[place.path]
        check_formula(config, _FORMULA, "`rmsprop` or `dialects.keras`")
        known = "weight_decay" in numbers
        theirs = numbers if decays or not known else numbers | {"weight_decay": None}
        injected = (current.hyperparams or {}).get(place.path, {})
        moved = {"learning_rate"} if set(RATE_NAMES) & set(injected) else set()
        ignores = ignored | moved
        compare(theirs, config, _OPTIONS, ignores, "the Keras run", place.path)


def _decays(foreign: Any, where: list[Place], configs: Configs) -> list[bool]:
    """Which parameters decay in Keras, in the order of ``where``.

    The optimizer knows what `exclude_from_weight_decay` excluded. A file does not: then
    it is what `tx` excludes, if some parameters decay at all.
    """
    variables = getattr(foreign, "_trainable_variables", None)
    if variables and hasattr(foreign, "_use_weight_decay"):
        decays = foreign._use_weight_decay  # noqa: SLF001
        return [bool(decays(variable)) for variable in variables]
    here = [bool(is_on(configs[place.path].weight_decay)) for place in where]
    return here if any(here) else [True] * len(where)


def _configuration(foreign: Any) -> Mapping[str, Any]:
    """The arguments of the optimizer, where they are known."""
    if isinstance(foreign, (str, PathLike)):
        return read_configuration(fspath(foreign))
    return {name: getattr(foreign, name) for name in _OPTIONS if hasattr(foreign, name)}


def _steps(current: Slots, configs: Configs) -> int:
    """The calls of an update, by which Keras's count of calls is told from updates."""
    if current.acc_grads is None:
        return 1
    name = "gradient_accumulation_steps"
    every_k: list[Any] = [getattr(config, name) for config in configs.values()]
    if any(k is None or k != every_k[0] for k in every_k):
        raise ValueError(
            "Keras's optimizer accumulates gradients itself: build the transformation by "
            f"`{name}` of `rmsprop`, one for all."
        )
    return int(every_k[0])
