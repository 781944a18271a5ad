"""Which of the framework's arrays is which of our parameters: by name, or by order."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
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
from rmsprop_optax.interchange._foreign import Convert, Place, cast_like

Order = Iterable[str | None] | Mapping[str, str] | None


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


_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def unwrapped(name: str, separator: str) -> str:
    """A name without the parts that PyTorch's wrappers put into the middle of it."""
    return separator.join(x for x in name.split(separator) if x not in _WRAPPERS)


def match(
    paths: Mapping[str, str], names: Iterable[str], separator: str
) -> list[str | None]:
    """For each of the framework's names the path of our parameter, or None.

    ``paths`` has them by the end of a name, in whole parts between separators. Of several
    ends that a name has, the longest is taken.
    """
    paths = {unwrapped(end, separator): path for end, path in paths.items()}
    found = []
    for name in names:
        parts = unwrapped(name, separator).split(separator)
        ends = (separator.join(parts[i:]) for i in range(len(parts)))
        found.append(next((paths[end] for end in ends if end in paths), None))
    return found


def paths_by_name(names: Mapping[str, Sequence[str]], argument: str) -> dict[str, str]:
    """``names`` that each parameter may have, turned around, for `match`."""
    paths: dict[str, str] = {}
    for path, ends in names.items():
        for end in ends:
            if paths.setdefault(end, path) != path:
                raise ValueError(
                    f"The parameters '{paths[end]}' and '{path}' both look for {end!r}: "
                    f"give each its own name in `{argument}`."
                )
    return paths


def match_parameters(
    held: Mapping[str, Any],
    order: Order,
    names: Sequence[str] | None,
    convert: Convert | None,
) -> list[Place | None]:
    """Where each parameter of the framework goes, in its order; None: not held here.

    ``held`` are the parameters, or their moments, by path. Without ``order``: as the
    framework's ``names`` say, else in our own order, where no two parameters can be taken
    for one another.
    """
    paths = list(held)
    convert = _checked_convert(convert, paths)
    if order is None:
        found = _match_words(paths, names or ()) or _own_order(held, names)
    elif isinstance(order, Mapping):
        found = _match_order(order, names)
    else:
        found = check_names("order", order, optional=True)
    chosen = [path for path in found if path is not None]
    unknown = [path for path in chosen if path not in paths]
    if unknown:
        raise ValueError(
            f"`order` names {unknown}, and the parameters that are trained here are "
            f"{paths}."
        )
    missing = [path for path in paths if path not in chosen]
    if missing or len(chosen) > len(paths):
        twice = sorted({path for path in chosen if chosen.count(path) > 1})
        raise ValueError(
            "`order` must name every parameter once, in the order of the framework: "
            f"{chosen} lacks {missing} and repeats {twice}."
        )
    return [
        None if path is None else Place(path, held[path], convert.get(path))
        for path in found
    ]


def _match_words(held: Sequence[str], names: Sequence[str]) -> list[str | None] | None:
    """By names of one piece, such as ``sequential_dense_kernel``, if these pair all."""
    paths = {_words(path): path for path in held}
    found = match(paths, map(_words, names), "_")
    one_to_one = None not in found and sorted(map(str, found)) == sorted(held)
    return found if one_to_one else None


def _words(name: str) -> str:
    return "_".join(re.findall("[a-z0-9]+", name.lower()))


def _match_order(
    order: Mapping[Any, Any], names: Sequence[str] | None
) -> list[str | None]:
    """By a mapping from path to name."""
    if names is None:
        raise ValueError(
            "A group has no `param_names`: PyTorch keeps names only if the optimizer was "
            "built from `model.named_parameters()`. Give `order` as a list of paths."
        )
    check_mapping("order", order, check_name)
    paths = paths_by_name({path: [name] for path, name in order.items()}, "order")
    found = match(paths, names, ".")
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise ValueError(f"`order` has no path for PyTorch's parameters {missing}.")
    return found


def _own_order(held: Mapping[str, Any], names: Sequence[str] | None) -> list[str | None]:
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, array in held.items():
        by_shape.setdefault(array.shape, []).append(path)
    for shape, alike in by_shape.items():
        if len(alike) > 1:
            named = f", and the names {list(names)} do not say" if names else ""
            raise ValueError(
                f"Which of {alike} comes first in the framework? All have the shape "
                f"{shape}{named}. Give `order`, the paths {sorted(held)} in the "
                "order in which the framework has the parameters."
            )
    return list(held)


def find_weights(
    params: PyTree,
    theirs: Iterable[str],
    names: Mapping[str, str] | None,
    layouts: Layouts,
    convert: Convert | None,
    ignore: Iterable[str],
    separator: str,
    *,
    export: bool = False,
) -> dict[str, Place]:
    """Each of our parameters by the framework's name of it, one to one."""
    leaves = _inexact_leaves(params)
    convert = _checked_convert(convert, leaves)
    wanted = wanted_layouts(leaves, names, layouts, separator)
    patterns = [re.compile(pattern) for pattern in check_names("ignore", ignore)]
    there = list(theirs)
    ignored = {name for name in there if any(p.search(name) for p in patterns)}
    ends = {path: layout.names for path, layout in wanted.items()}
    owners = match(paths_by_name(ends, "names"), there, separator)
    fits: dict[str | None, list[str]] = {path: [] for path in (None, *wanted)}
    for name, path in zip(there, owners, strict=True):
        fits[path].append(name)
    found: dict[str, Place] = {}
    unused = [name for name in fits.pop(None) if name not in ignored]
    for path, layout in wanted.items():
        # What is ignored may be asked for, such as the statistics of a norm.
        fitting = [name for name in fits[path] if name not in ignored] or fits[path]
        if len(fitting) != 1:
            raise _no_weight(path, fitting, layout.names, there)
        axes = np.argsort(layout.axes) if export and layout.axes else layout.axes
        turn = None if axes is None else partial(np.transpose, axes=axes)
        found[fitting[0]] = Place(path, leaves[path], convert.get(path, turn))
    if unused:
        raise ValueError(
            f"The model has weights that are no parameters here: {unused}. Name those "
            "that are not wanted in `ignore` (of `import_run` and `transformation`: "
            "`ignore_weights`), by regular expressions."
        )
    return found


