"""Runs of `tf.compat.v1.train.RMSPropOptimizer`, in and out.

tf.keras 2 (`tf.keras.optimizers.legacy.RMSprop`) has slots of the same names and
meanings; its `momentum` is there only with momentum. What a function does not say of its
arguments is on the page of [`interchange`][rmsprop_optax.interchange].
"""

import re
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from rmsprop_optax._foundation._checks import check_name, check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    check_keys,
    check_slot,
)
from rmsprop_optax.interchange._matching import (
    find_weights,
    import_weights,
    match_parameters,
    paths_by_name,
    wanted_layouts,
)
from rmsprop_optax.interchange._slots import Slots, read, read_for, write
from rmsprop_optax.interchange._tf_keras import load_checkpoint

__all__ = ["export_state", "import_params", "import_run", "import_state"]

_SLOTS = {"nu": "rms", "mu": "mg", "trace": "momentum"}


def import_run(
    foreign: str | PathLike[str],
    params: PyTree,
    opt_state: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = (),
    optimizer_name: str = "RMSProp",
) -> tuple[PyTree, PyTree]:
    """Variables and slots of a TensorFlow 1 checkpoint, in one call.

    Args:
      foreign: The prefix of the checkpoint.
      optimizer_name: As for [`import_state`][rmsprop_optax.interchange.tf1.import_state].

    Returns:
      The parameters and the state.

    Examples:
      >>> from rmsprop_optax import interchange
      >>> interchange.tf1.import_run("none.ckpt-1", {}, None)
      Traceback (most recent call last):
      ...
      ValueError: The checkpoint 'none.ckpt-1' can't be read: ...
    """
    ignored = check_names("ignore_weights", ignore_weights)
    weights, arrays = _weights(foreign, params, names, convert, ignored, optimizer_name)
    opt_state = import_state(
        foreign,
        opt_state,
        names={place.path: name for name, place in weights.items()},
        convert=convert,
        optimizer_name=optimizer_name,
    )
    return import_weights(params, weights, arrays), opt_state


def import_params(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
    optimizer_name: str = "RMSProp",
    average_name: str | None = None,
) -> PyTree:
    """The variables of a TensorFlow 1 model as parameters of ours.

    To give them back, assign each of ours to the variable of its name.

    Args:
      foreign: Arrays by the variable's name; or the prefix of a checkpoint.
      names: Names of variables are without ``:0``.
      ignore: Beside ``global_step`` and the optimizer's slots.
      optimizer_name: As for [`import_state`][rmsprop_optax.interchange.tf1.import_state].
      average_name: For the averages of the variables in their place, the ``name`` that
        they had: ``"ExponentialMovingAverage"``. Give the tree to
        [`with_average`][rmsprop_optax.with_average].

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from rmsprop_optax import interchange
      >>> variables = {"model/w": np.ones(2, np.float32)}
      >>> print(interchange.tf1.import_params(variables, {"w": jnp.zeros(2)}))
      {'w': Array([1., 1.], dtype=float32)}
    """
    ignore = check_names("ignore", ignore)
    weights, arrays = _weights(
        foreign, params, names, convert, ignore, optimizer_name, average_name
    )
    return import_weights(params, weights, arrays)


def import_state(
    foreign: Mapping[str, Any] | str | PathLike[str],
    opt_state: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    optimizer_name: str = "RMSProp",
) -> PyTree:
    """Puts the slots of a TensorFlow 1 optimizer into a state of ours.

    Args:
      foreign: The slots by name, each a mapping from the variable's name to its array:
        ``{"rms": {...}, "momentum": {...}}``, with ``"mg"`` where the run is centered,
        and ``"global_step"``, a number, where there is one. Or the prefix of a
        checkpoint that `tf.compat.v1.train.Saver` wrote (``"model.ckpt-1000"``).
      opt_state: Of [`dialects.tf1`][rmsprop_optax.dialects].
      names: Names of variables are without ``:0``. A path that is not in it is the name
        itself, whole.
      optimizer_name: The ``name`` that the optimizer had, by which a checkpoint names
        its slots.

    Returns:
      A state like ``opt_state``. Without ``global_step`` its counts stay what they are:
      TensorFlow's optimizer itself counts nothing.

    TensorFlow keeps a ``momentum`` slot even if the momentum is 0. That slot has no
    effect, and a state without momentum does not take it.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax
      >>> from rmsprop_optax import dialects, interchange
      >>> slots = {"rms": {"dense/kernel": np.array([4.0], np.float32)}}
      >>> names = {"w": "dense/kernel"}
      >>> opt_state = dialects.tf1(0.1).init({"w": jnp.ones(1)})
      >>> opt_state = interchange.tf1.import_state(slots, opt_state, names=names)
      >>> print(optax.tree.get(opt_state, "nu")["w"])
      [4.]
    """
    check_name("optimizer_name", optimizer_name)
    current = read(opt_state)
    current.check_rate_place(True, "TensorFlow", "tf1")
    where = _places(current, names, convert)
    if isinstance(foreign, (str, PathLike)):
        centered = current.mu is not None
        foreign = _read_checkpoint(foreign, where, optimizer_name, centered)
    known = [*_SLOTS.values(), "global_step"]
    if not isinstance(foreign, Mapping):
        raise TypeError(
            "`foreign` must be a mapping of slots or the prefix of a checkpoint, got "
            f"{foreign!r}."
        )
    check_keys(foreign, known, ["rms"], "The TensorFlow state")
    result = {}
    for slot, name in _SLOTS.items():
        ours = getattr(current, slot) is not None
        if slot != "trace" or ours:
            check_slot(f"`{name}`", name in foreign, ours, "The TensorFlow state")
        if not ours:
            continue
        arrays, key = foreign[name], f"`{name}` of the TensorFlow state"
        check_keys(arrays, list(where), list(where), key)
        result[slot] = {
            place.path: place.taken(
                arrays[variable], f"`{name}[{variable!r}]`", square=slot == "nu"
            )
            for variable, place in where.items()
        }
    count = foreign.get("global_step", current.updates)
    count = None if count is None else as_count(count, "`global_step`")
    return write(opt_state, Slots(updates=count, micro=0, calls=count, **result))


