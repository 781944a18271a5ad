"""The types that signatures are written in."""

from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
from jax.core import Tracer as Tracer  # noqa: TID251
from jax.typing import ArrayLike

PyTree: TypeAlias = Any
"""Any tree of arrays. JAX has no static type for one."""

Scalar: TypeAlias = float | jax.Array
"""A number that may be traced, as under ``optax.inject_hyperparams``."""

Count: TypeAlias = int | jax.Array
"""A whole number that may be traced."""

Schedule: TypeAlias = Callable[[chex.Numeric], ArrayLike]
"""The step (an int32 scalar, from 0) to a value."""

LearningRate: TypeAlias = Scalar | Schedule | Callable[[], Any]
"""A number, a schedule of the step, or a callable without arguments, read live."""

AxisName: TypeAlias = str | tuple[str, ...]
"""One axis of a mesh (or of a `pmap`) by its name, or several."""

Mask: TypeAlias = PyTree | Callable[[PyTree], PyTree]
"""A tree of booleans (a prefix of the parameters), or a function that makes one."""
