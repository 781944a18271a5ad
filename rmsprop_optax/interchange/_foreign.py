"""What comes from elsewhere: every array checked, every error with its key."""

import importlib
import math
import os
import reprlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Convert = Mapping[str, Callable[[np.ndarray], np.ndarray]]


class RefusedError(ValueError):
    """For a file that is not what was asked for: what it is, and what to do."""


def imported(name: str, need: str) -> Any:
    """A module that is optional, or an error that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{need}: pip install {package}") from error


@contextmanager
def reading(file: str, kind: str = "") -> Iterator[None]:
    """Any error in the block names the file: ``kind`` says what it should be."""
    try:
        yield
    except (FileNotFoundError, ImportError, RefusedError):
        raise
    except Exception as error:  # every library has many for a damaged file
        raise ValueError(f"{file} can't be read{kind}: {error}") from error


class Stored:
    """An array in a file, of which nothing is read before its shape is known to fit."""

    def __init__(self, shape: Iterable[int] | None, read: Callable[[], Any]) -> None:
        self.shape = tuple(shape or ())
        self._read = read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._read(), dtype, copy=copy)

    def __repr__(self) -> str:
        return f"an array of shape {self.shape}"


def is_array(value: Any) -> bool:
    """Whether a value has a shape: a nested tensor of PyTorch has none."""
    try:
        return hasattr(value, "shape")
    except RuntimeError:
        return False


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
    # Before anything is allocated:
    one = isinstance(value, Real) or (is_array(value) and math.prod(value.shape) == 1)
    number = as_array(value) if one else np.asarray(np.nan)
    if number.dtype.kind not in "iuf" or not 0 <= number.item() < math.inf:
        got = number.item() if one else quoted(value)
        raise ValueError(f"{key} must be {kind}, got {got}.")
    return number.item()


def quoted(value: Any) -> str:
    """A value in an error: short, even if it holds itself many times over."""
    short = reprlib.Repr()
    short.maxlevel = 2
    return short.repr(value)


def as_count(value: Any, key: str) -> int:
    """The count under ``key``, as int32 holds it."""
    number = as_number(value, key, "a count")
    if number % 1 or number >= 2**31:
        raise ValueError(f"{key} must be a count, got {number}.")
    return int(number)


def check_archive(path: str) -> bool:
    """Whether a file is a zip file, which then is stored as frameworks do, and whole.

    Neither PyTorch nor Keras compresses: so what is read is no larger than the file.
    """
    file = f"The file {path!r}"
    with reading(file):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > os.path.getsize(path):
                raise RefusedError(
                    f"{file} is compressed, unlike a framework's own. It was not read."
                )
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged!r} is damaged.")
    return True


class Place(NamedTuple):
    """Where the arrays of one parameter go: its path, and what fits there."""

    path: str
    like: np.ndarray | jax.ShapeDtypeStruct
    convert: Callable[[np.ndarray], np.ndarray] | None

    def converted(self, array: np.ndarray) -> np.ndarray:
        """An array in the layout of the other side."""
        return array if self.convert is None else np.asarray(self.convert(array))

    def taken(self, value: Any, key: str, *, square: bool = False) -> np.ndarray:
        """The array under ``key``, once it is certain that it belongs here."""
        if not is_array(value):
            raise ValueError(f"{key} must be an array, got {quoted(value)}.")
        shape = tuple(value.shape)
        if math.prod(shape) != self.like.size:  # before anything is allocated
            raise self._wrong_shape(key, shape)
        try:
            array = as_array(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if array.dtype.kind not in "fc":
            raise ValueError(
                f"{key} must hold floating-point numbers, got {array.dtype}."
            )
        array = self.converted(array)
        if array.shape != self.like.shape:
            raise self._wrong_shape(key, array.shape)
        if not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0].tolist()
            raise ValueError(
                f"{key} holds {array[tuple(at)]} at {at}: this run is broken."
            )
        parts = (np.real, np.imag) if square else ()
        if any(part(array).min(initial=0) < 0 for part in parts):
            raise ValueError(f"{key} is a mean of squares, and holds numbers below 0.")
        if np.finfo(array.dtype).bits > np.finfo(self.like.dtype).bits:
            raise ValueError(
                f"{key} is {array.dtype}, '{self.path}' is kept in {self.like.dtype}, "
                "which would lose digits: turn on `jax_enable_x64`, or cast it in "
                "`convert`."
            )
        return cast(array, self.like.dtype, key, f"'{self.path}'")

    def _wrong_shape(self, key: str, shape: tuple[int, ...]) -> ValueError:
        return ValueError(
            f"{key} has shape {shape}, the parameter '{self.path}' has shape "
            f"{self.like.shape}. If it is another parameter, give `order` (of TensorFlow "
            "1: `names`); if its axes are in another order, give `convert`, such as "
            f"{{{self.path!r}: np.transpose}}."
        )


def cast(array: np.ndarray, dtype: Any, what: str, where: str) -> np.ndarray:
    """The values in another dtype, which holds them.

    Raises:
      ValueError: For a number that becomes infinite, a fraction that becomes an integer,
        and for complex numbers in place of real ones or the other way round.
    """
    dtype = jnp.dtype(dtype)
    kept = f"{what} is {array.dtype}, {where} is kept in {dtype}"
    if np.iscomplexobj(array) != jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{kept}, which can't hold it: a complex parameter moves between "
            "`dialects.torch` and PyTorch only."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        new = array.astype(dtype)
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    if not (np.isfinite(new.astype(np.complex128)) if inexact else new == array).all():
        raise ValueError(
            f"{kept}, which can't hold values of up to {np.abs(array).max():.3g}: keep "
            "it in a wider dtype (a moment: `moment_storage`), or change it in `convert`."
        )
    return new


def cast_like(array: Any, like: Any, what: str, where: str) -> jax.Array:
    """The values in the dtype and the sharding of ``like``, which holds them."""
    # A copy: `jnp.asarray` may share memory with a tensor that PyTorch changes in place.
    new = jnp.array(cast(np.asarray(array), like.dtype, what, where))
    sharding = getattr(like, "sharding", None)
    return new if sharding is None else jax.device_put(new, sharding)


def check_keys(
    keys: Iterable[Any], known: Sequence[Any], needed: Sequence[Any], where: str
) -> None:
    """Nothing is missing, and nothing is there that would be dropped."""
    if not isinstance(keys, Iterable) or isinstance(keys, str):
        raise ValueError(f"{where} must be a mapping, got {quoted(keys)}.")
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
    if theirs != ours:
        holds = f"{where} holds {slot}, and the optimizer state has no place for it"
        lacks = f"{where} lacks {slot}, which the optimizer state needs"
        raise ValueError(
            f"{holds if theirs else lacks}: build the transformation with the options "
            "that the run had."
        )
