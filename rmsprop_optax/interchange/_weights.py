"""Weights of a model: which of the framework's arrays is which of our parameters."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import (
    check_function,
    check_mapping,
    check_name,
    check_names,
)
from rmsprop_optax._foundation._dtypes import wide_dtype
from rmsprop_optax._foundation._trees import (
    is_inexact,
    leaves_with_keys,
    map_with_keys,
    path_of,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert, Place, rounded, take


class Layout(NamedTuple):
    """How a framework keeps a weight.

    Attributes:
      names: What it may call it: the last part of the name.
      axes: For each of our axes the framework's, as of `numpy.transpose`; None: the same.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None


Layouts = Mapping[tuple[str, int], Layout]
"""By the last part of our path and the number of axes."""


class Weight(NamedTuple):
    """One weight: our path, the framework's name, and how to turn the axes."""

    path: str
    like: Any
    name: str
    axes: tuple[int, ...] | None

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """The framework's array with the axes in our order."""
        return array if self.axes is None else array.transpose(self.axes)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our array with the axes in the framework's order."""
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


def find_weights(
    params: PyTree,
    theirs: Iterable[str],
    names: Mapping[str, str] | None,
    layouts: Layouts,
    ignore: Iterable[str],
    separator: str,
) -> list[Weight]:
    """Each of our parameters with the framework's name of it, one to one."""
    names = {} if names is None else names
    check_mapping("names", names, check_name)
    _check_layouts(layouts)
    ignored = [re.compile(pattern) for pattern in check_names("ignore", ignore)]
    there = list(theirs)
    unused = [n for n in there if not any(p.search(n) for p in ignored)]
    found: list[Weight] = []
    taken: set[str] = set()
    for keys, leaf in leaves_with_keys(params):
        if leaf is None or not (hasattr(leaf, "shape") and is_inexact(leaf)):
            continue
        path = path_of(keys)
        wanted, axes = _wanted(path, len(leaf.shape), names, layouts, separator)
        fits = [name for name in there if _ends_with(name, wanted, separator)]
        # What is ignored may be asked for, such as the statistics of a norm.
        fits = [name for name in fits if name in unused] or fits
        if len(fits) != 1:
            what = f"several weights, {fits}," if fits else "no weight"
            raise ValueError(
                f"'{path}' fits {what} of the model: it looks for {wanted}. Give "
                f"`names`, such as {{{path!r}: ...}} or {{'layer of ours': 'layer of "
                f"theirs'}}. The model has {there}."
            )
        if fits[0] in taken:
            raise ValueError(f"Two parameters take the weight {fits[0]!r}: give `names`.")
        taken.add(fits[0])
        found.append(Weight(path, leaf, fits[0], axes))
    unused = [name for name in unused if name not in taken]
    unknown = [path for path in names if not any(_starts(w.path, path) for w in found)]
    if unknown:
        raise ValueError(
            f"`names` names {unknown}, which are no parameters here: "
            f"{[w.path for w in found]}."
        )
    if unused:
        raise ValueError(
            f"The model has weights that are no parameters here: {unused}. Name "
            "those that are not wanted in `ignore`, by regular expressions."
        )
    return found


def _check_layouts(layouts: Layouts) -> None:
    kinds = layouts.values() if isinstance(layouts, Mapping) else [layouts]
    if not all(isinstance(kind, Layout) for kind in kinds):
        raise TypeError(
            "`layouts` must be a mapping such as {('kernel', 2): Layout(('weight',), "
            f"(1, 0))}}, got {layouts!r}."
        )


def _wanted(
    path: str, ndim: int, names: Mapping[str, str], layouts: Layouts, separator: str
) -> tuple[list[str], tuple[int, ...] | None]:
    """The names that a weight may have, and its axes."""
    *layer, leaf = path.split("/")
    layout = layouts.get((leaf, ndim), Layout((leaf,)))
    if path in names:
        return [names[path]], layout.axes
    prefix = separator.join(layer)
    for length in range(len(layer), 0, -1):
        given = names.get("/".join(layer[:length]))
        if given is not None:
            prefix = separator.join([given, *layer[length:]])
            break
    return [f"{prefix}{separator}{n}" if prefix else n for n in layout.names], layout.axes


def _ends_with(name: str, wanted: list[str], separator: str) -> bool:
    return any(name == w or name.endswith(separator + w) for w in wanted)


def _starts(path: str, start: str) -> bool:
    return path == start or path.startswith(start + "/")


def import_weights(
    params: PyTree,
    weights: list[Weight],
    read: Callable[[str], Any],
    convert: Convert | None,
) -> PyTree:
    """``params`` with the framework's values, in their dtypes and shardings."""
    found = {}
    for w in weights:
        # Weights in float32 may be rounded to a narrower parameter, as a moment is not.
        like = jax.ShapeDtypeStruct(w.like.shape, wide_dtype(w.like.dtype))
        place = Place(w.path, like, _convert(convert).get(w.path, w.to_ours))
        found[w.path] = take(read(w.name), f"`{w.name}`", place)

    def put(keys: Any, leaf: Any) -> Any:
        value = found.get(path_of(keys))
        if value is None:
            return leaf
        # A copy: `jnp.asarray` may share memory with a tensor.
        new = jnp.array(rounded(value, leaf.dtype, path_of(keys)))
        sharding = getattr(leaf, "sharding", None)
        return new if sharding is None else jax.device_put(new, sharding)

    return map_with_keys(put, params)


def export_weights(
    params: PyTree, weights: list[Weight], convert: Convert | None
) -> dict[str, np.ndarray]:
    """Our values by the framework's names, in its layout."""
    values = {path_of(keys): leaf for keys, leaf in leaves_with_keys(params)}
    return {
        w.name: np.asarray(
            _convert(convert).get(w.path, w.to_theirs)(np.asarray(values[w.path]))
        )
        for w in weights
    }


def converts(
    weights: list[Weight], convert: Convert | None, held: Collection[str]
) -> Convert:
    """The same functions for the moments, which are laid out as their parameters.

    ``held`` are the parameters that have any: those that are frozen here have none.
    """
    both = {w.path: w.to_ours for w in weights} | dict(_convert(convert))
    return {path: function for path, function in both.items() if path in held}


def _convert(convert: Convert | None) -> Convert:
    convert = {} if convert is None else convert
    check_mapping("convert", convert, check_function)
    return convert
