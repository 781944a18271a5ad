"""Checkpoints of a run, written whole or not at all by Orbax, and checked when read."""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orbax.checkpoint as ocp

from rmsprop_optax.demo._training import Curve, TrainState

CHECKSUMS = "checksums.json"


class CheckpointError(Exception):
    """A checkpoint that is not there, or can't be read; the message is one line."""


class Checkpoints:
    """The checkpoints of one run in one folder; the newest is the one that counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def is_empty(self) -> bool:
        """Whether nothing was saved here yet."""
        return self._manager.latest_step() is None

    def save(self, state: TrainState, curve: Curve) -> None:
        """Writes a checkpoint; the one before it stays until this one is complete."""
        items: Any = ocp.args.Composite(
            state=ocp.args.StandardSave(state), curve=ocp.args.JsonSave(curve._asdict())
        )
        self._manager.save(int(state.step), args=items)
        sums = {step: self._checksum(step) for step in self._manager.all_steps()}
        _write_whole(self._folder / CHECKSUMS, json.dumps(sums))

    def restore(self, like: TrainState) -> tuple[TrainState, Curve]:
        """The newest checkpoint, in the shapes and dtypes of ``like``."""
        step = self._manager.latest_step()
        if step is None:
            raise CheckpointError(f"There is no checkpoint in {self._folder}.")
        self._verify(step)
        items: Any = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), curve=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # of every library below, and of the file system
            reason = " ".join(str(error).split())[:200]
            raise self._unreadable(step, f"{type(error).__name__}: {reason}") from error
        return restored["state"], Curve(**restored["curve"])

    def _verify(self, step: int) -> None:
        # Before Orbax reads: what it says of a cut-off file comes from threads of its
        # own, long after the exception. A run that was killed between a checkpoint and
        # its checksum has none for it, and the checkpoint is complete.
        try:
            sums = json.loads((self._folder / CHECKSUMS).read_text())
        except (OSError, ValueError):
            sums = {}
        if str(step) in sums and sums[str(step)] != self._checksum(step):
            raise self._unreadable(step, "its files are not those that were written")

    def _checksum(self, step: int) -> str:
        digest = hashlib.sha256()
        root = self._folder / str(step)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint of step {step} in {self._folder} can't be read, and was "
            f"left as it is ({reason}). Delete the folder {step} there to go back to the "
            "checkpoint before it."
        )


def _write_whole(path: Path, text: str) -> None:
    """Replaces a file in one move: a reader finds the old text or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
