"""Low-precision state around any transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._axes import varying_seed
from rmsprop_optax._foundation._checks import checked_inner
from rmsprop_optax._foundation._reevaluation import trace
from rmsprop_optax._foundation._state_leaves import Owner, owner_of
from rmsprop_optax._foundation._trees import (
    Keys,
    is_inexact,
    leaves_with_keys,
    path_of,
    rebuild,
)
from rmsprop_optax._foundation._types import PyTree, Tracer
from rmsprop_optax.storage._blocks import block_count, shards_of_last_axis
from rmsprop_optax.storage._formats import BlockFormat, Twice
from rmsprop_optax.storage._moment_storage import MomentStorage, Storage, as_storage
from rmsprop_optax.storage._rounding import next_seed


class LowPrecisionState(NamedTuple):
    """State of [`low_precision`][rmsprop_optax.low_precision].

    Attributes:
      inner_state: The state of the inner transformation, in its own tree. Each moment is
        replaced by its stored form, in the parameter's shape.
      scales: For ``"int8"``, a tuple with one tree for each moment, in the order of the
        inner state. Each tree is like the parameters and holds the scales of the blocks:
        the parameter's shape, with the blocks along the last axis; None where a moment is
        stored in full. For a floating dtype the tuple is empty.
      seed: The uint32 seed of the next stochastic rounding; None: rounding is to nearest.
    """

    inner_state: PyTree
    scales: tuple[PyTree, ...]
    seed: jax.Array | None


def low_precision(
    inner: optax.GradientTransformation, storage: Storage
) -> optax.GradientTransformationExtraArgs:
    """Stores the moments of any transformation in fewer bytes.

    At each step the moments are decoded, ``inner`` runs on them in float32 or wider, and
    they are encoded again; XLA fuses the three into the loops of the step. Moments are
    the arrays of the inner state that have a parameter's path and shape.

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
      2.125
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
    inner = checked_inner(inner)
    fmt, stochastic = chosen.format, chosen.rounding == "stochastic"

    def init_fn(params: PyTree) -> PyTree:
        inner_state, scales = _init_moments(chosen, inner.init(params), params)
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
        stored = [scale is not None for scale in scales]
        if not chosen.in_blocks:
            stored = _are_narrow(chosen, state.inner_state, updates)
        wide = [
            fmt.decode(x, scale) if is_stored else x
            for x, scale, is_stored in zip(leaves, scales, stored, strict=True)
        ]

        def update(moments: dict[int, Any]) -> tuple[PyTree, list[Any]]:
            given = dict(enumerate(wide)) | moments
            inner_state = structure.unflatten(given.values())
            new = inner.update(updates, inner_state, params, **extra_args)
            return new[0], structure.flatten_up_to(new[1])

        moments = {i: x for i, x in enumerate(wide) if stored[i]}
        new_updates, new, twice = _evaluate(update, moments)
        unchanged = _without_gradient(state.inner_state, updates)
        for i, is_stored in enumerate(stored):
            if is_stored and i in unchanged:
                new[i] = leaves[i]
            elif is_stored:
                seed = _leaf_seed(state.seed, i, new[i])
                pair = leaves[i], scales[i]
                new[i], scales[i] = fmt.encode(twice[i], pair, seed)
        return new_updates, LowPrecisionState(
            inner_state=structure.unflatten(new),
            scales=_like(state.scales, scales),
            seed=None if state.seed is None else next_seed(state.seed),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _evaluate(
    update: Callable[[Any], tuple[PyTree, list[Any]]], moments: dict[int, jax.Array]
) -> tuple[PyTree, list[Any], list[Twice]]:
    """The updates, the new state, and each array of it twice, for `Format.encode`.

    In a compiled step on a CPU, the update is evaluated again for each. Otherwise XLA
    writes to memory what the loops of updates, scales and codes have in common.
    """
    is_traced = any(isinstance(x, Tracer) for x in moments.values())
    if is_traced and jax.default_backend() == "cpu":
        step = trace(update, moments)
        if not step.closed.effects:
            (updates, new), (_, first), (_, second) = step.turns(3)
            return updates, new, list(zip(first, second, strict=True))
        updates, new = step.run()
    else:
        updates, new = update(moments)
    return updates, new, [(x, x) for x in new]


def _init_moments(
    storage: MomentStorage, state: PyTree, params: PyTree
) -> tuple[PyTree, Any]:
    """The inner state with its moments stored, and their scales."""
    known = dict(leaves_with_keys(params))
    stored: list[Any] = []
    moments: dict[Keys, dict[Keys, Any]] = {}
    for keys, leaf in leaves_with_keys(state, is_leaf=None):
        owner = owner_of(keys, known)
        x, scale = _init_leaf(storage, keys, leaf, owner, known)
        stored.append(x)
        if owner is not None and scale is not None:
            moment = keys[: len(keys) - len(owner.keys)]
            moments.setdefault(moment, {})[owner.keys] = scale
    # `optax.tree.map_params` calls `init` with a placeholder. With one leaf here it
    # leaves the scales alone: their tree is not that of the parameters.
    scales: Any = np.zeros((), np.float32) if storage.in_blocks else ()
    if known:
        trees = moments.values()
        scales = tuple(rebuild(params, [*map(tree.get, known)]) for tree in trees)
    return jax.tree.structure(state).unflatten(stored), scales


def _init_leaf(
    storage: MomentStorage,
    keys: Keys,
    leaf: Any,
    owner: Owner | None,
    params: dict[Keys, Any],
) -> tuple[Any, Any]:
    """What is stored of an array of the inner state, and its scales."""
    if storage.in_blocks and _is_code(leaf):
        raise ValueError(
            f"The state '{path_of(keys)}' of the inner transformation is in 8 bits "
            'already: use `low_precision(tx, "int8")` once.'
        )
    if owner is None or jnp.shape(leaf) != np.shape(params[owner.keys]):
        return leaf, None
    param, path = params[owner.keys], path_of(owner.keys)
    is_real = is_inexact(leaf) and not jnp.iscomplexobj(leaf)
    if not is_real or not storage.includes(path, param):
        return leaf, None
    role = storage.role_of(owner.field)
    if role is None:
        raise _unknown_field(storage, keys, owner)
    if role == "full":
        return leaf, None
    blocks = _blocks(storage, path, param) if storage.in_blocks else 1
    return storage.format.init(leaf, signed=role == "signed", blocks=blocks)


def _unknown_field(storage: MomentStorage, keys: Keys, owner: Owner) -> ValueError:
    return ValueError(
        f"The state '{path_of(keys)}' is in a field '{owner.field}' that is not known: "
        f"say what it holds with `MomentStorage({storage.kind!r}, "
        f"fields={{'{owner.field}': "
        '"signed"})`, or "second_moment" for one that is never negative, or "full" to '
        "store it as it is."
    )


def _blocks(storage: MomentStorage, path: str, param: Any) -> int:
    last, shards = param.shape[-1], shards_of_last_axis(param)
    blocks = block_count(last, storage.block_size, shards)
    if blocks is None:
        raise ValueError(
            f"The last axis of parameter '{path}', of size {last} on {shards} devices, "
            "can't be cut into blocks that fit its shards: exclude it with "
            f"`MomentStorage(..., exclude=lambda path, param: path == '{path}')`."
        )
    return blocks


def _without_gradient(state: PyTree, updates: PyTree) -> set[int]:
    """The arrays of the state whose parameter has no gradient: rounding leaves them."""
    known = dict(leaves_with_keys(updates))
    if all(g is not None for g in known.values()):
        return set()
    leaves = leaves_with_keys(state, is_leaf=None)
    owners = [owner_of(keys, known) for keys, _ in leaves]
    return {i for i, o in enumerate(owners) if o is not None and known[o.keys] is None}


def _are_narrow(storage: MomentStorage, state: PyTree, updates: PyTree) -> list[bool]:
    """Which arrays of the state are moments in the dtype of the storage."""
    known = dict(leaves_with_keys(updates))
    dtype = jnp.dtype(storage.kind)

    def is_narrow(keys: Keys, leaf: Any) -> bool:
        if jnp.result_type(leaf) != dtype:
            return False
        owner = owner_of(keys, known)
        if owner is None or storage.role_of(owner.field) not in (
            "second_moment",
            "signed",
        ):
            return False
        # One array as parameters has the empty path, which a hyperparameter has too.
        return bool(owner.keys) or jnp.shape(leaf) == jnp.shape(known[()])

    leaves = leaves_with_keys(state, is_leaf=None)
    return [is_narrow(keys, leaf) for keys, leaf in leaves]


def _leaf_seed(seed: jax.Array | None, index: int, x: jax.Array) -> jax.Array | None:
    """A seed for one array, and for the shard of it that a device has."""
    if seed is None:
        return None
    seed = seed + np.uint32(index * 0x632BE5AB % 2**32)
    return next_seed(varying_seed(seed, x))


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

    def is_low(node: Any) -> bool:
        return isinstance(node, LowPrecisionState)

    return jax.tree.map(lambda x: _decode(x) if is_low(x) else x, state, is_leaf=is_low)


def _decode(state: LowPrecisionState) -> PyTree:
    codes, structure = jax.tree.flatten(state.inner_state)
    values = [
        x if scale is None else BlockFormat().decode(x, scale)
        for x, scale in zip(codes, _scales(state), strict=True)
    ]
    return structure.unflatten(values)


def encode_state(state: LowPrecisionState, inner_state: PyTree) -> LowPrecisionState:
    """``state`` with another inner state in it, stored as before, rounded to nearest."""
    codes, structure = jax.tree.flatten(state.inner_state)
    values = structure.flatten_up_to(inner_state)
    scales = _scales(state)
    for i, scale in enumerate(scales):
        if scale is not None:
            twice = values[i], values[i]
            pair = BlockFormat().encode(twice, (codes[i], scale), None)
            values[i], scales[i] = pair
    return LowPrecisionState(
        inner_state=structure.unflatten(values),
        scales=_like(state.scales, scales),
        seed=state.seed,
    )


def _is_code(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) in (np.dtype("uint8"), np.dtype("int8"))


def _scales(state: LowPrecisionState) -> list[Any]:
    """For each array of the inner state its scales; None where it is not coded."""
    scales = iter(jax.tree.leaves(state.scales))
    leaves = jax.tree.leaves(state.inner_state)
    return [next(scales, None) if _is_code(leaf) else None for leaf in leaves]


def _like(scales: PyTree, new: list[Any]) -> PyTree:
    """The scales that are not None, in the tree of ``scales``."""
    present = [scale for scale in new if scale is not None]
    return jax.tree.structure(scales).unflatten(present) if present else scales
