"""`python -m rmsprop_optax`: train a recurrent network on real text with `rmsprop()`."""

import sys


def main() -> int:
    """Runs the main job; returns its exit code."""
    try:
        from rmsprop_optax.demo._main import main as run
    except ModuleNotFoundError as error:
        print(  # noqa: T201
            f"The main job needs {error.name}, which is not installed: "
            "pip install 'rmsprop_optax[demo]'",
            file=sys.stderr,
        )
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
