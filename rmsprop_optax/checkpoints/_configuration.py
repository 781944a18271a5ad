"""What a checkpoint says about itself, and how that differs from what is wanted."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rmsprop_optax._foundation._trees import leaves_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree


def configuration(tree: PyTree, description: str) -> dict[str, Any]:
    """The arrays of a tree, and the lines that describe what made it; fit for JSON."""
    arrays = [
        [path_of(keys), f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"]
        for keys, leaf in leaves_with_keys(tree, is_leaf=None)
    ]
    return {"arrays": arrays, "description": description.splitlines()}


def digest(about: Mapping[str, Any]) -> str:
    """A checksum of all that a checkpoint says about itself."""
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What is not the same, for a person; empty where all is."""
    before, now = dict(saved["arrays"]), dict(wanted["arrays"])
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
    if both_described and not any(listed.values()) and lines_before != lines_now:
        listed["it says, in this order"] = lines_before
    if not any(listed.values()) and saved["arrays"] != wanted["arrays"]:
        listed["another order"] = list(now)
    return "; ".join(
        f"{what} {', '.join(_shortened(found))}"
        for what, found in listed.items()
        if found
    )


def _shortened(found: list[str]) -> list[str]:
    """In one line, and not hundreds of leaves."""
    some = [" ".join(text.split()) for text in found[:6]]
    return some if len(found) <= 6 else [*some, f"{len(found) - 6} more"]
