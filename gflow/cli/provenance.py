"""What it takes to do it again: versions, device, command line."""

from __future__ import annotations

import platform
import shlex
import sys

COMPUTING = ("gflow", "jax", "jaxlib", "diffrax", "equinox", "numpy", "scipy")
"""Packages whose version may show in a result."""


def machine() -> dict:
    """{versions, device} of this process."""
    from importlib.metadata import version

    import jax

    import gflow
    from gflow.sweep import lane_devices

    # of gflow its own word: its distribution has another name, and may not be installed at all
    others = {name: version(name) for name in (*COMPUTING, "zarr", "xarray") if name != "gflow"}
    return {
        "versions": {"gflow": gflow.__version__} | others | {"python": platform.python_version()},
        "device": f"{len(lane_devices())} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
    }


def provenance(seed: int, dtype: str, seconds_per_flow: float | None = None) -> dict:
    """What was asked for; attributes of a store, with those of `machine`. None of them determines a result, but for
    `seconds_per_flow`: which rows say max_seconds_reached depends on the machine."""
    asked = {"dtype": dtype, "command": shlex.join(["gflow", *sys.argv[1:]]), "seed": seed}
    return asked if seconds_per_flow is None else asked | {"seconds_per_flow": seconds_per_flow}


def differences(other: dict, here: dict) -> str:
    """What of two `machine`s may show in a result by rounding, kind of device and versions; empty if nothing."""
    kind = lambda about: about["device"].partition(" x ")[2]  # noqa: E731
    pairs = {"device": (kind(other), kind(here))}
    pairs |= {name: (other["versions"].get(name), here["versions"][name]) for name in COMPUTING}
    return "; ".join(f"{name} {old}, here {new}" for name, (old, new) in pairs.items() if old != new)
