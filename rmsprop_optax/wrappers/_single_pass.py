"""One pass over the memory: one loop of a step where XLA on CPU would make several."""

import warnings
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.extend.core import Jaxpr, subjaxprs

from rmsprop_optax._foundation._axes import is_varying
from rmsprop_optax._foundation._checks import check_whole_number
from rmsprop_optax._foundation._state_leaves import owner_of
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.wrappers._written_step import (
    Moments,
    WrittenStep,
    count_copied,
    write_anew,
    write_down,
)

SWITCH = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
_BRANCHES = {"cond", "while", "scan"}


def single_pass(
    inner: optax.GradientTransformation, min_size: int = 16_384
) -> optax.GradientTransformationExtraArgs:
    """Has XLA on CPU read and write each array once a step: one loop for each parameter.

    XLA on CPU makes a loop of each array that a step returns, and so reads what two of
    them need twice: a plain step in float32 moves 28 bytes a parameter where 20 would
    do, a centered one with momentum 56 where 36 would. It can make one loop of them all
    where none is made of another one, and where the process was started with

    ```sh
    export XLA_FLAGS=--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true
    ```

    So each moment is written down anew here, from the gradients, the state and the
    parameters alone; in the loop XLA finds what they have in common, and computes it
    once. The results are those of ``inner``, up to the last bits.

    The switch is XLA's own, for the whole process, and not on by default: jaxlib 0.10.2
    aborts with it while it compiles scatters such as updates of tables by rows. Tested
    with jaxlib 0.10.0 and 0.10.2; with 0.12.0.1 XLA makes copies, so there it warns.

    Where XLA does not make one loop of this, it copies every moment instead, and takes
    several times as long. So it is asked, when a step is traced, by compiling it for one
    parameter of each shape: where the switch is not in effect, or XLA finds too much in
    the step (it joins loops of fewer than 20 operands, arrays and numbers together),
    ``inner`` runs as it is, after a warning. Without a warning it does so outside of a
    compiled step, on arrays that vary over the devices of a `jax.shard_map`, and on GPU
    and TPU, where XLA joins loops by itself.

    Args:
      inner: The transformation, of dense gradients. A parameter whose moments are not
        all kept in its own shape and dtype (one byte, bfloat16, gradients by rows) is
        updated as without this.
      min_size: So is a parameter of fewer values: the time of a small loop is that of
        starting it, and XLA takes long to join thousands of them.

    Returns:
      A transformation with the state of ``inner``; checkpoints fit both. Extra arguments
      go to ``inner``.

    Raises:
      TypeError: For a ``min_size`` that is not an integer.
      ValueError: For a negative one. At the first trace, for an ``inner`` that can't be
        written down more than once: one with a branch or a loop over arrays in it
        (gradient accumulation, ``skip_nonfinite``: these go outside), or with an effect
        (a learning rate that is read live, a norm over devices).

    Warns:
      UserWarning: On CPU, where it has no effect, with the reason.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.single_pass(rmsprop_optax.rmsprop(0.1))
      >>> params = jnp.array([10.0])
      >>> updates, state = jax.jit(tx.update)(params, tx.init(params), params)
      >>> print(updates)
      [-0.31622776]

    References:
      XLA, `xla/service/cpu/cpu_multi_output_fusion.cc`.
    """
    check_whole_number("min_size", min_size, least=0)
    inner = optax.with_extra_args_support(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        operands = (updates, state, params)
        if not _is_traced(operands):
            return inner.update(*operands, **extra_args)
        step = write_down(lambda *given: inner.update(*given, **extra_args), operands)
        _check_repeatable(step.jaxpr)
        moments = _find_moments(*operands, min_size)
        if moments and _pays(step, operands, moments):
            return write_anew(step, operands, moments)
        return step(operands)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _check_repeatable(jaxpr: Jaxpr) -> None:
    """Refuses what costs as much each time that it is written down."""
    if jaxpr.effects:
        raise ValueError(
            "single_pass writes its transformation down once for each moment, so it "
            "can't hold what is felt outside of the program: "
            f"{', '.join(sorted(map(str, jaxpr.effects)))}. A learning rate that is "
            "read live goes into optax.inject_hyperparams around single_pass; a clip by "
            "a norm over devices goes before it, in an optax.chain."
        )
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        whole = [out.aval for out in equation.outvars if getattr(out.aval, "shape", ())]
        if name in _BRANCHES and whole:
            raise ValueError(
                "single_pass writes its transformation down once for each moment, so it "
                f"can't hold a `{name}` that returns arrays, here "
                f"{whole[0].str_short()}. What branches goes around it, as in "
                "accumulate_gradients(single_pass(rmsprop()), every_k=4) or "
                "skip_nonfinite(single_pass(rmsprop()))."
            )
    for inner in subjaxprs(jaxpr):
        _check_repeatable(inner)


def _find_moments(
    updates: PyTree, state: PyTree, params: PyTree, min_size: int
) -> Moments:
    """The moments of each parameter whose moments can all be in one loop with it.

    Those of its own shape and dtype: XLA joins no others, and would copy them.
    """
    grads = jax.tree_util.tree_leaves_with_path(updates, is_leaf=is_leaf)
    written = updates if params is None else params
    kinds = [_kind(leaf) for leaf in jax.tree.leaves(written, is_leaf=is_leaf)]
    dense = {keys: i for i, (keys, g) in enumerate(grads) if not is_leaf(g)}
    moments: Moments = {}
    odd = set()
    for at, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        owner = owner_of(path, dense)
        i = None if owner is None else dense[owner.keys]
        # Counters and scales of blocks, in another shape, go with either form.
        if i is None or _kind(leaf)[0] != kinds[i][0]:
            continue
        if _kind(leaf) == kinds[i] and leaf.size >= min_size:
            moments.setdefault(i, []).append(at)
        else:
            odd.add(i)
    return {i: places for i, places in moments.items() if i not in odd}


def _kind(leaf: Any) -> tuple[Any, Any]:
    return (None, None) if is_leaf(leaf) else (jnp.shape(leaf), jnp.result_type(leaf))


def _pays(step: WrittenStep, operands: PyTree, moments: Moments) -> bool:
    """Whether XLA makes one loop of it; a warning where it could and does not."""
    if is_varying(operands) or jax.default_backend() != "cpu":
        return False
    if not _joins_results():
        _warn(
            "XLA runs without the switch that it needs. Set the environment variable "
            f"XLA_FLAGS={SWITCH} before Python starts."
        )
        return False
    ordinary, anew = (
        count_copied(step, operands, moments, anew=anew) for anew in (False, True)
    )
    if anew > ordinary:
        _warn(
            f"XLA would copy moments, {anew - ordinary:,} values of one parameter of "
            "each shape. With jaxlib 0.10 it makes one loop of fewer than 20 operands, "
            "arrays and numbers together: leave out an option that this step can do "
            "without. With jaxlib 0.12 it makes none."
        )
    return anew <= ordinary


def _warn(reason: str) -> None:
    warnings.warn(f"single_pass has no effect: {reason}", stacklevel=2)


@cache
def _joins_results() -> bool:
    """Whether XLA makes one loop of two arrays that are made of the same two.

    Not read off the environment, which does not tell what this release makes of it.
    """
    x = jax.ShapeDtypeStruct((8,), jnp.float32)
    program = jax.jit(lambda x, y: (x * y, x + y)).lower(x, x).compile()
    return (program.as_text() or "").count(" fusion(") == 1
