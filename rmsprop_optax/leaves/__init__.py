"""Floor 2: how a moment is kept, and the one hallway every leaf walks through."""

from rmsprop_optax.leaves._finite import all_finite as all_finite
from rmsprop_optax.leaves._hallway import PARAMS as PARAMS
from rmsprop_optax.leaves._hallway import add_leaves as add_leaves
from rmsprop_optax.leaves._hallway import leaf_dtype as leaf_dtype
from rmsprop_optax.leaves._hallway import map_leaves as map_leaves
from rmsprop_optax.leaves._hallway import map_moments as map_moments
from rmsprop_optax.leaves._hallway import narrow as narrow
from rmsprop_optax.leaves._hallway import wide_leaves as wide_leaves
from rmsprop_optax.leaves._init import copy_params as copy_params
from rmsprop_optax.leaves._init import init_moment as init_moment
from rmsprop_optax.leaves._rows import as_gradient as as_gradient
from rmsprop_optax.leaves._rows import empty_rows as empty_rows
from rmsprop_optax.leaves._rows import map_values as map_values
from rmsprop_optax.leaves._rows import no_rows as no_rows
from rmsprop_optax.leaves._rows import touched_size as touched_size
from rmsprop_optax.leaves._storage import ONE_BYTE as ONE_BYTE
from rmsprop_optax.leaves._storage import MomentStorage as MomentStorage
from rmsprop_optax.leaves._storage import Storage as Storage
from rmsprop_optax.leaves._storage import as_storage as as_storage
from rmsprop_optax.leaves._stored import read_moment as read_moment
from rmsprop_optax.leaves._stored import write_moment as write_moment
