"""Where tf.keras 2 puts epsilon, and what else only it does."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects


def _first(**arguments: Any) -> float:
    """The first update of gradient 1 with decay 0.75: the root alone is 0.5."""
    tx = dialects.tf_keras(learning_rate=1.0, rho=0.75, **arguments)
    update, _ = tx.update(jnp.array(1.0), tx.init(jnp.array(0.0)))
    return float(update)


def test_epsilon_goes_inside_with_momentum() -> None:
    assert _first(epsilon=0.75, momentum=0.0) == pytest.approx(-1 / (0.5 + 0.75))
    assert _first(epsilon=0.75, momentum=0.5) == pytest.approx(-1 / 1.0)
    # A tensor is a momentum there, whatever it holds; an array is one here.
    assert _first(epsilon=0.75, momentum=jnp.array(0.0)) == pytest.approx(-1.0)


@pytest.mark.parametrize("epsilon", [0, 0.0, None])
def test_no_epsilon_is_the_default_epsilon(epsilon: Any) -> None:
    tx = dialects.tf_keras(epsilon=epsilon)
    update, _ = tx.update(jnp.array(0.0), tx.init(jnp.array(0.0)))
    assert float(update) == 0.0  # and not 0 / 0


def test_a_value_is_clipped_before_a_norm() -> None:
    tx = dialects.tf_keras(clipvalue=3.0, clipnorm=2.5, rho=0.0)
    state = tx.init(jnp.zeros(2))
    # Clipped to (3, 4 -> 3), then from norm 3√2 to 2.5: both moments 2.5²/2.
    _, state = tx.update(jnp.array([3.0, 4.0]), state)
    nu = optax.tree.get(state, "nu")
    np.testing.assert_allclose(nu, 3.125, rtol=1e-6)


def test_both_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="At most one of `clipnorm`, `global_clipnorm`"):
        dialects.tf_keras(clipnorm=1.0, global_clipnorm=2.0)
