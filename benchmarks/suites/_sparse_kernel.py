"""TensorFlow's own kernel for rows, used as TensorFlow's own optimizers use it."""

from typing import Any

import numpy as np

from benchmarks.peers._graphs import tensorflow, wait
from benchmarks.suites._sparse_steps import DECAY, EPSILON, LEARNING_RATE, WIDTH


class KernelUpdate:
    """`ResourceSparseApplyRMSProp` on a table, rows given twice summed before."""

    def __init__(self, table: np.ndarray) -> None:
        self._tf = tf = tensorflow()
        self._table = tf.Variable(table)
        self._slots = [tf.Variable(tf.zeros_like(self._table)) for _ in range(2)]
        ids = tf.TensorSpec([None], tf.int32)
        values = tf.TensorSpec([None, WIDTH], tf.float32)
        self._update = tf.function(self._trace, input_signature=[ids, values])

    def __call__(self, batch: tuple[Any, Any]) -> None:
        """One update, to its end."""
        self._update(*batch)
        wait()

    def prepare(self, ids: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
        """A batch where TensorFlow wants it."""
        return self._tf.constant(ids), self._tf.constant(values)

    def numpy(self) -> np.ndarray:
        """The table now."""
        return self._table.numpy()

    def _trace(self, ids: Any, values: Any) -> None:
        tf = self._tf
        unique, slots = tf.unique(ids)
        summed = tf.math.unsorted_segment_sum(values, slots, tf.shape(unique)[0])
        mean_square, momentum = self._slots
        tf.raw_ops.ResourceSparseApplyRMSProp(
            var=self._table.handle,
            ms=mean_square.handle,
            mom=momentum.handle,
            lr=LEARNING_RATE,
            rho=DECAY,
            momentum=0.0,
            epsilon=EPSILON,
            grad=summed,
            indices=unique,
        )
