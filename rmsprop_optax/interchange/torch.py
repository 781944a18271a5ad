"""Runs of `torch.optim.RMSprop` (and timm's RMSpropTF), in and out."""

from collections.abc import Collection, Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._checks import check_name, check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    as_number,
    check_archive,
    check_keys,
    check_rate_place,
    check_slot,
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
from rmsprop_optax.interchange._weights import (
    Layout,
    Layouts,
    Weight,
    converts,
    export_weights,
    find_weights,
    import_weights,
)

__all__ = [
    "LAYOUTS",
    "export_params",
    "export_state",
    "import_params",
    "import_run",
    "import_state",
]

LAYOUTS: Layouts = {
    ("kernel", 2): Layout(("weight",), (1, 0)),
    ("kernel", 3): Layout(("weight",), (2, 1, 0)),
    ("kernel", 4): Layout(("weight",), (2, 3, 1, 0)),
    ("kernel", 5): Layout(("weight",), (2, 3, 4, 1, 0)),
    ("embedding", 2): Layout(("weight",)),
    ("scale", 1): Layout(("weight",)),
}
"""How PyTorch keeps the weights of Flax's `Linear`, `Conv`, `Embed` and norms."""

_BUFFERS = (r"\bnum_batches_tracked$", r"\brunning_(mean|var)$")

Foreign = Mapping[str, Any] | str | PathLike[str]
Order = Iterable[str | None] | Mapping[str, str] | None

_OPTIONS = {
    "lr": "learning_rate",
    "alpha": "decay",
    "eps": "eps",
    "weight_decay": "coupled_decay",
    "momentum": "momentum",
    "centered": "centered",
    "maximize": "maximize",
    "caution": "cautious",
}
_TORCH = {"eps_in_sqrt": False, "nesterov": False, "weight_decay": None}
_TIMM = {"eps_in_sqrt": True, "nesterov": False}
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
        optimizer that was built from ``model.named_parameters()``. None: such names
        tell which is which, where they end with our paths; else our own order is
        PyTorch's, which is refused where parameters of one shape could be exchanged.
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
    state_dict = _state_dict(foreign, key)
    groups, state = state_dict["param_groups"], state_dict["state"]
    current = read(opt_state)
    _check_momentum(groups, current)
    where = _places(groups, current, order, convert, "The PyTorch state")
    ignored = check_ignored(ignore, _OPTIONS)
    _compare(groups, where, configurations(tx, opt_state, current), ignored)
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
            hyperparams=_hyperparams(groups, current),
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
    torch = _torch()
    like = _state_dict(like, None)
    groups = [dict(group) for group in like["param_groups"]]
    current = read_for("PyTorch", opt_state)
    where = _places(groups, current, order, convert, "`like`")
    state, injected = {}, current.hyperparams or {}
    count = current.updates if step is None else step
    if count is None:
        steps = {
            n: as_count(slots["step"], f"`state[{n}]['step']`")
            for n, slots in like["state"].items()
        }
        count = _one_step(steps)
    _check_momentum(groups, current)
    for group in groups:
        group.update({n: x for n, x in injected.items() if n in group})
    ignored = check_ignored(ignore, _OPTIONS)
    _compare(groups, where, configurations(tx, opt_state, current), ignored)
    for index, place in where.items():
        if place is None:  # frozen there, and not held here
            continue
        state[index] = {"step": torch.tensor(float(count))}
        for slot, name in _SLOTS.items():
            leaves = getattr(current, slot) or {}
            if place.path in leaves:
                array = give(leaves[place.path], place)
                state[index][name] = torch.from_numpy(np.array(array))
    _check_groups(groups, state)
    return {"state": state, "param_groups": groups}


def import_params(
    foreign: Foreign,
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = _BUFFERS,
    key: str | None = None,
) -> PyTree:
    """The weights of a PyTorch model as parameters of ours.

    A parameter ``dense/kernel`` is looked for as ``dense.weight``, transposed, as
    ``layouts`` says. The framework's name may have more in front (``module.``).

    Args:
      foreign: What ``model.state_dict()`` returned; or the path of a ``.pt`` file, read
        with ``weights_only=True``, or of a ``.safetensors`` file.
      params: Our parameters, whose tree, shapes, dtypes and shardings the result has.
      names: From our paths, or the paths of our layers, to PyTorch's names:
        ``{"hidden": "fc1", "scale": "norm.weight"}``.
      layouts: By the last part of a path and its number of axes, what PyTorch calls such
        a weight, and its axes: ``{**LAYOUTS, ("w", 2): Layout(("weight",), (1, 0))}``.
      convert: By path, a function that brings PyTorch's NumPy array into our layout, in
        the place of the transposition.
      ignore: Regular expressions of names that are not wanted. A weight that no
        parameter takes is an error otherwise.
      key: The entry of a file that holds the weights beside other things.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: For a path, where torch or safetensors is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import interchange
      >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
      >>> params = {"hidden": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
      >>> params = interchange.torch.import_params(
      ...     model.state_dict(), params, names={"hidden": "0"}
      ... )
      >>> bool((params["hidden"]["kernel"] == model[0].weight.detach().numpy().T).all())
      True
    """
    if key is not None:
        check_name("key", key)
    theirs = _weights(foreign, key)
    weights = find_weights(params, theirs, names, layouts, ignore, ".")
    return import_weights(params, weights, theirs.__getitem__, convert)


