"""Whether a checkpoint is of the run that wants it, and what differs if it is not."""

from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._trees import path_of
from rmsprop_optax._foundation._types import PyTree


def configuration(tree: PyTree, description: str) -> dict[str, Any]:
    """What a tree is made of, and the lines that say what made it; fit for JSON."""
    arrays = {
        path_of(path): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {"arrays": arrays, "description": description.splitlines()}


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What is not the same, for a person; empty where all is."""
    before, now = saved["arrays"], wanted["arrays"]
    changed = [
        f"{path} ({before[path]}, not {kind})"
        for path, kind in now.items()
        if before.get(path, kind) != kind
    ]
    lines_before, lines_now = saved["description"], wanted["description"]
    both_described = bool(lines_before and lines_now)
    listed = {
        "it has no": [path for path in now if path not in before],
        "only it has": [path for path in before if path not in now],
        "of another kind": changed,
        "it says": [x for x in lines_before if both_described and x not in lines_now],
        "not": [x for x in lines_now if both_described and x not in lines_before],
    }
    return "; ".join(
        f"{what} {', '.join(_words(found))}" for what, found in listed.items() if found
    )


def _words(found: list[str]) -> list[str]:
    """In one line, and not hundreds of leaves."""
    some = [" ".join(text.split()) for text in found[:6]]
    return some if len(found) <= 6 else [*some, f"{len(found) - 6} more"]
