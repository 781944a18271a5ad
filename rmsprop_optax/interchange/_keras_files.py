"""Weights and optimizers in `.keras` and `.weights.h5` files, by h5py alone.

A file is not trusted. Its groups are visited once, and an array is read only after its
shape is known to fit (`Stored`), from bytes that are in the file as they are.
"""

import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from rmsprop_optax.interchange._foreign import (
    RefusedError,
    Stored,
    check_archive,
    imported,
    reading,
)

_WEIGHTS = "model.weights.h5"
_GROUP = "optimizer/vars"
_NO_LAYERS = ("vars", "optimizer", "metrics")
_DEPTH = 64  # of groups: Keras has two for each model inside a model
_NAME = 256  # characters of a layer's name
_CONFIGURATION = 2**24  # bytes: as lists of Python, JSON takes 20 times as many

# Of the LossScaleOptimizer that Keras itself puts around the optimizer of a
# `mixed_float16` model. A file has its variables, and no configuration of it.
_SCALING = {"initial_scale": 2.0**15, "dynamic_growth_steps": 2000}


def read_variables(path: str) -> list[Stored]:
    """The arrays under `optimizer/vars`, by number."""
    weights = io.BytesIO(_read(path))
    with _reading(path):
        file = _opened(path, weights)
        return [_stored(dataset, path) for dataset in _datasets(file, path)]


def write_variables(path: str, arrays: Sequence[np.ndarray]) -> None:
    """Replaces the file by one with ``arrays`` under `optimizer/vars`."""
    weights = io.BytesIO(_read(path))
    with _reading(path), _opened(path, weights, "r+") as file:
        datasets = [_plain(dataset, path) for dataset in _datasets(file, path)]
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


def read_weights(path: str) -> dict[str, Stored]:
    """The arrays of all layers by name."""
    found: dict[str, Stored] = {}
    weights = io.BytesIO(_read(path))
    with _reading(path):
        file = _opened(path, weights)
        for layers, kind, variables in _layers(file, path):
            known = _variables_of(kind)
            for number in variables:
                dataset = _own(variables, number, path)
                last = known[int(number)] if int(number) < len(known) else number
                full = "/".join((*layers, last))
                if full in found:
                    raise RefusedError(
                        f"The file {path!r} has two weights {full!r}: give the layers "
                        "names of their own."
                    )
                found[full] = _stored(dataset, path)
    return found


def _layers(file: Any, path: str) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Each group of variables, behind the names of its layers and its layer's kind.

    Links may make a circle, or many ways to one group: Keras's own files have none.
    """
    h5py = _h5py()
    seen = set()

    def entered(group: Any) -> Any:
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or group.name.count("/") > _DEPTH:
            raise RefusedError(
                f"{group.name!r} of {path!r} is linked twice or has more than {_DEPTH} "
                "groups around it, unlike in Keras's own files."
            )
        seen.add(address)
        return group

    groups: list[tuple[Any, tuple[str, ...], str]] = [(file, (), "")]
    while groups:
        group, layers, kind = groups.pop()
        children = [n for n in entered(group) if _is_own(group, n, h5py.Group)]
        if "vars" in children:
            variables = entered(group["vars"])
            layers = (*layers, _layer_name(variables, path) or kind)
            yield layers, kind, variables
        inside = [name for name in children if name not in _NO_LAYERS]
        groups += [(group[name], layers, name) for name in reversed(inside)]


def _layer_name(variables: Any, path: str) -> str | None:
    """The name that Keras writes beside a layer's variables, if it does."""
    if "name" not in variables.attrs:
        return None
    h5py, attribute = _h5py(), variables.attrs.get_id("name")
    text = h5py.check_string_dtype(attribute.dtype) is not None
    name = str(variables.attrs["name"]) if text and attribute.shape == () else None
    if name is None or len(name) > _NAME:
        raise RefusedError(f"The 'name' of {variables.name!r} of {path!r} is no name.")
    return name


def _variables_of(kind: str) -> tuple[str, ...]:
    """`dense_1` is a `dense`, `conv2d` a `conv`; () for a layer of one's own."""
    for start, names in VARIABLES.items():
        if re.fullmatch(rf"{start}(\d+d)?(_\d+)?", kind):
            return names
    return ()


