"""Whom this library is measured against; a module each knows how its step is written."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

OURSELVES = "rmsprop_optax"


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
      name: On the command line.
      needs: The modules that must be installed.
      environment: Of a process that imports them.
    """

    name: str
    needs: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURSELVES, ()),
        Peer("optax", ("optax",)),
        Peer("keras-jax", ("keras",), {"KERAS_BACKEND": "jax"}),
        Peer(
            "keras-tensorflow", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}
        ),
        Peer("tensorflow", ("tensorflow",)),
        Peer("torch", ("torch",)),
    )
}
