"""Checkpoints of TensorFlow 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any


@contextmanager
def checkpoint_reader(prefix: str | PathLike[str]) -> Iterator[Any]:
    """TensorFlow's reader of a checkpoint; any error in the block names the file."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "TensorFlow's checkpoints need TensorFlow: pip install tensorflow"
        ) from error
    try:
        yield tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, OSError, RuntimeError, IndexError) as error:
        raise ValueError(f"The checkpoint {prefix!r} can't be read: {error}") from error