def read_configuration(path: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The dialect and the arguments of the optimizer in a `.keras` file.

    And those of the LossScaleOptimizer around it, if there is one. Weights alone have no
    arguments.
    """
    if not zipfile.is_zipfile(path):
        return "keras", {}, {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        compiled = _json(archive, "config.json").get("compile_config") or {}
        optimizer, scaling = compiled.get("optimizer", {}), {}
        if optimizer.get("class_name") == "LossScaleOptimizer":
            scaling = dict(optimizer["config"])
            optimizer = scaling["inner_optimizer"]
        elif _has_inner_optimizer(path):
            scaling = dict(_SCALING)
        name, arguments = optimizer.get("class_name", "RMSprop"), optimizer.get("config")
        arguments = dict(arguments or {})
        old = False
        if "metadata.json" in archive.namelist():
            version = _json(archive, "metadata.json").get("keras_version", "")
            old = version.startswith("2.")
    if str(name).lower() != "rmsprop":
        raise ValueError(f"The file {path!r} holds the optimizer {name}, no RMSprop.")
    return "tf_keras_2_11" if old else "keras", arguments, scaling


def _has_inner_optimizer(path: str) -> bool:
    group = _h5py().Group
    file = _opened(path, io.BytesIO(_read(path)))
    return _is_own(file, "optimizer", group) and _is_own(
        file["optimizer"], "inner_optimizer", group
    )


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    size = archive.getinfo(name).file_size
    if size > _CONFIGURATION:
        raise ValueError(f"its {name} has {size} bytes.")
    return dict(json.loads(archive.read(name)))


def _read(path: str) -> bytes:
    """The weights in the file, which is one of weights or an archive with one."""
    if not check_archive(path):
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


def _opened(path: str, weights: io.BytesIO, mode: str = "r") -> Any:
    file = _h5py().File(weights, mode)
    older = _is_own(file, "model_weights", _h5py().Group)
    if older or "layer_names" in file.attrs:
        raise RefusedError(
            f"The file {path!r} has Keras's older format of HDF5. Load it by "
            "`keras.models.load_model` (or `model.load_weights`) and give the model or "
            "its optimizer, or save that as a `.keras` file."
        )
    return file


def _datasets(weights: Any, path: str) -> list[Any]:
    h5py = _h5py()
    there = _is_own(weights, "optimizer", h5py.Group)
    if not there or not _is_own(weights["optimizer"], "vars", h5py.Group):
        raise RefusedError(
            f"The file {path!r} holds no optimizer ({_GROUP!r}): save a compiled model "
            "after its first step. tf_keras saves none of `optimizers.legacy` here: give "
            "the optimizer itself."
        )
    group = weights[_GROUP]
    there, names = set(group), [str(i) for i in range(len(group))]
    missing = [name for name in names if name not in there]
    if missing:
        raise RefusedError(f"The file {path!r} lacks {_GROUP!r} {missing}.")
    return [_own(group, name, path) for name in names]


def _is_own(group: Any, name: str, kind: type) -> bool:
    """Whether an entry is in this file: a link may point into another."""
    links, key = group.id.links, name.encode()
    hard = links.exists(key) and links.get_info(key).type == _h5py().h5l.TYPE_HARD
    return hard and isinstance(group[name], kind)


def _own(group: Any, name: str, path: str) -> Any:
    if not _is_own(group, name, _h5py().Dataset):
        raise _not_plain(f"{group.name}/{name}", path)
    return group[name]


def _stored(dataset: Any, path: str) -> Stored:
    def read() -> np.ndarray:
        with _reading(path):
            return np.asarray(_plain(dataset, path)[()])

    return Stored(dataset.shape, read)


def _plain(dataset: Any, path: str) -> Any:
    """An array whose bytes are in this file, one after the other, as Keras writes it.

    Others may be in another file, of any name; or be compressed, a thousandfold; or have
    values of any size.
    """
    h5py = _h5py()
    layout, dtype = dataset.id.get_create_plist().get_layout(), dataset.dtype
    in_one = layout in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS) and not dataset.external
    if not in_one or not (dtype.kind in "fciu" or dtype == "V2"):  # V2: bfloat16
        raise _not_plain(dataset.name, path)
    return dataset


def _not_plain(name: str, path: str) -> RefusedError:
    return RefusedError(
        f"{name.strip('/')} of {path!r} is not an array of its own: it is a link, in "
        "another file, compressed, in pieces or not of numbers. Keras writes none such."
    )


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
