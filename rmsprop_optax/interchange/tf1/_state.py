"""The slots of TensorFlow 1's RMSprop, in and out."""

import re
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from rmsprop_optax._foundation._checks import check_mapping, check_name
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    as_count,
    check_keys,
    check_rate_place,
    check_slot,
    check_step,
    give,
    places,
    read_for,
    take,
)
from rmsprop_optax.interchange._slots import Slots, read, write
from rmsprop_optax.interchange.tf1._files import checkpoint_reader

_SLOTS = {"nu": "rms", "mu": "mg", "trace": "momentum"}


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
      opt_state: The place to put it: ``tx.init(params)`` of
        [`dialects.tf1`][rmsprop_optax.dialects].
      names: From the paths of our parameters to the names of TensorFlow's variables,
        without ``:0``. A path that is not in it is the name itself.
      convert: By path, a function that brings a NumPy array of TensorFlow's layout into
        ours.
      optimizer_name: The ``name`` that the optimizer had, by which a checkpoint names
        its slots.

    Returns:
      A state like ``opt_state``, of the same structure, dtypes and shardings. Without
      ``global_step`` its counts stay what they are: TensorFlow's optimizer itself counts
      nothing.

    Raises:
      ValueError: For what does not fit, by key and path: missing or unknown slots or
        variables, a wrong shape or dtype, values that are not finite, a damaged file.
      ImportError: For a checkpoint, where TensorFlow is missing.

    TensorFlow keeps a ``momentum`` slot even if the momentum is 0. That slot has no
    effect, and a state without momentum does not take it.

    Examples:
      >>> import jax.numpy as jnp, numpy as np, optax
      >>> from rmsprop_optax import dialects, interchange
      >>> tx = dialects.tf1(0.1, momentum=0.9)
      >>> slots = {
      ...     "rms": {"dense/kernel": np.array([4.0], np.float32)},
      ...     "momentum": {"dense/kernel": np.array([0.5], np.float32)},
      ...     "global_step": 30,
      ... }
      >>> opt_state = tx.init({"w": jnp.ones(1)})
      >>> opt_state = interchange.tf1.import_state(
      ...     slots, opt_state, names={"w": "dense/kernel"}
      ... )
      >>> print(optax.tree.get(opt_state, "nu")["w"])
      [4.]
    """
    check_name("optimizer_name", optimizer_name)
    current = read(opt_state)
    check_rate_place(current, True, "TensorFlow", "tf1")
    where = places(current, list(current.nu), convert)  # names tell which is which
    names = _names(names, current)
    if isinstance(foreign, (str, PathLike)):
        centered = current.mu is not None
        foreign = _read_checkpoint(foreign, names.values(), optimizer_name, centered)
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
        theirs = name in foreign
        if slot != "trace" or ours:
            check_slot(f"`{name}`", theirs, ours, "The TensorFlow state")
        if not ours:
            continue
        wanted = [names[place.path] for place in where]
        check_keys(foreign[name], wanted, wanted, f"`{name}` of the TensorFlow state")
        result[slot] = {
            place.path: take(
                foreign[name][names[place.path]],
                f"`{name}[{names[place.path]!r}]`",
                place,
                square=slot == "nu",
            )
            for place in where
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
      convert: By path, a function that brings a NumPy array of our layout into
        TensorFlow's.
      step: How many updates the run has made; None: as the state counts them.

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
    check_step(step)
    current = read_for("TensorFlow 1", opt_state)
    check_rate_place(current, True, "TensorFlow", "tf1")
    names = _names(names, current)
    result: dict[str, Any] = {"rms": {}, "momentum": {}}
    for place in places(current, list(current.nu), convert):
        name = names[place.path]
        result["rms"][name] = give(current.nu[place.path], place)
        zeros = np.zeros_like(current.nu[place.path])
        momentum = zeros if current.trace is None else current.trace[place.path]
        result["momentum"][name] = give(momentum, place)
        if current.mu is not None:
            result.setdefault("mg", {})[name] = give(current.mu[place.path], place)
    count = current.updates if step is None else step
    return result if count is None else result | {"global_step": count}


def _names(names: Mapping[str, str] | None, current: Slots) -> dict[str, str]:
    names = {} if names is None else names
    check_mapping("names", names, check_name)
    unknown = [path for path in names if path not in current.nu]
    if unknown:
        raise ValueError(
            f"`names` has {unknown}, which the optimizer state does not hold. It holds "
            f"{list(current.nu)}."
        )
    result = {path: names.get(path, path) for path in current.nu}
    if len(set(result.values())) < len(result):
        raise ValueError(f"`names` gives two parameters the same name: {result}.")
    return result


def _read_checkpoint(
    prefix: str | PathLike[str], names: Iterable[str], optimizer_name: str, centered: bool
) -> dict[str, Any]:
    """The slots of a checkpoint, in the order in which the optimizer makes them."""
    prefix, slots = fspath(prefix), ["rms", "mg", "momentum"]
    if not centered:
        slots.remove("mg")
    entries = {
        f"{name}/{optimizer_name}{f'_{i}' if i else ''}": (slot, name)
        for name in names
        for i, slot in enumerate(slots)
    }
    result: dict[str, Any] = {slot: {} for slot in slots}
    with checkpoint_reader(prefix) as reader:
        variables = set(reader.get_variable_to_shape_map())
        theirs = {
            n for n in variables if re.search(rf"/{re.escape(optimizer_name)}(_\d)?$", n)
        }
        check_keys(theirs, list(entries), list(entries), f"The checkpoint {prefix!r}")
        for entry, (slot, name) in entries.items():
            result[slot][name] = reader.get_tensor(entry)
        if "global_step" in variables:
            result["global_step"] = int(reader.get_tensor("global_step"))
    return result
