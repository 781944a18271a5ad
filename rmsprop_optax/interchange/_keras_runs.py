"""What Keras has in memory or in a file of a model and its optimizer, in one form."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np

from rmsprop_optax.interchange._foreign import Stored, quoted
from rmsprop_optax.interchange._hyperparams import parameters_of
from rmsprop_optax.interchange._keras_files import (
    read_configuration,
    read_variables,
    read_weights,
)
from rmsprop_optax.interchange._tf_keras import Optimizer, adapted


def weights_of(foreign: Any) -> tuple[list[str], Mapping[str, Any]]:
    """The names in a model or its file, some maybe twice; and the arrays."""
    foreign = adapted(foreign)
    if isinstance(foreign, (str, PathLike)):
        arrays = read_weights(fspath(foreign))
        return list(arrays), arrays
    if not hasattr(foreign, "weights"):
        raise TypeError(f"`foreign` must be a Keras model or its file, got {foreign!r}.")
    names = [variable.path for variable in foreign.weights]
    return names, {variable.path: _value(variable) for variable in foreign.weights}


def _value(variable: Any) -> Any:
    value = getattr(variable, "value", variable)
    return value() if callable(value) else value  # TensorFlow has a method


def as_array(variable: Any) -> np.ndarray | Stored:
    value = _value(variable)
    return value if isinstance(value, Stored) else np.asarray(value)


def values_of(foreign: Any) -> list[Any]:
    """The arrays of the variables, wherever they are."""
    if isinstance(foreign, (str, PathLike)):
        return [*read_variables(fspath(foreign))]
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
    return [as_array(variable) for variable in variables]


def is_multi(foreign: Any) -> bool:
    """Whether it is a MultiOptimizer: several, each with parameters of its own."""
    return hasattr(foreign, "optimizers")


def parts_of(foreign: Any) -> list[Any]:
    """The optimizers of a MultiOptimizer that have parameters."""
    parts = [part for part in foreign.optimizers if variables_of(part)]
    if not parts:
        raise ValueError(
            f"{quoted(foreign)} is not built: build it for the variables of the model."
        )
    for part in parts:
        if not hasattr(part, "rho"):
            names = [variable.path for variable in variables_of(part)]
            raise ValueError(
                f"The {type(part).__name__} that trains {names} is no RMSprop."
            )
    return parts


def variables_of(foreign: Any) -> list[Any]:
    """The variables that an optimizer trains, in its order."""
    return list(foreign._trainable_variables)  # noqa: SLF001


def joined(foreign: Any, arrays: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """The variables of a MultiOptimizer, with those of the optimizers of `parts_of`."""
    given = iter(arrays)
    inside = [
        array
        for part in foreign.optimizers
        for array in (next(given) if variables_of(part) else values_of(part))
    ]
    own = values_of(foreign)[1 : -len(inside)]  # after its own iteration
    return [np.asarray(array) for array in (arrays[0][0], *own, *inside)]


def parameter_names(foreign: Any, velocities: slice) -> list[str] | None:
    """Keras's names of the parameters, in those of the optimizer's own variables."""
    variables = getattr(foreign, "variables", ())[velocities]
    names = [variable.path for variable in variables if hasattr(variable, "path")]
    if not names:
        return None
    others = [name for name in names if not name.endswith("_velocity")]
    if others:
        raise ValueError(
            f"{quoted(foreign)} is no RMSprop with the options of the optimizer state: "
            f"it has {others} where `velocity` is expected."
        )
    return [name.removesuffix("_velocity") for name in names]


def decays_of(foreign: Any, variables: Sequence[Any] | None) -> list[bool] | None:
    """Which decay after `exclude_from_weight_decay`; None where that is not known."""
    if isinstance(foreign, Optimizer):
        return foreign.decays
    foreign = getattr(foreign, "inner_optimizer", foreign)
    decays = getattr(foreign, "_use_weight_decay", None)
    if not variables or decays is None:
        return None
    return [bool(decays(variable)) for variable in variables]


def configuration_of(foreign: Any) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """The dialect of the optimizer, and its arguments where they are known.

    And those of a LossScaleOptimizer around it.
    """
    scaling: Mapping[str, Any] = {}
    if isinstance(foreign, (str, PathLike)):
        dialect, numbers, scaling = read_configuration(fspath(foreign))
    elif isinstance(foreign, Optimizer):
        dialect, numbers = foreign.dialect, dict(foreign.numbers)
    else:
        if hasattr(foreign, "inner_optimizer"):
            scaling, foreign = vars(foreign), foreign.inner_optimizer
        names = [name for name in parameters_of("keras") if hasattr(foreign, name)]
        dialect, numbers = "keras", {name: getattr(foreign, name) for name in names}
        # The property calls a schedule.
        numbers["learning_rate"] = getattr(foreign, "_learning_rate", None)
    if not numbers.get("use_ema"):
        numbers.pop("ema_momentum", None)
        numbers.pop("ema_overwrite_frequency", None)
    return dialect, numbers, scaling
