"""One loop for each parameter, where XLA on CPU makes one for each result of a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._axes import has_axes
from rmsprop_optax._foundation._checks import check_whole_number, checked_inner
from rmsprop_optax._foundation._reevaluation import Program, equations, shape_of, trace
from rmsprop_optax._foundation._state_leaves import owner_of
from rmsprop_optax._foundation._trees import align, is_leaf, leaves_with_keys
from rmsprop_optax._foundation._types import PyTree, Tracer

FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def single_pass(
    inner: optax.GradientTransformation, min_size: int = 16_384
) -> optax.GradientTransformationExtraArgs:
    """Makes XLA on CPU read and write each array once in a step.

    XLA on CPU compiles one loop for each array that a step returns, and each loop reads
    its operands: a plain step in float32 moves 28 bytes per parameter where 20 are
    enough, a centered step with momentum 56 where 36 are enough. XLA can join the loops
    of a parameter if they share no intermediate array and the process has the flag

    ```sh
    export XLA_FLAGS=--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true
    ```

    `single_pass` evaluates the elementwise part of a step separately for each result,
    from operands that are rounded to more bits than they have: no value changes. XLA
    finds no array in common and joins the loops; the compiler removes what is computed
    twice. Norms and counters are computed once. Results equal those of ``inner`` up to
    rounding.

    The flag holds for the whole process. In Python, set ``os.environ["XLA_FLAGS"]``
    before the first use of JAX. With it, jaxlib 0.10.2 aborts when it compiles a scatter,
    such as an update of a table by rows; 0.12.0.1 does not.

    At each trace, a step of one parameter of each shape is compiled in both forms. If the
    new one moves no fewer bytes, ``inner`` runs as it is, and a warning gives the reason.
    It also does so, without a warning, outside of compiled steps, on arrays that vary
    over devices or are on explicit mesh axes, and on GPU and TPU.

    Args:
      inner: The transformation. A parameter is updated as without this if a moment has
        another dtype (one byte, bfloat16) or if the gradient is given by rows.
      min_size: Smaller parameters are not joined: they gain little and compile slowly.

    Returns:
      A transformation with the state of ``inner``; checkpoints fit both.

    Raises:
      TypeError: For a ``min_size`` that is not an integer.
      ValueError: For a negative one. At a trace, for an ``inner`` with a branch or loop
        over arrays (put ``skip_nonfinite`` around this) or an effect (a live rate).

    Warns:
      UserWarning: On CPU, where it has no effect, with the reason.

    Examples:
      >>> import jax, jax.numpy as jnp, rmsprop_optax
      >>> tx = rmsprop_optax.single_pass(rmsprop_optax.rmsprop(0.1))
      >>> params = jnp.array([10.0])
      >>> print(jax.jit(tx.update)(params, tx.init(params), params)[0])
      [-0.31622776]
    """
    check_whole_number("min_size", min_size, least=0)
    inner = checked_inner(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten((updates, state, params))
        if not any(isinstance(leaf, Tracer) for leaf in leaves):
            return inner.update(updates, state, params, **extra_args)
        # A model may hold functions and names beside its arrays.
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, _ARRAYS)}
        operands = structure.unflatten([arrays.get(i) for i in range(len(leaves))])

        def update(arrays: dict[int, Any]) -> tuple[PyTree, PyTree]:
            given = dict(enumerate(leaves)) | arrays
            return inner.update(*structure.unflatten(given.values()), **extra_args)

        step, joined = trace(update, arrays), list[_Joined]()
        _check(step)
        if jax.default_backend() == "cpu" and not has_axes(operands):
            joined = _find_joined(operands, step, min_size)
        if joined and (reason := _reason_against(step, joined)):
            warnings.warn(f"single_pass has no effect: {reason}", stacklevel=2)
            joined = []
        if not joined:
            return step.run()
        values = _separate(step, step.args, joined)
        return step.results.unflatten([value() for value in values])

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _check(step: Program) -> None:
    """Refuses what can't be compiled by itself, or has no loops to join."""
    if step.closed.effects:
        raise ValueError(
            "single_pass compiles its transformation to compare two forms, so it can't "
            f"have effects: {', '.join(sorted(map(str, step.closed.effects)))}. Put a "
            "learning rate that is read at each step into optax.inject_hyperparams, "
            "around single_pass, and a clip by a norm over devices before it."
        )
    for equation in equations(step.closed.jaxpr):
        name = equation.primitive.name
        arrays = [out for out in equation.outvars if shape_of(out)]
        if name in ("cond", "while", "scan") and arrays:
            raise ValueError(
                f"single_pass can't join loops in a `{name}` that returns arrays, here "
                f"{arrays[0].aval.str_short()}. Put the branch around single_pass, as in "
                "accumulate_gradients(single_pass(rmsprop()), 4)."
            )


