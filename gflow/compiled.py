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
    used, complaint = kept_in(folder)
    if complaint:
        warnings.warn(complaint, stacklevel=2)
    return used


def kept_in(folder: str | Path | None = None) -> tuple[str | None, str | None]:
    """(the folder of the same name that `cache` has set, None), or (None, why there is none and what to do)."""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    given = str(folder) if folder is not None else named
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.path.expanduser(given or base))
    place = place if given else place / "gflow" / "xla"
    remote = given is not None and "://" in given
    reason = None if remote else _unwritable(place)
    used = None if reason else given if remote else str(place)
    jax.config.update("jax_compilation_cache_dir", used)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # a run compiles a hundred operations of 20 to 50 ms beside the few large ones
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if not reason:
        return used, None
    name = "cache(folder)" if folder is not None else "JAX_COMPILATION_CACHE_DIR" if named else "XDG_CACHE_HOME"
    return None, (
        f"what is compiled cannot be kept: {place} cannot be written ({reason}); everything is compiled anew until "
        f"{name} names a folder that can"
    )


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in this folder, which is made if it is missing; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a file system may refuse
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
