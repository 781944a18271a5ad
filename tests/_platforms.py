"""The forms that other platforms get, on a CPU."""

from typing import Any

import jax
import pytest


def force(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Every program gets the form of this platform."""

    def chosen(*args: Any, default: Any, **forms: Any) -> Any:
        return forms.get(platform, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
