"""The optimizer's variables in `.keras` and `.weights.h5` files, by h5py alone."""

import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from rmsprop_optax.interchange._foreign import (
    RefusedError,
    check_archive,
    imported,
    reading,
)

_WEIGHTS = "model.weights.h5"
_GROUP = "optimizer/vars"
_NO_LAYERS = ("vars", "optimizer")


def read_variables(path: str, largest: int) -> list[np.ndarray]:
    """The arrays under `optimizer/vars`, by number, of at most ``largest`` values."""
    with _opened(path, io.BytesIO(_read(path)), "r") as file:
        return [_array(dataset, path, largest) for dataset in _datasets(file, path)]


def write_variables(path: str, arrays: Sequence[np.ndarray]) -> None:
    """Replaces the file by one with ``arrays`` under `optimizer/vars`."""
    weights = io.BytesIO(_read(path))
    with _opened(path, weights, "r+") as file:
        datasets = _datasets(file, path)
        if [d.shape for d in datasets] != [np.shape(a) for a in arrays]:
            raise RefusedError(
                f"The file {path!r} holds optimizer variables of other shapes, "
                f"{[d.shape for d in datasets]} against {[np.shape(a) for a in arrays]}."
            )
        for dataset, array in zip(datasets, arrays, strict=True):
            dataset[()] = array
    _replace(path, weights.getvalue())


VARIABLES = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "embedding": ("embeddings",),
    "group_normalization": ("gamma", "beta"),
    "layer_normalization": ("gamma", "beta"),
    "cell": ("kernel", "recurrent_kernel", "bias"),
}
"""The weights of Keras's layers in the order of their numbers, by the group in a file."""


def read_weights(path: str, largest: int) -> dict[str, np.ndarray]:
    """The arrays of all layers by name, of at most ``largest`` values."""
    found: dict[str, np.ndarray] = {}

    def read(group: Any, layers: tuple[str, ...], kind: str) -> None:
        variables = group.get("vars")
        if variables is not None:
            name = str(variables.attrs.get("name", kind))
            layers = (*layers, name)
            known = _variables_of(kind)
            for number in variables:
                dataset = _plain_dataset(variables, number, path)
                last = known[int(number)] if int(number) < len(known) else number
                full = "/".join((*layers, last))
                if full in found:
                    raise RefusedError(
                        f"The file {path!r} has two weights {full!r}: give the layers "
                        "names of their own."
                    )
                found[full] = _array(dataset, path, largest)
        for child in group:
            if child not in _NO_LAYERS and _is_own(group, child, _h5py().Group):
                read(group[child], layers, child)

    with _opened(path, io.BytesIO(_read(path)), "r") as file:
        read(file, (), "")
    return found


def _variables_of(kind: str) -> tuple[str, ...]:
    """`dense_1` is a `dense`, `conv2d` a `conv`; () for a layer of one's own."""
    for start, names in VARIABLES.items():
        if re.fullmatch(rf"{start}(\d+d)?(_\d+)?", kind):
            return names
    return ()


def read_configuration(path: str) -> dict[str, Any]:
    """The arguments of the optimizer in a `.keras` file; weights alone have none."""
    if not zipfile.is_zipfile(path):
        return {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        compiled = json.loads(archive.read("config.json")).get("compile_config") or {}
        optimizer = compiled.get("optimizer", {})
        name, arguments = optimizer.get("class_name", "RMSprop"), optimizer.get("config")
        arguments = dict(arguments or {})
    if name.lower() != "rmsprop":
        raise ValueError(f"The file {path!r} holds the optimizer {name}, no RMSprop.")
    return arguments


def _read(path: str) -> bytes:
    """The weights in the file, which is one of weights or an archive with one."""
    check_archive(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return file.read()
    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS not in archive.namelist():
            raise ValueError(
                f"The file {path!r} can't be read as Keras's: no {_WEIGHTS}."
            )
        return archive.read(_WEIGHTS)


def _h5py() -> Any:
    return imported("h5py", "Keras's files need h5py")


def _reading(path: str) -> AbstractContextManager[None]:
    return reading(f"The file {path!r}", " as Keras's")


@contextmanager
def _opened(path: str, weights: io.BytesIO, mode: str) -> Iterator[Any]:
    """The weights as a file of h5py's; any error in the block names the file."""
    h5py = _h5py()
    with _reading(path), h5py.File(weights, mode) as file:
        yield file


def _datasets(weights: Any, path: str) -> list[Any]:
    if _GROUP not in weights:
        raise RefusedError(
            f"The file {path!r} holds no optimizer ({_GROUP!r}): save a compiled model "
            "after its first step."
        )
    group = weights[_GROUP]
    missing = [str(i) for i in range(len(group)) if str(i) not in group]
    if missing:
        raise RefusedError(f"The file {path!r} lacks {_GROUP!r} {missing}.")
    return [_plain_dataset(group, str(i), path) for i in range(len(group))]


def _is_own(group: Any, name: str, kind: type) -> bool:
    """Whether an entry is in this file: a link may point into another."""
    link = group.get(name, getlink=True)
    return isinstance(link, _h5py().HardLink) and isinstance(group[name], kind)


def _plain_dataset(group: Any, name: str, path: str) -> Any:
    """An array with its bytes in this file: it may have them in another, by any name."""
    own, dataset = _is_own(group, name, _h5py().Dataset), group[name]
    if not own or dataset.external or dataset.is_virtual:
        raise RefusedError(
            f"{group.name.strip('/')}/{name} of {path!r} is not an array of its own."
        )
    return dataset


def _array(dataset: Any, path: str, largest: int) -> np.ndarray:
    if dataset.size > largest:  # before anything is allocated
        raise RefusedError(
            f"{dataset.name.strip('/')} of {path!r} has shape {dataset.shape}: that is "
            "more than any parameter has."
        )
    return np.asarray(dataset[()])


def _replace(path: str, weights: bytes) -> None:
    """Writes beside the file, to the disk, then renames: the old or the new, whole."""
    content = weights
    if zipfile.is_zipfile(path):
        archive = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(archive, "w") as new:
            for name in old.namelist():
                new.writestr(name, weights if name == _WEIGHTS else old.read(name))
        content = archive.getvalue()
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
