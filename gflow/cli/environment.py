"""What a command asks of JAX: float64, and a folder in which programs that were compiled are found again."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from gflow.cli.progress import say


def configure() -> None:
    """Switch float64 on, and the compilation cache if its folder can be written; if not, say so in one line."""
    import jax

    from gflow.compiled import kept_in

    jax.config.update("jax_enable_x64", True)
    _, complaint = kept_in()
    if complaint:
        say(complaint)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of Python meanwhile are one line each, without the code that gave them, and none is said twice."""
    said: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
