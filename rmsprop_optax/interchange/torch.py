"""Runs of `torch.optim.RMSprop` (and of timm's RMSpropTF), in and out.

What a function does not say of its arguments is on the page of
[`interchange`][rmsprop_optax.interchange].
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._chain import build
from rmsprop_optax._foundation._checks import check_name, check_names, check_whole_number
from rmsprop_optax._foundation._schedules import as_rate
from rmsprop_optax._foundation._types import LearningRate, PyTree
from rmsprop_optax.interchange._foreign import (
    Convert,
    Place,
    as_count,
    as_number,
    cast,
    check_keys,
    check_slot,
)
from rmsprop_optax.interchange._hyperparams import (
    Configs,
    check_ignored,
    compare,
    configurations,
    foreign_run,
    partitioned,
)
from rmsprop_optax.interchange._matching import (
    Layout,
    Layouts,
    Order,
    export_weights,
    find_weights,
    import_weights,
    match_parameters,
    moment_converts,
)
from rmsprop_optax.interchange._slots import (
    LOSS_SCALE,
    RATE_NAMES,
    LossScale,
    Slots,
    read,
    read_for,
    write,
)
from rmsprop_optax.interchange._torch_runs import (
    as_given,
    import_torch,
    names_of,
    order_of_model,
    read_run,
    scaling_of,
    scheduled,
    state_dict_of,
    weights_of,
)
from rmsprop_optax.wrappers._loss_scale import dynamic_loss_scale

__all__ = [
    "LAYOUTS",
    "export_params",
    "export_state",
    "import_params",
    "import_run",
    "import_state",
    "transformation",
]

Foreign = Mapping[str, Any] | str | PathLike[str]

LAYOUTS: Layouts = {
    ("kernel", 2): Layout(("weight",), (1, 0)),
    ("kernel", 3): Layout(("weight",), (2, 1, 0)),
    ("kernel", 4): Layout(("weight",), (2, 3, 1, 0)),
    ("kernel", 5): Layout(("weight",), (2, 3, 4, 1, 0)),
    ("embedding", 2): Layout(("weight",)),
    ("scale", 1): Layout(("weight",)),
    ("mean", 1): Layout(("running_mean",)),
    ("var", 1): Layout(("running_var",)),
}
"""How PyTorch keeps the weights of Flax's `Linear`, `Conv`, `Embed` and norms."""

_BUFFERS = (r"\bnum_batches_tracked$", r"\brunning_(mean|var)$", "^n_averaged$")
# What every RMSprop has in its groups; other optimizers have no `alpha`.
_NUMBERS = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
_SLOTS = {"nu": "square_avg", "mu": "grad_avg", "trace": "momentum_buffer"}


def import_run(
    foreign: Foreign,
    params: PyTree,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    model: str = "model",
    optimizer: str = "optimizer",
    scaler: str = "scaler",
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
      foreign: A checkpoint with the state dictionaries of both, or its path; or the live
        model and optimizer in their place, which tell the ``order`` too.
      model: The key of the model's state dictionary.
      optimizer: The key of the optimizer's.
      scaler: The key of the `GradScaler`'s. If it is there, its scale and its count go
        into the state of [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].
      order: None: the names in the optimizer's state; without names, for one parameter
        group, the order of the model's weights.
      fresh: As for [`import_state`][rmsprop_optax.interchange.torch.import_state].

    Returns:
      The parameters and the state.

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
    run = read_run(foreign, model, optimizer)
    theirs, state_dict = run[model], run[optimizer]
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, convert, ignored, ".")
    held = read(opt_state).nu
    if order is None:
        order = order_of_model(weights, theirs, state_dict["param_groups"], held)
    moved = import_weights(params, weights, theirs)
    opt_state = import_state(
        state_dict,
        opt_state,
        tx,
        order=order,
        convert=moment_converts(weights, held),
        ignore=ignore,
        fresh=fresh,
    )
    scaling = scaling_of(run, scaler)
    if scaling is not None:
        scale = as_number(scaling["scale"], f"`scale` of {scaler!r}")
        count = as_count(scaling["_growth_tracker"], f"`_growth_tracker` of {scaler!r}")
        slots = read(opt_state)
        check_slot(LOSS_SCALE, True, slots.loss_scale is not None, repr(scaler))
        slots = slots._replace(loss_scale=LossScale(scale, count))
        opt_state = write(opt_state, slots)
    return moved, opt_state


