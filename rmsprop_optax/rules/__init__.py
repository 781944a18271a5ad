"""Floor 1: the formulas, array to array.

A rule is maths on one dense array. It has no state and knows neither Optax nor what
its array stood for: sparse rows, storage and dtypes are dealt with by the hallway in
`rmsprop_optax.leaves`, which calls the rule in float32 or wider.
"""

from rmsprop_optax.rules._average import average as average
from rmsprop_optax.rules._bias import bias_correction as bias_correction
from rmsprop_optax.rules._clip import clip_by_norm as clip_by_norm
from rmsprop_optax.rules._clip import clip_by_value as clip_by_value
from rmsprop_optax.rules._codes import block_scale as block_scale
from rmsprop_optax.rules._codes import decode as decode
from rmsprop_optax.rules._codes import encode as encode
from rmsprop_optax.rules._codes import largest_code as largest_code
from rmsprop_optax.rules._denominator import normalize as normalize
from rmsprop_optax.rules._dither import dither as dither
from rmsprop_optax.rules._dither import next_key as next_key
from rmsprop_optax.rules._dither import unit as unit
from rmsprop_optax.rules._norm import norm as norm
from rmsprop_optax.rules._norm import norm_over_devices as norm_over_devices
from rmsprop_optax.rules._rounding import round_randomly as round_randomly
from rmsprop_optax.rules._second_moment import second_moment as second_moment
from rmsprop_optax.rules._trace import trace as trace
from rmsprop_optax.rules._variance import corrected_variance as corrected_variance
from rmsprop_optax.rules._variance import variance as variance
