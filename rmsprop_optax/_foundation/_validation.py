"""Every check of the library, and its wording.

Values are checked where an optimizer is built. What may be traced is checked only
while it is concrete: a tracer passes. Leaves are checked at `init` and when `update`
is first traced, so that no message comes from inside XLA.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._stored import BlockCodes, is_stored
from rmsprop_optax._foundation._trees import align, leaves_with_paths
from rmsprop_optax._foundation._types import PyTree


def _concrete_scalar(name: str, value: Any, kind: str) -> float | None:
    """The number that ``value`` holds, or None while it is traced."""
    expected = f"`{name}` must be {kind}, got {value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.generic, np.ndarray, jax.Array)
    ):
        raise TypeError(f"{expected} of type {type(value).__name__}.")
    if jnp.shape(value) != ():
        raise ValueError(f"{expected} of shape {jnp.shape(value)}: give a scalar.")
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer) and not jnp.issubdtype(
        jnp.result_type(value), jnp.floating
    ):
        raise TypeError(f"{expected} of dtype {jnp.result_type(value)}.")
    return None if isinstance(value, Tracer) else float(value)


def _check_that(holds: Callable[[float], bool], name: str, value: Any, kind: str) -> None:
    number = _concrete_scalar(name, value, kind)
    if number is not None and not holds(number):
        raise ValueError(f"`{name}` must be {kind}, got {value!r}.")


def check_decay(name: str, value: Any) -> None:
    """A decay of a running mean: in [0, 1)."""
    _check_that(lambda x: 0 <= x < 1, name, value, "a number in [0, 1)")


def check_closed_decay(name: str, value: Any) -> None:
    """A decay that may also be one: in [0, 1]."""
    _check_that(lambda x: 0 <= x <= 1, name, value, "a number in [0, 1]")


def check_non_negative(name: str, value: Any) -> None:
    _check_that(
        lambda x: 0 <= x < math.inf, name, value, "a finite number that is at least 0"
    )


def check_positive(name: str, value: Any) -> None:
    _check_that(lambda x: 0 < x < math.inf, name, value, "a finite number greater than 0")


def check_whole_number(name: str, value: Any, least: int) -> None:
    """A whole number, by type too: 2.0 is refused."""
    kind = f"an integer that is at least {least}"
    number = _concrete_scalar(name, value, kind)
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(f"`{name}` must be {kind}, got {value!r}.")
    if number is not None and number < least:
        raise ValueError(f"`{name}` must be {kind}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"`{name}` must be True or False, got {value!r}: it decides which "
            "transformations there are, so it can't be traced or scheduled."
        )


def check_name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise TypeError(f"`{name}` must be a string that is not empty, got {value!r}.")


def check_arguments(
    given: Mapping[str, Any],
    checks: Mapping[str, Callable[[str, Any], None]],
    may_be_none: Collection[str] = (),
) -> None:
    """Each of ``given`` that ``checks`` names, under the name that its caller knows."""
    for name, check in checks.items():
        if given[name] is not None or name not in may_be_none:
            check(name, given[name])


def check_at_most_one(given: Mapping[str, Any]) -> None:
    """Of arguments that exclude one another, at most one is not None."""
    present = {name: value for name, value in given.items() if value is not None}
    if len(present) > 1:
        names = ", ".join(f"`{name}`" for name in given)
        received = ", ".join(f"{name}={value!r}" for name, value in present.items())
        raise ValueError(
            f"At most one of {names} can be given, got {received}. To clip twice, "
            "chain the clipping transforms yourself, before `rmsprop`."
        )


def check_needs(condition: str, name: str, value: Any, default: Any) -> None:
    """``name`` means nothing unless ``condition`` holds: refuse any but its default."""
    if isinstance(value, Tracer):
        return
    if isinstance(default, float):
        # As float32, in which `optax.inject_hyperparams` hands the default over.
        unchanged = bool(np.float32(value) == np.float32(default))
    else:
        unchanged = value is default
    if not unchanged:
        raise ValueError(
            f"`{name}`={value!r} has no effect without `{condition}`: "
            f"give that too, or leave `{name}` out."
        )


def count_required_arguments(name: str, function: Callable[..., Any]) -> int:
    """How many arguments the learning-rate callable takes: 0 or 1, or an error."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature: a schedule, as Optax has it
        return 1
    required = sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )
    if required == 0 and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1
    if required > 1 or any(
        p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters
    ):
        raise TypeError(
            f"`{name}` must be a number, a schedule that takes one argument (the "
            "step), or a callable that takes none (read at every step), got "
            f"{function!r} with the signature {inspect.signature(function)}. "
            "Bind its other arguments with `functools.partial`."
        )
    return required


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be {listed}, got {value!r}.")


def check_float_dtype(name: str, value: Any, other: str) -> None:
    """A real floating dtype, where a name like ``other`` was possible too."""
    expected = f'`{name}` must be "{other}" or a floating dtype like "bfloat16"'
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(
            f"{expected}, got an array: `optax.inject_hyperparams` takes `jnp.bfloat16` "
            'for a schedule; give it the name, "bfloat16".'
        )
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise ValueError(f"{expected}, got {value!r}.") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{expected}, got {value!r}, which is {dtype}.")


