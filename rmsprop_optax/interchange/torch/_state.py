"""The state of `torch.optim.RMSprop` (and of timm's RMSpropTF), in and out."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import optax

from rmsprop_optax._foundation._checks import check_name, check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    check_keys,
    check_slot,
    check_step,
    give,
    places,
    read_for,
    take,
)
from rmsprop_optax.interchange._hyperparams import (
    check_ignored,
    configurations,
)
from rmsprop_optax.interchange._slots import Slots, read, write
from rmsprop_optax.interchange.torch._files import Foreign, import_torch, state_dict_of
from rmsprop_optax.interchange.torch._groups import (
    OPTIONS,
    check_momentum,
    check_slots_of_groups,
    compare_groups,
    numbers_for_group,
    numbers_of_groups,
)

Order = Iterable[str | None] | Mapping[str, str] | None
_SLOTS = {"nu": "square_avg", "mu": "grad_avg", "trace": "momentum_buffer"}


def import_state(
    foreign: Foreign,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    order: Order = None,
    convert: Convert | None = None,
    key: str | None = None,
    ignore: Iterable[str] = (),
    fresh: Iterable[str] = (),
) -> PyTree:
    """Puts the state of a PyTorch optimizer into one of ours.

    PyTorch numbers its parameters in the order in which the optimizer got them, group
    after group; ours have paths, such as ``dense/kernel``, and their order is that of
    `jax.tree.leaves` (dictionaries are sorted by key).

    Args:
      foreign: What ``optimizer.state_dict()`` returned; or the path of a file that
        `torch.save` wrote, which is read with ``weights_only=True``, without pickle.
      opt_state: The place to put it: ``tx.init(params)``.
      tx: The transformation that goes on: [`dialects.torch`][rmsprop_optax.dialects], or
        `optax.partition` of several for parameter groups; `dialects.timm` for a run of
        timm's RMSpropTF. The numbers of each group must be those of its parameters here.
      order: The paths of our parameters in PyTorch's order, with None for a parameter
        that is frozen there and not held here; or a mapping from path to name, for an
        optimizer that was built from ``model.named_parameters()``. None: parameters are
        matched by such names, if these end with our paths. Otherwise PyTorch's order is
        taken to be our own; this is refused if parameters of the same shape could be
        swapped.
      convert: By path, a function that brings a NumPy array of PyTorch's layout into
        ours: ``{"dense/kernel": np.transpose}`` for `torch.nn.Linear`.
      key: The entry of a file that holds the optimizer's state beside other things.
      ignore: Numbers of the groups that may differ from those of ``tx``: ``("lr",)``.
      fresh: The paths of parameters that PyTorch has no state for, because they were
        frozen: they keep what they have in ``opt_state``.

    Returns:
      A state like ``opt_state``, of the same structure, dtypes and shardings. Under
      `optax.inject_hyperparams` the numbers of the parameter group are in it too, the
      learning rate among them.

    Raises:
      ValueError: For what does not fit, by key and path: missing or unknown keys, a
        wrong shape or dtype, values that are not finite, a file that is damaged, numbers
        that are not those of ``tx``.
      ImportError: For a path, where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from rmsprop_optax import dialects, interchange
      >>> slots = {"step": 30.0, "square_avg": np.array([4.0, 9.0], np.float32)}
      >>> groups = [{"params": [0], "lr": 1e-2, "alpha": 0.99, "eps": 1e-8}]
      >>> state_dict = {"state": {0: slots}, "param_groups": groups}
      >>> tx = dialects.torch(lr=1e-2)
      >>> opt_state = tx.init({"scale": jnp.ones(2)})
      >>> opt_state = interchange.torch.import_state(state_dict, opt_state, tx)
      >>> import optax
      >>> print(optax.tree.get(opt_state, "nu")["scale"])
      [4. 9.]
    """
    if key is not None:
        check_name("key", key)
    state_dict = state_dict_of(foreign, key)
    groups, state = state_dict["param_groups"], state_dict["state"]
    current = read(opt_state)
    check_momentum(groups, current)
    where = _places(groups, current, order, convert, "The PyTorch state")
    ignored = check_ignored(ignore, OPTIONS)
    compare_groups(
        groups, where, configurations(tx, opt_state, current), current, ignored
    )
    fresh_paths = _fresh(fresh, where, state)
    taken = {
        index: place
        for index, place in where.items()
        if place is not None and place.path not in fresh_paths
    }
    check_keys(state, list(taken), list(taken), "`state` of the PyTorch state")
    result = {slot: dict(getattr(current, slot) or {}) for slot in _SLOTS}
    steps = {}
    for index, place in taken.items():
        arrays = _take_parameter(state[index], f"state[{index}]", place, current)
        steps[place.path] = arrays.pop("step")
        for slot, array in arrays.items():
            result[slot][place.path] = array
    count = _one_step(steps)
    return write(
        opt_state,
        Slots(
            updates=count,
            micro=0,
            calls=count,
            nu=result["nu"],
            mu=result["mu"] or None,
            trace=result["trace"] or None,
            hyperparams=numbers_of_groups(groups, where, current),
        ),
    )


def export_state(
    opt_state: PyTree,
    like: Mapping[str, Any],
    tx: optax.GradientTransformation,
    *,
    order: Order = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
    step: int | None = None,
) -> dict[str, Any]:
    """Our state, in the form that ``optimizer.load_state_dict`` takes.

    Args:
      opt_state: A state of [`dialects.torch`][rmsprop_optax.dialects] (or
        `dialects.timm`, for timm).
      like: ``optimizer.state_dict()`` of the optimizer that is to go on: its parameter
        groups are kept, with their numbers.
      tx: The transformation of the run, whose numbers must be those of ``like``.
      order: As for [`import_state`][rmsprop_optax.interchange.torch.import_state].
      convert: By path, a function that brings a NumPy array of our layout into
        PyTorch's.
      ignore: As for `import_state`.
      step: How many updates the run has made, which PyTorch writes down and RMSprop
        does not use. None: as the state counts them; where nothing in it needs a count,
        as ``like`` says.

    Returns:
      A state dictionary of tensors. Under `optax.inject_hyperparams` its groups have the
      numbers that the state holds, the learning rate among them.

    Raises:
      ValueError: For what PyTorch cannot hold: an average of the parameters, accumulated
        gradients, a momentum with the learning rate in it.
      ImportError: Where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import dialects, interchange
      >>> tx = dialects.torch(lr=1e-2)
      >>> opt_state = tx.init({"scale": jnp.ones(2)})
      >>> _, opt_state = tx.update({"scale": jnp.array([20.0, 30.0])}, opt_state)
      >>> optimizer = torch.optim.RMSprop([torch.ones(2)], lr=1e-2)
      >>> result = interchange.torch.export_state(opt_state, optimizer.state_dict(), tx)
      >>> optimizer.load_state_dict(result)
      >>> result["state"][0]["square_avg"]
      tensor([4., 9.])
    """
    check_step(step)
    torch = import_torch()
    like = state_dict_of(like, None)
    groups = [dict(group) for group in like["param_groups"]]
    current = read_for("PyTorch", opt_state)
    where = _places(groups, current, order, convert, "`like`")
    state: dict[int, dict[str, Any]] = {}
    count = current.updates if step is None else step
    if count is None:
        steps = {
            n: as_count(slots["step"], f"`state[{n}]['step']`")
            for n, slots in like["state"].items()
        }
        count = _one_step(steps)
    check_momentum(groups, current)
    for i, group in enumerate(groups):
        group.update(numbers_for_group(group, f"`param_groups[{i}]`", where, current))
    ignored = check_ignored(ignore, OPTIONS)
    compare_groups(
        groups, where, configurations(tx, opt_state, current), current, ignored
    )
    for index, place in where.items():
        if place is None:  # frozen there, and not held here
            continue
        state[index] = {"step": torch.tensor(float(count))}
        for slot, name in _SLOTS.items():
            leaves = getattr(current, slot) or {}
            if place.path in leaves:
                array = give(leaves[place.path], place)
                state[index][name] = torch.from_numpy(np.array(array))
    check_slots_of_groups(groups, state)
    return {"state": state, "param_groups": groups}


def _places(
    groups: list[Any],
    current: Slots,
    order: Order,
    convert: Convert | None,
    whose: str,
) -> dict[int, Place | None]:
    """The place of each parameter by its number; None where we do not hold it."""
    indices = [index for group in groups for index in group["params"]]
    names = None
    if all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if order is None and names is None and len(groups) > 1:
        raise ValueError(
            f"{whose} has {len(groups)} parameter groups and no names. Give `order`, the "
            f"paths {sorted(current.nu)} in the order in which the optimizer got the "
            "parameters, group after group."
        )
    paths = _order(order, names)
    held = None if paths is None else [path for path in paths if path is not None]
    where = places(current, held, convert, names)
    given = len(where) if paths is None else len(paths)
    if given != len(indices):
        raise ValueError(
            f"{whose} has {len(indices)} parameters, the optimizer state has {given}: "
            f"{[place.path for place in where]}."
        )
    if paths is None:
        return dict(zip(indices, where, strict=True))
    by_path = {place.path: place for place in where}
    return {
        index: None if path is None else by_path[path]
        for index, path in zip(indices, paths, strict=True)
    }


def _order(order: Order, names: list[str] | None) -> list[str | None] | None:
    """Paths in PyTorch's order; a mapping from path to name is turned around."""
    if not isinstance(order, Mapping):
        return None if order is None else check_names("order", order, optional=True)
    if names is None:
        raise ValueError(
            "A group has no `param_names`: PyTorch keeps names only if the optimizer was "
            "built from `model.named_parameters()`. Give `order` as a list of paths."
        )
    path_of = {name: path for path, name in order.items()}
    missing = [name for name in names if name not in path_of]
    if missing:
        raise ValueError(f"`order` has no path for PyTorch's parameters {missing}.")
    return [path_of[name] for name in names]


