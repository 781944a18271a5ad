"""The optimizer's variables in `.keras` and `.weights.h5` files, by h5py alone."""

import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop_optax.interchange._foreign import check_archive

_WEIGHTS = "model.weights.h5"
_GROUP = "optimizer/vars"


def read_variables(path: str, largest: int) -> list[np.ndarray]:
    """The arrays under `optimizer/vars`, by number, of at most ``largest`` values."""
    h5py = _h5py()
    check_archive(path)
    with open(path, "rb") as file:
        content = file.read()
    try:
        with h5py.File(io.BytesIO(_weights_of(content)), "r") as weights:
            datasets = _datasets(h5py, weights, path)
            for i, dataset in enumerate(datasets):
                if dataset.size > largest:  # before anything is allocated
                    raise _RefusedError(
                        f"{_GROUP}/{i} of {path!r} has shape {dataset.shape}: that is "
                        "more than any parameter of the optimizer state has."
                    )
            return [np.asarray(dataset[()]) for dataset in datasets]
    except _RefusedError:
        raise
    except Exception as error:  # h5py has many for a damaged file
        raise ValueError(
            f"The file {path!r} can't be read as Keras's: {error}"
        ) from error


def write_variables(path: str, arrays: Sequence[np.ndarray]) -> None:
    """Replaces the file by one with ``arrays`` under `optimizer/vars`."""
    h5py = _h5py()
    check_archive(path)
    with open(path, "rb") as file:
        content = file.read()
    try:
        weights = io.BytesIO(_weights_of(content))
        with h5py.File(weights, "r+") as opened:
            datasets = _datasets(h5py, opened, path)
            if [d.shape for d in datasets] != [np.shape(a) for a in arrays]:
                raise _RefusedError(
                    f"The file {path!r} holds optimizer variables of other shapes, "
                    f"{[d.shape for d in datasets]} against "
                    f"{[np.shape(a) for a in arrays]}."
                )
            for dataset, array in zip(datasets, arrays, strict=True):
                dataset[()] = array
    except _RefusedError:
        raise
    except Exception as error:  # h5py has many for a damaged file
        raise ValueError(
            f"The file {path!r} can't be read as Keras's: {error}"
        ) from error
    _replace(path, _with_weights(content, weights.getvalue()))


class _RefusedError(ValueError):
    """A file that can be read, and is not one of ours to take."""


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras's files need h5py: pip install h5py") from error
    return h5py


def _weights_of(content: bytes) -> bytes:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(_WEIGHTS)


def _with_weights(content: bytes, weights: bytes) -> bytes:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return weights
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(result, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, weights if name == _WEIGHTS else old.read(name))
    return result.getvalue()


def _datasets(h5py: Any, weights: Any, path: str) -> list[Any]:
    if _GROUP not in weights:
        raise _RefusedError(
            f"The file {path!r} holds no optimizer ({_GROUP!r}): save a compiled model "
            "after its first step."
        )
    group = weights[_GROUP]
    missing = [str(i) for i in range(len(group)) if str(i) not in group]
    if missing:
        raise _RefusedError(f"The file {path!r} lacks {_GROUP!r} {missing}.")
    datasets = [group[str(i)] for i in range(len(group))]
    for i, dataset in enumerate(datasets):
        # A dataset may keep its bytes in another file, by any name: not from elsewhere.
        link = group.get(str(i), getlink=True)
        plain = isinstance(link, h5py.HardLink) and isinstance(dataset, h5py.Dataset)
        if not plain or dataset.external or dataset.is_virtual:
            raise _RefusedError(f"{_GROUP}/{i} of {path!r} is not an array of its own.")
    return datasets


def _replace(path: str, content: bytes) -> None:
    """Writes beside the file, to the disk, then renames: the old or the new, whole."""
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
