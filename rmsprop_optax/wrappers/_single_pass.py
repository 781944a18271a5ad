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
from jax.extend import core  # noqa: TID251

from rmsprop_optax._foundation._axes import has_axes
from rmsprop_optax._foundation._checks import check_whole_number, checked_inner
from rmsprop_optax._foundation._state_leaves import owner_of
from rmsprop_optax._foundation._trees import align, is_leaf, leaves_with_keys
from rmsprop_optax._foundation._types import PyTree, Tracer

FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
_ELEMENTWISE = """abs add and broadcast_in_dim clamp convert_element_type div eq exp exp2
expm1 ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow
rsqrt select_n sign sqrt square sub tanh"""  # names of primitives
_Value = Callable[[int], Any]  # an array, by the turn that it is evaluated in


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
    from operands that are rounded to more bits than they have. This changes no value.
    Each result has another number of bits, so XLA finds no intermediate array in common
    and joins the loops. The compiler then removes what is computed twice. Norms and
    counters are computed once. The results are those of ``inner`` up to rounding.

    The flag is XLA's, holds for the whole process, and is off by default. In Python, set
    ``os.environ["XLA_FLAGS"]`` before the first use of JAX. With the flag, jaxlib 0.10.2
    aborts when it compiles a scatter, such as an update of a table by rows; jaxlib
    0.12.0.1 does not. Both versions are tested.

    Separate loops would take several times as long. So at each trace, a step of one
    parameter of each shape is compiled in both forms. If the new form does not move
    fewer bytes, ``inner`` runs as it is, and a warning gives the reason. It does so
    without a warning outside of compiled steps, on arrays that vary over devices or are
    on explicit mesh axes, and on GPU and TPU, where XLA joins loops by default.

    Args:
      inner: The transformation. A parameter is updated as without this if a moment has
        another dtype (one byte, bfloat16) or if the gradient is given by rows.
      min_size: Smaller parameters are updated as without this: they gain little, and XLA
        takes long to join thousands of loops.

    Returns:
      A transformation with the state of ``inner``; checkpoints fit both.

    Raises:
      TypeError: For a ``min_size`` that is not an integer.
      ValueError: For a negative one. At a trace, for an ``inner`` with a branch or loop
        over arrays (``skip_nonfinite``: wrap the result instead) or an effect (a learning
        rate that is read at each step, a norm over devices).

    Warns:
      UserWarning: On CPU, where it has no effect, with the reason.

    Examples:
      >>> import jax, jax.numpy as jnp, rmsprop_optax
      >>> tx = rmsprop_optax.single_pass(rmsprop_optax.rmsprop(0.1))
      >>> params = jnp.array([10.0])
      >>> updates, state = jax.jit(tx.update)(params, tx.init(params), params)
      >>> print(updates)
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
        places = [i for i, leaf in enumerate(leaves) if _is_traceable(leaf)]
        flat = [leaves[i] for i in places]
        alone = dict(zip(places, flat, strict=True))
        operands = structure.unflatten([alone.get(i) for i in range(len(leaves))])

        def update(flat: list[Any]) -> tuple[PyTree, PyTree]:
            given = dict(enumerate(leaves)) | dict(zip(places, flat, strict=True))
            operands = structure.unflatten(given.values())
            return inner.update(*operands, **extra_args)

        step, shapes = jax.make_jaxpr(update, return_shape=True)(flat)
        _check(step.jaxpr)
        results, args, joined = jax.tree.structure(shapes), [*step.consts, *flat], []
        if jax.default_backend() == "cpu" and not has_axes(operands):
            joined = _find_joined(operands, results, len(step.consts), min_size)
        if joined and (reason := _reason_against(step.jaxpr, args, joined)):
            warnings.warn(f"single_pass has no effect: {reason}", stacklevel=2)
            joined = []
        if not joined:
            return jax.tree.unflatten(results, core.jaxpr_as_fun(step)(*flat))
        outputs = [result() for result in _evaluate(step.jaxpr, args, joined)]
        return jax.tree.unflatten(results, outputs)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _is_traceable(leaf: Any) -> bool:
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    return isinstance(leaf, kinds)


