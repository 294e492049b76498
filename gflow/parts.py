"""Parts are objects: whoever passes a name, a class or a call that is missing is told at once what to write."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any


def require_part(argument: str, value: Any, *kinds: type, example: str = "") -> None:
    """Raise ValueError unless `value` is an instance of one of the `kinds`; the error says what to write, by default
    what gflow has of these kinds."""
    if not isinstance(value, kinds):
        raise ValueError(f"{argument} takes an object: {_advice(argument, value, kinds, made, example)}")


def require_class(argument: str, value: Any, kind: type) -> None:
    """Raise ValueError unless `value` is a subclass of `kind`; the error says what to write."""
    if not (inspect.isclass(value) and issubclass(value, kind)):
        raise ValueError(f"{argument} takes a class: {_advice(argument, value, (kind,), named)}")


def named(kind: type) -> str:
    """The name by which a user reaches a class: of the package that it comes from."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def made(kind: type) -> str:
    """The call that makes an instance, with the arguments that it cannot do without."""
    return f"{named(kind)}({_needed(kind)})"


def _needed(function: Any) -> str:
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(f"{p.name}=..." for p in parameters if p.default is p.empty and p.kind not in (2, 4))


def _advice(argument: str, value: Any, kinds: tuple[type, ...], written, example: str = "") -> str:
    known = {_plain(kind.__name__): kind for base in kinds for kind in _concrete(base)}
    if inspect.isclass(value) and issubclass(value, kinds):
        return f"{value.__name__} is the class, write {argument}={written(value)}"
    if not inspect.isclass(value) and type(value) in known.values():
        return f"this is an instance, write {argument}={written(type(value))}"
    if isinstance(value, str) and (meant := _meant(_plain(value.partition(":")[0]), known)):
        return f"{value!r} is a name, write {argument}={written(meant)}"
    if inspect.isfunction(value) and value.__module__.startswith("gflow."):
        return f"{value.__name__} is a function, write {argument}=gflow.{value.__name__}({_needed(value)})"
    own = sorted(written(kind) for kind in known.values() if kind.__module__.startswith("gflow."))
    choices = example or (own[0] if len(own) == 1 else f"one of {', '.join(own)}" if own else named(kinds[0]))
    return f"write {argument}={choices}, got {_shown(value)}" if example else f"it is {choices}; got {_shown(value)}"


def _meant(text: str, known: dict[str, type]) -> type | None:
    """The class of this name, or the only one whose name contains it."""
    within = [kind for name, kind in known.items() if len(text) > 3 and text in name]
    return known.get(text) or (within[0] if len(within) == 1 else None)


def _concrete(base: type) -> list[type]:
    """Classes that can be made, `base` among them; of gflow's those that a user can name."""
    below = [kind for sub in base.__subclasses__() for kind in _concrete(sub)]
    package = sys.modules[base.__module__.partition(".")[0]]
    own = not inspect.isabstract(base) and not base.__name__.startswith("Abstract") and hasattr(package, base.__name__)
    return [base, *below] if own else below


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["made", "named", "require_class", "require_part"]
