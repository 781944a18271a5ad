"""Parameters and optimizer state on disk, with Orbax: whole, or not at all.

Needs `pip install 'rmsprop_optax[checkpoints]'`.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import (
    check_flag,
    check_function,
    check_whole_number,
)
from rmsprop_optax._foundation._trees import leaves_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.storage._rounding import hash_bits, mix

__all__ = ["CheckpointError", "Checkpoints"]


class CheckpointError(Exception):
    """A checkpoint is missing, can't be read or written, or belongs to another run.

    Attributes:
      args: The message, one line.
    """


class Checkpoints:
    """The checkpoints of one run in one folder.

    Orbax writes into a temporary folder and renames it when it is complete. So if a run
    is killed at any moment, the newest complete checkpoint remains. The checkpoint has a
    checksum of each array, which is verified when the array is read. With
    `jax.distributed`, every process creates a `Checkpoints` on a shared file system, and
    calls it at the same steps.

    Args:
      folder: Created if it is missing. Its path must not contain any of ``*?[]``.
      description: A text that describes the optimizer, such as ``describe(tx, params)``.
        A checkpoint with another description is refused, and the error names the lines
        that differ; what it does not show is not compared. Without a description only
        the arrays are.
      max_to_keep: How many of the newest checkpoints stay, at least 1.
      best_fn: A function of the notes of a checkpoint. The checkpoint for which it is
        greatest stays too, and is the "best" of `restore`. A checkpoint without notes,
        or for which it is NaN, is no better than others.

    Attributes:
      folder: The absolute path.

    Raises:
      ImportError: Where Orbax is not installed.
      ValueError: For a path that Orbax would take for a pattern.
      CheckpointError: For a folder that can't be made or read.

    Examples:
      >>> import tempfile
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import checkpoints, describe, rmsprop
      >>> folder = tempfile.mkdtemp()
      >>> tx, params = rmsprop(momentum=0.9), {"w": jnp.ones(3)}
      >>> state = {"params": params, "opt_state": tx.init(params)}
      >>> with checkpoints.Checkpoints(folder, describe(tx)) as saved:
      ...     saved.save(10, state, {"loss": 0.5})
      ...     state, notes = saved.restore(jax.eval_shape(lambda: state))
      >>> print(state["params"]["w"], notes)
      [1. 1. 1.] {'loss': 0.5}
    """

    def __init__(
        self,
        folder: str | Path,
        description: str = "",
        max_to_keep: int = 2,
        best_fn: Callable[[dict[str, Any]], float] | None = None,
    ) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(
                "Checkpoints need Orbax: pip install 'rmsprop_optax[checkpoints]'."
            ) from error
        self._ocp: Any = ocp
        check_whole_number("max_to_keep", max_to_keep, least=1)
        if not isinstance(folder, (str, PathLike)):
            raise TypeError(f"`folder` must be a path, got {folder!r}.")
        if not isinstance(description, str):
            raise TypeError(
                "`description` must be text, such as `describe(tx)`, got "
                f"{description!r}."
            )
        self.folder = Path(folder).absolute()
        if any(sign in str(self.folder) for sign in "*?[]"):
            raise ValueError(
                f"`folder` must have none of *?[] in its path, got {str(self.folder)!r}: "
                "Orbax takes them for a pattern, and can't read what it writes there."
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(
                f"The folder {self.folder} can't be used: it is a file."
            )
        self._description = description
        policies = ocp.checkpoint_managers
        keep: list[Any] = [policies.LatestN(int(max_to_keep))]
        self._rank = None if best_fn is None else _rank_by(best_fn)
        if self._rank is not None:
            best = policies.BestN(
                get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False
            )
            keep.append(best)
        options = ocp.CheckpointManagerOptions(
            best_fn=self._rank,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            enable_async_checkpointing=False,
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except (OSError, ValueError) as error:  # the latter for damaged metrics
            raise CheckpointError(
                f"The folder {self.folder} can't be used: {_reason(error)}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None; other processes may write too."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, tree: PyTree, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Writes a checkpoint; the one before it stays until this one is complete.

        Args:
          step: Its number, at least 0 and greater than those that were saved before.
          tree: Arrays, sharded or not, or numbers. A Python number is saved in JAX's
            dtype, rounded to the nearest.
          notes: Something for JSON, to travel with them.

        Raises:
          ValueError: For a step that is not greater than the newest; for a leaf that
            would be restored with another value, or was donated.
          TypeError: For a step that is not an integer, notes that are not for JSON, or a
            leaf that can't be restored: no array, or `RowSlices`.
          CheckpointError: Where it can't be written. The checkpoints before it stay.
        """
        check_whole_number("step", step, least=0)
        step, latest = int(step), self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"`step` must be greater than that of the newest checkpoint in "
                f"{self.folder}, {latest}, got {step}: use another folder, or delete the "
                "checkpoints that are newer."
            )
        leaves, structure = jax.tree.flatten(tree)
        paths = [path_of(keys) for keys, _ in leaves_with_keys(tree, is_leaf=None)]
        arrays = list(map(_as_array, paths, leaves))
        tree = structure.unflatten(arrays)
        kept_notes = json.loads(json.dumps(dict(notes or {})))
        metrics = None
        if self._rank is not None and kept_notes:
            self._rank(kept_notes)  # fails before anything is written
            metrics = kept_notes
        about = _configuration(tree, self._description) | {
            "notes": kept_notes,
            "sums": [int(_bit_sum(array)) for array in arrays],
        }
        args = self._ocp.args
        items: Any = args.Composite(
            # Nothing at all is an error of Orbax's.
            arrays=args.PyTreeSave(_by_number(enumerate(arrays)) or {"none": np.ones(1)}),
            about=args.JsonSave(about | {"digest": _digest(about)}),
        )
        self._remove_unfinished()
        try:
            done = self._manager.save(step, args=items, metrics=metrics)
        except Exception as error:  # of every library below, and of the file system
            self._remove_unfinished()
            raise CheckpointError(
                f"The checkpoint of step {step} can't be written to {self.folder} "
                f"({_reason(error)}). The checkpoints before it are as they were."
            ) from error
        if not done:
            raise CheckpointError(f"Orbax did not save step {step} in {self.folder}.")

    def restore(
        self,
        like: PyTree,
        step: int | str = "latest",
        *,
        partial: bool = False,
        check_description: bool = True,
    ) -> tuple[PyTree, dict[str, Any]]:
        """A checkpoint, or a part of it.

        Args:
          like: A tree of arrays, or of shapes and dtypes (`jax.eval_shape`), like the
            tree to restore. A leaf with a sharding is restored with it, on any number of
            devices; a leaf without one, or of `jax.eval_shape`, on one device.
          step: Of which checkpoint; or "latest"; or "best", as ``best_fn`` says.
          partial: Whether ``like`` may be a part of the tree that was saved, such as
            ``{"params": params}``. The rest is not read.
          check_description: Whether a checkpoint with another description is refused.
            False: training goes on with other numbers, such as another learning rate.

        Returns:
          The tree, and the notes.

        Raises:
          CheckpointError: If there is no such checkpoint, if it can't be read, if its
            values are not those that were saved, or if it is of another configuration.
            The message names what differs.
          ValueError: For another word, or for "best" without ``best_fn``.
          TypeError: For a step that is not an integer.
        """
        check_flag("partial", partial)
        check_flag("check_description", check_description)
        description = self._description if check_description else ""
        number = self._find(step)
        try:
            return self._restore(number, like, description, partial=partial)
        except CheckpointError:
            # A writer beside may have replaced it by a newer one meanwhile.
            if self._find(step) == number:
                raise
        return self.restore(
            like, step, partial=partial, check_description=check_description
        )

    def _find(self, step: int | str) -> int:
        """The number of a checkpoint that is there."""
        steps, found = self.all_steps(), step
        if step == "latest":
            found = max(steps, default=None)
        elif step == "best":
            if self._rank is None:
                raise ValueError('`step` is "best": give `best_fn` to `Checkpoints`.')
            found = self._manager.best_step()
        elif isinstance(step, str):
            raise ValueError(
                f'`step` must be an integer, "latest" or "best", got {step!r}.'
            )
        else:
            check_whole_number("step", step, least=0)
        if found not in steps:
            what = "with notes" if step == "best" else f"of step {step}"
            there = f" {what}: it has the steps {steps}" if steps else ""
            raise CheckpointError(f"There is no checkpoint in {self.folder}{there}.")
        return int(found)

    def _restore(
        self, step: int, like: PyTree, description: str, *, partial: bool
    ) -> tuple[PyTree, dict[str, Any]]:
        about = self._read(step, about=self._ocp.args.JsonRestore())["about"]
        if not isinstance(about, dict) or about.get("digest") != _digest(about):
            raise self._unreadable(step, "what it says about itself was changed")
        wanted = _configuration(like, description)
        paths = {path for path, _ in wanted["arrays"]}
        saved = enumerate(about["arrays"])
        numbers = [i for i, (path, _) in saved if not partial or path in paths]
        part = about | {"arrays": [about["arrays"][i] for i in numbers]}
        found = _differences(part, wanted)
        if found:
            raise CheckpointError(
                f"The checkpoint of step {step} in {self.folder} is of another "
                f"configuration: {found}. Restore it with the optimizer that it was "
                f"saved with{'' if partial else ', with `partial=True` a part of it'}, "
                "or with `check_description=False` go on with other numbers. A new run "
                "needs a folder of its own."
            )
        leaves, structure = jax.tree.flatten(like)
        targets = _by_number(zip(numbers, map(_target, leaves), strict=True))
        read = {}
        if targets:
            args = self._ocp.checkpoint_utils.construct_restore_args(targets)
            arrays = self._ocp.args.PyTreeRestore(targets, args, partial_restore=True)
            read = self._read(step, arrays=arrays)["arrays"]
        for place, i in enumerate(numbers):
            leaf = leaves[place]
            x = read.get(str(i))
            if x is None:
                x = jnp.zeros(jnp.shape(leaf), jnp.result_type(leaf))
            if int(_bit_sum(x)) != about["sums"][i]:
                path = about["arrays"][i][0]
                raise self._unreadable(step, f"the values of '{path}' were changed")
            leaves[place] = x if _sharding(leaf) else _uncommitted(x)
        return structure.unflatten(leaves), about["notes"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:  # of every library below, and of the file system
            raise self._unreadable(step, _reason(error)) from error

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint of step {step} in {self.folder} can't be read, and was "
            f"left as it is ({reason}). Delete the folder {step} there to go back to the "
            "checkpoint before it, or restore another by `step`."
        )

    def _remove_unfinished(self) -> None:
        """What a run that was killed, or a full disk, has left of a checkpoint."""
        if jax.process_index() == 0:
            for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _rank_by(best_fn: Callable[[dict[str, Any]], float]) -> Callable[[Any], float]:
    """``best_fn`` with NaN below all numbers: Orbax sorts."""
    check_function("best_fn", best_fn)

    def rank(notes: dict[str, Any]) -> float:
        value = float(best_fn(notes))
        return -math.inf if math.isnan(value) else value

    return rank