def export_params(
    params: PyTree,
    like: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = _BUFFERS,
) -> dict[str, Any]:
    """Our parameters as what ``model.load_state_dict`` takes.

    Args:
      params: Our parameters.
      like: ``model.state_dict()`` of the model that is to have them; what `ignore` names
        stays as it is there.
      names: As for [`import_params`][rmsprop_optax.interchange.torch.import_params].
      layouts: As there.
      convert: By path, a function that brings our NumPy array into PyTorch's layout.
      ignore: As there.

    Returns:
      A state dictionary of tensors in the dtypes of ``like``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: Where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import interchange
      >>> model = torch.nn.Linear(3, 2)
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
      >>> like = model.state_dict()
      >>> model.load_state_dict(interchange.torch.export_params(params, like))
      <All keys matched successfully>
    """
    torch = _torch()
    weights = find_weights(params, like, names, layouts, ignore, ".")
    result = dict(like)
    for name, array in export_weights(params, weights, convert).items():
        if tuple(like[name].shape) != array.shape:
            raise ValueError(
                f"`{name}` has shape {tuple(like[name].shape)} in `like`, {array.shape} "
                "here: give `convert`."
            )
        # NumPy's bfloat16 is none that PyTorch knows.
        wide = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        result[name] = torch.tensor(wide, dtype=like[name].dtype)
    return result


def import_run(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    model: str = "model",
    optimizer: str = "optimizer",
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = _BUFFERS,
    order: Order = None,
    ignore: Iterable[str] = (),
    fresh: Iterable[str] = (),
) -> tuple[PyTree, PyTree]:
    """Weights and optimizer state of a PyTorch checkpoint, in one call.

    Args:
      foreign: A checkpoint with the state dictionaries of both, or its path.
      params: As for [`import_params`][rmsprop_optax.interchange.torch.import_params].
      opt_state: As for [`import_state`][rmsprop_optax.interchange.torch.import_state].
      tx: As there.
      model: The key of the model's state dictionary.
      optimizer: The key of the optimizer's.
      names: As for `import_params`.
      layouts: As there; moments are laid out as their weights.
      convert: By path, for the weight and its moments.
      ignore_weights: ``ignore`` of `import_params`.
      order: As for `import_state`. None: the names in the optimizer's state; without
        names, for one parameter group, the order of the model's weights.
      ignore: As for `import_state`.
      fresh: As for `import_state`.

    Returns:
      The parameters and the state.

    Raises:
      ValueError: As for the two.
      ImportError: For a path, where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import dialects, interchange
      >>> model = torch.nn.Linear(3, 2)
      >>> optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
      >>> model(torch.ones(1, 3)).sum().backward(); optimizer.step()
      >>> run = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
      >>> tx = dialects.torch(lr=1e-2)
      >>> params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
      >>> params, opt_state = interchange.torch.import_run(
      ...     run, params, tx.init(params), tx
      ... )
    """
    if isinstance(foreign, (str, PathLike)):
        foreign = _load(foreign, None)
    for name, key in (("model", model), ("optimizer", optimizer)):
        check_name(name, key)
        if not isinstance(foreign, Mapping) or key not in foreign:
            there = list(foreign) if isinstance(foreign, Mapping) else type(foreign)
            raise ValueError(
                f"The checkpoint lacks {key!r}, which `{name}` names: {there}."
            )
    theirs, state_dict = foreign[model], _state_dict(foreign[optimizer], None)
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, ignored, ".")
    if order is None:
        order = _order_of_model(weights, theirs, state_dict["param_groups"])
    converts_both = converts(weights, convert)
    params = import_weights(params, weights, theirs.__getitem__, convert)
    opt_state = import_state(
        state_dict,
        opt_state,
        tx,
        order=order,
        convert=converts_both,
        ignore=ignore,
        fresh=fresh,
    )
    return params, opt_state


def _order_of_model(
    weights: list[Weight], theirs: Mapping[str, Any], groups: list[Any]
) -> Order:
    """The optimizer got the parameters as the model has them, if in one group."""
    paths = {w.name: w.path for w in weights}
    if all("param_names" in group for group in groups):
        return {path: name for name, path in paths.items()}
    if len(groups) == 1:
        return [paths[name] for name in theirs if name in paths]
    return None