def _fresh(
    fresh: Iterable[str],
    where: Mapping[int, Place | None],
    state: Mapping[int, Any],
) -> list[str]:
    """The paths of ``fresh``, which are those that PyTorch has no state for."""
    names = check_names("fresh", fresh)
    paths = {place.path: index for index, place in where.items() if place is not None}
    wrong = [name for name in names if name not in paths or paths[name] in state]
    if wrong:
        raise ValueError(
            f"`fresh` names {wrong}, which the optimizer state does not hold, or PyTorch "
            "has a state for."
        )
    frozen = [p for p, index in paths.items() if index not in state and p not in names]
    if frozen:
        raise ValueError(
            f"`state` of the PyTorch state lacks an entry for {frozen}: these parameters "
            f"never got a gradient. Give fresh={frozen} to keep what `opt_state` has for "
            "them; or `order`, if they are other parameters."
        )
    return names


def _take_parameter(
    slots: Mapping[str, Any], where: str, place: Place, current: Slots
) -> dict[str, Any]:
    """What PyTorch keeps for one parameter, under our names."""
    needed = ["step", "square_avg"]
    check_keys(slots, ["step", *_SLOTS.values()], needed, f"`{where}`")
    result: dict[str, Any] = {"step": as_count(slots["step"], f"`{where}['step']`")}
    for slot, name in _SLOTS.items():
        ours = place.path in (getattr(current, slot) or {})
        check_slot(f"`{name}`", name in slots, ours, f"`{where}`")
        if ours:
            key = f"`{where}[{name!r}]`"
            square = slot == "nu"
            result[slot] = take(slots[name], key, place, square=square)
    return result


def _one_step(steps: dict[str, int]) -> int:
    if len(set(steps.values())) > 1:
        raise ValueError(
            f"The parameters are at different steps, {steps}: a state here has one "
            "count. Where the count does not matter (no schedule), make them equal."
        )
    (step,) = set(steps.values()) or {0}
    return step