def _as_array(path: str, leaf: Any) -> jax.Array:
    """The leaf in a dtype of JAX's, which holds 64 bits only under `jax_enable_x64`."""
    if isinstance(leaf, jax.Array):
        _check_is_restorable(path, leaf)
        return leaf
    try:
        with np.errstate(over="ignore"):  # compared below
            array = jnp.asarray(leaf)
        same = _is_same(array, leaf)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"'{path}' can't be saved as an array, got {leaf!r}: {error}. Put it into "
            "`notes`."
        ) from error
    if not same:
        raise ValueError(
            f"'{path}' would be restored with other values: it is {leaf!r}, and JAX "
            f"keeps it in {array.dtype}. Convert it, put it into `notes`, or set "
            "`jax_enable_x64`."
        )
    return array


def _check_is_restorable(path: str, leaf: jax.Array) -> None:
    if leaf.is_deleted():
        raise ValueError(
            f"'{path}' was deleted: a jitted function got it in a donated argument. Save "
            "what the function returned."
        )
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return
    kind = str(jax.random.key_impl(leaf))
    try:
        jax.random.key(0, impl=kind)
    except ValueError as error:  # a kind that JAX does not know by name
        raise TypeError(
            f"'{path}' can't be restored from a checkpoint: it holds {kind}."
        ) from error


