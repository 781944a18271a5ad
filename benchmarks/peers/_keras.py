"""Keras 3's RMSprop, on whatever backend the process has."""

from typing import Any

from benchmarks._problem import Configuration


def optimizer(c: Configuration, variables: list[Any]) -> Any:
    """Built for these variables."""
    import keras

    made = keras.optimizers.RMSprop(**c.arguments)
    made.build(variables)
    return made


def averages(optimizer: Any) -> list[Any]:
    """The variables that hold the averages of the weights."""
    return list(getattr(optimizer, "_model_variables_moving_average", []))
