"""A training step: its arguments put in place, then a compiled program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmsprop_optax._foundation._axes import check_divides
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax._foundation._validation import check_flag, check_whole_number
from rmsprop_optax.parallel._gradients import Loss


@dataclass(frozen=True)
class TrainingStep:
    """Called with parameters, state, batch and perhaps a key, of which it keeps none.

    Attributes:
      compiled: What `jax.jit` or `jax.pmap` made.
      arrange: Checks the arguments, and puts them where ``compiled`` wants them.
    """

    compiled: Any
    arrange: Callable[..., tuple[Any, ...]]

    def __call__(
        self, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any = None
    ) -> tuple[Any, ...]:
        """One step: ``(params, opt_state, loss)``, and aux behind if there is one."""
        return self.compiled(*self.arrange(params, opt_state, batch, key))

    def lower(
        self, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any = None
    ) -> Any:
        """The program that would run: ``.compile()`` it to read it, or its memory."""
        return self.compiled.lower(*self.arrange(params, opt_state, batch, key))


def check_loss(
    loss_fn: Callable[..., Any],
    has_aux: bool,
    micro_steps: int,
    value_and_grad: Callable[..., Any],
) -> Loss:
    """The options that every kind of step has."""
    check_flag("has_aux", has_aux)
    check_whole_number("micro_steps", micro_steps, least=1)
    return Loss(loss_fn, has_aux, micro_steps, value_and_grad)


def check_batch(batch: PyTree, devices: int, micro_steps: int) -> None:
    """Every device, and every micro-step on it, gets an equal part."""
    into = f"{devices} devices"
    if micro_steps > 1:
        into += f" with {micro_steps} micro-steps each"
    check_divides(batch, devices * micro_steps, into)
