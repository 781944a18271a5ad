"""What PyTorch saved: checkpoints, state dictionaries, safetensors."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from rmsprop_optax.interchange._foreign import check_archive

Foreign = Mapping[str, Any] | str | PathLike[str]


def import_torch() -> Any:
    """The module, or an error that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch's files and tensors need torch: pip install torch"
        ) from error
    return torch


def load(path: str | PathLike[str], key: str | None) -> Any:
    """What `torch.save` wrote, or one entry of it, without pickle."""
    torch = import_torch()
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


def load_safetensors(path: str) -> Mapping[str, Any]:
    """The arrays of a file by name."""
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
            return load_safetensors(fspath(foreign))
        foreign = load(foreign, key)
    if not isinstance(foreign, Mapping) or not all(map(_has_shape, foreign.values())):
        raise ValueError(
            "The weights must be a mapping from names to tensors, as "
            "`model.state_dict()` returns it; of a file, name the entry with `key`."
        )
    return foreign


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape")
