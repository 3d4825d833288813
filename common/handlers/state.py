"""Objects of a training whose state must survive an interruption."""

from __future__ import annotations

from typing import Any, Protocol

from ignite.engine import Engine

__all__ = ["Stateful", "register_state", "registered_states"]


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def register_state(engine: Engine, name: str, item: Stateful) -> None:
    """Have the engine's checkpoint hold the state of a handler."""
    registered_states(engine)[name] = item


def registered_states(engine: Engine) -> dict[str, Stateful]:
    """Return what was registered, by name."""
    return engine.__dict__.setdefault("_registered_states", {})