def _weights(foreign: Any, key: str | None) -> Mapping[str, Any]:
    """The weights by name, wherever they are."""
    if isinstance(foreign, (str, PathLike)):
        if fspath(foreign).endswith(".safetensors"):
            return _load_safetensors(fspath(foreign))
        foreign = _load(foreign, key)
    if not isinstance(foreign, Mapping) or not all(map(_has_shape, foreign.values())):
        raise ValueError(
            "The weights must be a mapping from names to tensors, as "
            "`model.state_dict()` returns it; of a file, name the entry with `key`."
        )
    return foreign


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape")


def _load_safetensors(path: str) -> Mapping[str, Any]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "Files of safetensors need it: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # of the library, by its version
        raise ValueError(
            f"The file {path!r} can't be read as safetensors: {error}"
        ) from error


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch's files and tensors need torch: pip install torch"
        ) from error
    return torch


def _state_dict(foreign: Any, key: str | None) -> Mapping[str, Any]:
    name = "The PyTorch state"
    if isinstance(foreign, (str, PathLike)):
        name = f"The file {str(foreign)!r}"
        foreign = _load(foreign, key)
    if not isinstance(foreign, Mapping):
        raise TypeError(
            f"{name} must be a mapping with `state` and `param_groups`, as "
            f"`optimizer.state_dict()` returns it, got {type(foreign).__name__}."
        )
    if not {"state", "param_groups"} <= set(foreign):
        raise ValueError(
            f"{name} must hold `state` and `param_groups`, got {list(foreign)}: if the "
            "optimizer's state is one of these, name it with `key`, or give it alone."
        )
    for i, group in enumerate(foreign["param_groups"]):
        if "params" not in group:
            raise ValueError(f"{name} lacks `param_groups[{i}]['params']`.")
    return foreign


def _load(path: str | PathLike[str], key: str | None) -> Any:
    torch = _torch()
    check_archive(fspath(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and tensor errors, by torch's version
        raise ValueError(
            f"The file {str(path)!r} can't be read as a PyTorch checkpoint of plain "
            f"tensors (`weights_only=True`): {error}"
        ) from error
    if key is None:
        return loaded
    if not isinstance(loaded, Mapping) or key not in loaded:
        there = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(f"The file {str(path)!r} lacks {key!r}: it holds {there}.")
    return loaded[key]


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


def _hyperparams(groups: list[Any], current: Slots) -> dict[str, float]:
    """The numbers of the group, for a state under `optax.inject_hyperparams`."""
    if not current.hyperparams:
        return {}
    if len(groups) > 1:
        raise ValueError(
            f"The PyTorch state has {len(groups)} parameter groups, and the optimizer "
            "state one set of injected hyperparameters: use `optax.partition`."
        )
    names = {name: name for name in current.hyperparams if name in groups[0]}
    names |= {name: "lr" for name in RATE_NAMES if name in current.hyperparams}
    return {
        name: as_number(groups[0][key], f"`param_groups[0][{key!r}]`")
        for name, key in names.items()
        if key in groups[0]
    }


def _check_momentum(groups: list[Any], current: Slots) -> None:
    """PyTorch's momentum has the learning rate outside, timm's inside if not told."""
    for group in groups:
        inside = group.get("lr_in_momentum", False)
        check_rate_place(current, inside, "PyTorch", "timm" if inside else "torch")


def _compare(
    groups: list[Any],
    where: Mapping[int, Place | None],
    configs: Configs,
    ignore: Collection[str],
) -> None:
    """The numbers of each group are those that its parameters have here."""
    for i, group in enumerate(groups):
        of_timm = "lr_in_momentum" in group
        options = dict(_OPTIONS)
        if group.get("decoupled_decay", False):
            options["weight_decay"] = "weight_decay"
        if not group.get("momentum"):  # caution is of the momentum
            options.pop("caution")
        held = [where[index] for index in group["params"]]
        theirs = [configs[place.path] for place in held if place is not None]
        for config in {id(config): config for config in theirs}.values():
            if of_timm:
                check_formula(config, _TIMM, "`dialects.timm`")
            else:
                check_formula(config, _TORCH, "`dialects.torch`")
            compare(group, config, options, ignore, f"`param_groups[{i}]`")


def _check_groups(groups: list[Any], state: dict[int, dict[str, Any]]) -> None:
    """Each group's options are those of the slots that it is given."""
    for i, group in enumerate(groups):
        for option, name in (("momentum", "momentum_buffer"), ("centered", "grad_avg")):
            for index in [n for n in group["params"] if n in state]:
                check_slot(
                    f"`{name}` of parameter {index}",
                    name in state[index],
                    bool(group.get(option, name in state[index])),
                    f"The optimizer state, for `param_groups[{i}]` with "
                    f"{option}={group.get(option)!r},",
                )