def check_can_hold(path: str, dtype: Any, kind: Any) -> None:
    """What keeps real numbers can't keep a complex moment."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"The moment of parameter '{path}' is {dtype}, which can't be kept as "
            f"{kind!r}: keep it as it is with `MomentStorage(..., keep_wide=lambda path, "
            "param: jnp.iscomplexobj(param))`, or make the parameter two real ones with "
            "`split_complex`."
        )


def check_parameters(params: PyTree) -> None:
    """Every leaf is None or a floating-point or complex array."""
    for path, leaf in leaves_with_paths(params):
        if leaf is None:
            continue
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, (bool, int, float, complex)):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            what = f"is {leaf!r}, not an array" if dtype is None else f"has dtype {dtype}"
            raise TypeError(
                f"Parameter '{path}' {what}: only floating-point and complex "
                "parameters can be trained. Keep it out of the optimizer with "
                "`optax.masked` or `optax.partition`, or filter the tree "
                "(`equinox.filter(model, equinox.is_inexact_array)`)."
            )


def check_has_params(params: PyTree, transform: str) -> None:
    if params is None:
        raise ValueError(
            f"`{transform}` needs the parameters, got `params=None`: "
            "call `tx.update(grads, opt_state, params)`."
        )


def check_found_once(found: list[str], what: str, remedy: str) -> None:
    if len(found) > 1:
        raise ValueError(f"The state holds {len(found)} of {what}: {found}. {remedy}")


def aligned(updates: PyTree, *others: PyTree, what: str) -> list[tuple[str, list[Any]]]:
    """Leaves side by side; an error names the first path that does not match."""
    rows = align(updates, *others)
    if rows is None:
        raise ValueError(_structure_message(updates, others, what))
    for path, (update, *rest) in rows:
        _check_leaf(path, update, rest, what)
    return rows


def _structure_message(updates: PyTree, others: tuple[PyTree, ...], what: str) -> str:
    have = {path for path, _ in leaves_with_paths(updates)}
    for other in others:
        want = {path for path, _ in leaves_with_paths(other)}
        if want != have:
            parts = {
                "missing": sorted(want - have),
                "not known": sorted(have - want),
            }
            listed = "; ".join(
                f"{name}: {', '.join(paths[:5])}{' ...' if len(paths) > 5 else ''}"
                for name, paths in parts.items()
                if paths
            )
            return (
                f"The gradients do not have the tree of the {what} ({listed}). "
                "Use the parameters that `tx.init` was called with; "
                "a leaf without a gradient is None."
            )
    structures = [jax.tree.structure(tree) for tree in (updates, *others)]
    return (
        f"The gradients have the leaves of the {what}, in containers of other types: "
        f"{structures[0]} against {structures[1:]}."
    )


def _check_leaf(path: str, update: Any, others: list[Any], what: str) -> None:
    if update is None:
        return
    for other in others:
        if other is None:
            raise ValueError(
                f"Gradient '{path}' is an array of shape {_shape(update)}, but the "
                f"{what} have None there: this leaf was None when `tx.init` was called."
            )
        if _shape(update) != _shape(other):
            raise ValueError(
                f"Gradient '{path}' has shape {_shape(update)}, the {what} have "
                f"shape {_shape(other)} there: call `tx.init` again for parameters "
                "of another shape, or give the gradient of the loss, not of a batch."
            )


def _shape(leaf: Any) -> tuple[int, ...]:
    has_shape = isinstance(leaf, RowSlices) or is_stored(leaf)
    return leaf.shape if has_shape else jnp.shape(leaf)


def check_accumulates(path: str, g: Any, total: Any) -> None:
    """Rows are accumulated as rows, in the room that was made for them at `init`."""
    if isinstance(g, RowSlices) and not isinstance(total, RowSlices):
        raise ValueError(
            f"Gradient '{path}' comes by rows, and gradients are accumulated: say how "
            "many rows the micro-steps of one update touch at the most, with "
            f"`rows={{'{path}': n}}` (of the factory: `accumulate_rows`)."
        )
    if isinstance(total, RowSlices) and not isinstance(g, RowSlices):
        raise ValueError(
            f"Gradient '{path}' is dense, and is to be accumulated by rows (`rows`, "
            "`accumulate_rows`): leave its path out, or give `RowSlices`."
        )


def check_rows(rows: Mapping[str, int], params: PyTree) -> None:
    """Every path is that of a table, every room at least one row."""
    tables = {path: leaf for path, leaf in leaves_with_paths(params) if leaf is not None}
    for path, room in rows.items():
        check_whole_number(f"rows['{path}']", room, least=1)
        if path not in tables or not jnp.shape(tables[path]):
            raise ValueError(
                f"`rows` names '{path}', which is not a parameter with rows. Parameters "
                f"are {list(tables)}."
            )


def check_has_rows(path: str, held: list[Any]) -> None:
    """Blocks that reach over rows can't be changed row by row."""
    for moment in held:
        if isinstance(moment, BlockCodes) and len(moment.shape) == 1:
            raise ValueError(
                f"Gradient '{path}' comes by rows of one value each, and its moments are "
                "kept in one byte, in blocks that reach over rows: keep them as they are "
                "with `MomentStorage(..., keep_wide=lambda path, param: "
                f"path == '{path}')`."
            )


def check_holds(path: str, held: Any, new: jax.Array) -> None:
    """A real moment can't hold a complex value."""
    if jnp.iscomplexobj(new) and not jnp.iscomplexobj(held):
        raise TypeError(
            f"Gradient '{path}' is complex, but its moment is kept as {held.dtype}: "
            "the parameter was real when `tx.init` was called. "
            "Take the gradient's real part, or make the parameter complex."
        )
