"""What PyTorch saves of a run, or has in memory, in one form."""

import re
from collections.abc import Collection, Mapping
from os import PathLike, fspath
from pickle import UnpicklingError
from typing import Any

from rmsprop_optax._foundation._checks import check_name
from rmsprop_optax._foundation._types import LearningRate, Schedule
from rmsprop_optax.interchange._foreign import (
    Place,
    as_count,
    check_archive,
    check_keys,
    imported,
    is_array,
    quoted,
    reading,
)
from rmsprop_optax.interchange._matching import Order, unwrapped
from rmsprop_optax.interchange._schedules import torch_schedule


def read_run(foreign: Any, model: str, optimizer: str) -> dict[str, Any]:
    """The state dictionaries of a checkpoint, its file or of live objects, by key.

    A live model and its optimizer tell the names of the parameters.
    """
    foreign = _loaded(foreign, None)
    for argument, key in (("model", model), ("optimizer", optimizer)):
        check_name(argument, key)
        if not isinstance(foreign, Mapping) or key not in foreign:
            there = list(foreign) if isinstance(foreign, Mapping) else type(foreign)
            raise ValueError(
                f"The checkpoint lacks {key!r}, which `{argument}` names: {there}."
            )
    live: dict[str, Any] = dict(foreign)
    run: dict[str, Any] = {
        key: entry.state_dict() if hasattr(entry, "state_dict") else entry
        for key, entry in live.items()
    }
    named = getattr(live[model], "named_parameters", None)
    if named is not None and hasattr(live[optimizer], "param_groups"):
        names = {id(p): name for name, p in named()}
        groups = zip(
            run[optimizer]["param_groups"], live[optimizer].param_groups, strict=True
        )
        for group, there in groups:
            found = [names.get(id(p)) for p in there["params"]]
            if None not in found:
                group["param_names"] = found
    run[model] = weights_of(run[model], None)
    run[optimizer] = state_dict_of(run[optimizer], None)
    return run


def import_torch() -> Any:
    return imported("torch", "PyTorch's files and tensors need torch")


def _loaded(foreign: Any, key: str | None) -> Any:
    """What is in a file, or one entry of it, without pickle; or what is no path."""
    if key is not None:
        check_name("key", key)
    if not isinstance(foreign, (str, PathLike)):
        return foreign
    path = fspath(foreign)
    file = f"The file {path!r}"
    if path.endswith(".safetensors"):
        library = imported("safetensors.numpy", "Files of safetensors need it")
        with reading(file, " as safetensors"):
            return library.load_file(path)
    torch = import_torch()
    check_archive(path)
    kind = " as a PyTorch checkpoint of plain tensors (`weights_only=True`)"
    with reading(file, kind):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError) as error:
            if "weights_only" not in str(error):
                raise
            why = re.search(r"WeightsUnpickler error: (.*?)(\. |\n|$)", str(error))
            raise ValueError(
                f"{why[1] if why else 'it is of an old format'}. If you trust the file, "
                "which may run any code, give what `torch.load(path, map_location='cpu', "
                "weights_only=False)` returns in its place."
            ) from error
    if key is None:
        return loaded
    if not isinstance(loaded, Mapping) or key not in loaded:
        there = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(f"{file} lacks {key!r}: it holds {there}.")
    return loaded[key]


