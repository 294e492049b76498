"""Entries of catalogues on the command line: NAME or NAME:key=value,key=value."""

from __future__ import annotations

import inspect

from gflow.cli.inputs import InputError, checked


def parsed(flag: str, text: str, catalogue: dict) -> tuple:
    """(entry, its parameters) of "NAME:key=value,..."; values are numbers."""
    name, _, rest = text.partition(":")
    if name not in catalogue:
        raise InputError(f"{flag} must be one of {', '.join(catalogue)}; got {name!r}")
    entry, values = catalogue[name], {}
    known = [p for p in inspect.signature(entry).parameters if p != "scale"]
    for part in filter(None, rest.split(",")):
        key, equals, number = part.partition("=")
        try:
            if key not in known or not equals:
                raise ValueError
            values[key] = float(number)
        except ValueError:
            takes = ", ".join(f"{k}=NUMBER" for k in known) or "no parameters"
            raise InputError(f"{flag} {name}: {part!r} makes no sense; it takes {takes}") from None
    return entry, values


def laws() -> dict:
    """The initial laws by name."""
    from gflow import initializers

    return {name.lower(): getattr(initializers, name) for name in initializers.__all__}


def initial_law(text: str, scale: float):
    """The initial law of "NAME:params" with this scale."""
    entry, values = parsed("--init or --law", text, laws())
    return checked(entry, scale=scale, **values)


def optimizers() -> dict:
    """What `gflow run --optimizer` knows, by name: functions of numbers to (optax optimiser, options of `descend`)."""
    import optax

    def sgd(lr=0.1, batch=0.0):
        return optax.sgd(lr), _batch(batch)

    def momentum(lr=0.1, momentum=0.9, batch=0.0):
        return optax.sgd(lr, momentum=momentum), _batch(batch)

    def nesterov(lr=0.1, momentum=0.9, batch=0.0):
        return optax.sgd(lr, momentum=momentum, nesterov=True), _batch(batch)

    def normalised(lr=0.01):
        return optax.sgd(lr), {"normalised": True}

    def adam(lr=1e-3, b1=0.9, b2=0.999, batch=0.0):
        return optax.adam(lr, b1=b1, b2=b2), _batch(batch)

    def rmsprop(lr=1e-3, decay=0.9, batch=0.0):
        return optax.rmsprop(lr, decay=decay), _batch(batch)

    named = {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "normalised-sgd": normalised}
    return named | {"adam": adam, "rmsprop": rmsprop}


def _batch(size: float) -> dict:
    return {"batch": int(size)} if size else {}


def optimizer(text: str):
    """(optax optimiser, options of `descend`) of "NAME:params"."""
    entry, values = parsed("--optimizer", text, optimizers())
    if not 0 < values.get("lr", 1.0) < float("inf"):
        raise InputError(f"--optimizer: lr must be a positive number, got {values['lr']}")
    if values.get("batch", 0) != int(values.get("batch", 0)) or values.get("batch", 0) < 0:
        raise InputError(f"--optimizer: batch is a number of samples, got {values['batch']}")
    return entry(**values)
