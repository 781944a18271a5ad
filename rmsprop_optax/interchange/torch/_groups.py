"""The numbers of PyTorch's parameter groups, and those of the transformation."""

from collections.abc import Collection, Mapping
from typing import Any

from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax.interchange._foreign import (
    Place,
    as_number,
    check_rate_place,
    check_slot,
)
from rmsprop_optax.interchange._hyperparams import Configs, check_formula, compare
from rmsprop_optax.interchange._slots import RATE_NAMES, Slots

OPTIONS = {
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


def numbers_of_groups(
    groups: list[Any], where: Mapping[int, Place | None], current: Slots
) -> dict[str, dict[str, float]]:
    """The numbers of the groups, for a state under `optax.inject_hyperparams`."""
    return {
        path: {
            name: as_number(group[key], f"`{key}` of `param_groups[{i}]`")
            for name, key in _moved(group, path, current).items()
        }
        for i, group in enumerate(groups)
        for path in _paths_of(group, where)
    }


def numbers_for_group(
    group: Mapping[str, Any],
    name: str,
    where: Mapping[int, Place | None],
    current: Slots,
) -> dict[str, float]:
    """The numbers in the state that the parameters of a group are trained with."""
    found: dict[str, set[float]] = {}
    for path in _paths_of(group, where):
        for ours, key in _moved(group, path, current).items():
            found.setdefault(key, set()).add((current.hyperparams or {})[path][ours])
    for key, values in found.items():
        if len(values) > 1:
            raise ValueError(
                f"{name} has one {key!r}, and its parameters have {sorted(values)} here: "
                "they are two groups."
            )
    return {key: values.pop() for key, values in found.items()}


def _moved(group: Mapping[str, Any], path: str, current: Slots) -> dict[str, str]:
    """Names of injected numbers that a group has too, and what it calls them."""
    injected = (current.hyperparams or {}).get(path, {})
    names = {name: name for name in injected if name in group}
    names |= {name: "lr" for name in RATE_NAMES if name in injected and "lr" in group}
    return names


def _paths_of(group: Mapping[str, Any], where: Mapping[int, Place | None]) -> list[str]:
    places = [where[index] for index in group["params"]]
    return [place.path for place in places if place is not None]


def check_momentum(groups: list[Any], current: Slots) -> None:
    """PyTorch's momentum has the learning rate outside, timm's inside if not told."""
    for group in groups:
        inside = group.get("lr_in_momentum", False)
        check_rate_place(current, inside, "PyTorch", "timm" if inside else "torch")


def compare_groups(
    groups: list[Any],
    where: Mapping[int, Place | None],
    configs: Configs,
    current: Slots,
    ignore: Collection[str],
) -> None:
    """The numbers of each group are those that its parameters have here.

    But for those in the state, which are imported and exported.
    """
    for i, group in enumerate(groups):
        of_timm = "lr_in_momentum" in group
        options = dict(OPTIONS)
        decoupled = bool(group.get("decoupled_decay", False))
        if decoupled:
            options["weight_decay"] = "weight_decay"
        if not group.get("momentum"):  # caution is of the momentum
            options.pop("caution")
        for path in _paths_of(group, where):
            if of_timm:
                other = "coupled_decay" if decoupled else "weight_decay"
                check_formula(configs[path], {**_TIMM, other: None}, "`dialects.timm`")
                if "weight_decay" not in ignore:
                    _check_correction(group, configs[path], path)
            else:
                check_formula(configs[path], _TORCH, "`dialects.torch`")
            name = f"`param_groups[{i}]`"
            ignores = {*ignore, *_moved(group, path, current).values()}
            compare(group, configs[path], options, ignores, name, path)


def _check_correction(group: Mapping[str, Any], config: RmspropConfig, path: str) -> None:
    """timm's decay goes down with the rate, or with its square, on both sides."""
    corrects = bool(group.get("decoupled_decay")) and bool(group.get("weight_decay"))
    corrects = corrects and bool(group.get("corrected_weight_decay"))
    ours = is_on(config.weight_decay) and config.decay_rate is not None
    if corrects != ours:
        raise ValueError(
            f"`corrected_weight_decay` of the PyTorch run is {corrects}, and `tx` trains "
            f"'{path}' with {ours}. Build it with the arguments of the run."
        )


def check_slots_of_groups(groups: list[Any], state: dict[int, dict[str, Any]]) -> None:
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