def state_dict_of(foreign: Any, key: str | None) -> Mapping[str, Any]:
    """The optimizer's state dictionary, wherever it is."""
    is_path = isinstance(foreign, (str, PathLike))
    name = f"The file {fspath(foreign)!r}" if is_path else "The PyTorch state"
    foreign = _loaded(foreign, key)
    if isinstance(foreign, (list, tuple)):  # Lightning has a list of optimizers
        if len(foreign) != 1:
            raise ValueError(
                f"{name} is a list of {len(foreign)}: give the state of one optimizer."
            )
        (foreign,) = foreign
    if not isinstance(foreign, Mapping):
        raise TypeError(
            f"{name} must be a mapping with `state` and `param_groups`, as "
            f"`optimizer.state_dict()` returns it, got {type(foreign).__name__}."
        )
    foreign = _by_number(foreign)
    if not {"state", "param_groups"} <= set(foreign):
        raise ValueError(
            f"{name} must hold `state` and `param_groups`, got {list(foreign)}: if the "
            "optimizer's state is one of these, name it with `key`, or give it alone."
        )
    groups, state = foreign["param_groups"], foreign["state"]
    entries = state.values() if isinstance(state, Mapping) else [state]
    if not all(isinstance(x, Mapping) and _is_list_of(str, list(x)) for x in entries):
        raise ValueError(f"{name} has no mapping of slots in each entry of `state`.")
    if not isinstance(groups, (list, tuple)):
        raise ValueError(
            f"{name} must have a list in `param_groups`, got {quoted(groups)}."
        )
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise ValueError(f"{name} lacks `param_groups[{i}]['params']`.")
        params, names = group["params"], group.get("param_names", [])
        if not _is_list_of(int, params) or not _is_list_of(str, names):
            raise ValueError(
                f"`param_groups[{i}]` of {name} must have a list of numbers in `params` "
                f"and of names in `param_names`, got {quoted(params)} and "
                f"{quoted(names)}."
            )
    numbers = [number for group in groups for number in group["params"]]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} has a parameter twice in `param_groups`: {numbers}.")
    return foreign


def weights_of(foreign: Any, key: str | None) -> Mapping[str, Any]:
    """The weights by name, wherever they are."""
    is_path = isinstance(foreign, (str, PathLike))
    name = f"The weights in {fspath(foreign)!r}" if is_path else "The weights"
    foreign = _loaded(foreign, key)
    there = foreign if isinstance(foreign, Mapping) else {None: foreign}
    for entry, tensor in there.items():
        if not isinstance(entry, str) or not is_array(tensor):
            what = quoted(foreign) if entry is None else f"{entry!r}: {quoted(tensor)}"
            raise ValueError(
                f"{name} must be a mapping from names to tensors, as "
                f"`model.state_dict()` returns it, got {what}. Of a file, name the entry "
                "with `key`."
            )
    return there


def _is_list_of(kind: type, value: Any) -> bool:
    """Whether it is a list of these; True and False are no numbers."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(x, kind) and not isinstance(x, bool) for x in value
    )


def _by_number(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """An optimizer's state with numbers and names, of one that has names alone.

    Such is that of `torch.distributed`, nested or flat.
    """
    if "state" not in given and any(f"{key}".startswith("state.") for key in given):
        given = _nested(given)
    groups, state = given.get("param_groups"), given.get("state")
    if not isinstance(groups, list) or not isinstance(state, Mapping):
        return given
    if not all(
        isinstance(g, Mapping) and _is_list_of(str, g.get("params")) for g in groups
    ):
        return given
    names = [name for group in groups for name in group["params"]]
    number = {name: i for i, name in enumerate(names)}
    numbered = []
    for group in groups:
        params = [number[name] for name in group["params"]]
        numbered.append({**group, "params": params, "param_names": group["params"]})
    return {
        "state": {number.get(name, name): slots for name, slots in state.items()},
        "param_groups": numbered,
    }


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """From entries such as `state.fc.weight.step` and `param_groups.fc.weight.lr`."""
    state: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for key, value in flat.items():
        kind, _, rest = key.partition(".")
        name, _, last = rest.rpartition(".")
        entries = state if kind == "state" else numbers
        entries.setdefault(name, {})[last] = value
    groups: list[dict[str, Any]] = []
    for name, group in numbers.items():
        if groups and groups[-1] == {**group, "params": groups[-1]["params"]}:
            groups[-1]["params"].append(name)
        else:
            groups.append({**group, "params": [name]})
    return {"state": state, "param_groups": groups}


def as_given(numbered: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state in the form of ``given``, from which `_by_number` made one."""
    if _by_number(given) is given:
        return numbered
    names = names_of(numbered["param_groups"]) or []
    state = {names[i]: slots for i, slots in numbered["state"].items()}
    groups = [
        {n: x for n, x in group.items() if n not in ("params", "param_names")}
        | {"params": list(group["param_names"])}
        for group in numbered["param_groups"]
    ]
    if "param_groups" in given:
        return {"state": state, "param_groups": groups}
    flat = {
        f"state.{n}.{slot}": x for n, slots in state.items() for slot, x in slots.items()
    }
    for group in groups:
        params = group.pop("params")
        flat |= {f"param_groups.{n}.{k}": x for n in params for k, x in group.items()}
    return flat


