"""What PyTorch saved: checkpoints, state dictionaries, safetensors."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from rmsprop_optax.interchange._foreign import check_archive, imported, reading

Foreign = Mapping[str, Any] | str | PathLike[str]


def import_torch() -> Any:
    return imported("torch", "PyTorch's files and tensors need torch")


def load(path: str | PathLike[str], key: str | None) -> Any:
    """What `torch.save` wrote, or one entry of it, without pickle."""
    torch, file = import_torch(), f"The file {str(path)!r}"
    check_archive(fspath(path))
    kind = " as a PyTorch checkpoint of plain tensors (`weights_only=True`)"
    with reading(file, kind):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if key is None:
        return loaded
    if not isinstance(loaded, Mapping) or key not in loaded:
        there = list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(f"{file} lacks {key!r}: it holds {there}.")
    return loaded[key]


def state_dict_of(foreign: Any, key: str | None) -> Mapping[str, Any]:
    """The optimizer's state dictionary, wherever it is."""
    name = "The PyTorch state"
    if isinstance(foreign, (str, PathLike)):
        name = f"The file {str(foreign)!r}"
        foreign = load(foreign, key)
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
    groups, state = foreign["param_groups"], foreign["state"]
    if not isinstance(state, Mapping) or not all(_is_slots(x) for x in state.values()):
        raise ValueError(f"{name} has no mapping of slots in each entry of `state`.")
    if not isinstance(groups, (list, tuple)):
        raise ValueError(f"{name} must have a list in `param_groups`, got {groups!r}.")
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise ValueError(f"{name} lacks `param_groups[{i}]['params']`.")
        params, names = group["params"], group.get("param_names", [])
        if not _is_list_of(int, params) or not _is_list_of(str, names):
            raise ValueError(
                f"`param_groups[{i}]` of {name} must have a list of numbers in `params` "
                f"and of names in `param_names`, got {params!r} and {names!r}."
            )
    numbers = [number for group in groups for number in group["params"]]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} has a parameter twice in `param_groups`: {numbers}.")
    return foreign


def _is_slots(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(name, str) for name in entry)


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(x, kind) for x in value)


def weights_of(foreign: Any, key: str | None) -> Mapping[str, Any]:
    """The weights by name, wherever they are."""
    if isinstance(foreign, (str, PathLike)):
        if fspath(foreign).endswith(".safetensors"):
            library = imported("safetensors.numpy", "Files of safetensors need it")
            with reading(f"The file {fspath(foreign)!r}", " as safetensors"):
                return library.load_file(fspath(foreign))
        foreign = load(foreign, key)
    if not isinstance(foreign, Mapping) or not all(map(_has_shape, foreign.values())):
        raise ValueError(
            "The weights must be a mapping from names to tensors, as "
            "`model.state_dict()` returns it; of a file, name the entry with `key`."
        )
    return foreign


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape")
