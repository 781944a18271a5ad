"""The formulas, from dense arrays to dense arrays.

A rule has no state and knows neither Optax nor what its arrays are part of.
"""

from rmsprop_optax.rules._clipping import clip_by_norm as clip_by_norm
from rmsprop_optax.rules._clipping import clip_by_value as clip_by_value
from rmsprop_optax.rules._moments import abs_sq as abs_sq
from rmsprop_optax.rules._moments import average as average
from rmsprop_optax.rules._moments import bias_correction as bias_correction
from rmsprop_optax.rules._moments import normalize as normalize
from rmsprop_optax.rules._moments import second_moment as second_moment
from rmsprop_optax.rules._norm import clipping_unit as clipping_unit
from rmsprop_optax.rules._norm import norm as norm
from rmsprop_optax.rules._variance import corrected_variance as corrected_variance
from rmsprop_optax.rules._variance import lazy_variance as lazy_variance
from rmsprop_optax.rules._variance import variance as variance
