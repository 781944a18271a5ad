"""Checkpoints of a run, written whole or not at all by Orbax, and checked when read."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.checkpoints._configuration import configuration, differences

CHECKSUMS = "checksums.json"


class CheckpointError(Exception):
    """A checkpoint that is not there, can't be read, or is another run's.

    Attributes:
      args: The message, one line.
    """


class Checkpoints:
    """The checkpoints of one run in one folder; the newest is the one that counts.

    Orbax writes into a folder of another name and renames it when all is there: a run
    that is killed at any moment leaves the newest checkpoint that was complete. What is
    read is checked against what was written. With `jax.distributed`, every process makes
    one of these, on a file system that all see, and calls it at the same steps.

    Args:
      folder: Made if it is not there.
      description: What makes the state, such as ``describe(tx)``: a checkpoint that
        comes with another description is refused, and the lines that differ are named.
        Without it, what changes no array is not noticed.
      max_to_keep: How many of the newest there are, at least 1.

    Attributes:
      folder: As given.

    Raises:
      ImportError: Where Orbax is not installed.

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
        self, folder: str | Path, description: str = "", max_to_keep: int = 2
    ) -> None:
        self._ocp = _import_orbax()
        self.folder = Path(folder).absolute()
        self._description = description
        options = self._ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, enable_async_checkpointing=False
        )
        self._manager = self._ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None: nothing was saved here yet."""
        return self._manager.latest_step()

    def save(
        self, step: int, tree: PyTree, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Writes a checkpoint; the one before it stays until this one is complete.

        Args:
          step: Its number, greater than those that were saved before.
          tree: Arrays, sharded or not.
          notes: Something for JSON, to travel with them.
        """
        args = self._ocp.args
        items: Any = args.Composite(
            tree=args.StandardSave({"tree": tree}),  # Orbax refuses one array alone
            notes=args.JsonSave(dict(notes or {})),
            configuration=args.JsonSave(configuration(tree, self._description)),
        )
        self._manager.save(step, args=items)
        if jax.process_index() == 0:
            sums = {n: self._checksum(n) for n in self._manager.all_steps()}
            _write_whole(self.folder / CHECKSUMS, json.dumps(sums))

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The newest checkpoint.

        Args:
          like: Arrays, or shapes and dtypes (`jax.eval_shape`), in the tree that is
            wanted. What has a sharding comes back in it, on however many devices; what
            has none, on one.

        Returns:
          The tree, and the notes.

        Raises:
          CheckpointError: For none, one that can't be read, or one of another
            configuration, with the names of what differs.
        """
        step = self._manager.latest_step()
        if step is None:
            raise CheckpointError(f"There is no checkpoint in {self.folder}.")
        self._verify(step)
        args = self._ocp.args
        about = self._read(
            step, notes=args.JsonRestore(), configuration=args.JsonRestore()
        )
        self._check_configuration(step, about["configuration"], like)
        targets = {"tree": jax.tree.map(_target, like)}
        read = self._read(step, tree=args.StandardRestore(targets))["tree"]["tree"]
        return jax.tree.map(_uncommitted_as, like, read), about["notes"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:  # of every library below, and of the file system
            reason = " ".join(str(error).split())[:200]
            raise self._unreadable(step, f"{type(error).__name__}: {reason}") from error

    def _check_configuration(self, step: int, saved: Any, like: PyTree) -> None:
        found = differences(saved, configuration(like, self._description))
        if found:
            raise CheckpointError(
                f"The checkpoint of step {step} in {self.folder} is of another "
                f"configuration: {found}. Restore it with the optimizer that it was "
                "saved with, or start a run in another folder."
            )

    def _verify(self, step: int) -> None:
        # Before Orbax reads: what it says of a cut-off file comes from threads of its
        # own, long after the exception. A run that was killed between a checkpoint and
        # its checksum has none for it, and the checkpoint is complete.
        try:
            sums = json.loads((self.folder / CHECKSUMS).read_text())
        except (OSError, ValueError):
            sums = {}
        if str(step) in sums and sums[str(step)] != self._checksum(step):
            raise self._unreadable(step, "its files are not those that were written")

    def _checksum(self, step: int) -> str:
        digest = hashlib.sha256()
        root = self.folder / str(step)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint of step {step} in {self.folder} can't be read, and was "
            f"left as it is ({reason}). Delete the folder {step} there to go back to the "
            "checkpoint before it."
        )


def _import_orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            "Checkpoints need Orbax: pip install 'rmsprop_optax[checkpoints]'."
        ) from error
    return ocp


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Where a leaf is read to: not on devices that were there when it was written."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)


def _uncommitted_as(like: Any, read: Any) -> Any:
    """What was wanted nowhere in particular is free to go to any mesh."""
    return read if getattr(like, "sharding", None) else jax.device_put(np.asarray(read))


def _write_whole(path: Path, text: str) -> None:
    """Replaces a file in one move: a reader finds the old text or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
