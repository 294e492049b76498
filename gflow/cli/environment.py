"""What a command asks of JAX: float64, and a folder in which programs that were compiled are found again."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from gflow.cli.progress import say


def configure() -> None:
    """Switch float64 on, and the compilation cache if its folder can be written; if not, say so in one line."""
    import jax

    jax.config.update("jax_enable_x64", True)
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(given) if given else Path(os.path.expanduser(base)) / "gflow" / "xla"
    reason = None if given and "://" in given else _unwritable(folder)
    jax.config.update("jax_compilation_cache_dir", None if reason else given or str(folder))
    if reason:
        name = "JAX_COMPILATION_CACHE_DIR" if given else "XDG_CACHE_HOME"
        say(
            f"what is compiled cannot be kept: {folder} cannot be written ({reason}); every command compiles anew "
            f"until {name} names a folder that can"
        )
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # a run compiles a hundred operations of 20 to 50 ms beside the few large ones
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in this folder, which is made if it is missing; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a file system may refuse
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


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
