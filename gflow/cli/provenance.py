"""What it takes to do it again: versions, device, command line."""

from __future__ import annotations

import platform
import shlex
import sys


def provenance(seed: int, dtype: str) -> dict:
    """Attributes of a store; none of them determines a result."""
    from importlib.metadata import version

    import jax

    from gflow.sweep import lane_devices

    packages = ("gflow", "jax", "jaxlib", "diffrax", "equinox", "numpy", "zarr", "xarray")
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "device": f"{len(lane_devices())} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "dtype": dtype,
        "command": shlex.join(["gflow", *sys.argv[1:]]),
        "seed": seed,
    }
