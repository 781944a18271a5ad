"""Keras 3's RMSprop, on whatever backend the process has."""

from typing import Any

from benchmarks._problem import DECAY, EPSILON, LEARNING_RATE, Configuration


def optimizer(c: Configuration, variables: list[Any]) -> Any:
    """Built for these variables."""
    import keras

    made = keras.optimizers.RMSprop(
        learning_rate=LEARNING_RATE,
        rho=DECAY,
        momentum=c.momentum,
        epsilon=EPSILON,
        centered=c.centered,
        weight_decay=c.decay,
        global_clipnorm=c.clip,
        use_ema=c.ema is not None,
        ema_momentum=c.ema if c.ema is not None else 0.99,
    )
    made.build(variables)
    return made


def averages(optimizer: Any) -> list[Any]:
    """The variables that hold the averages of the weights."""
    return list(getattr(optimizer, "_model_variables_moving_average", []))
