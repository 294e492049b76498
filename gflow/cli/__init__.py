"""The command line: the only place where strings become objects and where float64 is switched on."""

from gflow.cli.main import main, program

__all__ = ["main", "program"]
