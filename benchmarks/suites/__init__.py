"""The suites, by name; each is a module that is imported when it is wanted."""

import importlib

from benchmarks._suite import Suite

ABOUT = {
    "dialects": "one line in six dialects, and where centered turns NaN",
    "dense": "a step on dense gradients",
    "single_pass": "the same in one loop for each parameter",
    "combined": "clipping, weight decay and an average of the weights at once",
    "accumulation": "calls that accumulate gradients, and the call that updates",
    "leaves": "many small leaves: steps, calls, compilation",
    "training": "the whole training step of the main job",
    "sparse": "gradients of embedding tables, by rows",
    "storage": "moments in fewer bytes, their weight and their time",
    "quality": "where training with moments in fewer bytes ends",
    "parallel": "what many devices communicate and keep",
}
NAMES = tuple(ABOUT)


def find(name: str) -> Suite:
    """The suite of that name."""
    return importlib.import_module(f"benchmarks.suites.{name}").SUITE
