"""Where compiled programs are kept, so that a second run of a script or command compiles nothing."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import jax


def cache(folder: str | Path | None = None) -> str | None:
    """Keep what XLA compiles in a folder, and find it there again: a new kind of flow costs 10 to 35 s without.

    Call it once, before the first flow. It sets JAX's own compilation cache, for everything that this process compiles.

    Args:
        folder: where; by default what the environment variable JAX_COMPILATION_CACHE_DIR names, else `gflow/xla` in
            XDG_CACHE_HOME or in `~/.cache`, which the commands use too. It is made if it is missing.

    Returns:
        The folder, or None if it cannot be written: then there is a warning, and everything is compiled anew. An
        address such as gs://... is given to JAX as it is.
    """
    given = str(folder) if folder is not None else os.environ.get("JAX_COMPILATION_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.path.expanduser(given)) if given else Path(os.path.expanduser(base)) / "gflow" / "xla"
    remote = bool(given) and "://" in str(given)
    reason = None if remote else _unwritable(place)
    used = str(given) if remote else str(place)
    jax.config.update("jax_compilation_cache_dir", None if reason else used)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # a run compiles a hundred operations of 20 to 50 ms beside the few large ones
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if reason:
        name = "cache(folder)" if folder is not None else "XDG_CACHE_HOME"
        name = "JAX_COMPILATION_CACHE_DIR" if given and folder is None else name
        warnings.warn(
            f"what is compiled cannot be kept: {place} cannot be written ({reason}); everything is compiled anew until "
            f"{name} names a folder that can",
            stacklevel=2,
        )
        return None
    return used


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in this folder, which is made if it is missing; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a file system may refuse
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
