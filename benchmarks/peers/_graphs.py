"""A step that TensorFlow compiles."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._problem import Problem


class GraphUpdate:
    """`benchmarks._problem.Update` of a `tf.function` from gradients to nothing."""

    def __init__(
        self,
        variables: list[Any],
        step: Callable[[list[Any]], None],
        grads: list[list[Any]],
        averages: list[Any],
        jit_compile: bool | None = None,
    ) -> None:
        tf = tensorflow()
        self._values, self._grads = [*variables, *averages], grads
        self._step = tf.function(step, jit_compile=jit_compile)

    def prepare(self, which: int) -> list[Any]:
        """The gradients are on the device already."""
        return self._grads[which]

    def __call__(self, grads: list[Any]) -> None:
        """One step, to its end."""
        self._step(grads)
        wait()

    def values(self) -> list[np.ndarray]:
        """The parameters, and behind them their averages, where there are any."""
        return [np.asarray(value) for value in self._values]


def tensorflow() -> Any:
    """The module, whose import takes seconds."""
    return importlib.import_module("tensorflow")


def wait() -> None:
    """Until all is done; on a CPU TensorFlow returns no sooner."""
    if _has_gpu():
        tensorflow().test.experimental.sync_devices()


@functools.cache
def _has_gpu() -> bool:
    return bool(tensorflow().config.get_visible_devices("GPU"))


def constants(problem: Problem) -> list[list[Any]]:
    """The gradients, which all contenders of a process share."""
    tf = tensorflow()
    return [[tf.constant(g) for g in grads] for grads in problem.grads]