def names_of(groups: list[Any]) -> list[str] | None:
    """PyTorch's names of the parameters, where it keeps them."""
    if not all("param_names" in group for group in groups):
        return None
    return [name for group in groups for name in group["param_names"]]


def order_of_model(
    weights: Mapping[str, Place],
    theirs: Mapping[str, Any],
    groups: list[Any],
    held: Collection[str],
) -> Order:
    """Our paths in the optimizer's order; None for a parameter that is frozen here.

    The optimizer names its parameters, or has those of the model, in one group.
    """
    paths = {
        _plain(name): place.path if place.path in held else None
        for name, place in weights.items()
    }
    named = names_of(groups)
    if named is not None:
        if not {_plain(name) for name in named} <= set(paths):
            # The error says which are unknown.
            return {place.path: name for name, place in weights.items()}
        return [paths[_plain(name)] for name in named]
    if len(groups) > 1:
        return None
    order = [paths[_plain(name)] for name in theirs if _plain(name) in paths]
    trained = [path for path in order if path is not None]
    return trained if len(groups[0]["params"]) == len(trained) else order


def _plain(name: str) -> str:
    """A name in the network itself, which `DistributedDataParallel` calls `module`."""
    return unwrapped(name, ".").removeprefix("module.")


_FACTORS = {"growth_factor": 2.0, "backoff_factor": 0.5}


def scaling_of(run: Mapping[str, Any], scaler: str) -> Mapping[str, Any] | None:
    """The state dictionary of a `GradScaler`; None without one, or if it is disabled."""
    check_name("scaler", scaler)
    saved = run.get(scaler) or None
    if saved is not None:
        needed = ("scale", "_growth_tracker", *_FACTORS, "growth_interval")
        check_keys(saved, needed, needed, repr(scaler))
        for name, factor in _FACTORS.items():
            if saved[name] != factor:
                raise ValueError(
                    f"`{name}` of {scaler!r} is {saved[name]!r}, and {factor} in "
                    "`dynamic_loss_scale`."
                )
    return saved


def scheduled(
    run: Mapping[str, Any],
    scheduler: str,
    state_dict: Mapping[str, Any],
    updates_per_epoch: int,
    *,
    skips: bool,
) -> list[LearningRate | None]:
    """The learning rate of each group by updates, once the counts are compared."""
    if scheduler not in run:
        raise ValueError(
            f"The run had a scheduler (`initial_lr` is in its groups), and {scheduler!r} "
            f"is not in the checkpoint: {list(run)}. Name its entry with `scheduler`, or "
            "give `lr`."
        )
    saved = run[scheduler]
    groups = state_dict["param_groups"]
    by_epoch = [torch_schedule(saved, group, i) for i, group in enumerate(groups)]
    steps = [as_count(x.get("step"), "`step`") for x in state_dict["state"].values()]
    updates, epochs = max(steps, default=0), saved["last_epoch"]
    # A loop steps its scheduler after an update that the GradScaler skipped too.
    skipped = max(0, epochs - updates) if skips and updates_per_epoch == 1 else 0
    if (updates + skipped) // updates_per_epoch != epochs:
        raise ValueError(
            f"The optimizer has made {updates} updates, the scheduler {epochs} steps, "
            f"and `updates_per_epoch` is {updates_per_epoch}: give the number of updates "
            "between two steps of the scheduler, or `lr`."
        )

    def by_update(schedule: Schedule) -> Schedule:
        def rate(update: Any) -> Any:
            return schedule((update + skipped) // updates_per_epoch)

        return rate

    return [by_update(schedule) for schedule in by_epoch]