def _no_weight(
    path: str, fitting: list[str], ends: Sequence[str], there: list[str]
) -> ValueError:
    if len(set(fitting)) == 1:
        return ValueError(
            f"'{path}' fits {len(fitting)} weights of the model that have one name, "
            f"{fitting}: give its layers names of their own."
        )
    what = f"several weights, {fitting}," if fitting else "no weight"
    return ValueError(
        f"'{path}' fits {what} of the model: it looks for {list(ends)}. Give `names`, "
        f"such as {{{path!r}: ...}} or {{'layer of ours': 'layer of theirs'}}. The model "
        f"has {there}."
    )


def _inexact_leaves(params: PyTree) -> dict[str, Any]:
    """The parameters that a framework may have too, by path."""
    leaves: dict[str, Any] = {}
    for keys, leaf in leaves_with_keys(params):
        if leaf is not None and hasattr(leaf, "shape") and is_inexact(leaf):
            path = path_of(keys)
            if path in leaves:
                raise ValueError(
                    f"Two parameters have the path '{path}', of the shapes "
                    f"{leaves[path].shape} and {leaf.shape}: rename one of them."
                )
            leaves[path] = leaf
    return leaves


def wanted_layouts(
    leaves: Mapping[str, Any],
    names: Mapping[str, str] | None,
    layouts: Layouts,
    separator: str,
) -> dict[str, Layout]:
    """The whole names that each parameter may have in the framework, and its axes."""
    names = {} if names is None else names
    check_mapping("names", names, check_name)
    kinds = layouts.values() if isinstance(layouts, Mapping) else [layouts]
    if not all(isinstance(kind, Layout) for kind in kinds):
        raise TypeError(
            "`layouts` must be a mapping such as {('kernel', 2): Layout(('weight',), "
            f"(1, 0))}}, got {layouts!r}."
        )
    unknown = [n for n in names if not any(f"{p}/".startswith(f"{n}/") for p in leaves)]
    if unknown:
        raise ValueError(
            f"`names` names {unknown}, which are no parameters here: {list(leaves)}."
        )
    wanted = {}
    for path, leaf in leaves.items():
        *layer, last = path.split("/")
        layout = layouts.get((last, len(leaf.shape)), Layout((last,)))
        for length in range(len(layer), 0, -1):
            given = names.get("/".join(layer[:length]))
            if given is not None:
                layer[:length] = [given]
                break
        whole = tuple(separator.join([*layer, name]) for name in layout.names)
        whole = (names[path],) if path in names else whole
        wanted[path] = layout._replace(names=whole)
    return wanted


def import_weights(
    params: PyTree, weights: Mapping[str, Place], arrays: Mapping[str, Any]
) -> PyTree:
    """``params`` with the framework's values, in their dtypes and shardings."""
    by_path = {place.path: (name, place) for name, place in weights.items()}

    def put(keys: Any, leaf: Any) -> Any:
        if path_of(keys) not in by_path:
            return leaf
        name, place = by_path[path_of(keys)]
        # Weights in float32 may be rounded to a narrower parameter, as a moment is not.
        like = jax.ShapeDtypeStruct(leaf.shape, wide_dtype(leaf.dtype))
        array = place._replace(like=like).taken(arrays[name], f"`{name}`")
        return cast_like(array, leaf, f"`{name}`", f"'{place.path}'")

    return map_with_keys(put, params)


def export_weights(
    weights: Mapping[str, Place], like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Our values by the framework's names, in its layout and of its shapes."""
    result = {}
    for name, place in weights.items():
        result[name] = array = place.converted(np.asarray(place.like))
        shape = tuple(like[name].shape)
        if shape != array.shape:
            raise ValueError(
                f"`{name}` has shape {shape} in `like`, '{place.path}' has shape "
                f"{array.shape} here: give `convert`."
            )
    return result


def moment_converts(weights: Mapping[str, Place], held: Collection[str]) -> Convert:
    """The same functions for the moments, which are laid out as their parameters.

    ``held`` are the parameters that have any: those that are frozen here have none.
    """
    return {x.path: x.convert for x in weights.values() if x.convert and x.path in held}


def _checked_convert(convert: Convert | None, paths: Collection[str]) -> Convert:
    convert = {} if convert is None else convert
    check_mapping("convert", convert, check_function)
    unknown = [path for path in convert if path not in paths]
    if unknown:
        raise ValueError(
            f"`convert` names {unknown}, which are no parameters here: {list(paths)}."
        )
    return convert
