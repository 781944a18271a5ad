"""What comes from elsewhere: every array checked, every error with its key."""

import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import (
    check_function,
    check_mapping,
    check_names,
    check_whole_number,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._slots import Slots, nodes, read
from rmsprop_optax.transforms._averaging import AverageParamsState
from rmsprop_optax.wrappers._accumulation import AccumulateGradientsState
from rmsprop_optax.wrappers._loss_scale import DynamicLossScaleState
from rmsprop_optax.wrappers._skip_nonfinite import SkipNonfiniteState

Convert = Mapping[str, Callable[[np.ndarray], np.ndarray]]


class Place(NamedTuple):
    """Where the arrays of one parameter go: its path, and what fits there."""

    path: str
    like: np.ndarray | jax.ShapeDtypeStruct
    convert: Callable[[np.ndarray], np.ndarray] | None


def places(
    current: Slots,
    order: Iterable[str] | None,
    convert: Convert | None,
    names: Sequence[str] | None = None,
) -> list[Place]:
    """The places of a state in the order of the framework's parameters.

    Without ``order``: as the framework's ``names`` say, else in our own order, where no
    two parameters can be taken for one another.
    """
    paths = list(current.nu)
    named = None if order is None else check_names("order", order)
    chosen = _find_order(current, names) if named is None else named
    convert = {} if convert is None else convert
    check_mapping("convert", convert, check_function)
    for name, some in (("order", chosen), ("convert", list(convert))):
        unknown = [path for path in some if path not in paths]
        if unknown:
            raise ValueError(
                f"`{name}` names {unknown}, which the optimizer state does not hold. "
                f"It holds {paths}."
            )
    missing = [path for path in paths if path not in chosen]
    if missing or len(set(chosen)) != len(chosen):
        raise ValueError(
            "`order` must name every parameter once, in the order of the framework: "
            f"{missing or 'a name is there twice'} in {chosen}."
        )
    return [Place(path, current.nu[path], convert.get(path)) for path in chosen]


def _find_order(current: Slots, names: Sequence[str] | None) -> list[str]:
    paths = list(current.nu)
    found = _paths_by_name(paths, names or ())
    if found is not None:
        return found
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, array in current.nu.items():
        by_shape.setdefault(array.shape, []).append(path)
    for shape, alike in by_shape.items():
        if len(alike) > 1:
            named = f", and the names {list(names)} do not say" if names else ""
            raise ValueError(
                f"Which of {alike} comes first in the framework? All have the shape "
                f"{shape}{named}. Give `order`, the paths {sorted(paths)} in the order "
                "in which the framework has the parameters."
            )
    return paths


def _paths_by_name(paths: list[str], names: Sequence[str]) -> list[str] | None:
    """For each name the path that it ends with, if that pairs all of both."""

    def words(name: str) -> str:
        return "_" + "_".join(re.findall("[a-z0-9]+", name.lower()))

    found = []
    for name in names:
        fitting = [path for path in paths if words(name).endswith(words(path))]
        if not fitting:
            return None
        found.append(max(fitting, key=len))
    return found if sorted(found) == sorted(paths) else None


def as_array(value: Any) -> np.ndarray:
    """A tensor, or what is an array already; bfloat16, which NumPy lacks, as float32.

    HDF5 has no bfloat16 either: Keras writes it as two bytes of no type.
    """
    if hasattr(value, "detach"):
        try:
            value = value.detach().cpu().resolve_conj()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
            value = value.numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantized, 8 bits
            raise ValueError(f"this tensor can't be read, {error}") from error
    array = np.asarray(value)
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and not array.dtype.names:
        array = array.view(jnp.bfloat16).astype(np.float32)
    return array


def as_number(value: Any, key: str, kind: str = "a finite number of at least 0") -> float:
    """The number under ``key``."""
    size = math.prod(getattr(value, "shape", ()))  # before anything is allocated
    number = as_array(value) if size == 1 else np.asarray(np.nan)
    if number.dtype.kind not in "iuf" or not 0 <= float(number.ravel()[0]) < math.inf:
        raise ValueError(f"{key} must be {kind}, got {value!r}.")
    return float(number.ravel()[0])


def as_count(value: Any, key: str) -> int:
    """The count under ``key``, as int32 holds it."""
    number = as_number(value, key, "a count")
    if number % 1 or number >= 2**31:
        raise ValueError(f"{key} must be a count, got {value!r}.")
    return int(number)


def check_step(step: int | None) -> None:
    """A count of updates that int32 holds, or None."""
    if step is not None:
        check_whole_number("step", step, least=0)


def check_archive(path: str) -> None:
    """A zip file, if it is one, is stored as frameworks do, and whole.

    Neither PyTorch nor Keras compresses: so what is read is no larger than the file.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            compressed = size > os.path.getsize(path)
            damaged = None if compressed else archive.testzip()
    except Exception as error:  # zipfile has many for a damaged file
        raise ValueError(f"The file {path!r} can't be read: {error}") from error
    if compressed:
        raise ValueError(
            f"The file {path!r} is compressed, unlike a framework's own. It was not read."
        )
    if damaged is not None:
        raise ValueError(f"The file {path!r} can't be read: {damaged!r} is damaged.")


def take(value: Any, key: str, place: Place, *, square: bool = False) -> np.ndarray:
    """The array under ``key``, once it is certain that it belongs in ``place``."""
    shape = tuple(np.shape(value))
    if math.prod(shape) != place.like.size:  # before anything is allocated
        raise _wrong_shape(key, shape, place)
    try:
        array = as_array(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if array.dtype.kind not in "fc":
        raise ValueError(f"{key} must hold floating-point numbers, got {array.dtype}.")
    if place.convert is not None:
        array = np.asarray(place.convert(array))
    if array.shape != place.like.shape:
        raise _wrong_shape(key, array.shape, place)
    if np.iscomplexobj(array) != np.iscomplexobj(place.like):
        raise ValueError(
            f"{key} is {array.dtype}, '{place.path}' is kept in {place.like.dtype}: a "
            "complex parameter moves between `dialects.torch` and PyTorch only."
        )
    if not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{key} holds {array[tuple(at)]} at {at}: this run is broken.")
    if square and min(np.real(array).min(initial=0), np.imag(array).min(initial=0)) < 0:
        raise ValueError(f"{key} is a mean of squares, and holds numbers below 0.")
    if np.finfo(array.dtype).bits > np.finfo(place.like.dtype).bits:
        raise ValueError(
            f"{key} is {array.dtype}, '{place.path}' is kept in {place.like.dtype}, "
            "which would lose digits: turn on `jax_enable_x64`, or cast it in `convert`."
        )
    return array


def rounded(array: np.ndarray, dtype: Any, path: str) -> np.ndarray:
    """The values in another dtype of floats, which holds them.

    Raises:
      ValueError: For a number that becomes infinite, or loses its imaginary part.
    """
    lost = np.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating)
    holds = jnp.issubdtype(dtype, jnp.inexact) and not lost
    with np.errstate(over="ignore"):
        new = np.asarray(array).astype(dtype) if holds else array
    if not holds or not np.isfinite(new.astype(np.complex128)).all():
        raise ValueError(
            f"'{path}' has values in {array.dtype} that {jnp.dtype(dtype)} can't hold."
        )
    return new


def _wrong_shape(key: str, shape: tuple[int, ...], place: Place) -> ValueError:
    return ValueError(
        f"{key} has shape {shape}, the parameter '{place.path}' has shape "
        f"{place.like.shape}. If it is another parameter, give `order` (of TensorFlow 1: "
        "`names`); if its axes are in another order, give `convert`, such as "
        f"{{{place.path!r}: np.transpose}}."
    )


def give(array: np.ndarray, place: Place) -> np.ndarray:
    """An array of ours in the framework's layout."""
    return array if place.convert is None else np.asarray(place.convert(array))


def check_keys(
    keys: Iterable[Any], known: Sequence[Any], needed: Sequence[Any], where: str
) -> None:
    """Nothing is missing, and nothing is there that would be dropped."""
    if not isinstance(keys, Iterable) or isinstance(keys, str):
        raise ValueError(f"{where} must be a mapping, got {keys!r}.")
    missing = [key for key in needed if key not in keys]
    if missing:
        raise ValueError(f"{where} lacks {missing}.")
    extra = [key for key in keys if key not in known]
    if extra:
        raise ValueError(
            f"{where} holds {extra}, unknown to RMSprop, which has {list(known)}."
        )


def check_slot(slot: str, theirs: bool, ours: bool, where: str) -> None:
    """Both sides have this slot, or neither."""
    if theirs and not ours:
        raise ValueError(
            f"{where} holds {slot}, and the optimizer state has no place for it: build "
            "the transformation with the options that the run had."
        )
    if ours and not theirs:
        raise ValueError(
            f"{where} lacks {slot}, which the optimizer state needs: build the "
            "transformation with the options that the run had."
        )


def check_rate_place(current: Slots, inside: bool, framework: str, dialect: str) -> None:
    """The momentum of both sides has the learning rate in it, or neither's has."""
    if current.lr_in_trace is not None and current.lr_in_trace != inside:
        has, has_not = ("inside", "outside") if inside else ("outside", "inside")
        raise ValueError(
            f"The momentum of {framework} has the learning rate {has}, that of the "
            f"optimizer state {has_not}: they are different quantities. Use "
            f"`dialects.{dialect}`."
        )


_REMEDIES = {
    AverageParamsState: (
        "the average of the parameters",
        "get it with `finalize`, and give the part of the state beside it",
    ),
    AccumulateGradientsState: (
        "accumulated gradients",
        "give its `inner_state` right after an update, when they are zero",
    ),
    DynamicLossScaleState: ("a dynamic loss scale", "give its `inner_state`"),
    SkipNonfiniteState: ("the count of skipped steps", "give its `inner_state`"),
}


def read_for(framework: str, opt_state: PyTree, holds: tuple[type, ...] = ()) -> Slots:
    """The slots of a state, or an error that says what ``framework`` cannot hold."""
    current = read(opt_state)
    for node in nodes(opt_state):
        kind = type(node)
        if kind in _REMEDIES and kind not in holds:
            what, remedy = _REMEDIES[kind]
            raise ValueError(
                f"{framework} has no place for {what} ({kind.__name__}): {remedy}."
            )
        if hasattr(node, "dtype"):
            raise ValueError(
                f"The state holds an array of shape {np.shape(node)} that belongs to no "
                "transformation of this library: export the part without it."
            )
    for slot in (current.mu, current.trace):
        shared = [n for n, a in (slot or {}).items() if a.dtype != current.nu[n].dtype]
        if shared:
            raise ValueError(
                f"{framework} has a second moment for each part of a complex parameter, "
                f"the state has one for both parts of {shared}: use `dialects.torch`."
            )
    return current