class _Joined(NamedTuple):
    """A parameter whose results are one loop: parameter and moments, by their numbers."""

    kind: jax.ShapeDtypeStruct
    operands: list[int]
    results: list[int]


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.typeof(leaf).dtype)


def _find_joined(operands: Any, step: Program, min_size: int) -> list[_Joined]:
    """The parameters with moments of their own shape and dtype; XLA joins no others."""
    updates, state, params = operands
    first = len(step.closed.consts)
    kinds = dict(enumerate(map(_kind, jax.tree.leaves(operands)), first))
    args = jax.tree.unflatten(jax.tree.structure(operands), kinds)
    outputs = step.results.unflatten(range(step.results.num_leaves))
    weights = (updates, args[0]) if params is None else (params, args[2])
    rows = align(updates, *weights, outputs[0])
    if rows is None or jax.tree.structure(state) != jax.tree.structure(outputs[1]):
        return []
    found = {
        path: _Joined(_kind(p), [at], [r])
        for (path, g), (_, p, at, r) in zip(leaves_with_keys(updates), rows, strict=True)
        if not (is_leaf(g) or is_leaf(p)) and jnp.size(p) >= min_size
    }
    moments = jax.tree_util.tree_leaves_with_path(args[1])
    for (path, at), result in zip(moments, jax.tree.leaves(outputs[1]), strict=True):
        owner = owner_of(path, found)
        # A leaf of another shape (a counter, the scales of blocks) is not in the loop.
        if owner and found[owner.keys].kind.shape == kinds[at].shape:
            found[owner.keys].operands.append(at)
            found[owner.keys].results.append(result)
    return [p for p in found.values() if {kinds[i] for i in p.operands[1:]} == {p.kind}]


def _separate(step: Program, args: Any, joined: Any) -> list[Callable[[], Any]]:
    """The results of a step; those that are joined share nothing but operands."""
    turns = {result: turn for p in joined for turn, result in enumerate(p.results, 1)}
    values = enumerate(step.values(args))
    return [partial(value, turns.get(result, 0)) for result, value in values]


def _reason_against(step: Program, joined: Sequence[_Joined]) -> str:
    """Why XLA makes it no better; empty if it does. Compiles, and runs nothing."""
    if not _is_flag_set():
        return f"XLA needs the flag XLA_FLAGS={FLAG}, set before the first use of JAX."
    chosen = list({parameter.kind: parameter for parameter in joined}.values())

    def part(joined: Sequence[_Joined], *args: Any) -> list[Any]:
        results = _separate(step, args, joined)
        new = [results[p.results[0]]() + args[p.operands[0]] for p in chosen]
        return [*new, *(results[at]() for p in chosen for at in p.results[1:])]

    count = partial(_bytes_moved, donate=[at for p in chosen for at in p.operands])
    ordinary, separate = (
        count(partial(part, which), *step.args) for which in ([], chosen)
    )
    if separate < ordinary:
        return ""
    return (
        f"XLA would move {separate:,.0f} bytes instead of {ordinary:,.0f} in a step of "
        "one parameter of each shape. It joins loops of fewer than 20 operands, arrays "
        "and numbers together: leave out an option that this step can do without."
    )


def _bytes_moved(fn: Callable[..., Any], *operands: Any, donate: Any = ()) -> float:
    program = jax.jit(fn, donate_argnums=donate).lower(*map(_kind, operands)).compile()
    return (program.cost_analysis() or {}).get("bytes accessed", 0.0)


@cache
def _is_flag_set() -> bool:
    """Whether XLA reads two arrays once for two results."""
    x = jnp.ones(1024)
    return _bytes_moved(lambda x, y: (x * y, x + y), x, x) < 5 * x.nbytes
