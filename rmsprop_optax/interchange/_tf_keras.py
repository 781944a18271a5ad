"""Models and optimizers of tf.keras 2, live and in checkpoints, as Keras 3 has them.

Both kinds of its optimizer keep what Keras 3 keeps, in the same order: that of 2.11 and
later under the same names, the older one (`legacy`) as ``rms``, ``momentum``, ``mg``.
Neither has the learning rate among its variables.
"""

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from rmsprop_optax.interchange._foreign import RefusedError, Stored, imported, reading

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_LEGACY_SLOTS = ("rms", "momentum", "mg")
# Of a checkpoint, beside the model and the optimizer.
_NO_WEIGHTS = re.compile("save_counter$|(.*/)?keras_api/")
_NUMBER = re.compile(r"optimizer/_?(learning_rate|rho|momentum|decay|iterations|iter)$")
_NUMBERED = re.compile(r"optimizer/_variables/(\d+)$")


class Variable(NamedTuple):
    """A variable as Keras 3 has it."""

    path: str
    value: np.ndarray | Stored


class Optimizer(NamedTuple):
    """An optimizer as Keras 3 has it: the iteration, then slot after slot.

    A checkpoint of 2.11 and later numbers the variables, and names none.
    ``dialect`` is whose ``numbers`` it has. ``decays`` says for each parameter whether
    its weight decays; None where there is no decay, or that is not known.
    """

    variables: list[Variable | Stored]
    dialect: str
    numbers: Mapping[str, Any]
    decays: list[bool] | None = None


class Model(NamedTuple):
    """A model as Keras 3 has it. ``trainable_variables``: in the optimizer's order."""

    weights: list[Variable]
    trainable_variables: list[Variable] | None
    optimizer: Optimizer | None


def adapted(foreign: Any) -> Any:
    """What is of tf.keras 2, as Keras 3 has it; the rest as it is."""
    if isinstance(foreign, (str, PathLike)):
        prefix = _prefix(fspath(foreign))
        return foreign if prefix is None else _read_checkpoint(prefix)
    if hasattr(foreign, "trainable_variables") and _is_old(
        getattr(foreign, "weights", ())
    ):
        trained = foreign.trainable_variables
        optimizer = getattr(foreign, "optimizer", None)
        return Model(
            [_variable(v) for v in foreign.weights],
            [_variable(v) for v in trained],
            None if optimizer is None else _optimizer(optimizer, trained),
        )
    if hasattr(foreign, "iterations") and _is_old([foreign.iterations]):
        return _optimizer(foreign, None)
    return foreign


def _is_old(variables: Sequence[Any]) -> bool:
    """Whether these are variables of TensorFlow: those of Keras 3 have a path."""
    return any(hasattr(v, "numpy") and not hasattr(v, "path") for v in variables)


def _variable(variable: Any) -> Variable:
    return Variable(variable.name.removesuffix(":0"), variable.numpy())


def _optimizer(optimizer: Any, trained: Sequence[Any] | None) -> Optimizer:
    if hasattr(optimizer, "inner_optimizer"):
        raise ValueError(
            f"{optimizer!r} is a LossScaleOptimizer: give its `inner_optimizer`."
        )
    legacy = hasattr(optimizer, "get_slot_names")
    iteration, name = optimizer.iterations, re.escape(optimizer.get_config()["name"])
    pattern = f"{name}/(.+)/rms(_\\d+)?" if legacy else f"{name}/velocity/(.+)"
    variables: list[Variable | Stored] = [Variable("iteration", iteration.numpy())]
    names = []
    for variable in optimizer.variables():
        if variable is not iteration:
            full, value = _variable(variable)
            second = re.fullmatch(pattern, full)
            names += [second[1]] if second else []
            variables.append(Variable(f"{second[1]}_velocity" if second else full, value))
    if legacy:
        return Optimizer(variables, "tf_keras", optimizer.get_config())
    if trained is None and not getattr(optimizer, "_exclude_from_weight_decay", ()):
        trained = [SimpleNamespace(name=f"{x}:0", _unique_id=None) for x in names]
    decays = None
    if trained is not None:
        decays = [optimizer._use_weight_decay(v) for v in trained]  # noqa: SLF001
    return Optimizer(variables, "tf_keras_2_11", optimizer.get_config(), decays)


def _prefix(path: str) -> str | None:
    """The prefix of TensorFlow's checkpoint, if the path is that of one."""
    if os.path.isfile(f"{path}.index"):
        return path
    if not os.path.isdir(path):
        return None
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return os.path.join(path, "variables", "variables")
    if os.path.isfile(os.path.join(path, "checkpoint")):
        return path
    raise RefusedError(
        f"The folder {path!r} has neither a SavedModel nor a checkpoint of TensorFlow's."
    )


def load_checkpoint(prefix: str, *, objects: bool = False) -> dict[str, Stored]:
    """The arrays of a checkpoint by name: one of variables, or of ``objects``."""
    tf = imported("tensorflow", "TensorFlow's checkpoints need TensorFlow")
    file = f"The checkpoint {prefix!r}"
    with reading(file):
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    if (_OBJECT_GRAPH in shapes) != objects:
        kind, module = ("none", "tf1") if objects else ("one", "keras")
        raise RefusedError(
            f"{file} is {kind} of objects (TensorFlow 2): read it by "
            f"`interchange.{module}`."
        )

    def read_array(name: str) -> Any:
        with reading(file):
            if np.dtype(dtypes[name].as_numpy_dtype).kind == "O":  # of any length
                raise RefusedError(f"{file} holds no numbers under {name!r}.")
            return reader.get_tensor(name)

    return {name: Stored(x, partial(read_array, name)) for name, x in shapes.items()}


def _read_checkpoint(prefix: str) -> Model:
    """A checkpoint of objects (TensorFlow 2), whose names are paths of attributes."""
    entries = load_checkpoint(prefix, objects=True)
    found = {key.removesuffix(_VALUE): x for key, x in entries.items() if _VALUE in key}
    weights, slots, numbers, numbered = {}, {}, {}, {}
    for name, array in found.items():
        variable, _, slot = name.partition(_SLOT)
        number, numbered_one = _NUMBER.search(name), _NUMBERED.search(name)
        if slot:
            slots.setdefault(slot.rpartition("/")[2], {})[variable] = array
        elif number:
            numbers[number[1]] = array
        elif numbered_one:
            numbered[int(numbered_one[1])] = array
        elif not _NO_WEIGHTS.match(name):
            weights[name] = Variable(name, array)
    optimizer, trained = None, None
    if "iterations" in numbers:
        first = Variable("iteration", numbers.pop("iterations"))
        rest = [numbered[i] for i in sorted(numbered)]
        optimizer = Optimizer([first, *rest], "tf_keras_2_11", numbers)
    elif "iter" in numbers:
        first = Variable("iteration", numbers.pop("iter"))
        order = sorted(slots.get("rms", {}))
        trained = [weights[name] for name in order]
        rest = [
            Variable(f"{name}_velocity" if slot == "rms" else name, slots[slot][name])
            for slot in _LEGACY_SLOTS
            if slot in slots
            for name in order
        ]
        optimizer = Optimizer([first, *rest], "tf_keras", numbers)
    return Model(list(weights.values()), trained, optimizer)
