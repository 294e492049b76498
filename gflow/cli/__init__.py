"""The command line: the only place where strings become objects and where float64 is switched on."""

from gflow.cli.main import main

__all__ = ["main"]