def _check(jaxpr: core.Jaxpr) -> None:
    """Refuses what can't be compiled by itself, or has no loops to join."""
    if jaxpr.effects:
        raise ValueError(
            "single_pass compiles its transformation to compare two forms, so it can't "
            f"have effects: {', '.join(sorted(map(str, jaxpr.effects)))}. Put a learning "
            "rate that is read at each step into optax.inject_hyperparams around "
            "single_pass, and a clip by a norm over devices before it."
        )
    for equation in jaxpr.eqns:
        name, arrays = equation.primitive.name, list(filter(_shape, equation.outvars))
        if name in ("cond", "while", "scan") and arrays:
            raise ValueError(
                f"single_pass can't join loops in a `{name}` that returns arrays, here "
                f"{arrays[0].aval.str_short()}. Put the branch around single_pass, as in "
                "accumulate_gradients(single_pass(rmsprop()), 4)."
            )
    for inner in core.subjaxprs(jaxpr):
        _check(inner)


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


class _Joined(NamedTuple):
    """A parameter whose results are one loop: parameter and moments, by their numbers."""

    kind: jax.ShapeDtypeStruct
    operands: list[int]
    results: list[int]


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.typeof(leaf).dtype)


def _find_joined(operands: Any, results: Any, first: int, min_size: int) -> list[_Joined]:
    """The parameters with moments of their own shape and dtype; XLA joins no others."""
    updates, state, params = operands
    kinds = dict(enumerate(map(_kind, jax.tree.leaves(operands)), first))
    args = jax.tree.unflatten(jax.tree.structure(operands), kinds)
    outputs = jax.tree.unflatten(results, range(results.num_leaves))
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


def _evaluate(jaxpr: core.Jaxpr, args: Any, joined: Any) -> list[Callable[[], Any]]:
    """The results of a step; those that are joined share nothing but operands."""
    turns = {result: turn for p in joined for turn, result in enumerate(p.results, 1)}
    values = enumerate(_read(jaxpr, list(map(_marked, args))))
    return [partial(value, turns.get(result, 0)) for result, value in values]


def _read(jaxpr: core.Jaxpr, operands: Sequence[_Value]) -> list[_Value]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), operands, strict=True))

    def read(atom: Any) -> _Value:
        return _marked(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, shapes = equation.primitive.name, list(map(_shape, equation.invars))
        args = [read(atom) for atom in equation.invars]
        if name == "jit":
            called = equation.params["jaxpr"]
            outs = _read(called.jaxpr, [*map(_marked, called.consts), *args])
        elif name in _ELEMENTWISE.split() and any(shapes):
            whole = ((), _shape(equation.outvars[0]))
            # A smaller array is not part of the loop.
            pairs = zip(args, shapes, strict=True)
            args = [v if shape in whole else _marked(v(0)) for v, shape in pairs]
            outs = [cache(partial(_bind, equation, args))]
        else:
            outs = _bind(equation, args, 0)
            outs = map(_marked, outs if equation.primitive.multiple_results else [outs])
        values.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(equation: core.JaxprEqn, args: Sequence[_Value], turn: int) -> Any:
    params = equation.primitive.get_bind_params(equation.params)
    return equation.primitive.bind(*(value(turn) for value in args), **params)


def _marked(x: Any) -> _Value:
    """The same values in each turn, which XLA takes for another array."""
    if not jnp.shape(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return lambda turn: x
    bits = jnp.finfo(x.dtype)
    rounded = partial(jax.lax.reduce_precision, x, bits.nexp)
    return cache(lambda turn: rounded(bits.nmant + turn) if turn else x)


def _reason_against(jaxpr: core.Jaxpr, args: Any, joined: Sequence[_Joined]) -> str:
    """Why XLA makes it no better; empty if it does. Compiles, and runs nothing."""
    if not _is_flag_set():
        return f"XLA needs the flag XLA_FLAGS={FLAG}, set before the first use of JAX."
    chosen = list({parameter.kind: parameter for parameter in joined}.values())

    def part(joined: Sequence[_Joined], *args: Any) -> list[Any]:
        results = _evaluate(jaxpr, args, joined)
        new = [results[p.results[0]]() + args[p.operands[0]] for p in chosen]
        return [*new, *(results[at]() for p in chosen for at in p.results[1:])]

    count = partial(_bytes_moved, donate=[at for p in chosen for at in p.operands])
    ordinary, separate = (count(partial(part, which), *args) for which in ([], chosen))
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
