"""From the mean square to the variance and back, losing nothing on the way."""

from collections.abc import Callable

import numpy as np

Leaves = dict[str, np.ndarray]


def mean_square(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """V = w + |m|^2, which every framework keeps, from the variance w that we keep."""
    if np.iscomplexobj(variance):
        return _by_part(mean_square, variance, mean)
    wide = _wide(variance.dtype)
    return (variance.astype(wide) + _square(mean, wide)).astype(variance.dtype)


def variance(mean_sq: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """W = v - |m|^2, at least 0, rounded so that `mean_square` gives v again, bit by bit.

    Not where v < |m|^2: there the framework's own root is NaN, and the nearest run that
    goes on has w = 0.
    """
    if np.iscomplexobj(mean_sq):
        return _by_part(variance, mean_sq, mean)
    wide = _wide(mean_sq.dtype)
    exact = np.maximum(mean_sq.astype(wide) - _square(mean, wide), 0)
    nearest = exact.astype(mean_sq.dtype)
    result = nearest
    for towards in (np.inf, 0.0):
        neighbor = np.nextafter(nearest, mean_sq.dtype.type(towards))
        off = mean_square(result, mean) != mean_sq
        exact = off & (mean_square(neighbor, mean) == mean_sq)
        result = np.where(exact, neighbor, result)
    return result


def _by_part(
    rule: Callable[[np.ndarray, np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """A rule for real moments on each part of a complex parameter by itself."""
    result = np.empty_like(a)
    result.real = rule(np.real(a), np.real(b))
    result.imag = rule(np.imag(a), np.imag(b))
    return result


def _square(mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.real(mean).astype(dtype) ** 2 + np.imag(mean).astype(dtype) ** 2


def _wide(dtype: np.dtype) -> np.dtype:
    """A dtype in which a square of ``dtype`` is exact, or as near as there is one."""
    return np.dtype(np.float64 if dtype.itemsize <= 4 else np.longdouble)