def export_state(
    opt_state: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """Our state as the slots of a TensorFlow 1 optimizer.

    Args:
      opt_state: A state of [`dialects.tf1`][rmsprop_optax.dialects].
      names: As for [`import_state`][rmsprop_optax.interchange.tf1.import_state].

    Returns:
      The slots by name: ``"rms"``, ``"momentum"`` (zeros without momentum, for
      TensorFlow has the slot then too), ``"mg"`` where centered, each a mapping from the
      variable's name to its array, and ``"global_step"`` where the
      state counts. Load it by ``optimizer.get_slot(variable, slot).assign(array)``.

    Raises:
      ValueError: For what TensorFlow's optimizer cannot hold: an average of the
        parameters, accumulated gradients, a momentum without the learning rate in it.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import dialects, interchange
      >>> tx = dialects.tf1(0.1)
      >>> interchange.tf1.export_state(tx.init({"w": jnp.zeros(1)}))["rms"]
      {'w': array([1.], dtype=float32)}
    """
    current = read_for("TensorFlow 1", opt_state, step)
    current.check_rate_place(True, "TensorFlow", "tf1")
    zeros = {path: np.zeros_like(array) for path, array in current.nu.items()}
    slots = {"rms": current.nu, "momentum": current.trace or zeros, "mg": current.mu}
    where = _places(current, names, convert)
    result: dict[str, Any] = {
        name: {n: p.converted(leaves[p.path]) for n, p in where.items()}
        for name, leaves in slots.items()
        if leaves is not None
    }
    count = current.updates
    return result if count is None else result | {"global_step": count}


def _places(
    current: Slots, names: Mapping[str, str] | None, convert: Convert | None
) -> dict[str, Place]:
    """Where the slots of each variable go, by its name."""
    wanted = wanted_layouts(current.nu, names, {}, "/")
    ends = {path: layout.names for path, layout in wanted.items()}
    variables = paths_by_name(ends, "names")
    places = match_parameters(current.nu, list(variables.values()), None, convert)
    pairs = zip(variables, places, strict=True)
    return {variable: place for variable, place in pairs if place is not None}


def _read_checkpoint(
    prefix: str | PathLike[str], names: Iterable[str], optimizer_name: str, centered: bool
) -> dict[str, Any]:
    """The slots of a checkpoint, in the order in which the optimizer makes them."""
    slots = ["rms", *["mg"] * centered, "momentum"]
    entries = {
        f"{name}/{optimizer_name}{f'_{i}' if i else ''}": (slot, name)
        for name in names
        for i, slot in enumerate(slots)
    }
    arrays = load_checkpoint(fspath(prefix))
    ending = re.compile(rf"/{re.escape(optimizer_name)}(_\d)?$")
    theirs = {name for name in arrays if ending.search(name)}
    where = f"The checkpoint {fspath(prefix)!r}"
    check_keys(theirs, list(entries), list(entries), where)
    result: dict[str, Any] = {slot: {} for slot in slots}
    for entry, (slot, name) in entries.items():
        result[slot][name] = arrays[entry]
    if "global_step" in arrays:
        result["global_step"] = arrays["global_step"]
    return result


def _weights(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    names: Mapping[str, str] | None,
    convert: Convert | None,
    ignore: Iterable[str],
    optimizer_name: str,
    average_name: str | None = None,
) -> tuple[dict[str, Place], Mapping[str, Any]]:
    """Which variables, or averages, are our parameters; and their arrays."""
    check_name("optimizer_name", optimizer_name)
    ignored = (*ignore, rf"/{re.escape(optimizer_name)}(_\d)?$", "^global_step$")
    arrays = foreign if isinstance(foreign, Mapping) else load_checkpoint(fspath(foreign))
    if average_name is not None:
        check_name("average_name", average_name)
        end = f"/{average_name}"
        arrays = {n.removesuffix(end): x for n, x in arrays.items() if n.endswith(end)}
        if not arrays:
            raise ValueError(
                f"`average_name` is {average_name!r}, and no variable has a name that "
                f"ends with {end!r}."
            )
    weights = find_weights(params, sorted(arrays), names, {}, convert, ignored, "/")
    return weights, arrays
