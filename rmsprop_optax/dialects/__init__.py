"""RMSprop as each framework has it: its argument names, its order, its defaults.

To port a line, change the name of the module, and leave out the parameters if the
framework takes them. Each dialect is one set of choices for the same chain
([`describe`][rmsprop_optax.describe] prints them):

* `keras` is [`rmsprop`][rmsprop_optax.rmsprop] itself: Keras 3.
* `tf_keras_2_11` is tf.keras 2.11 to 2.15, and the package tf_keras.
* `tf_keras` is tf.keras up to 2.10, now `tf.keras.optimizers.legacy.RMSprop`.
* `tf1` is `tf.compat.v1.train.RMSPropOptimizer`.
* `torch` is `torch.optim.RMSprop`.
* `timm` is `timm.optim.RMSpropTF`.
* `optax` is `optax.rmsprop`.
"""

from __future__ import annotations

from rmsprop_optax._rmsprop import rmsprop as keras
from rmsprop_optax.dialects._optax import optax
from rmsprop_optax.dialects._tf1 import tf1
from rmsprop_optax.dialects._tf_keras import tf_keras
from rmsprop_optax.dialects._tf_keras_2_11 import tf_keras_2_11
from rmsprop_optax.dialects._timm import timm
from rmsprop_optax.dialects._torch import torch

__all__ = ["keras", "optax", "tf1", "tf_keras", "tf_keras_2_11", "timm", "torch"]
