"""Real text that is on every machine: the prose behind Python's own `help()`."""

import pydoc_data.topics
from typing import NamedTuple

import numpy as np

HELD_OUT = 0.1


class Corpus(NamedTuple):
    """Text as codes: what the network trains on, and what it never sees.

    Attributes:
      alphabet: The characters, in order; a code is a place in it.
      train: Codes, int32.
      held_out: Codes, int32: the end of every topic, so that both parts have all topics.
    """

    alphabet: str
    train: np.ndarray
    held_out: np.ndarray


def load_corpus() -> Corpus:
    """About 450 kB of English from the standard library, split in two."""
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    alphabet = "".join(sorted(set("".join(topics))))
    cuts = [round(len(text) * (1 - HELD_OUT)) for text in topics]
    heads = [text[:cut] for text, cut in zip(topics, cuts, strict=True)]
    tails = [text[cut:] for text, cut in zip(topics, cuts, strict=True)]
    return Corpus(alphabet, encode(heads, alphabet), encode(tails, alphabet))


def encode(texts: list[str], alphabet: str) -> np.ndarray:
    """The codes of ``texts``, one after the other."""
    code_of = {character: code for code, character in enumerate(alphabet)}
    return np.array([code_of[c] for c in "".join(texts)], np.int32)


def decode(codes: np.ndarray, alphabet: str) -> str:
    """The text of ``codes``."""
    return "".join(alphabet[code] for code in codes)


def unigram_entropy(corpus: Corpus) -> float:
    """Nats a held-out character costs who knows only how frequent each one is."""
    counts = np.bincount(corpus.train, minlength=len(corpus.alphabet)) + 1.0
    return float(-np.log(counts / counts.sum())[corpus.held_out].mean())