def transformation(
    foreign: Foreign,
    params: PyTree,
    *,
    model: str = "model",
    optimizer: str = "optimizer",
    scheduler: str = "scheduler",
    scaler: str = "scaler",
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    ignore_weights: Iterable[str] = _BUFFERS,
    order: Order = None,
    lr: LearningRate | Sequence[LearningRate] | None = None,
    updates_per_epoch: int = 1,
) -> optax.GradientTransformation:
    """The transformation that a PyTorch run was trained with, for `import_run`.

    The optimizer tells its dialect and the numbers of each group, the scheduler the
    learning rates. What the loop does by itself (clipping, accumulation, averages of the
    weights) is in no checkpoint: put it around the result.

    Args:
      foreign: As for [`import_run`][rmsprop_optax.interchange.torch.import_run].
      scheduler: The key of the scheduler's state dictionary. A run without one had none.
      scaler: The key of the `GradScaler`'s; it becomes
        [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].
      lr: The learning rate of all groups, or a list with one for each. None: that of the
        scheduler, or the number in the group.
      updates_per_epoch: How many updates there are between two steps of the scheduler.

    Returns:
      A dialect; `optax.partition` of several for several groups, or where parameters are
      not trained.

    Raises:
      ValueError: For an optimizer that is no RMSprop; a scheduler that is not known here
        or not found (give ``lr``), or not at the step of the optimizer.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import describe, interchange
      >>> net = torch.nn.Linear(3, 2)
      >>> optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-2, momentum=0.9)
      >>> run = {"model": net, "optimizer": optimizer}
      >>> params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
      >>> tx = interchange.torch.transformation(run, params)
      >>> print(describe(tx).splitlines()[1].strip())
      ν = 0.99 ν + 0.01 |g|²            mean square, 0 at first
    """
    check_name("scheduler", scheduler)
    check_whole_number("updates_per_epoch", updates_per_epoch, least=1)
    run = read_run(foreign, model, optimizer)
    theirs, state_dict = run[model], run[optimizer]
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, None, ignored, ".")
    held = {place.path: place.like for place in weights.values()}
    if order is None:
        order = order_of_model(weights, theirs, state_dict["param_groups"], held)
    elif not isinstance(order, Mapping):
        order = check_names("order", order, optional=True)
    if order is not None:
        held = {path: held[path] for path in order if path in held}
    groups = _read_groups(state_dict, held, order, None, "The PyTorch state")
    scaling = scaling_of(run, scaler)
    rates: list[Any] = list(lr) if isinstance(lr, (list, tuple)) else [lr] * len(groups)
    if len(rates) != len(groups):
        raise ValueError(f"`lr` has {len(rates)} rates, the run {len(groups)} groups.")
    if lr is None and (scheduler in run or "initial_lr" in groups[0].numbers):
        skips = scaling is not None
        rates = scheduled(run, scheduler, state_dict, updates_per_epoch, skips=skips)
    built = []
    for group, rate in zip(groups, rates, strict=True):
        check_keys(group.numbers, list(group.numbers), _NUMBERS, group.key)
        numbers = dict(group.numbers)
        if rate is not None:
            as_rate("lr", rate)
            numbers["lr"] = rate
        if numbers.get("decoupled_decay") and numbers.get("corrected_weight_decay"):
            numbers["max_lr"] = numbers.get("max_lr_snapshot")
        config = foreign_run(group.dialect, numbers, group.key, ()).config
        built.append((build(config), [place.path for place in group.held.values()]))
    tx = partitioned(built, params)
    if scaling is None:
        return tx
    scale = as_number(scaling["scale"], f"`scale` of {scaler!r}")
    steps = as_count(scaling["growth_interval"], f"`growth_interval` of {scaler!r}")
    return dynamic_loss_scale(tx, scale, steps)


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
    ``layouts`` says. The framework's name may have more in front: ``module.`` in the
    state dictionary of PyTorch's `AveragedModel` and timm's `ModelEmaV3`, whose average
    then goes into [`with_average`][rmsprop_optax.with_average].

    Args:
      foreign: What ``model.state_dict()`` returned; or the path of a ``.pt`` file, read
        with ``weights_only=True``, or of a ``.safetensors`` file.
      names: Such as ``{"hidden": "fc1", "scale": "norm.weight"}``.
      layouts: Such as ``{**LAYOUTS, ("w", 2): Layout(("weight",), (1, 0))}``.

    Returns:
      A tree like ``params``.

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
    theirs = weights_of(foreign, key)
    weights = find_weights(params, theirs, names, layouts, convert, ignore, ".")
    return import_weights(params, weights, theirs)


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
      like: ``model.state_dict()`` of the model that is to have them; what `ignore` names
        stays as it is there.

    Returns:
      A state dictionary of tensors in the dtypes of ``like``.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import interchange
      >>> model = torch.nn.Linear(3, 2)
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
      >>> like = model.state_dict()
      >>> model.load_state_dict(interchange.torch.export_params(params, like))
      <All keys matched successfully>
    """
    torch = import_torch()
    weights = find_weights(
        params, like, names, layouts, convert, ignore, ".", export=True
    )
    arrays = export_weights(weights, like)
    result = dict(like)
    for name, array in arrays.items():
        # NumPy's bfloat16 is none that PyTorch knows.
        wide = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        dtype = str(like[name].dtype).removeprefix("torch.")
        cast(wide, dtype, f"`{name}` here", "that of `like`")
        result[name] = torch.tensor(wide, dtype=like[name].dtype)
    return result


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

    Args:
      foreign: What ``optimizer.state_dict()`` returned, or `get_optimizer_state_dict` of
        `torch.distributed`, nested or flat; or the path of a file that `torch.save`
        wrote, which is read with ``weights_only=True``, without pickle.
      tx: [`dialects.torch`][rmsprop_optax.dialects], or `optax.partition` of several for
        parameter groups; `dialects.timm` for a run of timm's RMSpropTF. The numbers of
        each group must be those of its parameters here.
      order: Group after group, with None for a parameter that is frozen there and not
        held here; or a mapping from path to name, for an optimizer that was built from
        ``model.named_parameters()``.
      fresh: The paths of parameters that PyTorch has no state for, because they were
        frozen: they keep what they have in ``opt_state``.

    Returns:
      A state like ``opt_state``. Under `optax.inject_hyperparams` the numbers of the
      parameter group are in it too, the learning rate among them.

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
    state_dict = state_dict_of(foreign, key)
    state = state_dict["state"]
    current = read(opt_state)
    groups = _read_groups(state_dict, current.nu, order, convert, "The PyTorch state")
    _compare(groups, configurations(tx, opt_state, current), current, ignore)
    taken = _not_fresh(fresh, groups, state)
    check_keys(state, list(taken), list(taken), "`state` of the PyTorch state")
    result: dict[str, Any] = {
        slot: dict(leaves)
        for slot in _SLOTS
        if (leaves := getattr(current, slot)) is not None
    }
    steps = {}
    for index, place in taken.items():
        slots, where = state[index], f"state[{index}]"
        needed = ["step", "square_avg"]
        check_keys(slots, ["step", *_SLOTS.values()], needed, f"`{where}`")
        steps[place.path] = as_count(slots["step"], f"`{where}['step']`")
        for slot, name in _SLOTS.items():
            ours = place.path in result.get(slot, {})
            check_slot(f"`{name}`", name in slots, ours, f"`{where}`")
            if ours:
                key = f"`{where}[{name!r}]`"
                array = place.taken(slots[name], key, square=slot == "nu")
                result[slot][place.path] = array
    count = _one_step(steps)
    numbers = {
        place.path: {
            ours: as_number(group.numbers[theirs], f"`{theirs}` of {group.key}")
            for ours, theirs in group.injected(place.path, current).items()
        }
        for group in groups
        for place in group.held.values()
    }
    imported = Slots(updates=count, micro=0, calls=count, hyperparams=numbers, **result)
    return write(opt_state, imported)


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
      order: As for [`import_state`][rmsprop_optax.interchange.torch.import_state].
      step: PyTorch writes it down, and RMSprop does not use it.

    Returns:
      A state dictionary of tensors. Under `optax.inject_hyperparams` its groups have the
      numbers that the state holds, the learning rate among them.

    Raises:
      ValueError: For what PyTorch cannot hold: an average of the parameters, accumulated
        gradients, a momentum with the learning rate in it.

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
    torch = import_torch()
    given, like = like, state_dict_of(like, None)
    current = read_for("PyTorch", opt_state, step)
    groups = _read_groups(like, current.nu, order, convert, "`like`")
    count = current.updates
    if count is None:
        theirs = like["state"].items()
        count = _one_step(
            {n: as_count(x["step"], f"`state[{n}]['step']`") for n, x in theirs}
        )
    groups = [_with_our_numbers(group, current) for group in groups]
    _compare(groups, configurations(tx, opt_state, current), current, ignore)
    state: dict[int, dict[str, Any]] = {}
    for group in groups:
        for index, place in group.held.items():
            state[index] = {"step": torch.tensor(float(count))}
            for slot, name in _SLOTS.items():
                leaves = getattr(current, slot) or {}
                if place.path in leaves:
                    array = place.converted(leaves[place.path])
                    state[index][name] = torch.from_numpy(np.array(array))
            for option, name in (("momentum", _SLOTS["trace"]), ("centered", "grad_avg")):
                held = name in state[index]
                check_slot(
                    f"`{name}` of parameter {index}",
                    held,
                    bool(group.numbers.get(option, held)),
                    f"The optimizer state, for {group.key} with "
                    f"{option}={group.numbers.get(option)!r},",
                )
    numbers = [dict(group.numbers) for group in groups]
    return as_given({"state": state, "param_groups": numbers}, given)


class _Group(NamedTuple):
    """A parameter group: its name in messages, and what PyTorch keeps in it.

    ``held`` are its parameters that the state here holds: by number, where they go.
    """

    key: str
    numbers: Mapping[str, Any]
    held: dict[int, Place]

    @property
    def dialect(self) -> str:
        """The dialect here that it is one of."""
        return "timm" if "lr_in_momentum" in self.numbers else "torch"

    def injected(self, path: str, current: Slots) -> dict[str, str]:
        """Numbers in the state that the group has too, with its names of them."""
        injected = (current.hyperparams or {}).get(path, {})
        names = {ours: "lr" if ours in RATE_NAMES else ours for ours in injected}
        return {ours: theirs for ours, theirs in names.items() if theirs in self.numbers}


def _read_groups(
    state_dict: Mapping[str, Any],
    here: Mapping[str, Any],
    order: Order,
    convert: Convert | None,
    whose: str,
) -> list[_Group]:
    """The groups, once their parameters are matched to ours."""
    groups = state_dict["param_groups"]
    names = names_of(groups)
    if order is None and names is None and len(groups) > 1:
        raise ValueError(
            f"{whose} has {len(groups)} parameter groups and no names. Give `order`, the "
            f"paths {sorted(here)} in the order in which the optimizer got the "
            "parameters, group after group."
        )
    places = match_parameters(here, order, names, convert)
    count = sum(len(numbers["params"]) for numbers in groups)
    if len(places) != count:
        raise ValueError(
            f"{whose} has {count} parameters, and {len(places)} are trained here: "
            f"{[place and place.path for place in places]}. Give `order`."
        )
    rest = iter(places)
    found = []
    for i, numbers in enumerate(groups):
        where = {index: next(rest) for index in numbers["params"]}
        held = {index: place for index, place in where.items() if place is not None}
        found.append(_Group(f"`param_groups[{i}]`", numbers, held))
    return found


def _compare(
    groups: list[_Group], configs: Configs, current: Slots, ignore: Iterable[str]
) -> None:
    """The numbers of each group are those that its parameters have here.

    But for those in the state, which are imported and exported.
    """
    ignored = check_ignored(ignore, "torch", "timm")
    for group in groups:
        # PyTorch's momentum has the rate outside, timm's inside if not told otherwise.
        inside = group.numbers.get("lr_in_momentum", False)
        current.check_rate_place(inside, "PyTorch", "timm" if inside else "torch")
        run = foreign_run(group.dialect, group.numbers, group.key, ignored)
        for place in group.held.values():
            moved = group.injected(place.path, current).values()
            compare(run, configs[place.path], ignored.union(moved), place.path)


def _with_our_numbers(group: _Group, current: Slots) -> _Group:
    """A group with the numbers in the state that its parameters are trained with."""
    found: dict[str, float] = {}
    for place in group.held.values():
        for ours, theirs in group.injected(place.path, current).items():
            number = (current.hyperparams or {})[place.path][ours]
            other = found.setdefault(theirs, number)
            if other != number:
                raise ValueError(
                    f"{group.key} has one {theirs!r}, and its parameters have {other} "
                    f"and {number} here: they are two groups."
                )
    return group._replace(numbers={**group.numbers, **found})


def _not_fresh(
    fresh: Iterable[str], groups: list[_Group], state: Mapping[int, Any]
) -> dict[int, Place]:
    """The parameters that are imported: PyTorch has no state for those in ``fresh``."""
    names = check_names("fresh", fresh)
    held = {index: place for group in groups for index, place in group.held.items()}
    paths = {place.path: index for index, place in held.items()}
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
    return {index: place for index, place in held.items() if place.path not in names}


def _one_step(steps: Mapping[Any, int]) -> int:
    if len(set(steps.values())) > 1:
        raise ValueError(
            f"The parameters are at different steps, {steps}: a state here has one "
            "count. Where the count does not matter (no schedule), make them equal."
        )
    (step,) = set(steps.values()) or {0}
    return step
