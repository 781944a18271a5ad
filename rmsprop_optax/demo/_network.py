"""The network: characters in, logits of the next character out, through a GRU."""

import equinox as eqx
import jax
import jax.numpy as jnp


class CharacterGRU(eqx.Module):
    """Embedding, gated recurrent unit, linear readout."""

    embedding: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, alphabet_size: int, hidden_size: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        embedding_size = max(hidden_size // 4, 1)
        self.embedding = eqx.nn.Embedding(alphabet_size, embedding_size, key=keys[0])
        self.cell = eqx.nn.GRUCell(embedding_size, hidden_size, key=keys[1])
        self.readout = eqx.nn.Linear(hidden_size, alphabet_size, key=keys[2])

    def advance(self, hidden: jax.Array, code: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One character in: the new hidden state, and the logits of the next one."""
        hidden = self.cell(self.embedding(code), hidden)
        return hidden, self.readout(hidden)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """The logits after each of a sequence of codes, from an empty hidden state."""
        start = jnp.zeros(self.cell.hidden_size)

        def advance(hidden: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            hidden = self.cell(x, hidden)
            return hidden, hidden

        _, hidden = jax.lax.scan(advance, start, jax.vmap(self.embedding)(codes))
        return jax.vmap(self.readout)(hidden)


def sample(
    network: CharacterGRU, prompt: jax.Array, length: int, key: jax.Array
) -> jax.Array:
    """``length`` codes that the network writes after ``prompt``, at temperature 0.7."""
    hidden, logits = jax.lax.scan(
        lambda hidden, code: network.advance(hidden, code),
        jnp.zeros(network.cell.hidden_size),
        prompt,
    )

    def write(
        carry: tuple[jax.Array, jax.Array], key: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, logits = carry
        code = jax.random.categorical(key, logits / 0.7)
        return network.advance(hidden, code), code

    keys = jax.random.split(key, length)
    _, codes = jax.lax.scan(write, (hidden, logits[-1]), keys)
    return codes