def _is_same(array: jax.Array, leaf: Any) -> bool:
    if hasattr(leaf, "dtype"):
        return np.array_equal(array, leaf, equal_nan=True)
    # A Python number has no dtype, and is rounded to JAX's: not to 0, nor to infinity.
    parts = [[x.real, x.imag] for x in (complex(array), complex(leaf))]
    return np.allclose(*parts, rtol=1e-6, atol=0, equal_nan=True)


def _by_number(leaves: Iterable[tuple[int, Any]]) -> dict[str, Any]:
    """What Orbax gets: it refuses arrays of size 0."""
    return {str(i): leaf for i, leaf in leaves if np.prod(leaf.shape)}


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Where a leaf is read to: not on devices that were there when it was written."""
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = _sharding(leaf) or one
    dtype = jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """That of a leaf, if it names devices: under `jax.eval_shape` it does not."""
    sharding = getattr(leaf, "sharding", None)
    abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    return None if abstract else sharding


def _uncommitted(x: jax.Array) -> jax.Array:
    """The array free to go to any mesh."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _uncommitted(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.device_put(np.asarray(x))


def _configuration(tree: PyTree, description: str) -> dict[str, Any]:
    """The arrays of a tree, and the lines that describe what made it; fit for JSON."""
    arrays = [
        [path_of(keys), f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"]
        for keys, leaf in leaves_with_keys(tree, is_leaf=None)
    ]
    return {"arrays": arrays, "description": description.splitlines()}


def _digest(about: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What is not the same, for a person; empty where all is."""
    before, now = dict(saved["arrays"]), dict(wanted["arrays"])
    changed = [
        f"{path} ({before[path]}, not {kind})"
        for path, kind in now.items()
        if before.get(path, kind) != kind
    ]
    lines_before, lines_now = saved["description"], wanted["description"]
    both_described = bool(lines_before and lines_now)
    listed = {
        "it has no": [path for path in now if path not in before],
        "only it has": [path for path in before if path not in now],
        "of another kind": changed,
        "it says": [x for x in lines_before if both_described and x not in lines_now],
        "not": [x for x in lines_now if both_described and x not in lines_before],
    }
    if both_described and not any(listed.values()) and lines_before != lines_now:
        listed["it says, in this order"] = lines_before
    if not any(listed.values()) and saved["arrays"] != wanted["arrays"]:
        listed["another order"] = list(now)
    lines = []
    for what, found in listed.items():
        # In one line, and not hundreds of leaves.
        some = [" ".join(text.split()) for text in found[:6]]
        some += [f"{len(found) - 6} more"] if len(found) > 6 else []
        lines += [f"{what} {', '.join(some)}"] if found else []
    return "; ".join(lines)


@jax.jit
def _bit_sum(x: jax.Array) -> jax.Array:
    """A uint32 sum of a hash of each value's bits and position.

    It does not depend on the sharding of the array, nor on the number of devices or
    processes: sums of integers have no order. One changed value always changes it.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag])
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    if (jnp.iinfo if integer else jnp.finfo)(x.dtype).bits < 8:
        # No unsigned integer is as narrow as int4.
        x = x.astype(jnp.int32 if integer else jnp.float32)
    width = min(8 * x.dtype.itemsize, 32)  # 64 bits become two numbers of 32
    bits = jax.lax.bitcast_convert_type(x, f"uint{width}").astype(jnp.uint32)
    return jnp.sum(mix(bits ^ hash_bits(bits.shape, jnp.uint32(1))), dtype=jnp.uint32)
