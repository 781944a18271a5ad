"""Low-precision state around any transformation."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._axes import varying_seed
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states, is_inside_check
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._state_leaves import Init, Part, parts_of
from rmsprop_optax._foundation._trees import (
    Keys,
    is_inexact,
    leaves_with_keys,
    path_of,
    rebuild,
)
from rmsprop_optax._foundation._types import PyTree, Tracer
from rmsprop_optax.storage._blocks import block_count, block_counts, shards_of_last_axis
from rmsprop_optax.storage._formats import CODES, Twice, format_of
from rmsprop_optax.storage._moment_storage import MomentStorage, Storage, as_storage
from rmsprop_optax.storage._rounding import next_seed


class LowPrecisionState(NamedTuple):
    """State of [`low_precision`][rmsprop_optax.low_precision].

    Attributes:
      inner_state: The state of the inner transformation, in its own tree. Each moment is
        replaced by its stored form, in the parameter's shape.
      scales: For ``"int8"``, a tuple with one tree for each moment, in the order of the
        inner state. Each tree is like the parameters and holds the scales of the blocks:
        the parameter's shape, with the blocks along the last axis; the number 0 where a
        moment is stored in full. For a floating dtype the tuple is empty.
      seed: The uint32 seed of the next stochastic rounding; None: rounding is to nearest.
    """

    inner_state: PyTree
    scales: tuple[PyTree, ...]
    seed: jax.Array | None


register(LowPrecisionState, state_fields(scales="second_moment"))


@recorded
def low_precision(
    inner: optax.GradientTransformation, storage: Storage
) -> optax.GradientTransformationExtraArgs:
    """Stores the moments of any transformation in fewer bytes.

    At each step the moments are decoded, ``inner`` runs on them in float32 or wider, and
    they are encoded again; XLA fuses the three into the loops of the step. Moments are
    the arrays of the inner state that stand in the place of a parameter, as
    `optax.tree.map_params` finds it, and have its shape.

    Args:
      inner: Any transformation, such as `optax.adam`.
      storage: A [`MomentStorage`][rmsprop_optax.MomentStorage], or its kind alone:
        ``"int8"`` or a floating dtype.

    Returns:
      A transformation. `sparse.lazy` goes around it. Extra arguments go to ``inner``.

    Raises:
      ValueError: For an unknown name of a storage; at ``init``, for a field of the state
        if it is not known whether it can be negative, and for a sharded axis that can't
        be cut into blocks.
      TypeError: For None.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import low_precision, state_bytes
      >>> tx = low_precision(optax.adam(1e-3), "int8")
      >>> params = {"w": jnp.ones((256, 256))}
      >>> state = tx.init(params)
      >>> optax.tree.get(state, "nu")["w"].dtype
      dtype('uint8')
      >>> print(f"{state_bytes(tx, params).per_parameter:.3f}")
      2.063
      >>> updates, state = tx.update({"w": jnp.ones((256, 256))}, state, params)
      >>> print(f"{updates['w'].mean():.4f}")
      -0.0010

    References:
      Dettmers et al., [8-bit Optimizers via Block-wise
      Quantization](https://arxiv.org/abs/2110.02861), 2022; torchao, `torchao.optim`.
    """
    chosen = as_storage(storage, "storage")
    if chosen is None:
        raise TypeError(
            '`storage` must be a `MomentStorage` or its kind, such as "int8" or '
            '"bfloat16", got None.'
        )
    inner_init, inner_update = checked_inner(inner)
    fmt, stochastic = chosen.format, chosen.rounding == "stochastic"

    def init_fn(params: PyTree) -> PyTree:
        inner_state, scales = _init_moments(chosen, inner_init, params)
        return LowPrecisionState(
            inner_state=inner_state,
            scales=scales,
            seed=next_seed(jnp.uint32(chosen.seed % 2**32)) if stochastic else None,
        )

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten(state.inner_state)
        scales = _scales(state)
        _check_blocks(chosen, leaves, scales)
        stored = {
            i: keys
            for moment in _moments(chosen, inner_init, updates, state.inner_state)
            for keys, i in moment.numbers.items()
            if leaves[i].dtype in fmt.dtypes
        }
        wide = {i: fmt.decode(leaves[i], scales[i]) for i in stored}

        def update(moments: dict[int, Any]) -> tuple[PyTree, list[Any]]:
            given = [moments.get(i, leaf) for i, leaf in enumerate(leaves)]
            inner_state = structure.unflatten(given)
            new = inner_update(updates, inner_state, params, **extra_args)
            return new[0], structure.flatten_up_to(new[1])

        new_updates, new, twice = _evaluate(update, wide)
        gradients = dict(leaves_with_keys(updates))
        for i, param in stored.items():
            if gradients[param] is None:  # rounding would move it
                new[i] = leaves[i]
            else:
                seed = state.seed
                if seed is not None:
                    seed = varying_seed(seed, new[i]), np.uint32(i)
                new[i], scales[i] = fmt.encode(twice[i], (leaves[i], scales[i]), seed)
        return new_updates, LowPrecisionState(
            inner_state=structure.unflatten(new),
            scales=_like(state.scales, scales),
            seed=None if state.seed is None else next_seed(state.seed),
        )

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _evaluate(
    update: Callable[[Any], tuple[PyTree, list[Any]]], moments: dict[int, jax.Array]
) -> tuple[PyTree, list[Any], list[Twice]]:
    """The updates, the new state, and each array of it twice, for `Format.encode`.

    XLA writes to memory what the loops of updates, scales and codes have in common. So
    a compiled step evaluates the update for each of them, from moments that are rounded
    to more bits than they have: the same numbers, which XLA takes for others.
    """
    if not any(isinstance(x, Tracer) for x in moments.values()):
        updates, new = update(moments)
        return updates, new, [(x, x) for x in new]
    step = jax.jit(update)  # traced once
    updates, new = step(moments)
    if step.trace(moments).jaxpr.effects:  # a live rate is read once
        return updates, new, [(x, x) for x in new]
    (_, first), (_, second) = (step(_rounded(moments, turn)) for turn in (1, 2))
    return updates, new, list(zip(first, second, strict=True))


def _rounded(moments: dict[int, jax.Array], more: int) -> dict[int, jax.Array]:
    """The same numbers, rounded to so many bits more than they have."""

    def rounded(x: jax.Array) -> jax.Array:
        bits = jnp.finfo(x.dtype)
        return jax.lax.reduce_precision(x, bits.nexp, bits.nmant + more)

    return jax.tree.map(rounded, moments)


class _Moment(NamedTuple):
    """A part of the inner state that is stored, as far as the storage includes it.

    Attributes:
      signed: Whether it can be negative.
      numbers: By the path of a parameter, which array of the inner state is its moment.
    """

    signed: bool
    numbers: dict[Keys, int]


def _moments(
    storage: MomentStorage,
    inner_init: Init,
    params: PyTree,
    state: PyTree,
) -> list[_Moment]:
    """The moments in a state, in its order."""
    found = []
    for part in parts_of(inner_init, params, state):
        role = storage.role_of(part.kind, part.field)
        if role in ("second_moment", "signed"):
            found.append(_Moment(role == "signed", _numbers(part)))
    return found


def _numbers(part: Part) -> dict[Keys, int]:
    """The arrays that stand in the place of a parameter, not in a list below it."""
    return {m.param: m.number for m in part.members if not m.below}


def _init_moments(
    storage: MomentStorage, inner_init: Init, params: PyTree
) -> tuple[PyTree, Any]:
    """The inner state with its moments stored, and their scales."""
    state = inner_init(params)
    known = dict(leaves_with_keys(params))
    stored, structure = jax.tree.flatten(state)
    wanted = {
        keys for keys, p in known.items() if _is_array(p) and _includes(storage, keys, p)
    }
    _check_known(storage, inner_init, params, state, wanted)
    trees, count = [], 0
    for moment in _moments(storage, inner_init, params, state):
        scales: dict[Keys, Any] = {}
        for keys, i in moment.numbers.items():
            leaf, scale = stored[i], None
            if keys in wanted and _can_be_stored(leaf, known[keys]):
                blocks = _blocks(storage, keys, known[keys]) if storage.in_blocks else 1
                stored[i], scale = storage.format.init(
                    leaf, signed=moment.signed, blocks=blocks
                )
                count += 1
            # A number, and not None, so that a tree of specs fits the scales too.
            scales[keys] = jnp.zeros([], jnp.float32) if scale is None else scale
        trees.append(rebuild(params, [*map(scales.get, known)]))
    if wanted and not count and not is_inside_check():
        warnings.warn(
            f"No moment is stored as {storage.kind!r}: the state of the transformation "
            "has no real array of a parameter's shape in a field that is known to be a "
            "moment. Complex moments are stored as they are; for another field say what "
            f"it holds, `MomentStorage({storage.kind!r}, fields={{...}})`.",
            stacklevel=4,
        )
    return structure.unflatten(stored), tuple(trees) if storage.in_blocks else ()


def _check_known(
    storage: MomentStorage,
    inner_init: Init,
    params: PyTree,
    state: PyTree,
    wanted: set[Keys],
) -> None:
    """That it is known of each field that would be stored whether it is negative."""
    known, leaves = dict(leaves_with_keys(params)), leaves_with_keys(state, is_leaf=None)
    for keys, leaf in leaves:
        if storage.in_blocks and _is_code(leaf):
            raise ValueError(
                f"The state '{path_of(keys)}' of the inner transformation is in 8 bits "
                'already: use `low_precision(tx, "int8")` once.'
            )
    for part in parts_of(inner_init, params, state):
        if storage.role_of(part.kind, part.field) is not None:
            continue
        for param, i in _numbers(part).items():
            keys, leaf = leaves[i]
            if param in wanted and _can_be_stored(leaf, known[param]):
                kind = "no class" if part.kind is None else part.kind.__name__
                raise ValueError(
                    f"The state '{path_of(keys)}' is in a field '{part.field}' of "
                    f"{kind}, which is not known: say what it holds with "
                    f"`MomentStorage({storage.kind!r}, fields={{'{part.field}': "
                    '"signed"})`, or "second_moment" for one that is never negative, or '
                    '"full" to store it as it is.'
                )


def _is_array(p: Any) -> bool:
    return hasattr(p, "shape") or is_inexact(p)


def _can_be_stored(leaf: Any, param: Any) -> bool:
    is_real = is_inexact(leaf) and not jnp.iscomplexobj(leaf)
    return is_real and jnp.shape(leaf) == np.shape(param)


def _includes(storage: MomentStorage, keys: Keys, param: Any) -> bool:
    return storage.includes(path_of(keys), param)


def _blocks(storage: MomentStorage, keys: Keys, param: Any) -> int:
    last, shards = param.shape[-1], shards_of_last_axis(param)
    blocks = block_count(last, storage.size_of_blocks(param.shape), shards)
    if blocks is None:
        path = path_of(keys)
        raise ValueError(
            f"The last axis of parameter '{path}', of size {last} on {shards} devices, "
            "can't be cut into blocks that fit its shards: exclude it with "
            f"`MomentStorage(..., exclude=lambda path, param: path == '{path}')`."
        )
    return blocks


def _check_blocks(storage: MomentStorage, codes: list[Any], scales: list[Any]) -> None:
    """That codes are in blocks of this size, on whatever number of shards."""
    for x, scale in zip(codes, scales, strict=True):
        if scale is None or not x.size or not storage.in_blocks:
            continue
        last, count = x.shape[-1], scale.shape[-1]
        if count not in block_counts(last, storage.size_of_blocks(x.shape)):
            raise ValueError(
                f"`opt_state` holds codes in {count} blocks for an axis of {last}, and "
                f"`block_size` is {storage.block_size!r}: the state was made with "
                "another one. `encode_state(opt_state, tx.init(params))` stores it so."
            )


def encode_state(opt_state: PyTree, like: PyTree) -> PyTree:
    """A state with its moments stored as those of another state of the same optimizer.

    A run goes on with other storage: 8 bits in blocks of another size, another dtype, or
    none before. Moments are rounded to nearest once. The seed of the stochastic rounding
    is that of ``opt_state``, if it has one.

    Args:
      opt_state: The state of the run, with or without
        [`LowPrecisionState`][rmsprop_optax.LowPrecisionState].
      like: The state that the transformation that goes on makes, ``tx.init(params)``.

    Returns:
      A state of the structure, dtypes and block sizes of ``like``, which may be without
      low precision.

    Raises:
      ValueError: For states of different optimizers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import MomentStorage, decode_state, encode_state, rmsprop
      >>> blocks = [MomentStorage("int8", size, min_size=0) for size in (2, 4)]
      >>> old, new = (rmsprop(moment_storage=storage) for storage in blocks)
      >>> params = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> _, state = old.update(params, old.init(params), params)
      >>> state = encode_state(state, new.init(params))
      >>> _, state = new.update(params, state, params)
    """
    places, structure = jax.tree.flatten(like, is_leaf=_is_low)
    try:
        known = structure.flatten_up_to(decode_state(opt_state))
    except ValueError as error:
        raise ValueError(
            "`opt_state` and `like` are not states of one optimizer with other storage: "
            f"{error}"
        ) from error
    seeds = [x.seed for x in jax.tree.leaves(opt_state, is_leaf=_is_low) if _is_low(x)]
    lows = [place for place in places if _is_low(place)]
    seeds = iter(seeds if len(seeds) == len(lows) else [None] * len(lows))
    new = [
        _encode(place, x, next(seeds)) if _is_low(place) else _cast_like(place, x)
        for place, x in zip(places, known, strict=True)
    ]
    return structure.unflatten(new)


def _is_low(node: Any) -> bool:
    return isinstance(node, LowPrecisionState)


def decode_state(state: PyTree) -> PyTree:
    """The state of an optimizer as it would be without 8-bit storage.

    Args:
      state: Any state, with [`LowPrecisionState`][rmsprop_optax.LowPrecisionState] at
        any depth.

    Returns:
      The same tree with the inner state in the place of each `LowPrecisionState`, and
      float32 moments in the place of codes. Moments in a floating dtype keep it.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from rmsprop_optax import MomentStorage, decode_state, rmsprop
      >>> tx = rmsprop(moment_storage=MomentStorage("int8", min_size=0))
      >>> grads = jnp.array([1.0, 2.0, 3.0])
      >>> _, state = tx.update(grads, tx.init(grads), grads)
      >>> print(optax.tree.get(state, "nu"))
      [ 85 170 255]
      >>> print([f"{x:.3f}" for x in optax.tree.get(decode_state(state), "nu")])
      ['0.100', '0.400', '0.900']
    """
    return jax.tree.map(lambda x: _decode(x) if _is_low(x) else x, state, is_leaf=_is_low)


def _decode(state: LowPrecisionState) -> PyTree:
    codes, structure = jax.tree.flatten(state.inner_state)
    values = [
        x if scale is None else format_of(x.dtype).decode(x, scale)
        for x, scale in zip(codes, _scales(state), strict=True)
    ]
    return structure.unflatten(values)


def _encode(
    state: LowPrecisionState, inner_state: PyTree, seed: Any
) -> LowPrecisionState:
    """``state`` with another inner state in it, stored as before, rounded to nearest."""
    codes, structure = jax.tree.flatten(state.inner_state)
    values, scales = structure.flatten_up_to(inner_state), _scales(state)
    for i, scale in enumerate(scales):
        if scale is None:
            values[i] = _cast_like(codes[i], values[i])
        else:
            twice = values[i], values[i]
            fmt = format_of(codes[i].dtype)
            values[i], scales[i] = fmt.encode(twice, (codes[i], scale), None)
    return LowPrecisionState(
        inner_state=structure.unflatten(values),
        scales=_like(state.scales, scales),
        seed=state.seed if seed is None or state.seed is None else seed,
    )


def _cast_like(like: Any, x: Any) -> Any:
    if not is_inexact(like) or like.dtype == x.dtype:
        return x
    return format_of(like.dtype).encode((x, x), (like, None), None)[0]


def _is_code(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) in CODES


def _scales(state: LowPrecisionState) -> list[Any]:
    """For each array of the inner state its scales; None where it is not coded."""
    scales = iter(filter(_has_blocks, jax.tree.leaves(state.scales)))
    leaves = jax.tree.leaves(state.inner_state)
    return [next(scales, None) if _is_code(leaf) else None for leaf in leaves]


def _like(scales: PyTree, new: list[Any]) -> PyTree:
    """The scales that are not None, in the tree of ``scales``."""
    present = iter(scale for scale in new if scale is not None)
    return jax.tree.map(lambda x: next(present) if _has_blocks(x) else x, scales)


def _has_blocks(scale: Any) -> bool:
    return jnp.ndim(scale) > 0
